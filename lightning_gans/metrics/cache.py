"""Arrays kept on disk under the hash of what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lightning_gans.io.files import replacing

_BLOCK = 1000  # rows that are read at once


class Rows(Protocol):
    """Images or features that are read a part at a time: a tensor, or the pictures of a split."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all of them; the first number is how many there are."""

    @property
    def dtype(self) -> torch.dtype:
        """Their type."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: Any) -> Tensor: ...


def default_folder() -> Path:
    """Return ``$LIGHTNING_GANS_CACHE``, else ``lightning_gans`` where the system keeps caches."""
    named = os.environ.get("LIGHTNING_GANS_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_gans"


def fingerprint(*parts: Any) -> str:
    """Return the SHA-256 of tensors (their shapes, types and values) and of plain values.

    Other :class:`Rows` of the same values have the same one.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(getattr(part, "dtype", None), torch.dtype):
            digest.update(f"{tuple(part.shape)} {str(part.dtype).removeprefix('torch.')}".encode())
            for start in range(0, len(part), _BLOCK):
                digest.update(part[start : start + _BLOCK].detach().cpu().contiguous().numpy().data)
        else:
            digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


class Cache:
    """A folder of npz files, each named by the hash of its key.

    A file is written whole or not at all. One that is damaged is left out with a warning, so that it is made
    again; a folder that cannot be written to costs a warning and no more.

    Args:
        folder: Where; by default :func:`default_folder`.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder).expanduser()

    def path(self, kind: str, key: Mapping[str, Any]) -> Path:
        """Return the file of a key."""
        return self.folder / f"{kind}-{fingerprint(dict(key))[:40]}.npz"

    def load(self, kind: str, key: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """Return the arrays stored under a key, or None; reading checks the file's own checksums."""
        path = self.path(kind, key)
        try:
            if not path.is_file():
                return None
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            if json.loads(str(arrays.pop("about"))) != _about(key, arrays):
                raise ValueError("it holds something else")
        except Exception as error:  # whatever a reader of zip files may say of one with a wrong bit
            warnings.warn(f"{path} is damaged ({error}): computing it again.", stacklevel=2)
            return None
        return arrays

    def save(self, kind: str, key: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Store arrays under a key."""
        path = self.path(kind, key)
        try:
            with replacing(path) as file:
                np.savez(file, about=np.array(json.dumps(_about(key, arrays))), **arrays)  # type: ignore[arg-type]
        except OSError as error:
            warnings.warn(
                f"{path} cannot be written ({error.strerror}): the next evaluation computes it again. "
                "Name another folder with metrics.cache_dir, or in LIGHTNING_GANS_CACHE.",
                stacklevel=2,
            )


def _about(key: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return what a file says of itself, as it comes back from JSON."""
    about: dict[str, Any] = json.loads(json.dumps({"key": dict(key), "arrays": sorted(arrays)}))
    return about
