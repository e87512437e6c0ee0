"""Atomic writing of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_gans._lightning import TorchCheckpointIO
from lightning_gans.io.files import read_tensors, replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint to a temporary file beside its target, synchronize it to the disk, then rename it.

    Lightning's plugin writes to ``$TMPDIR`` and moves the file. On another file system that is a copy, and a killed run
    leaves half a checkpoint under the final name. With this plugin a killed run leaves at most ``.NAME.tmp`` in the
    folder of the checkpoint, which the next save replaces.

    Reading never runs code that is pickled in a checkpoint. The command line uses this plugin by default; in Python:

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(plugins=[AtomicCheckpointIO()], accelerator="cpu", logger=False)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint atomically; use Lightning's plugin for paths that are not local."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        with replacing(path, temporary=path.with_name(f".{path.name}.tmp")) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint with ``weights_only=True``, whatever ``weights_only`` is.

        Raises:
            DataError: The file is missing, damaged, or contains pickled code.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        checkpoint: dict[str, Any] = read_tensors(path, map_location)
        return checkpoint
