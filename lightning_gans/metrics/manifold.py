"""Metrics that ask which generated images lie among the nearest neighbours of real ones, and the reverse.

Distances come from one matrix product, which is fast, and where its rounding could decide (equal or nearly equal
distances) from the difference itself, so that every count is that of a direct computation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gans.errors import SettingError, check_positive
from lightning_gans.metrics.sets import TwoSetsMetric

_CHUNK_BYTES = 2**24  # of the matrix of distances that is held at once: little enough for a processor's caches
_SPARE = 8  # neighbours more than are asked for, whose order is then settled by the difference itself


class PrecisionRecall(TwoSetsMetric):
    """Share of the generated images that lie on the manifold of the real ones, and the reverse.

    A set's manifold is the union of the balls around its points that reach to their k-th nearest neighbour
    (Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991).

    Args:
        num_features: Length of a feature vector.
        k: Which neighbour.
        **options: torchmetrics' own, such as ``sync_on_compute``.
    """

    higher_is_better = True

    def __init__(self, num_features: int, k: int = 3, **options: Any) -> None:
        check_positive(k=k)
        super().__init__(num_features, **options)
        self.k = k

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return precision and recall, float64.

        Raises:
            SettingError: A set has no k-th neighbour: k images or fewer.
        """
        real, fake = (points.double() for points in self.both(self.k + 1))
        real_radii, fake_radii = (nearest_squared_distances(points, self.k)[:, -1] for points in (real, fake))
        inside = count_inside(real, fake, real_radii, real_radii, fake_radii)
        return inside.precision(), inside.recall()


