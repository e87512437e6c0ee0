"""The progress bar: the losses and the images per second."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

_INTERVAL = 0.2


class ProgressBar(RichProgressBar):
    """Rich progress bar with the losses and the images per second of the epoch so far.

    What it shows is read five times a second: each reading waits for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._read_at = 0.0
        self._shown: dict[str, Any] = {}
        self._epoch = (0.0, 0)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_epoch_start(trainer, pl_module)
        self._epoch = (time.monotonic(), getattr(pl_module, "images_seen", 0))

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
        """Return what is shown, newly read if the last reading is old."""
        now = time.monotonic()
        if now - self._read_at >= _INTERVAL:
            items = super().get_metrics(trainer, pl_module)
            items.pop("v_num", None)
            self._shown = {name.removeprefix("train/"): value for name, value in items.items()}
            started, images = self._epoch
            if trainer.training and hasattr(pl_module, "images_seen"):
                self._shown["images/s"] = f"{(pl_module.images_seen - images) / (now - started):,.0f}"
            self._read_at = now
        return self._shown
