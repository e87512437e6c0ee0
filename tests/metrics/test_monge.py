import pytest
import torch

from lightning_gans import SettingError
from lightning_gans.metrics.monge import MongeDistance


def distance(real, fake, **options):
    metric = MongeDistance(real.shape[1], **options)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute().item()


def as_in_the_paper(real, fake, num_directions, seed):
    """Equation and random numbers as in torch-fidelity 0.5, one direction at a time, in Python's floats."""
    generator = torch.Generator().manual_seed(seed)
    num = min(len(real), len(fake))
    if len(fake) > num:
        fake = fake[torch.randperm(len(fake), generator=generator)[:num]]
    if len(real) > num:
        real = real[torch.randperm(len(real), generator=generator)[:num]]
    directions = torch.randn(num_directions, real.shape[1], generator=generator).double()
    total = 0.0
    for direction in directions:
        unit = direction / direction.norm()
        ours, theirs = sorted((real.double() @ unit).tolist()), sorted((fake.double() @ unit).tolist())
        total += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / num
    return 3 * real.shape[1] * total / num_directions


@pytest.mark.parametrize(("num_real", "num_fake"), [(40, 40), (70, 40), (40, 70), (1, 1)])
def test_the_formula(num_real, num_fake):
    real, fake = torch.randn(num_real, 6), torch.randn(num_fake, 6) * 1.5 + 0.3
    expected = as_in_the_paper(real, fake, 120, 7)
    assert distance(real, fake, num_directions=120, seed=7, keep_order=True) == pytest.approx(expected, rel=1e-5)


def test_a_shift_of_a_normal_distribution_is_3_d_times_its_square():
    points = torch.randn(50, 16)
    assert distance(points, points + 0.5, num_directions=20_000) == pytest.approx(3 * 16 * 0.25, rel=0.04)


def test_distributions_with_equal_moments_differ():
    # The Fréchet distance of these two is 0 in the limit of many images.
    normal, other, signs = torch.randn(3, 2000, 4).unbind()
    assert distance(normal, signs.sign(), num_directions=100) > 5 * distance(normal, other, num_directions=100)


def test_a_set_and_itself():
    points = torch.randn(100, 8)
    assert distance(points, points[torch.randperm(100)]) == pytest.approx(0, abs=1e-9)


def test_an_empty_set_raises():
    with pytest.raises(SettingError) as caught:
        distance(torch.randn(3, 2), torch.empty(0, 2))
    assert caught.value.setting == "num_fake"