class DensityCoverage(TwoSetsMetric):
    """How many real neighbourhoods a generated image lies in, and the share of these that hold one at all.

    The neighbourhoods are balls that reach to the k-th nearest real neighbour, without their rim (Naeem et al.
    2020, https://arxiv.org/abs/2002.09797). Density may exceed 1.

    Args:
        num_features: Length of a feature vector.
        k: Which neighbour.
        **options: torchmetrics' own, such as ``sync_on_compute``.
    """

    higher_is_better = True

    def __init__(self, num_features: int, k: int = 5, **options: Any) -> None:
        check_positive(k=k)
        super().__init__(num_features, **options)
        self.k = k

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return density and coverage, float64.

        Raises:
            SettingError: The real set has no k-th neighbour, or the other is empty.
        """
        real, fake = (points.double() for points in self.both(1))
        real_radii = nearest_squared_distances(real, self.k)[:, -1]
        inside = count_inside(real, fake, real_radii, real_radii, fake.new_zeros(len(fake)))
        return inside.density(self.k), inside.coverage()


class Inside(NamedTuple):
    """Which points of two sets lie in the balls around the other's.

    Attributes:
        fake_in_real: Whether each fake point lies in any real ball, rim included, bool ``(M,)``.
        real_in_fake: Whether each real point lies in any fake ball, rim included, bool ``(N,)``.
        num_fake_within: Fake points in each real ball, without its rim, int64 ``(N,)``.
    """

    fake_in_real: Tensor
    real_in_fake: Tensor
    num_fake_within: Tensor

    def precision(self) -> Tensor:
        """Share of the fake points on the real manifold."""
        return self.fake_in_real.double().mean()

    def recall(self) -> Tensor:
        """Share of the real points on the fake manifold."""
        return self.real_in_fake.double().mean()

    def density(self, k: int) -> Tensor:
        """Mean number of real balls that a fake point lies in, by k."""
        return self.num_fake_within.sum().double() / (k * len(self.fake_in_real))

    def coverage(self) -> Tensor:
        """Share of the real balls that hold a fake point."""
        return (self.num_fake_within > 0).double().mean()


def nearest_squared_distances(points: Tensor, k: int) -> Tensor:
    """Return each point's squared distances to its k nearest others, ascending, float64 ``(N, k)``.

    Args:
        points: float64 ``(N, d)``.
        k: How many neighbours.

    Raises:
        SettingError: There are k points or fewer.
    """
    if len(points) <= k:
        raise SettingError(f"k is {k}, but {len(points)} images have at most {len(points) - 1} neighbours each.")
    wanted = min(k + _SPARE, len(points) - 1)
    norms = points.square().sum(1)
    nearest = points.new_empty(len(points), k)
    for start, stop in _chunks(len(points), len(points)):
        part = points[start:stop]
        distances = _squared_distances(part, points, norms[start:stop], norms)
        distances[torch.arange(stop - start), torch.arange(start, stop)] = torch.inf  # no point neighbours itself
        found, candidates = distances.topk(wanted, largest=False)
        exact = torch.stack([_exact(part, points[column]) for column in candidates.T], dim=1).sort(dim=1).values[:, :k]
        # Where rounding may have kept a neighbour out of the candidates, all points are; none is nearer than 0.
        slack = _rounding(points) * (norms[start:stop] + norms.max())
        for row in ((found[:, -1] - found[:, k - 1] <= slack) & (exact[:, -1] > 0)).nonzero().flatten().tolist():
            others = torch.cat([points[: start + row], points[start + row + 1 :]])
            exact[row] = _exact(part[row], others).topk(k, largest=False).values
        nearest[start:stop] = exact
    return nearest


def count_inside(real: Tensor, fake: Tensor, rim_radii: Tensor, open_radii: Tensor, fake_radii: Tensor) -> Inside:
    """Find which points lie in which balls, in one pass over the distances between the sets.

    Args:
        real: float64 ``(N, d)``.
        fake: float64 ``(M, d)``.
        rim_radii: Squared radii of the real balls whose rim counts, ``(N,)``.
        open_radii: Squared radii of the real balls whose rim does not count, ``(N,)``.
        fake_radii: Squared radii of the fake balls, whose rim counts, ``(M,)``.
    """
    real_norms, fake_norms = real.square().sum(1), fake.square().sum(1)
    fake_in_real = torch.zeros(len(fake), dtype=torch.bool, device=real.device)
    real_in_fake = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    num_fake_within = torch.zeros(len(real), dtype=torch.long, device=real.device)
    for start, stop in _chunks(len(real), len(fake)):
        part = real[start:stop]
        rims, opens = rim_radii[start:stop, None], open_radii[start:stop, None]
        distances = _squared_distances(part, fake, real_norms[start:stop], fake_norms)
        slack = _rounding(real) * (real_norms[start:stop].max() + fake_norms.max())
        doubtful = torch.zeros_like(distances, dtype=torch.bool)
        for radii in (rims, opens, fake_radii):
            doubtful |= (distances - radii).abs_() <= slack
        rows, columns = doubtful.nonzero(as_tuple=True)
        for some_rows, some_columns in zip(torch.split(rows, 2**16), torch.split(columns, 2**16), strict=True):
            distances[some_rows, some_columns] = _exact(part[some_rows], fake[some_columns])
        fake_in_real |= _any(distances <= rims, 0)
        real_in_fake[start:stop] = _any(distances <= fake_radii, 1)
        num_fake_within[start:stop] = (distances < opens).sum(1, dtype=torch.int32)  # faster than in int64
    return Inside(fake_in_real, real_in_fake, num_fake_within)


def _any(flags: Tensor, dim: int) -> Tensor:
    """Return whether any is set, as ``Tensor.any`` does in many times as long on a CPU."""
    return flags.view(torch.uint8).amax(dim).bool()


def _squared_distances(points: Tensor, others: Tensor, norms: Tensor, other_norms: Tensor) -> Tensor:
    """Return squared distances by a matrix product, ``(n, m)``, off by rounding."""
    return torch.addmm(other_norms, points, others.T, alpha=-2).add_(norms[:, None])


def _rounding(points: Tensor) -> float:
    """Return a bound of what rounding does to a squared distance, in units of the squared norms."""
    return float(8 * points.shape[1] * torch.finfo(points.dtype).eps)


def _exact(points: Tensor, others: Tensor) -> Tensor:
    """Return the squared distances of pairs of rows, ``(n,)``, from their differences."""
    return (points - others).square_().sum(1)


def _chunks(num_rows: int, num_columns: int) -> list[tuple[int, int]]:
    """Part the rows of a float64 matrix so that each part stays small."""
    size = max(1, _CHUNK_BYTES // (8 * num_columns))
    return [(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
