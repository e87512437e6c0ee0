"""The Fréchet distance between two sets of features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from lightning_gans.errors import SettingError


class FrechetDistance(FrechetInceptionDistance):
    r"""Fréchet distance between features of real and of generated images, the FID on Inception's features.

    :math:`\|\mu_r - \mu_f\|^2 + \mathrm{tr}(\Sigma_r + \Sigma_f - 2 (\Sigma_r \Sigma_f)^{1/2})`, with unbiased
    covariances (Heusel et al. 2017, https://arxiv.org/abs/1706.08500).

    torchmetrics' own metric, whose sums in float64 add up rightly over any number of processes, over features
    instead of images. The trace of the root is taken from singular values, which stay exact where a covariance
    is singular: with fewer images than features, or with features that never change.

    Args:
        num_features: Length of a feature vector.
        **options: torchmetrics' own, such as ``sync_on_compute``.

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
        if features.dim() != 2 or features.shape[1] != len(self.real_features_sum):
            raise SettingError(
                f"FrechetDistance takes (N, {len(self.real_features_sum)}), but got {list(features.shape)}."
            )
        for part in torch.split(features, 1000):  # its float64 copy stays small
            super().update(part, real)

    def compute(self) -> Tensor:
        """Return the distance, float64.

        Raises:
            SettingError: A set has fewer than two images.
        """
        moments = []
        for kind in ("real", "fake"):
            count = getattr(self, f"{kind}_features_num_samples")
            if count < 2:
                raise SettingError(f"the Fréchet distance needs at least 2 {kind} images, but there are {int(count)}.")
            mean = getattr(self, f"{kind}_features_sum") / count
            covariance = (getattr(self, f"{kind}_features_cov_sum") - count * mean.outer(mean)) / (count - 1)
            moments += [mean, covariance]
        return frechet_distance(*moments)


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Return the Fréchet distance between two normal distributions, given as float64 moments."""
    # With roots A of one covariance and B of the other, tr((AAᵀ BBᵀ)^½) is the sum of the singular values of AᵀB.
    cross = torch.linalg.svdvals(_root(covariance).T @ _root(other_covariance)).sum()
    distance: Tensor = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * cross
    return distance.clamp(min=0)


def _root(covariance: Tensor) -> Tensor:
    """Return A with AAᵀ = covariance, without the directions that are nothing but rounding."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    noise = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    root: Tensor = vectors * torch.where(values > noise, values, 0.0).sqrt()
    return root
