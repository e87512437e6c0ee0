"""Precision, recall, density and coverage: which images lie among the nearest neighbors of the other set.

Distances come from one matrix product, which is fast. Where its rounding could change a result, they are computed again
from the differences, so that every count equals that of a direct computation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_gans.errors import check_counts, invalid
from lightning_gans.metrics.sets import TwoSetsMetric

_CHUNK_BYTES = 2**22  # of the distance matrix at a time, so that they fit into a processor's caches
_SPARE = 8  # additional candidates for the nearest neighbors, whose exact order is then computed


class ManifoldMetrics(TwoSetsMetric):
    """Precision, recall, density and coverage, from one pass over the distances between the sets.

    See :class:`PrecisionRecall` and :class:`DensityCoverage`.

    Args:
        num_features: Length of a feature vector.
        precision_recall_k: The k of the k-th neighbor that defines precision and recall; None leaves them out.
        density_coverage_k: The k of the k-th neighbor that defines density and coverage; None leaves them out.
        **options: Options of ``torchmetrics.Metric``, such as ``sync_on_compute``.
    """

    higher_is_better = True

    def __init__(
        self, num_features: int, precision_recall_k: int | None = 3, density_coverage_k: int | None = 5, **options: Any
    ) -> None:
        super().__init__(num_features, **options)
        self.precision_recall_k = precision_recall_k
        self.density_coverage_k = density_coverage_k

    def compute(self) -> Any:
        """Return the scores by their names, float64.

        Raises:
            SettingError: A set has no k-th neighbor, or is empty.
        """
        real, fake = (points.double() for points in self.both(1))
        closed, opened = self.precision_recall_k, self.density_coverage_k
        most = max(closed or 0, opened or 0)
        nearest = self.remember(
            "neighbors", {"k": most}, lambda: {"squared_distances": nearest_squared_distances(real, most)}
        )
        radii = nearest["squared_distances"].to(real.device)
        fake_in_real, real_in_fake, num_fake_within = count_inside(
            real,
            fake,
            real.new_zeros(len(real)) if closed is None else radii[:, closed - 1],
            real.new_zeros(len(real)) if opened is None else radii[:, opened - 1],
            fake.new_zeros(len(fake)) if closed is None else nearest_squared_distances(fake, closed)[:, -1],
        )
        scores = {}
        if closed is not None:
            scores["precision"] = fake_in_real.double().mean()
            scores["recall"] = real_in_fake.double().mean()
        if opened is not None:
            scores["density"] = num_fake_within.sum().double() / (opened * len(fake))
            scores["coverage"] = (num_fake_within > 0).double().mean()
        return scores


class PrecisionRecall(ManifoldMetrics):
    """Fraction of the generated images on the manifold of the real images, and the reverse.

    The manifold of a set is the union of balls around its points that reach to their k-th nearest neighbor
    (Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991).

    Args:
        num_features: Length of a feature vector.
        k: Number of the nearest neighbor to which a ball reaches, 1 or more.
        **options: Options of ``torchmetrics.Metric``, such as ``sync_on_compute``.
    """

    def __init__(self, num_features: int, k: int = 3, **options: Any) -> None:
        check_counts(k=k)
        super().__init__(num_features, precision_recall_k=k, density_coverage_k=None, **options)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return precision and recall, float64.

        Raises:
            SettingError: A set has k images or fewer.
        """
        return tuple(super().compute().values())


