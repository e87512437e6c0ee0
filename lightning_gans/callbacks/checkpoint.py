"""``last.ckpt``, and ``best.ckpt`` where there is a score to go by."""

from __future__ import annotations

import os
from typing import Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_gans.errors import check_choice, check_positive


class Checkpoint(ModelCheckpoint):
    """Save ``last.ckpt`` as training goes on, and ``best.ckpt`` whenever the score improves.

    Args:
        enabled: The command line leaves the callback out where this is False.
        monitor: Key of the score, such as ``val/elbo``; None saves the last checkpoint only.
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

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save ``last.ckpt`` whatever the score: Lightning's own follows it only when the best one changes."""
        super().on_train_epoch_end(trainer, pl_module)
        epochs, steps = trainer.current_epoch + 1, trainer.global_step
        at_the_end = trainer.should_stop or epochs == trainer.max_epochs or steps == trainer.max_steps
        if self.dirpath is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if at_the_end or epochs % (self.every_n_epochs or 1) == 0:
            self.last_model_path = os.path.join(self.dirpath, "last.ckpt")
            trainer.save_checkpoint(self.last_model_path)
