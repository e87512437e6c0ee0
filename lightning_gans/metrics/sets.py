"""The base of the metrics that need the features themselves and not only their sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_gans.errors import SettingError


class RowsMetric(Metric):
    """Collects rows of a fixed length, as float32; processes may hold different numbers of them, or none.

    Args:
        num_columns: Length of a row.
        states: Names of the collections.
        **options: torchmetrics' own, such as ``sync_on_compute``.
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
        if rows.dim() != 2 or rows.shape[1] != self.num_columns:
            raise SettingError(f"{type(self).__name__} takes (N, {self.num_columns}), but got {list(rows.shape)}.")
        getattr(self, state).append(rows.float())  # of one type, also where another process has none

    def rows(self, state: str) -> Tensor:
        """Return a collection in the order of the processes, and of its updates."""
        collected = getattr(self, state)
        rows: Tensor = dim_zero_cat(collected) if len(collected) else torch.empty(0, self.num_columns)
        return rows

    def sync(self, *args: Any, **options: Any) -> None:
        """Bring the processes' rows together; one that has none takes part with none, else the others wait."""
        for state in self.states:
            if isinstance(getattr(self, state), list) and not getattr(self, state):
                setattr(self, state, [torch.empty(0, self.num_columns, device=self.device)])
        super().sync(*args, **options)


class TwoSetsMetric(RowsMetric):
    """Compares features of real images with those of generated ones."""

    def __init__(self, num_features: int, **options: Any) -> None:
        super().__init__(num_features, ("real_features", "fake_features"), **options)

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
                raise SettingError(
                    f"{type(self).__name__} needs at least {least} {kind} images, but there are {len(rows)}."
                )
        return real, fake
