"""Images and labels of ``.npz`` and ``.npy`` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_gans.errors import DataError
from lightning_gans.io.arrays import ARRAYS
from lightning_gans.io.files import reading

NAMES = ("images", "arr_0")
"""Names of the array of images in an ``.npz`` file; the second is that of guided diffusion's evaluation."""

_MOST_CLASSES = 1_000_000


def load_images(path: Path, mmap_mode: Literal["r"] | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a file, and its labels, if any.

    Args:
        path: The file.
        mmap_mode: How an ``.npy`` file is mapped into memory, as in ``numpy.load``; None reads it.

    Raises:
        DataError: The file has another extension, cannot be read, or has no array of one of the :data:`NAMES`.
    """
    if path.suffix not in ARRAYS:
        raise DataError(f"{path} must end in {' or '.join(ARRAYS)}.", setting=str(path), allowed=ARRAYS)
    with reading(path, f"an {path.suffix[1:]} file"):
        if path.suffix == ".npy":
            return np.load(path, mmap_mode, allow_pickle=False), None
        with np.load(path, allow_pickle=False) as arrays:
            name = next((name for name in NAMES if name in arrays), None)
            if name is None:
                found = ", ".join(arrays.files) or "nothing"
                message = f"{path} has no array named {' or '.join(NAMES)}, but {found}: write it with"
                raise DataError(f"{message} numpy.savez(path, images=…).", setting=str(path), allowed=NAMES)
            return arrays[name], arrays.get("labels")


def as_tensor(values: Any, name: str, where: str) -> Tensor:
    """Return real numbers as a tensor."""
    try:
        tensor = torch.as_tensor(values)
        if tensor.is_complex():
            raise ValueError("use real numbers, for example one channel for each part")
        return tensor
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).split(". ")[0].rstrip(".")
        raise DataError(f"{where}: {name} is not an array of numbers: {reason}.", setting=where, value=name) from error


def check(holds: bool, where: str, name: str, found: object, allowed: str) -> None:
    """Raise :class:`DataError` unless a condition on an array holds."""
    if not holds:
        message = f"{where}: {name} has {found}: it must have {allowed}."
        raise DataError(message, setting=where, value=name, allowed=allowed)


def checked_labels(labels: Any, num: int, where: str) -> Tensor:
    """Return the labels of ``num`` images or sequences: int64 ``(N,)``, zeros for None, or float32 ``(N, K)``.

    Raises:
        DataError: There is not one whole number, from 0, or one vector of floats for each.
    """
    if labels is None:
        return torch.zeros(num, dtype=torch.long)
    tensor = as_tensor(labels, "labels", where)
    if tensor.is_floating_point() and tensor.dim() == 2 and len(tensor) == num:
        check(bool(tensor.isfinite().all()), where, "labels", "NaN or infinity", "finite numbers")
        return tensor.float()
    found = f"{tensor.dtype} of the shape {list(tensor.shape)}"
    allowed = f"one whole number, from 0 to {_MOST_CLASSES:,}, or floats [{num}, K], for each of {num}"
    check(tensor.shape == (num,) and not tensor.is_floating_point(), where, "labels", found, allowed)
    tensor = tensor.long()  # torch has no min() of unsigned types; numbers that are too large turn negative
    least, most = int(tensor.min()), int(tensor.max())
    check(0 <= least <= most < _MOST_CLASSES, where, "labels", f"numbers from {least} to {most}", allowed)
    return tensor


def names_of(labels: Any, checked: Tensor) -> list[str]:
    """Return the numbers of the classes, or of the attributes, as names; nothing if there are no labels (None)."""
    if labels is None:
        return []
    return [str(number) for number in range(checked.shape[1] if checked.dim() > 1 else int(checked.max()) + 1)]
