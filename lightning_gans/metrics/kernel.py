"""The kernel distance between two sets of features."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gans.errors import check_counts
from lightning_gans.metrics.sets import TwoSetsMetric

_ROWS = 125  # rows of the kernel matrix at once, which fit into the processor's cache


class KernelDistance(TwoSetsMetric):
    r"""Squared maximum mean discrepancy with the kernel :math:`(x \cdot y / d + 1)^3`: the KID on Inception features.

    The result is the mean and the standard deviation of the unbiased estimator over random subsets (Bińkowski et al.
    2018, https://arxiv.org/abs/1801.01401). With ``keep_order``, the subsets are those of torch-fidelity for the same
    seed.

    Args:
        num_features: Length of a feature vector.
        num_subsets: Number of pairs of subsets.
        subset_size: Images per subset.
        seed: Seed of the subsets.
        **options: Options of ``torchmetrics.Metric``, such as ``sync_on_compute``; and ``keep_order``: by default, the
            result does not depend on the order of the images, nor on which process has which.
    """

    higher_is_better = False

    def __init__(
        self, num_features: int, num_subsets: int = 100, subset_size: int = 1000, seed: int = 2020, **options: Any
    ) -> None:
        check_counts(num_subsets=num_subsets)
        check_counts(least=2, subset_size=subset_size)
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
        drawn = (len(real), len(fake), self.num_subsets, self.subset_size, self.seed)
        subsets = _draw_subsets(*drawn)
        within = self.remember(
            "kernel", {"subsets": drawn}, lambda: {"sums": torch.stack([_sum_at(real, rows) for rows, _ in subsets])}
        )
        values = _squared_mmds(real, fake, subsets, within["sums"].to(real.device))
        return values.mean(), values.std(correction=0)


@functools.lru_cache(maxsize=4)
def _draw_subsets(num_real: int, num_fake: int, num_subsets: int, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Draw pairs of subsets without replacement: row numbers of real and of generated images, ``(size,)`` each."""
    random = np.random.RandomState(seed)  # as in torch-fidelity
    subsets = []
    for _ in range(num_subsets):
        fake = torch.from_numpy(random.choice(num_fake, size, replace=False))
        real = torch.from_numpy(random.choice(num_real, size, replace=False))
        subsets.append((real, fake))
    return subsets


def _squared_mmds(real: Tensor, fake: Tensor, subsets: list[tuple[Tensor, Tensor]], real_within: Tensor) -> Tensor:
    """Return the unbiased estimate for each pair of subsets, float64 ``(K,)``."""
    size = len(subsets[0][0])
    estimates = []
    for (real_rows, fake_rows), within in zip(subsets, real_within, strict=True):
        reals, fakes = real[real_rows.to(real.device)].double(), fake[fake_rows.to(fake.device)].double()
        between = torch.stack([_kernel_sum(part, reals) for part in torch.split(fakes, _ROWS)]).sum()
        estimates.append((within + _sum_within(fakes)) / (size * (size - 1)) - 2 * between / size**2)
    return torch.stack(estimates)


def _sum_at(features: Tensor, rows: Tensor) -> Tensor:
    return _sum_within(features[rows.to(features.device)].double())


def _sum_within(points: Tensor) -> Tensor:
    """Return the kernel's sum over all ordered pairs of different rows, computed from half of the pairs."""
    total = -((points.square().sum(1) / points.shape[1] + 1) ** 3).sum()
    for start in range(0, len(points), _ROWS):
        part, rest = points[start : start + _ROWS], points[start + _ROWS :]
        total = total + _kernel_sum(part, part) + 2 * _kernel_sum(part, rest)
    return total


def _kernel_sum(first: Tensor, second: Tensor) -> Tensor:
    """Return the kernel's sum over all pairs of the two sets."""
    base = torch.addmm(first.new_ones(()), first, second.T, alpha=1 / first.shape[1]).flatten()
    return (base * base) @ base  # faster than the sum of ``base ** 3``
