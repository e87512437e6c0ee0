"""Base classes of the metrics that need all features, not only sums of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_gans.errors import SettingError, invalid

Statistics = dict[str, Tensor]
Remember = Callable[[str, dict[str, Any], Callable[[], Statistics]], Statistics]
"""``remember(kind, key, compute)`` returns statistics of the real images, stored or computed."""


def check_rows(metric: Metric, rows: Tensor, num_columns: int) -> None:
    """Raise :class:`SettingError` unless the rows have the shape ``(N, num_columns)``."""
    if rows.dim() != 2 or rows.shape[1] != num_columns:
        name, allowed = type(metric).__name__, f"(N, {num_columns})"
        raise SettingError(f"{name} takes {allowed}, but got {list(rows.shape)}.", setting=name, allowed=allowed)


class RowsMetric(Metric):
    """Collect rows of a fixed length, as float32; processes may hold different numbers of rows, or none.

    Args:
        num_columns: Length of a row.
        states: Names of the collections.
        **options: Options of ``torchmetrics.Metric``, such as ``sync_on_compute``.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, num_columns: int, states: tuple[str, ...], **options: Any) -> None:
        super().__init__(**options)
        self.num_columns = num_columns
        self.states = states
        for state in states:
            self.add_state(state, [], dist_reduce_fx="cat")

    def add(self, state: str, rows: Tensor) -> None:
        """Add rows ``(N, num_columns)`` to a collection."""
        check_rows(self, rows, self.num_columns)
        getattr(self, state).append(rows.float())  # one type on all processes

    def rows(self, state: str) -> Tensor:
        """Return a collection in the order of the processes and of the updates."""
        collected = getattr(self, state)
        rows: Tensor = dim_zero_cat(collected) if len(collected) else torch.empty(0, self.num_columns)
        return rows

    def sync(self, *args: Any, **options: Any) -> None:
        """Gather the rows of all processes; a process without rows takes part too, or the rest would wait for it."""
        for state in self.states:
            if isinstance(getattr(self, state), list) and not getattr(self, state):
                setattr(self, state, [torch.empty(0, self.num_columns, device=self.device)])
        super().sync(*args, **options)


class TwoSetsMetric(RowsMetric):
    """Compare features of real images with features of generated images.

    Attributes:
        remember: Stores what depends on the real images alone; by default nothing is stored.
    """

    def __init__(self, num_features: int, **options: Any) -> None:
        super().__init__(num_features, ("real_features", "fake_features"), **options)
        self.remember: Remember = _compute

    def update(self, features: Tensor, real: bool) -> None:
        """Add features ``(N, num_features)`` of real or of generated images."""
        self.add("real_features" if real else "fake_features", features)

    def both(self, least: int) -> tuple[Tensor, Tensor]:
        """Return the two sets.

        Raises:
            SettingError: One of them has fewer rows than ``least``.
        """
        real, fake = self.rows("real_features"), self.rows("fake_features")
        for kind, rows in (("real", real), ("fake", fake)):
            if len(rows) < least:
                raise invalid(f"num_{kind}", len(rows), f"{least} or more for {type(self).__name__}")
        return real, fake


def _compute(kind: str, key: dict[str, Any], compute: Callable[[], Statistics]) -> Statistics:
    return compute()
