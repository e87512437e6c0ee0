"""Pairs of custom images: two folders, or one of side-by-side pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gans.datamodules.base import Split
from lightning_gans.datamodules.draws import Draws
from lightning_gans.datamodules.image_folder import ImageFolderDataModule, some_names
from lightning_gans.datamodules.scaling import Scaling
from lightning_gans.errors import DataError, check_counts
from lightning_gans.io.arrays import Scale, from_stored
from lightning_gans.io.files import expanded
from lightning_gans.io.pictures import Picture, extensions_in, list_pictures, opened_picture, to_array


class PairedFolderDataModule(ImageFolderDataModule):
    """Pairs of images from folders, as batches ``(source, target)``.

    With two folders, the source and the target of a pair have the same name (whatever the extension) and the same
    size, and both folders have the same splits. With one folder, each picture has the source in its left half and the
    target in its right half, as in the data sets of Pix2Pix. Mirroring and jitter change both images of a pair in the
    same way.

    Pairs are found, decoded and stored as :class:`ImageFolderDataModule` does with single images. :meth:`images`
    returns the targets.

    Args:
        data_dir: The folder of the sources, or of side-by-side pictures.
        target_dir: The folder of the targets; None for side-by-side pictures.
        image_size: Height and width of both images in pixels, as one number or as ``[height, width]``.
        channels: Channels of the targets; see :class:`ImageFolderDataModule`.
        source_channels: Channels of the sources; None is ``channels``.
        swap: Whether to exchange source and target, to translate the other way.
        source_value_range: The lowest and the highest value of the sources; None is ``value_range``. Percentiles are
            those of each side.
        **options: As in :class:`ImageFolderDataModule`.

    Raises:
        DataError: A folder has no images, a name is in only one folder, the images of a pair differ in size, or a
            side-by-side picture has an odd width.
    """

    def __init__(
        self,
        data_dir: str | Path,
        target_dir: str | Path | None = None,
        image_size: int | Sequence[int] = 64,
        channels: int = 3,
        source_channels: int | None = None,
        swap: bool = False,
        source_value_range: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(data_dir, image_size, channels, task=None, **options)
        if source_channels is not None:
            check_counts(source_channels=source_channels)
        if source_value_range is not None:
            self._scalings.insert(0, Scaling(source_value_range, setting="source_value_range"))
        self.source_shape = (source_channels or channels, *self.image_shape[1:])
        self.swap = swap
        self._target_root = None if target_dir is None else expanded(target_dir).absolute()
        self._channels = slice(self.source_shape[0], None)
        self._targets: dict[str, str] = {}

    @cached_property
    def source_scale(self) -> Scale:
        """The values that -1 and 1 stand for in the sources, and their type."""
        return self._find_scale(0, slice(self.source_shape[0]))

    def _to_images(self, stored: Tensor) -> Tensor:
        values, num = from_stored(stored), self.source_shape[0]
        return torch.cat([self.source_scale.normalize(values[:, :num]), self.image_scale.normalize(values[:, num:])], 1)

    @property
    def _stored_shape(self) -> tuple[int, ...]:
        return self.source_shape[0] + self.image_shape[0], *self.image_shape[1:]

    @property
    def _pairing(self) -> tuple[Any, ...]:  # type: ignore[override]
        target = self._target_root and os.path.relpath(self._target_root, self._cache_dir)
        return target, self.source_shape[0], self.swap

    def make_batch(self, images: Tensor, labels: Tensor, draws: Draws, split: Split) -> tuple[Tensor, Tensor]:
        """Return sources and targets, which are stored as the channels of one image."""
        return images[:, : self.source_shape[0]], images[:, self._channels]

    def _list(self, split: Split) -> tuple[list[str], list[int]]:
        files, labels = super()._list(split)
        if self._target_root is not None:
            folder = self._folders[split]
            self._targets |= _matched(files, folder, self._target_root / folder.relative_to(self._root))
        return files, labels

    def _key(self, files: list[str]) -> str:
        return super()._key(files + [self._targets[file] for file in files if file in self._targets])

    def _read(self, path: str) -> list[np.ndarray] | DataError:
        shapes = [self.source_shape, self.image_shape]
        first, second = shapes[::-1] if self.swap else shapes
        try:
            with self._opened(path, first) as picture:
                if self._target_root is None:
                    return self._sides(*_halves(path, picture))
                with self._opened(self._targets[path], second) as target:
                    if picture.size != target.size:
                        sizes = " and ".join(f"{image.width} x {image.height}" for image in (picture, target))
                        message = f"{path} and {self._targets[path]} differ in size, {sizes}: crop or resize one."
                        raise DataError(message, setting=path, value=picture.size, allowed=target.size)
                    return self._sides(picture, target)
        except DataError as error:
            return error

    def _opened(self, path: str, shape: tuple[int, int, int]) -> AbstractContextManager[Picture]:
        return opened_picture(path, self.convert, shape[0], own_values=not self.convert)

    def _sides(self, *pair: Picture) -> list[np.ndarray]:
        """Return source and target as arrays."""
        shapes = self.source_shape, self.image_shape
        pair = pair[::-1] if self.swap else pair
        return [to_array(image, shape, self.fit) for image, shape in zip(pair, shapes, strict=True)]


def _halves(path: str, picture: Picture) -> tuple[Picture, Picture]:
    """Return the left and the right half of a picture."""
    if picture.width % 2:
        message = f"{path} is {picture.width} pixels wide: a picture of two images side by side needs an even width."
        raise DataError(message, setting=path, value=picture.width, allowed="an even width")
    half, height = picture.width // 2, picture.height
    return picture.crop((0, 0, half, height)), picture.crop((half, 0, 2 * half, height))


def _matched(files: list[str], folder: Path, target_folder: Path) -> dict[str, str]:
    """Return the target of each source.

    Raises:
        DataError: The folder of targets is missing or empty, or a name is in only one folder.
    """
    targets = list_pictures(target_folder, extensions=extensions_in(target_folder)) if target_folder.is_dir() else []
    if not targets:
        problem = "has no images" if target_folder.is_dir() else "is not a folder"
        message = f"{target_folder} {problem}: it must have the target of each image in {folder}."
        raise DataError(message, setting=str(target_folder))
    by_name = {_name(target, target_folder): target for target in targets}
    names = {_name(file, folder): file for file in files}
    for these, others, missing_in in ((names, by_name, target_folder), (by_name, names, folder)):
        if alone := [path for name, path in these.items() if name not in others]:
            message = (
                f"{missing_in} lacks the other image of {len(alone)} pairs: {some_names(alone)}.\n"
                "Both images of a pair must have the same name."
            )
            raise DataError(message, setting=str(missing_in), value=[os.path.basename(path) for path in alone])
    if len(names) < len(files) or len(by_name) < len(targets):
        which = folder if len(names) < len(files) else target_folder
        message = f"{which} has images that differ only in their extensions: each pair needs its own name."
        raise DataError(message, setting=str(which))
    return {file: by_name[name] for name, file in names.items()}


def _name(path: str, folder: Path) -> str:
    """Return the name of an image below a folder, without its extension."""
    return os.path.splitext(os.path.relpath(path, folder))[0]
