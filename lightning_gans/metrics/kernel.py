"""The kernel distance between two sets of features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gans.errors import SettingError, check_positive
from lightning_gans.metrics.sets import TwoSetsMetric

KID_SEED = 2020  # torch-fidelity's
_ROWS = 125  # of the kernel's matrix at once, which then stays in the processor's cache


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
        self, num_features: int, num_subsets: int = 100, subset_size: int = 1000, seed: int = KID_SEED, **options: Any
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
        subsets = draw_subsets(len(real), len(fake), self.num_subsets, self.subset_size, self.seed)
        values = squared_mmds(real, fake, subsets, sums_within(real, [chosen for chosen, _ in subsets]))
        return values.mean(), values.std(correction=0)


Subsets = list[tuple[Tensor, Tensor]]


def draw_subsets(num_real: int, num_fake: int, num_subsets: int, size: int, seed: int) -> Subsets:
    """Draw pairs of subsets without replacement: row numbers of real and of generated images, ``(size,)`` each.

    Raises:
        SettingError: A set has not so many images.
    """
    if not 2 <= size <= min(num_real, num_fake):
        raise SettingError(f"KID's subset_size is {size}: it must be 2 or more, and at most {min(num_real, num_fake)}.")
    random = np.random.RandomState(seed)  # its stream is frozen for good, unlike that of newer ones
    subsets = []
    for _ in range(num_subsets):
        fake = torch.from_numpy(random.choice(num_fake, size, replace=False))
        real = torch.from_numpy(random.choice(num_real, size, replace=False))
        subsets.append((real, fake))
    return subsets


def sums_within(features: Tensor, subsets: list[Tensor]) -> Tensor:
    """Return for each subset the kernel's sum over all ordered pairs of different rows, float64 ``(K,)``."""
    return torch.stack([_sum_within(features[rows.to(features.device)].double()) for rows in subsets])


def squared_mmds(real: Tensor, fake: Tensor, subsets: Subsets, real_within: Tensor) -> Tensor:
    """Return the unbiased estimate for each pair of subsets, float64 ``(K,)``.

    Args:
        real: Features ``(N, d)``.
        fake: Features ``(M, d)``.
        subsets: As from :func:`draw_subsets`.
        real_within: :func:`sums_within` of the real subsets, which do not change with the generated images.
    """
    size, device = len(subsets[0][0]), fake.device
    estimates = []
    for (real_rows, fake_rows), within in zip(subsets, real_within.to(device), strict=True):
        reals, fakes = real[real_rows.to(device)].double(), fake[fake_rows.to(device)].double()
        between = torch.stack([_kernel_sum(part, reals) for part in torch.split(fakes, _ROWS)]).sum()
        estimates.append((within + _sum_within(fakes)) / (size * (size - 1)) - 2 * between / size**2)
    return torch.stack(estimates)


def _sum_within(points: Tensor) -> Tensor:
    # Half of the pairs, as the kernel is symmetric.
    total = -((points.square().sum(1) / points.shape[1] + 1) ** 3).sum()
    for start in range(0, len(points), _ROWS):
        part, rest = points[start : start + _ROWS], points[start + _ROWS :]
        total = total + _kernel_sum(part, part) + 2 * _kernel_sum(part, rest)
    return total


def _kernel_sum(first: Tensor, second: Tensor) -> Tensor:
    """Return the kernel's sum over all pairs of the two sets."""
    base = torch.addmm(first.new_ones(()), first, second.T, alpha=1 / first.shape[1]).flatten()
    return (base * base) @ base  # faster than the sum of ``base ** 3``
