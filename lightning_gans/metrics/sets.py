"""Base classes of the metrics that need all features, not only their sums."""

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
        keep_order: Whether :meth:`ordered` keeps the order of the processes and of the updates.
        **options: Options of ``torchmetrics.Metric``, such as ``sync_on_compute``.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, num_columns: int, states: tuple[str, ...], keep_order: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.keep_order = keep_order
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

    def ordered(self, state: str) -> Tensor:
        """Return a collection in an order that depends only on its rows, not on which process has which, or when."""
        rows = self.rows(state)
        if self.keep_order:
            return rows
        # As big-endian bytes, rows are compared from the most significant bits of their first number on.
        items = rows.cpu().numpy().astype(">f4").view(f"V{4 * self.num_columns}")[:, 0]
        return rows[torch.from_numpy(items.argsort()).to(rows.device)]

    def sync(self, *args: Any, **options: Any) -> None:
        """Gather the rows of all processes; a process without rows takes part, as the others would wait for it."""
        for state in self.states:
            if isinstance(getattr(self, state), list) and not getattr(self, state):
                setattr(self, state, [torch.empty(0, self.num_columns, device=self.device)])
        super().sync(*args, **options)


class TwoSetsMetric(RowsMetric):
    """Compare features of real images with features of generated images.

    Args:
        num_features: Length of a feature vector.
        reset_real_features: Whether ``reset`` forgets the real images, too.
        **options: ``keep_order``, and options of ``torchmetrics.Metric``, such as ``sync_on_compute``.

    Attributes:
        remember: Stores what depends only on the real images; by default nothing is stored.
    """

    def __init__(self, num_features: int, reset_real_features: bool = True, **options: Any) -> None:
        super().__init__(num_features, ("real_features", "fake_features"), **options)
        self.reset_real_features = reset_real_features
        self.real_features: list[Tensor]
        self.remember: Remember = _compute

    def update(self, features: Tensor, real: bool) -> None:
        """Add features ``(N, num_features)`` of real or of generated images."""
        self.add("real_features" if real else "fake_features", features)

    def reset(self) -> None:
        """Forget the generated images, and the real ones unless they are kept."""
        real = list(self.real_features)
        super().reset()
        if not self.reset_real_features:
            self.real_features = real

    def both(self, least: int) -> tuple[Tensor, Tensor]:
        """Return the two sets.

        Raises:
            SettingError: One of them has fewer rows than ``least``.
        """
        real, fake = self.ordered("real_features"), self.ordered("fake_features")
        for kind, rows in (("real", real), ("fake", fake)):
            if len(rows) < least:
                raise invalid(f"num_{kind}", len(rows), f"{least} or more for {type(self).__name__}")
        return real, fake


def _compute(kind: str, key: dict[str, Any], compute: Callable[[], Statistics]) -> Statistics:
    return compute()
