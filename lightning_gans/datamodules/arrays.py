"""Images of one array, from memory or a file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lightning_gans.datamodules.base import Split
from lightning_gans.datamodules.scaling import ScaledImages
from lightning_gans.errors import DataError, SettingError, check_counts
from lightning_gans.io.archives import checked_labels, load_images, names_of
from lightning_gans.io.arrays import are_finite, to_stored, with_channels_first
from lightning_gans.io.files import expanded

_BLOCK = 256  # images that are checked together


class ArrayDataModule(ScaledImages):
    """Images of one array, of any depth, number of channels, height and width.

    The array is ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``. Its values can be of any real type. A range of
    them becomes [-1, 1]; values outside are clipped. By default, this is 0 to 255 for 8 bits, 0 to 65,535 for 16 bits,
    and otherwise the range of the training images' values, with a warning that states it. The model's checkpoints
    contain the range and the type, so that commands write outputs with them.

    The images stay in memory with 1 byte per value for 8 bits, 2 for 16 bits, and otherwise 4 (float32); those of an
    ``.npy`` file of one of these types are read from the file as needed.

    Args:
        path: An ``.npy`` file, or an ``.npz`` file with the arrays ``images`` (or ``arr_0``) and, optionally,
            ``labels``.
        images: The array, instead of a file.
        labels: Classes of the images, whole numbers from 0, ``(N,)``, or the values of K attributes, floats
            ``(N, K)``; only with ``images``.
        channels: Number of channels; None takes the second or the last axis, whichever is shorter.
        horizontal_flip: Mirror training images at random.
        value_range: The lowest and the highest value, which become -1 and 1.
        percentiles: The percentiles of the training images' values that become -1 and 1 instead, such as
            ``[0.5, 99.5]``.
        **options: As in :class:`ImageDataModule`.

    Raises:
        SettingError: There is neither a file nor an array, or both, or a setting is invalid.
        DataError: The file cannot be read, its arrays are not as above, or values are not finite.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        images: Any = None,
        labels: Any = None,
        channels: int | None = None,
        horizontal_flip: bool = False,
        value_range: Sequence[float] | None = None,
        percentiles: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(value_range, percentiles, **options)
        if (path is None) == (images is None) or (path is not None and labels is not None):
            raise SettingError(
                f"path is {path!r}: pass either a file, or images and their labels.", setting="path", value=path
            )
        if channels is not None:
            check_counts(channels=channels)
        where = "images"
        if path is not None:
            where = str(path)
            images, labels = load_images(expanded(path), "r")
        values = _checked(images, channels, where)
        self.horizontal_flip = horizontal_flip
        self.image_shape = values.shape[1:]
        self._types = (values.dtype.name,)
        with warnings.catch_warnings(action="ignore"):  # the mapped file is read-only
            self._images = to_stored(values)
        self._labels = checked_labels(labels, len(values), where)
        self._names = names_of(labels, self._labels)

    @property
    def class_names(self) -> Sequence[str]:
        """The numbers of the classes or of the attributes; empty if the images have no labels."""
        return self._names

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Return all images as the training split."""
        return (self._images, self._labels) if split == "train" else None


def _checked(images: Any, channels: int | None, where: str) -> np.ndarray:
    """Return images as an array ``(N, C, H, W)`` of real, finite numbers."""
    values = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asanyarray(images)
    axis = None
    if values.ndim == 4:
        axes = [axis for axis in (1, 3) if channels in (None, values.shape[axis])]
        axis = min(axes, key=values.shape.__getitem__, default=None)
    is_image = axis is not None or (values.ndim == 3 and channels in (None, 1))
    if not is_image or 0 in values.shape or values.dtype.kind not in "buif":
        of_channels = "" if channels is None else f" with {channels} channels"
        allowed = f"numbers, (N, H, W), (N, H, W, C) or (N, C, H, W){of_channels}"
        message = f"{where} is {values.dtype} of the shape {list(values.shape)}: it must be {allowed}."
        raise DataError(message, setting=where, value=list(values.shape), allowed=allowed)
    for start in range(0, len(values), _BLOCK):
        if not are_finite(values[start : start + _BLOCK]):
            raise DataError(f"{where}: some values are not finite numbers, or are greater than 1e38.", setting=where)
    values = with_channels_first(values, None if axis is None else axis - 1)
    return values.copy() if min(values.strides) < 0 else values  # torch has no negative strides
