"""The sliced Wasserstein distance between two sets of features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_gans.errors import check_counts
from lightning_gans.metrics.sets import TwoSetsMetric

_DIRECTIONS = 50  # directions at once: the projections of 50,000 images on them take 10 MB


class MongeDistance(TwoSetsMetric):
    r"""Squared sliced 2-Wasserstein distance times :math:`3 d`: the MIND on Inception features.

    The distance is the mean, over random unit directions, of the mean squared difference of the sorted projections
    (Berthet et al. 2026, https://arxiv.org/abs/2605.06797). Unlike the Fréchet distance, it depends on more than the
    first two moments of the distributions. The directions are those of torch-fidelity for the same seed. If the sets
    differ in size, a random subset of the larger one is used.

    Args:
        num_features: Length of a feature vector, d.
        num_directions: Number of directions.
        seed: Seed of the directions and of the subset.
        **options: Options of ``torchmetrics.Metric``, such as ``sync_on_compute``; and ``keep_order``: by default, the
            result does not depend on the order of the images, nor on which process has which.

    Example:
        >>> metric = MongeDistance(2)
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> metric.update(points, real=True)
        >>> metric.update(points + 1, real=False)  # 3 d times the mean over directions u of (u · [1, 1])²
        >>> round(float(metric.compute()))
        6
    """

    higher_is_better = False

    def __init__(self, num_features: int, num_directions: int = 1000, seed: int = 2020, **options: Any) -> None:
        check_counts(num_directions=num_directions)
        super().__init__(num_features, **options)
        self.num_directions = num_directions
        self.seed = seed

    def compute(self) -> Tensor:
        """Return the distance, float64.

        Raises:
            SettingError: A set is empty.
        """
        real, fake = self.both(1)
        num, generator = min(len(real), len(fake)), torch.Generator().manual_seed(self.seed)
        fake, real = (
            rows if len(rows) == num else rows[torch.randperm(len(rows), generator=generator)[:num].to(rows.device)]
            for rows in (fake, real)
        )
        directions = torch.randn(self.num_directions, self.num_columns, generator=generator).to(real.device)
        directions = torch.nn.functional.normalize(directions, dim=1)
        squares = [
            _sorted_projections(real, part).sub_(_sorted_projections(fake, part)).square_().sum(dtype=torch.float64)
            for part in torch.split(directions, _DIRECTIONS)
        ]
        return 3 * self.num_columns * torch.stack(squares).sum() / (num * self.num_directions)


def _sorted_projections(features: Tensor, directions: Tensor) -> Tensor:
    return (directions @ features.T).sort(dim=1).values
