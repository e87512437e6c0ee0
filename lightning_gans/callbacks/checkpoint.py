"""``last.ckpt``, and ``best.ckpt`` where there is a score to go by."""

from __future__ import annotations

from typing import Literal

from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_gans.errors import check_choice, check_positive


class Checkpoint(ModelCheckpoint):
    """Save ``last.ckpt`` as training goes on, and ``best.ckpt`` whenever the score improves.

    Args:
        enabled: The command line leaves the callback out where this is False.
        monitor: Key of the score, such as ``val/elbo``; None saves the last checkpoint only.
        mode: ``min`` if lower is better, ``max`` if higher is.
        every_n_epochs: How often to save.
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
            filename="last" if monitor is None else "best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            save_last=None if monitor is None else True,
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )
        self.enabled = enabled
