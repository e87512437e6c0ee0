import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from lightning_gans import DSpritesDataModule, SettingError
from lightning_gans.metrics import MutualInformationGap

FACTORS = torch.cartesian_prod(torch.arange(3), torch.arange(6), torch.arange(10))


def gap(codes, factors=FACTORS, **options):
    metric = MutualInformationGap(**options)
    metric.update(codes, factors)
    return metric.compute().item()


def test_the_true_factors_of_dsprites_have_a_gap_of_one():
    data = DSpritesDataModule(image_size=16, val_size=0.2)
    factors = data.factors("train")
    order = torch.tensor([3, 0, 4, 2, 1])
    codes = torch.randn(len(factors), 8)
    codes[:, 1:6] = factors[:, order].float() * -0.3 + 2
    assert gap(codes, factors) == pytest.approx(1, abs=0.01)
    assert gap(codes[:, 1:6], factors) == pytest.approx(1, abs=2e-3)  # a random split is not a whole grid


def test_noise_has_a_gap_of_about_zero():
    factors = FACTORS.repeat(200, 1)
    assert abs(gap(torch.randn(len(factors), 6), factors)) < 0.005


def test_a_factor_in_two_latents_has_no_gap():
    assert gap(torch.cat([FACTORS, FACTORS], 1).float()) == pytest.approx(0, abs=1e-12)
    twice = torch.cat([FACTORS, FACTORS[:, :1]], 1).float()
    assert gap(twice) == pytest.approx(2 / 3)


def test_a_noisy_latent_by_its_closed_form():
    # One factor of two values, and a latent that is wrong in a quarter of the images.
    factors, codes = torch.tensor([[0]] * 4 + [[1]] * 4), torch.tensor([[0.0]] * 3 + [[1.0]] * 4 + [[0.0]])
    wanted = 1 - (-0.25 * math.log(0.25) - 0.75 * math.log(0.75)) / math.log(2)
    assert gap(codes, factors) == pytest.approx(wanted)


@pytest.mark.parametrize("num_bins", [5, 40])
def test_the_same_as_from_sklearns_mutual_information(num_bins):
    factors = FACTORS.repeat(5, 1)
    codes = torch.randn(len(factors), 4, dtype=torch.float64)
    codes[:, :3] += factors.double() @ torch.tensor([[1.0, 0.2, 0], [0, 0.5, 0], [0, 0.1, 0.3]], dtype=torch.float64)
    low, high = codes.amin(0), codes.amax(0)
    edges = [torch.linspace(a, b, num_bins + 1, dtype=torch.float64)[1:-1] for a, b in zip(low, high, strict=True)]
    bins = [torch.bucketize(codes[:, j], edges[j], right=True) for j in range(4)]
    gaps = []
    for factor in factors.T:
        known = sorted(mutual_info_score(factor, of_latent) for of_latent in bins)
        gaps.append((known[-1] - known[-2]) / mutual_info_score(factor, factor))
    assert gap(codes, factors, num_bins=num_bins) == pytest.approx(sum(gaps) / 3, rel=1e-6)


def test_parts_add_up_to_the_whole_and_constants_do_not_count():
    codes = torch.randn(len(FACTORS), 3) + FACTORS
    whole = gap(codes)
    metric = MutualInformationGap()
    for rows in torch.randperm(len(FACTORS)).split(50):
        metric.update(codes[rows], FACTORS[rows])
    assert metric.compute().item() == pytest.approx(whole, abs=1e-12)
    with_constants = torch.cat([FACTORS, torch.ones(len(FACTORS), 1, dtype=torch.long)], 1)
    assert gap(torch.cat([codes, torch.ones(len(FACTORS), 1)], 1), with_constants) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize(
    ("codes", "factors", "setting"),
    [
        (torch.zeros(4), torch.zeros(4, 1).long(), "codes"),
        (torch.zeros(4, 2), torch.zeros(3, 1).long(), "factors"),
        (torch.zeros(4, 2), torch.zeros(4, 1), "factors"),
        (torch.zeros(4, 2), torch.ones(4, 1).long(), "factors"),
    ],
)
def test_what_cannot_be_measured_is_an_error(codes, factors, setting):
    with pytest.raises(SettingError) as error:
        gap(codes, factors)
    assert error.value.setting == setting
