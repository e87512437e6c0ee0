"""Custom sequences, from memory or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gans.datamodules.base import ImageDataModule, Split
from lightning_gans.errors import DataError, SettingError
from lightning_gans.io.files import expanded, reading

_MOST_CLASSES = 1_000_000


class SequenceDataModule(ImageDataModule):
    """Sequences in memory, as batches ``(sequences, labels)``: float32 ``(N, C, T)`` in [-1, 1], int64 ``(N,)``.

    Splits, order, processes and resuming work as in :class:`ImageDataModule`; ``images(split)`` returns the float32
    sequences and the labels of a split. There is no test split; the validation split is also the test split.

    Args:
        path: An npz file with the arrays ``sequences`` and, optionally, ``labels``, as ``lightning-gans sample``
            writes it.
        sequences: Numbers in [-1, 1], ``(N, C, T)``, instead of a file.
        labels: Classes of the sequences, whole numbers from 0, ``(N,)``, or the values of K attributes, floats
            ``(N, K)``; only with ``sequences``.
        **options: As in :class:`ImageDataModule`.

    Raises:
        SettingError: There is neither a file nor sequences, or both.
        DataError: The file cannot be read, or its arrays are not as above.
    """

    def __init__(
        self, path: str | Path | None = None, *, sequences: Any = None, labels: Any = None, **options: Any
    ) -> None:
        super().__init__(**options)
        if (path is None) == (sequences is None) or (path is not None and labels is not None):
            raise SettingError(
                f"path is {path!r}: pass either a file, or sequences and their labels.", setting="path", value=path
            )
        where = "sequences"
        if path is not None:
            where = str(path)
            sequences, labels = _read(expanded(path))
        self._sequences = _checked(sequences, where)
        self._labels = checked_labels(labels, len(self._sequences), where)
        self.image_shape = tuple(self._sequences.shape[1:])
        self._names = names_of(labels, self._labels)

    @property
    def class_names(self) -> Sequence[str]:
        """The numbers of the classes or of the attributes; empty if the sequences have no labels."""
        return self._names

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Return all sequences as the training split."""
        return (self._sequences, self._labels) if split == "train" else None


def _read(path: Path) -> tuple[Any, Any]:
    """Read the arrays of an npz file."""
    with reading(path, "an npz file"), np.load(path, allow_pickle=False) as arrays:
        if "sequences" not in arrays:
            message = f"{path} has no array named sequences: write it with numpy.savez(path, sequences=…)."
            raise DataError(message, setting=str(path))
        return arrays["sequences"], arrays.get("labels")


def _as_tensor(values: Any, name: str, where: str) -> Tensor:
    """Return real numbers as a tensor."""
    try:
        tensor = torch.as_tensor(values)
        if tensor.is_complex():
            raise ValueError("use real numbers, for example one channel for each part")
        return tensor
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).split(". ")[0].rstrip(".")
        raise DataError(f"{where}: {name} is not an array of numbers: {reason}.", setting=where, value=name) from error


def _check(holds: bool, where: str, name: str, found: object, allowed: str) -> None:
    if not holds:
        message = f"{where}: {name} has {found}: it must have {allowed}."
        raise DataError(message, setting=where, value=name, allowed=allowed)


def _checked(sequences: Any, where: str) -> Tensor:
    """Return sequences as float32."""
    tensor = _as_tensor(sequences, "sequences", where)
    shape = list(tensor.shape)
    _check(len(shape) == 3 and 0 not in shape, where, "sequences", f"the shape {shape}", "(N, channels, steps)")
    numbers = tensor.float()
    least, most = numbers.min().item(), numbers.max().item()  # NaN for NaN
    found = f"values from {least:.4g} to {most:.4g}"
    _check(-1 <= least <= most <= 1, where, "sequences", found, "values in [-1, 1]")
    return numbers


def checked_labels(labels: Any, num: int, where: str) -> Tensor:
    """Return the labels of ``num`` images or sequences: int64 ``(N,)``, zeros for None, or float32 ``(N, K)``.

    Raises:
        DataError: There is not one whole number, from 0, or one vector of floats for each.
    """
    if labels is None:
        return torch.zeros(num, dtype=torch.long)
    tensor = _as_tensor(labels, "labels", where)
    if tensor.is_floating_point() and tensor.dim() == 2 and len(tensor) == num:
        _check(bool(tensor.isfinite().all()), where, "labels", "NaN or infinity", "finite numbers")
        return tensor.float()
    found = f"{tensor.dtype} of the shape {list(tensor.shape)}"
    allowed = f"one whole number, from 0 to {_MOST_CLASSES:,}, or floats [{num}, K], for each of {num}"
    _check(tensor.shape == (num,) and not tensor.is_floating_point(), where, "labels", found, allowed)
    tensor = tensor.long()  # torch has no min() of unsigned types; numbers that are too large turn negative
    least, most = int(tensor.min()), int(tensor.max())
    _check(0 <= least <= most < _MOST_CLASSES, where, "labels", f"numbers from {least} to {most}", allowed)
    return tensor


def names_of(labels: Any, checked: Tensor) -> list[str]:
    """Return the numbers of the classes, or of the attributes, as names; nothing if there are no labels (None)."""
    if labels is None:
        return []
    return [str(number) for number in range(checked.shape[1] if checked.dim() > 1 else int(checked.max()) + 1)]
