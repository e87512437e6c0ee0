"""The Fréchet distance between two sets of features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from lightning_gans.errors import invalid
from lightning_gans.metrics.sets import check_rows

_SUMS = ("features_sum", "features_cov_sum", "features_num_samples")  # torchmetrics' states, after real_ or fake_


class FrechetDistance(FrechetInceptionDistance):
    r"""Fréchet distance between features of real and of generated images: the FID on Inception features.

    :math:`\|\mu_r - \mu_f\|^2 + \mathrm{tr}(\Sigma_r + \Sigma_f - 2 (\Sigma_r \Sigma_f)^{1/2})`, with unbiased
    covariances (Heusel et al. 2017, https://arxiv.org/abs/1706.08500).

    This is torchmetrics' metric on features instead of images; its float64 sums are reduced over the processes. The
    trace of the root comes from singular values, which stay exact for singular covariances, as with fewer images than
    features or with constant features.

    Args:
        num_features: Length of a feature vector.
        **options: Options of torchmetrics, such as ``sync_on_compute`` and ``reset_real_features``.

    Example:
        >>> metric = FrechetDistance(2)
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> metric.update(points, real=True)
        >>> metric.update(points + torch.tensor([3.0, 0.0]), real=False)
        >>> round(float(metric.compute()), 6)
        9.0
    """

    def __init__(self, num_features: int, **options: Any) -> None:
        features = nn.Identity()
        features.num_features = num_features  # type: ignore[assignment]
        super().__init__(feature=features, **options)

    def update(self, features: Tensor, real: bool) -> None:
        """Add features ``(N, num_features)`` of real or of generated images."""
        check_rows(self, features, len(self.real_features_sum))
        for part in torch.split(features, 1000):  # so that the float64 copies stay small
            super().update(part, real)

    def compute(self) -> Tensor:
        """Return the distance, float64.

        Raises:
            SettingError: A set has fewer than two images.
        """
        moments = []
        for kind in ("real", "fake"):
            total, products, count = (getattr(self, f"{kind}_{name}") for name in _SUMS)
            if count < 2:
                raise invalid(f"num_{kind}", int(count), "2 or more for FrechetDistance")
            mean = total / count
            moments += [mean, (products - count * mean.outer(mean)) / (count - 1)]
        return frechet_distance(*moments)


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Return the Fréchet distance between two normal distributions, given by their float64 moments."""
    # With roots A of one covariance and B of the other, tr((AAᵀ BBᵀ)^½) is the sum of the singular values of AᵀB.
    cross = torch.linalg.svdvals(_root(covariance).T @ _root(other_covariance)).sum()
    distance: Tensor = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * cross
    return distance.clamp(min=0)


def _root(covariance: Tensor) -> Tensor:
    """Return A with AAᵀ = covariance; it has a column for each direction whose variance is not only rounding."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    root: Tensor = vectors[:, kept] * values[kept].sqrt()
    return root