class DensityCoverage(ManifoldMetrics):
    """Mean number of real neighborhoods around a generated image, and the fraction of them that contain one.

    A neighborhood is the open ball that reaches to the k-th nearest real neighbor (Naeem et al. 2020,
    https://arxiv.org/abs/2002.09797). The density is divided by k, and may exceed 1.

    Args:
        num_features: Length of a feature vector.
        k: Number of the nearest neighbor to which a ball reaches, 1 or more.
        **options: Options of ``torchmetrics.Metric``, such as ``sync_on_compute``.
    """

    def __init__(self, num_features: int, k: int = 5, **options: Any) -> None:
        check_counts(k=k)
        super().__init__(num_features, precision_recall_k=None, density_coverage_k=k, **options)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return density and coverage, float64.

        Raises:
            SettingError: There are k real images or fewer, or no generated image.
        """
        return tuple(super().compute().values())


def nearest_squared_distances(points: Tensor, k: int) -> Tensor:
    """Return each point's squared distances to its k nearest neighbors, ascending, float64 ``(N, k)``.

    Args:
        points: float64 ``(N, d)``.
        k: Number of neighbors.

    Raises:
        SettingError: There are k points or fewer.
    """
    if len(points) <= k:
        raise invalid("k", k, f"smaller than the number of images, {len(points)}")
    wanted = min(k + _SPARE, len(points) - 1)
    norms = points.square().sum(1)
    nearest = points.new_empty(len(points), k)
    for start, stop in _chunks(len(points), len(points)):
        part = points[start:stop]
        distances = _squared_distances(part, points, norms[start:stop], norms)
        distances[torch.arange(stop - start), torch.arange(start, stop)] = torch.inf  # no point is its own neighbor
        found, candidates = distances.topk(wanted, largest=False)
        exact = torch.stack([_exact(part, points[column]) for column in candidates.T], dim=1).sort(dim=1).values[:, :k]
        # Where rounding may have excluded a neighbor from the candidates, compare with all points; 0 is the minimum.
        slack = _rounding(points) * (norms[start:stop] + norms.max())
        for row in ((found[:, -1] - found[:, k - 1] <= slack) & (exact[:, -1] > 0)).nonzero().flatten().tolist():
            others = torch.cat([points[: start + row], points[start + row + 1 :]])
            exact[row] = _exact(part[row], others).topk(k, largest=False).values
        nearest[start:stop] = exact
    return nearest


def count_inside(
    real: Tensor, fake: Tensor, closed_radii: Tensor, open_radii: Tensor, fake_radii: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Find which points lie in which balls, in one pass over the distances between the sets.

    Args:
        real: float64 ``(N, d)``.
        fake: float64 ``(M, d)``.
        closed_radii: Squared radii of the closed real balls, ``(N,)``.
        open_radii: Squared radii of the open real balls, ``(N,)``.
        fake_radii: Squared radii of the closed fake balls, ``(M,)``.

    Returns:
        Whether each fake point lies in any closed real ball, bool ``(M,)``; whether each real point lies in any closed
        fake ball, bool ``(N,)``; and the number of fake points in each open real ball, int64 ``(N,)``.
    """
    real_norms, fake_norms = real.square().sum(1), fake.square().sum(1)
    fake_in_real = torch.zeros(len(fake), dtype=torch.bool, device=real.device)
    real_in_fake = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    num_fake_within = torch.zeros(len(real), dtype=torch.long, device=real.device)
    for start, stop in _chunks(len(real), len(fake)):
        part = real[start:stop]
        closed, opened = closed_radii[start:stop, None], open_radii[start:stop, None]
        distances = _squared_distances(part, fake, real_norms[start:stop], fake_norms)
        slack = _rounding(real) * (real_norms[start:stop].max() + fake_norms.max())
        doubtful = torch.zeros_like(distances, dtype=torch.bool)
        for radii in (closed, opened, fake_radii):
            doubtful |= (distances - radii).abs_() <= slack
        rows, columns = doubtful.nonzero(as_tuple=True)
        for some_rows, some_columns in zip(torch.split(rows, 2**16), torch.split(columns, 2**16), strict=True):
            distances[some_rows, some_columns] = _exact(part[some_rows], fake[some_columns])
        fake_in_real |= _any(distances <= closed, 0)
        real_in_fake[start:stop] = _any(distances <= fake_radii, 1)
        num_fake_within[start:stop] = (distances < opened).sum(1, dtype=torch.int32)  # faster than in int64
    return fake_in_real, real_in_fake, num_fake_within


def _any(flags: Tensor, dim: int) -> Tensor:
    """Return whether any flag is set; much faster than ``Tensor.any`` on a CPU."""
    return flags.view(torch.uint8).amax(dim).bool()


def _squared_distances(points: Tensor, others: Tensor, norms: Tensor, other_norms: Tensor) -> Tensor:
    """Return squared distances from a matrix product, ``(n, m)``, up to rounding."""
    return torch.addmm(other_norms, points, others.T, alpha=-2).add_(norms[:, None])


def _rounding(points: Tensor) -> float:
    """Return a bound on the rounding error of a squared distance, relative to the squared norms."""
    return float(8 * points.shape[1] * torch.finfo(points.dtype).eps)


def _exact(points: Tensor, others: Tensor) -> Tensor:
    """Return the squared distances of pairs of rows, ``(n,)``, from their differences."""
    return (points - others).square_().sum(1)


def _chunks(num_rows: int, num_columns: int) -> list[tuple[int, int]]:
    """Split the rows of a float64 matrix into small parts."""
    size = max(1, _CHUNK_BYTES // (8 * num_columns))
    return [(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
