"""Checkpoints written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_gans._lightning import TorchCheckpointIO
from lightning_gans.io.files import read_tensors, replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, to the disk, and only then gives it the target's name.

    Lightning's own writes to ``$TMPDIR`` and moves: on another file system that is a copy, and a run that is
    killed in it leaves half a checkpoint under the final name. Here what a killed run leaves is at most
    ``.NAME.tmp`` in the checkpoint's folder, which the next save replaces.

    Reading never runs what is pickled in a checkpoint. The command line uses this by itself; in Python:

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(plugins=[AtomicCheckpointIO()], accelerator="cpu", logger=False)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint whole; to other places than local files as Lightning does."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        with replacing(path, temporary=path.with_name(f".{path.name}.tmp")) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; pickled code in it is refused, whatever ``weights_only`` says.

        Raises:
            DataError: There is no such file, it is damaged, or it holds pickled code.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        checkpoint: dict[str, Any] = read_tensors(path, map_location)
        return checkpoint
