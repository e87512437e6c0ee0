import math

import pytest
import torch

from lightning_gans import SettingError
from lightning_gans.metrics import gaussian_kernel
from lightning_gans.metrics.gaussian_kernel import GaussianKernelDistance


def distance(real, fake, **options):
    metric = GaussianKernelDistance(real.shape[1], **options)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute().item()


def by_loops(real, fake, sigma):
    def unit(point):
        length = math.sqrt(sum(x * x for x in point))
        return [x / length for x in point]

    def mean(first, second):
        pairs = [(unit(x), unit(y)) for x in first for y in second]
        return sum(math.exp(-sum((a - b) ** 2 for a, b in zip(*p, strict=True)) / (2 * sigma**2)) for p in pairs) / len(
            pairs
        )

    return 1000 * (mean(real, real) + mean(fake, fake) - 2 * mean(real, fake))


@pytest.mark.parametrize("sigma", [10.0, 0.5])
@pytest.mark.parametrize("rows", [500, 4])
def test_the_formula(monkeypatch, rows, sigma):
    monkeypatch.setattr(gaussian_kernel, "_ROWS", rows)
    real, fake = torch.randn(9, 5), torch.randn(12, 5) + 1
    expected = by_loops(real.double().tolist(), fake.double().tolist(), sigma)
    assert distance(real, fake, sigma=sigma) == pytest.approx(expected, rel=1e-9)


def test_only_directions_count():
    real, fake = torch.randn(20, 3), torch.randn(20, 3)
    assert distance(real * 5, fake) == pytest.approx(distance(real, fake), rel=1e-6)
    assert distance(real, real.clone()) == pytest.approx(0, abs=1e-9)


def test_invalid_settings():
    with pytest.raises(SettingError) as caught:
        GaussianKernelDistance(3, sigma=0)
    assert caught.value.setting == "sigma"
    with pytest.raises(SettingError) as caught:
        distance(torch.empty(0, 2), torch.randn(3, 2))
    assert caught.value.setting == "num_real"
