"""The maximum mean discrepancy between two sets of normalized features, with a Gaussian kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_gans.errors import check_positive
from lightning_gans.metrics.sets import TwoSetsMetric

_ROWS = 500  # rows of the kernel matrix at once


class GaussianKernelDistance(TwoSetsMetric):
    r"""Squared maximum mean discrepancy of unit vectors times 1,000: the CMMD on CLIP's embeddings.

    Features are scaled to length 1. The kernel is :math:`\exp(-\|x - y\|^2 / 2 \sigma^2)`; the estimator is the biased
    one, over all pairs (Jayasumana et al. 2024, https://arxiv.org/abs/2401.09603).

    Args:
        num_features: Length of a feature vector.
        sigma: Width of the kernel.
        **options: Options of ``torchmetrics.Metric``, such as ``sync_on_compute``.

    Example:
        >>> metric = GaussianKernelDistance(2)
        >>> metric.update(torch.tensor([[5.0, 0.0]]), real=True)
        >>> metric.update(torch.tensor([[0.0, 2.0]]), real=False)  # 1000 (1 + 1 - 2 exp(-2 / 200))
        >>> round(float(metric.compute()), 4)
        19.9003
    """

    higher_is_better = False

    def __init__(self, num_features: int, sigma: float = 10.0, **options: Any) -> None:
        check_positive(sigma=sigma)
        super().__init__(num_features, **options)
        self.sigma = sigma

    def compute(self) -> Tensor:
        """Return the distance, float64.

        Raises:
            SettingError: A set is empty.
        """
        real, fake = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in self.both(1))
        within = self.remember("gaussian_kernel", {"sigma": self.sigma}, lambda: {"mean": self._mean(real, real)})
        mean = within["mean"].to(real.device)
        return 1000 * (mean + self._mean(fake, fake) - 2 * self._mean(real, fake))

    def _mean(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the kernel's mean over all pairs of two sets of unit vectors."""
        sums = [
            ((part @ second.T - 1) / self.sigma**2).exp_().sum()  # |x - y|² = 2 - 2 x · y
            for part in torch.split(first, _ROWS)
        ]
        return torch.stack(sums).sum() / (len(first) * len(second))
