"""The kernel distance between two sets of features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gans.errors import check_positive
from lightning_gans.metrics.sets import TwoSetsMetric


class KernelDistance(TwoSetsMetric):
    r"""Squared maximum mean discrepancy with the kernel :math:`(x \cdot y / d + 1)^3`, the KID on Inception's features.

    The unbiased estimator over random subsets, mean and standard deviation (Bińkowski et al. 2018,
    https://arxiv.org/abs/1801.01401). The subsets are those that torch-fidelity draws from the same seed.

    Args:
        num_features: Length of a feature vector.
        num_subsets: How many pairs of subsets.
        subset_size: Images in each.
        seed: Seed of the draws.
        **options: torchmetrics' own, such as ``sync_on_compute``.
    """

    higher_is_better = False

    def __init__(
        self, num_features: int, num_subsets: int = 100, subset_size: int = 1000, seed: int = 2020, **options: Any
    ) -> None:
        check_positive(num_subsets=num_subsets, subset_size=subset_size - 1)
        super().__init__(num_features, **options)
        self.num_subsets = num_subsets
        self.subset_size = subset_size
        self.seed = seed

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation over the subsets, float64.

        Raises:
            SettingError: A set has fewer images than a subset.
        """
        real, fake = self.both(self.subset_size)
        random = np.random.RandomState(self.seed)  # its stream is frozen for good, unlike that of newer ones
        values = torch.empty(self.num_subsets, dtype=torch.float64)
        for subset in range(self.num_subsets):
            chosen = [rows[self._draw(random, len(rows)).to(rows.device)].double() for rows in (fake, real)]
            values[subset] = squared_mmd(*chosen)
        return values.mean(), values.std(correction=0)

    def _draw(self, random: np.random.RandomState, num_images: int) -> Tensor:
        return torch.from_numpy(random.choice(num_images, self.subset_size, replace=False))


def squared_mmd(first: Tensor, second: Tensor) -> Tensor:
    """Return the unbiased estimate from two sets of equal size, float64 ``(m, d)``."""
    size = len(first)
    within = sum(_kernel_sum(points, points) - _kernel_diagonal(points) for points in (first, second))
    return within / (size * (size - 1)) - 2 * _kernel_sum(first, second) / size**2


def _kernel_sum(first: Tensor, second: Tensor) -> Tensor:
    one = first.new_ones(())
    base = torch.addmm(one, first, second.T, alpha=1 / first.shape[1]).flatten()
    return (base * base) @ base  # four times as fast as the sum of ``base ** 3``


def _kernel_diagonal(points: Tensor) -> Tensor:
    return ((points.square().sum(1) / points.shape[1] + 1) ** 3).sum()
