"""Sequences of the user's own, from memory or a file."""

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

    Splits, order, many processes and resuming are those of :class:`ImageDataModule`, whose ``images(split)`` gives
    a split's sequences, float32, and labels. There is no test split, so the validation split is tested on.

    Args:
        path: An npz file that holds ``sequences`` and, where they have classes, ``labels``, as
            ``lightning-gans sample`` writes it.
        sequences: The sequences themselves, in the place of a file: numbers in [-1, 1], ``(N, C, T)``.
        labels: Their classes, whole numbers from 0 on, ``(N,)``; only with ``sequences``.
        **options: As in :class:`ImageDataModule`.

    Raises:
        SettingError: There is neither a file nor sequences, or both.
        DataError: The file cannot be read, or what it holds is not as above.
    """

    def __init__(
        self, path: str | Path | None = None, *, sequences: Any = None, labels: Any = None, **options: Any
    ) -> None:
        super().__init__(**options)
        if (path is None) == (sequences is None) or (path is not None and labels is not None):
            raise SettingError(f"path is {path!r}: give a file, or sequences and their labels, and not both.")
        where = "sequences"
        if path is not None:
            where = str(path)
            sequences, labels = _read(Path(path).expanduser())
        self._sequences, self._labels = _checked(sequences, labels, where)
        self.image_shape = tuple(self._sequences.shape[1:])
        self._num_classes = 0 if labels is None else int(self._labels.max()) + 1

    @property
    def class_names(self) -> Sequence[str]:
        """The classes' numbers; none where the sequences have no labels."""
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
            f"{path} holds no array named sequences: write it with numpy.savez(path, sequences=…)."
        ) from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no readable npz file: {error}.") from error


def _as_tensor(values: Any, name: str, where: str) -> Tensor:
    """Return real numbers as a tensor."""
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).split(". ")[0].rstrip(".")
        raise DataError(f"{where}: {name} is no array of numbers: {reason}.") from error
    if tensor.is_complex():
        raise DataError(f"{where}: {name} is {tensor.dtype}: give real numbers, as in a channel for each part.")
    return tensor


def _checked(sequences: Any, labels: Any, where: str) -> tuple[Tensor, Tensor]:
    """Return sequences as float32 and labels as int64, zeros where there are none."""
    sequences = _as_tensor(sequences, "sequences", where)
    if sequences.dim() != 3 or 0 in sequences.shape:
        raise DataError(f"{where}: sequences has the shape {list(sequences.shape)}, not (N, channels, steps).")
    sequences = sequences.float()
    if not bool((sequences.abs() <= 1).all()):  # what is not a number is no more than 1 either
        least, most = sequences.min(), sequences.max()
        raise DataError(f"{where}: sequences goes from {least:.4g} to {most:.4g}: scale it to -1 to 1.")
    if labels is None:
        return sequences, torch.zeros(len(sequences), dtype=torch.long)
    labels = _as_tensor(labels, "labels", where)
    # As int64, of which there is a minimum; unsigned numbers beyond it turn negative.
    if labels.shape != sequences.shape[:1] or labels.is_floating_point() or int(labels.long().min()) < 0:
        raise DataError(
            f"{where}: labels is {labels.dtype} of the shape {list(labels.shape)}: "
            f"give one whole number from 0 on for each of {len(sequences)} sequences."
        )
    return sequences, labels.long()
