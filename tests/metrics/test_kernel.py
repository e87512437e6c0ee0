import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from lightning_gans import SettingError
from lightning_gans.metrics import KernelDistance, kernel


def distance(real, fake, **options):
    metric = KernelDistance(real.shape[1], **options)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return [value.item() for value in metric.compute()]


def by_loops(first, second):
    def product(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(points):
        pairs = [product(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j]
        return sum(pairs) / len(pairs)

    between = [product(x, y) for x in first for y in second]
    return within(first) + within(second) - 2 * sum(between) / len(between)


@pytest.mark.parametrize("rows", [250, 9, 4, 1])  # of the matrix at once
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("size", [2, 9])
def test_the_closed_form(monkeypatch, size, width, rows):
    # One subset of all images: what is drawn is no matter.
    monkeypatch.setattr(kernel, "_ROWS", rows)
    real, fake = torch.randn(size, width), torch.randn(size, width) * 2 + 1
    mean, deviation = distance(real, fake, num_subsets=1, subset_size=size)
    assert mean == pytest.approx(by_loops(real.double().tolist(), fake.double().tolist()), rel=1e-9)
    assert deviation == 0


def test_a_set_and_itself_are_below_zero():
    # The estimator leaves out x = x within a set, but not between two.
    points = torch.randn(40, 5)
    assert distance(points, points.clone(), num_subsets=1, subset_size=40)[0] < 0


@pytest.mark.parametrize(
    ("num_real", "num_fake", "subsets", "size"), [(150, 120, 10, 50), (60, 90, 3, 60), (700, 600, 2, 510)]
)
def test_the_same_subsets_as_torch_fidelity(num_real, num_fake, subsets, size):
    real, fake = torch.randn(num_real, 16), torch.randn(num_fake, 16) * 1.3 + 0.4
    theirs = kid_features_to_metric(
        fake,
        real,
        kid_subsets=subsets,
        kid_subset_size=size,
        rng_seed=2020,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1,
        verbose=False,
    )
    wanted = [theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]]
    assert distance(real, fake, num_subsets=subsets, subset_size=size, keep_order=True) == pytest.approx(
        wanted, rel=1e-4
    )


def test_the_seed_decides_the_subsets():
    real, fake = torch.randn(50, 4), torch.randn(50, 4)
    first, again, other = (distance(real, fake, num_subsets=4, subset_size=10, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_nobody_elses_random_numbers_are_touched():
    before, torch_before = np.random.get_state(), torch.get_rng_state()
    distance(torch.ones(9, 2), torch.ones(9, 2), num_subsets=2, subset_size=5)
    after = np.random.get_state()
    assert (before[1] == after[1]).all() and before[2:] == after[2:]
    assert torch_before.equal(torch.get_rng_state())


@pytest.mark.parametrize(("num_real", "num_fake", "kind"), [(9, 20, "real"), (20, 9, "fake"), (20, 0, "fake")])
def test_too_few_images(num_real, num_fake, kind):
    with pytest.raises(SettingError) as caught:
        distance(torch.randn(num_real, 4), torch.randn(num_fake, 4), subset_size=10)
    assert (caught.value.setting, caught.value.value) == (f"num_{kind}", min(num_real, num_fake))


@pytest.mark.parametrize("options", [{"num_subsets": 0}, {"subset_size": 1}, {"subset_size": 2.5}])
def test_settings_without_an_estimate(options):
    with pytest.raises(SettingError) as caught:
        KernelDistance(4, **options)
    assert caught.value.setting == next(iter(options))
