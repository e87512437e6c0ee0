"""Custom sequences, from memory or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lightning_gans.datamodules.base import ImageDataModule, Split
from lightning_gans.errors import DataError, SettingError
from lightning_gans.io.archives import as_tensor, check, checked_labels, names_of
from lightning_gans.io.files import expanded, reading


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


def _checked(sequences: Any, where: str) -> Tensor:
    """Return sequences as float32."""
    tensor = as_tensor(sequences, "sequences", where)
    shape = list(tensor.shape)
    check(len(shape) == 3 and 0 not in shape, where, "sequences", f"the shape {shape}", "(N, channels, steps)")
    numbers = tensor.float()
    least, most = numbers.min().item(), numbers.max().item()  # NaN for NaN
    found = f"values from {least:.4g} to {most:.4g}"
    check(-1 <= least <= most <= 1, where, "sequences", found, "values in [-1, 1]")
    return numbers
