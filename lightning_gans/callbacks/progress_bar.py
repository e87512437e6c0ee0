"""The progress bar: losses and images per second."""

from __future__ import annotations

import time
from typing import Any

from lightning_gans._lightning import RichProgressBar, pl

_PER_SECOND = 2


class ProgressBar(RichProgressBar):
    """Rich progress bar with the losses and the images per second of the current epoch.

    It refreshes twice a second, and costs nothing in between: reading the losses waits for the device, and a thread
    that draws more often takes time from the training.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=_PER_SECOND)
        self._drawn_at, self._drawn_batch = 0.0, -1
        self._epoch = (0.0, 0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of an epoch that is resumed."""
        super().on_train_start(trainer, pl_module)
        self._epoch = (time.monotonic(), getattr(pl_module, "images_seen", 0))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_epoch_start(trainer, pl_module)
        self._epoch = (time.monotonic(), getattr(pl_module, "images_seen", 0))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the progress, if half a second has passed."""
        now = time.monotonic()
        if now - self._drawn_at >= 1 / _PER_SECOND or batch_idx + 1 == self.total_train_batches:
            self._drawn_at, self._drawn_batch = now, batch_idx
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show where the epoch ended, which may be before its last batch."""
        if self._drawn_batch != trainer.fit_loop.batch_idx:
            super().on_train_batch_end(trainer, pl_module, None, None, trainer.fit_loop.batch_idx)
        super().on_train_epoch_end(trainer, pl_module)

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
        """Return the values to show."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        shown: dict[str, Any] = {name.removeprefix("train/"): value for name, value in items.items()}
        started, images = self._epoch
        if trainer.training and hasattr(pl_module, "images_seen"):
            shown["images/s"] = f"{(pl_module.images_seen - images) / (time.monotonic() - started):,.0f}"
        return shown
