import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from lightning_gans import SettingError
from lightning_gans.metrics import FrechetDistance


def distance(real, fake):
    metric = FrechetDistance(real.shape[1])
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()


def points_with(mean, deviations, count=200):
    """Draw points whose mean is exactly this, and whose covariance is exactly diagonal."""
    points = torch.randn(count, len(mean), dtype=torch.float64)
    points -= points.mean(0)
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(points.T.cov(), upper=True), points, upper=True, left=False
    )
    return white * torch.tensor(deviations, dtype=torch.float64) + torch.tensor(mean, dtype=torch.float64)


def moments(points):
    array = points.double().numpy()
    return array.mean(0), np.cov(array, rowvar=False)


def by_data_matrices(real, fake):
    """The trace of the root as a nuclear norm of the data themselves: no covariance that could be singular."""
    (mean, covariance), (other_mean, other_covariance) = moments(real), moments(fake)
    first, second = real.double().numpy() - mean, fake.double().numpy() - other_mean
    cross = np.linalg.norm(first @ second.T, "nuc") / np.sqrt((len(first) - 1) * (len(second) - 1))
    return ((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other_covariance) - 2 * cross


@pytest.mark.parametrize(
    ("mean", "deviations", "other_mean", "other_deviations"),
    [
        ([0, 0, 0], [1, 1, 1], [3, 0, 4], [1, 1, 1]),
        ([1, 2, 3], [1, 2, 3], [1, 2, 3], [2, 2, 0.5]),
        ([5, 0], [0.1, 10], [-5, 1e-3], [10, 0.1]),
    ],
)
def test_diagonal_gaussians(mean, deviations, other_mean, other_deviations):
    found = distance(points_with(mean, deviations), points_with(other_mean, other_deviations, count=150))
    wanted = sum((a - b) ** 2 for a, b in zip(mean, other_mean, strict=True))
    wanted += sum((a - b) ** 2 for a, b in zip(deviations, other_deviations, strict=True))
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("width", [1, 5, 96])
def test_the_same_as_with_the_root_of_a_matrix_product(width):
    real = torch.randn(400, width) @ torch.randn(width, width)
    fake = torch.randn(300, width) @ torch.randn(width, width) + 0.5
    (mean, covariance), (other_mean, other_covariance) = moments(real), moments(fake)
    covariance, other_covariance = np.atleast_2d(covariance), np.atleast_2d(other_covariance)
    root = sqrtm(covariance @ other_covariance).real
    wanted = ((mean - other_mean) ** 2).sum() + np.trace(covariance + other_covariance - 2 * root)
    assert distance(real, fake).item() == pytest.approx(wanted, rel=1e-9)


def test_the_same_as_torchmetrics_own():
    real, fake = torch.randn(300, 12, dtype=torch.float64), torch.randn(200, 12, dtype=torch.float64) * 1.5 + 0.2
    features = nn.Identity()
    features.num_features = 12
    theirs = FrechetInceptionDistance(feature=features)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    torch.testing.assert_close(distance(real, fake), theirs.compute(), rtol=1e-9, atol=0)


SINGULAR = {
    "fewer images than features": lambda: (torch.randn(20, 64), torch.randn(30, 64) + 0.3),
    "two images": lambda: (torch.randn(2, 8), torch.randn(2, 8)),
    "constant features": lambda: (
        torch.cat([torch.randn(50, 3), torch.full((50, 5), 7.0)], 1),
        torch.cat([torch.randn(40, 3) * 2, torch.full((40, 5), 6.0)], 1),
    ),
    "features that never move together": lambda: (
        torch.cat([torch.randn(50, 4), torch.zeros(50, 4)], 1),
        torch.cat([torch.zeros(50, 4), torch.randn(50, 4)], 1),
    ),
    "every feature twice": lambda: (torch.randn(50, 4).repeat(1, 2), torch.randn(50, 4).repeat(1, 2) * 3),
}


@pytest.mark.parametrize("make", SINGULAR.values(), ids=SINGULAR)
def test_singular_covariances(make):
    real, fake = make()
    assert distance(real, fake).item() == pytest.approx(by_data_matrices(real, fake), rel=1e-10)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(500, 10), (20, 64), (2, 96)])
def test_a_set_is_no_distance_from_itself(shape, scale):
    points = torch.randn(shape) * scale + scale
    found = distance(points, points.clone()).item()
    assert 0 <= found <= 1e-6 * points.double().T.cov().trace().item()


@pytest.mark.parametrize("count", [30, 300])
def test_images_that_are_all_the_same(count):
    real, constant = torch.randn(count, 40), torch.randn(40)
    mean, covariance = moments(real)
    wanted = ((mean - constant.double().numpy()) ** 2).sum() + np.trace(covariance)
    assert distance(real, constant.expand(50, -1)).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("num_real", "num_fake", "kind"), [(1, 9, "real"), (9, 1, "fake"), (9, 0, "fake")])
def test_too_few_images(num_real, num_fake, kind):
    with pytest.raises(SettingError) as caught:
        distance(torch.randn(num_real, 4), torch.randn(num_fake, 4))
    assert (caught.value.setting, caught.value.value) == (f"num_{kind}", min(num_real, num_fake))


def test_updates_in_uneven_pieces():
    # More than a thousand, which an update takes in pieces of its own.
    real, fake = torch.randn(1210, 6) + 100, torch.randn(1111, 6) + 101
    metric = FrechetDistance(6)
    for pieces, is_real in ((real.split([1, 200, 1009]), True), (fake.split([1101, 3, 7]), False)):
        for piece in pieces:
            metric.update(piece, real=is_real)
    assert metric.compute().item() == pytest.approx(by_data_matrices(real, fake), rel=1e-8)
    torch.testing.assert_close(metric.compute(), distance(real, fake), rtol=1e-9, atol=0)


@pytest.mark.parametrize("width", [1, 5])
def test_features_of_another_length(width):
    with pytest.raises(SettingError) as caught:
        FrechetDistance(4).update(torch.zeros(9, width), real=True)
    assert caught.value.allowed == "(N, 4)"
