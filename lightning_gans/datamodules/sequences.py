"""Custom sequences, from memory or a file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gans.datamodules.base import ImageDataModule, Split
from lightning_gans.errors import DataError, SettingError


class SequenceDataModule(ImageDataModule):
    """Sequences in memory, as batches ``(sequences, labels)``: float32 ``(N, C, T)`` in [-1, 1], int64 ``(N,)``.

    Splits, order, processes and resuming work as in :class:`ImageDataModule`; ``images(split)`` returns the sequences,
    float32, and labels of a split. There is no test split; the validation split is also the test split.

    Args:
        path: An npz file with the arrays ``sequences`` and, optionally, ``labels``, as ``lightning-gans sample``
            writes it.
        sequences: The sequences instead of a file: numbers in [-1, 1], ``(N, C, T)``.
        labels: Their classes, whole numbers from 0, ``(N,)``; only with ``sequences``.
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
            sequences, labels = _read(Path(path).expanduser())
        self._sequences, self._labels = _checked(sequences, labels, where)
        self.image_shape = tuple(self._sequences.shape[1:])
        self._num_classes = 0 if labels is None else int(self._labels.max()) + 1

    @property
    def class_names(self) -> Sequence[str]:
        """The numbers of the classes; empty if the sequences have no labels."""
        return [str(label) for label in range(self._num_classes)]

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Return all sequences as the training split."""
        return (self._sequences, self._labels) if split == "train" else None


def _read(path: Path) -> tuple[Any, Any]:
    """Read the arrays of an npz file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["sequences"], arrays.get("labels")
    except KeyError:
        raise DataError(
            f"{path} has no array named sequences: write it with numpy.savez(path, sequences=…).", setting=str(path)
        ) from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable npz file: {error}.", setting=str(path)) from error


def _as_tensor(values: Any, name: str, where: str) -> Tensor:
    """Return real numbers as a tensor."""
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).split(". ")[0].rstrip(".")
        raise DataError(f"{where}: {name} is not an array of numbers: {reason}.", setting=where, value=name) from error
    if tensor.is_complex():
        message = f"{where}: {name} is {tensor.dtype}: use real numbers, for example one channel for each part."
        raise DataError(message, setting=where, value=name)
    return tensor


def _checked(sequences: Any, labels: Any, where: str) -> tuple[Tensor, Tensor]:
    """Return sequences as float32 and labels as int64, zeros where there are none."""
    sequences = _as_tensor(sequences, "sequences", where)
    if sequences.dim() != 3 or 0 in sequences.shape:
        message = f"{where}: sequences has shape {list(sequences.shape)}: it must be (N, channels, steps)."
        raise DataError(message, setting=where, value="sequences", allowed="(N, channels, steps)")
    sequences = sequences.float()
    if not bool((sequences.abs() <= 1).all()):  # false for NaN too
        least, most = sequences.min(), sequences.max()
        message = f"{where}: sequences ranges from {least:.4g} to {most:.4g}: scale it to [-1, 1]."
        raise DataError(message, setting=where, value="sequences", allowed="[-1, 1]")
    if labels is None:
        return sequences, torch.zeros(len(sequences), dtype=torch.long)
    labels = _as_tensor(labels, "labels", where)
    # As int64, because torch has no min() of unsigned types; numbers that are too large turn negative.
    if labels.shape != sequences.shape[:1] or labels.is_floating_point() or int(labels.long().min()) < 0:
        raise DataError(
            f"{where}: labels is {labels.dtype} of shape {list(labels.shape)}: it must have one whole number, 0 or "
            f"more, for each of {len(sequences)} sequences.",
            setting=where,
            value="labels",
        )
    return sequences, labels.long()
