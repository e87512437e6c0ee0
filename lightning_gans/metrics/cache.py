"""Arrays cached on disk under the hash of their key."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lightning_gans.io.files import expanded, replacing

_BLOCK = 1000  # rows read at once


class Rows(Protocol):
    """Images or features that are read in parts: a tensor, or the pictures of a split."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all rows, whose first number is their count."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: Any) -> Tensor: ...


def default_folder() -> Path:
    """Return ``$LIGHTNING_GANS_CACHE``, or else ``lightning_gans`` in the user's cache folder."""
    named = os.environ.get("LIGHTNING_GANS_CACHE")
    if named:
        return expanded(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_gans"


def fingerprint(*parts: Any) -> str:
    """Return the SHA-256 of tensors (their shapes, types and values) and of plain values.

    Equal :class:`Rows` of any kind have the same fingerprint.
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

    Files are written atomically. A damaged file is ignored with a warning, and a folder that is not writable only
    causes a warning.

    Args:
        folder: The folder; by default :func:`default_folder`.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = default_folder() if folder is None else expanded(folder)

    def path(self, kind: str, key: Mapping[str, Any]) -> Path:
        """Return the file of a key."""
        return self.folder / f"{kind}-{fingerprint(dict(key))[:40]}.npz"

    def get(
        self, kind: str, key: Mapping[str, Any], compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Return the arrays stored under a key, or compute and store them."""
        arrays = self.load(kind, key)
        if arrays is None:
            arrays = compute()
            self.save(kind, key, arrays)
        return arrays

    def load(self, kind: str, key: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """Return the arrays stored under a key, or None; reading checks the file's own checksums."""
        path = self.path(kind, key)
        try:
            if not path.is_file():
                return None
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            if json.loads(str(arrays.pop("about"))) != _about(key, arrays):
                raise ValueError("it has another key")
        except Exception as error:  # a damaged zip file raises anything
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
                "Set metrics.cache_dir or LIGHTNING_GANS_CACHE to another folder.",
                stacklevel=2,
            )


def _about(key: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return a file's description of itself, in plain JSON types."""
    about: dict[str, Any] = json.loads(json.dumps({"key": dict(key), "arrays": sorted(arrays)}))
    return about
