"""Atomic writing of checkpoints."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from lightning_gans._lightning import TorchCheckpointIO
from lightning_gans.errors import DataError, LightningGansError, first_line
from lightning_gans.io.files import read_tensors, replacing

_TYPES: dict[str, type] = {
    "state_dict": dict,
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}
"""Types of the entries that Lightning writes, except for plugins and the data module."""

_PARTS: dict[str, type] = {"state_dict": torch.Tensor, "loops": dict, "optimizer_states": dict, "lr_schedulers": dict}
"""Types of the parts of these entries."""

_OF_THE_TUNER = ".scale_batch_size_"
"""Beginning of the name under which Lightning's batch size finder keeps the model, in ``default_root_dir``."""

_OF_THE_LAUNCHER = ".temp.ckpt"
"""Name of the file of weights that Lightning's processes of ``ddp_fork`` leave to the first one."""


@contextmanager
def loading(path: Any = "the checkpoint") -> Iterator[None]:
    """Turn any error that the content of a checkpoint raises inside the block into a :class:`DataError`."""
    try:
        yield
    except LightningGansError:
        raise
    except Exception as error:
        message = f"{path} cannot be loaded and may be damaged: {type(error).__name__}: {first_line(error)}."
        raise DataError(message, setting=str(path)) from error


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint to a temporary file next to its target, synchronize it to the disk, then rename it.

    Lightning's plugin writes to ``$TMPDIR`` and moves the file. On another file system that is a copy, and a killed run
    leaves half a checkpoint under the final name. With this plugin, a killed run leaves at most a hidden temporary
    file, which any save more than an hour later removes. The checkpoint of Lightning's batch size finder is a file
    without a name, so that a killed run leaves none.

    Reading never runs code that is pickled in a checkpoint. The command line uses this plugin by default. In Python:

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(plugins=[AtomicCheckpointIO()], accelerator="cpu", logger=False)
    """

    def __init__(self) -> None:
        self._unnamed: dict[str, IO[bytes]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint atomically; use Lightning's plugin for paths that are not local."""
        if Path(path).name.startswith(_OF_THE_TUNER):
            self._unnamed[str(path)] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by remove_checkpoint
            torch.save(checkpoint, self._unnamed[str(path)])
            return
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(path) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint with ``weights_only=True``, whatever ``weights_only`` is.

        Raises:
            DataError: The file is missing, damaged, or contains pickled code.
        """
        if str(path) in self._unnamed:
            self._unnamed[str(path)].seek(0)
            loaded: dict[str, Any] = torch.load(self._unnamed[str(path)], map_location, weights_only=True)
            return loaded
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        if Path(path).name == _OF_THE_LAUNCHER:
            weights: dict[str, Any] = read_tensors(path, map_location)
            return weights
        return read_checkpoint(path, map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        if str(path) in self._unnamed:
            self._unnamed.pop(str(path)).close()
        else:
            super().remove_checkpoint(path)


def read_checkpoint(path: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of Lightning without running code from it.

    Raises:
        DataError: The file is missing or is not a checkpoint, or one of Lightning's entries has the wrong type.
    """
    checkpoint: Any = read_tensors(path, map_location)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise DataError(f"{path} is not a checkpoint: it has no state_dict.", setting=str(path))
    for name, kind in _TYPES.items():
        parts = checkpoint.get(name, kind())
        of_parts: Any = parts if isinstance(parts, list) else ()
        if isinstance(parts, dict):  # the extra state of a module may be of any type
            of_parts = [part for key, part in parts.items() if not str(key).endswith("_extra_state")]
        if not isinstance(parts, kind) or not all(isinstance(part, _PARTS.get(name, object)) for part in of_parts):
            raise DataError(f"{path} is damaged: its {name} has the wrong type.", setting=str(path), value=name)
    if not all(isinstance(name, str) for name in (*checkpoint, *checkpoint["state_dict"])):
        raise DataError(f"{path} is damaged: not all names in it are strings.", setting=str(path))
    return checkpoint
