"""``last.ckpt``, and ``best.ckpt`` where there is a score to go by."""

from __future__ import annotations

import os
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info

from lightning_gans.callbacks.metrics import GenerativeMetrics
from lightning_gans.callbacks.rhythm import is_due
from lightning_gans.errors import check_choice, check_positive
from lightning_gans.metrics.scores import METRICS

_OF_SAMPLES = tuple(f"val/{name}" for name in METRICS)


class Checkpoint(ModelCheckpoint):
    """Save ``last.ckpt`` as training goes on, and ``best.ckpt`` whenever the score improves.

    Args:
        enabled: The command line leaves the callback out where this is False.
        monitor: Key of the score, such as ``val/fid``; None saves the last checkpoint only, as does a score
            of samples where these are not scored.
        mode: ``min`` if lower is better, ``max`` if higher is.
        every_n_epochs: How often to save; ``last.ckpt`` is always saved at the end.
        dirpath: The folder; by default ``checkpoints`` in the run's folder.
    """

    def __init__(
        self,
        enabled: bool = True,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        every_n_epochs: int = 1,
        dirpath: str | None = None,
    ) -> None:
        check_choice("checkpoint.mode", mode, ("min", "max"))
        check_positive(**{"checkpoint.every_n_epochs": every_n_epochs})
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=0 if monitor is None else 1,
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )
        self.enabled = enabled
        self._scorer: GenerativeMetrics | None = None

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:
        """Go without the score if nothing here will measure it."""
        super().setup(trainer, pl_module, stage)
        self._scorer = next((c for c in trainer.callbacks if isinstance(c, GenerativeMetrics)), None)
        scored = self._scorer is not None and self._scorer.measures(self.monitor or "")
        if stage == "fit" and not scored and (self.monitor or "").startswith(_OF_SAMPLES):
            rank_zero_info(f"{self.monitor} is not measured: only the last checkpoint is saved, not the best.")
            self.monitor, self.save_top_k = None, 0

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Save ``best.ckpt`` if the score has improved."""
        if self._is_scored(trainer):
            super().on_validation_end(trainer, pl_module)

    def _is_scored(self, trainer: Any) -> bool:
        """Whether there is a score to go by; those of samples come with some validations only."""
        scorer = self._scorer
        if scorer is None or self.monitor is None or not scorer.measures(self.monitor):
            return True
        return bool(scorer.last_scored_step == trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Save ``last.ckpt`` whatever the score: Lightning's own follows it only when the best one changes."""
        if self._is_scored(trainer):
            super().on_train_epoch_end(trainer, pl_module)
        if self.dirpath is None or trainer.fast_dev_run:
            return
        if is_due(trainer, self.every_n_epochs or 1):
            self.last_model_path = os.path.join(self.dirpath, "last.ckpt")
            trainer.save_checkpoint(self.last_model_path, weights_only=False)  # left open, Lightning says so each time
