"""Sets of images in files: a folder of pictures, an archive or a tensor."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_gans.errors import DataError, printable
from lightning_gans.io.archives import checked_labels, load_images
from lightning_gans.io.arrays import ARRAYS
from lightning_gans.io.files import expanded, read_tensors, reading
from lightning_gans.io.pictures import (
    EXTENSIONS,
    FORMATS,
    Picture,
    list_pictures,
    opened_picture,
    read_picture,
    to_array,
    to_bytes,
)
from lightning_gans.metrics.cache import Rows

_TENSORS = (".pt", ".pth")
ARCHIVES = (*ARRAYS, *_TENSORS)
"""Extensions of files that hold all images of a set."""

_SMALL_PIXELS = 2**16  # threads read smaller pictures more slowly than a loop does: 3 times, at 32 x 32
_KEPT_PIXELS = 2**24  # a set of fewer pixels stays in memory, so that its files are opened once
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


@dataclass
class ImageSet:
    """Images by index, and what is known about them.

    Attributes:
        name: Name of their source.
        images: uint8 ``(N, C, H, W)``, read on access.
        labels: Their classes, int64 ``(N,)``, or vectors, float ``(N, K)``, or None.
        class_names: Names of the classes.
        default_extractor: Extractor that ``auto`` uses for them; with None, it depends on their channels.
        file_names: Paths of the pictures in their folder, without extensions; empty if they are not files.
    """

    name: str
    images: Rows
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    default_extractor: str | None = None
    file_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def chosen(self, places: Tensor) -> ImageSet:
        """Return the images at some places, in their order."""
        labels = None if self.labels is None else self.labels[places]
        names = tuple(self.file_names[place] for place in places) if self.file_names else ()
        return replace(self, images=Chosen(self.images, places), labels=labels, file_names=names)


class Chosen:
    """A selection of rows, read on access.

    Args:
        rows: All rows.
        places: Indices of the selected ones, int64 ``(N,)``.
    """

    def __init__(self, rows: Rows, places: Tensor) -> None:
        self.rows, self.places = rows, places
        self.shape, self.dtype = (len(places), *rows.shape[1:]), rows.dtype

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, places: Any) -> Tensor:
        return self.rows[self.places[places]]


class PictureFiles:
    """Pictures that are read on access, uint8 ``(N, C, H, W)``, in their most common size; gray if all of them are.

    Args:
        files: The files.
        convert: Whether to convert unusual modes; see :func:`~lightning_gans.io.pictures.read_picture`.
        resize: Whether pictures of other sizes are resized and cropped, with a warning; otherwise they raise an error.

    Raises:
        DataError: There are no files, or one cannot be read.
    """

    dtype = torch.uint8

    def __init__(self, files: list[str], convert: bool = False, resize: bool = True) -> None:
        self.files, self.convert = files, convert
        self._kept: dict[str, Picture] = {}
        self._room = _KEPT_PIXELS
        height, width, _ = _look(files[0])
        kinds = Counter(map(self._keep if len(files) * height * width <= self._room else _look, files))
        sizes: Counter[tuple[int, int]] = Counter()
        for (height, width, _), count in kinds.items():
            sizes[height, width] += count
        (height, width), most = sizes.most_common(1)[0]
        gray = sum(count for (_, _, is_gray), count in kinds.items() if is_gray)
        if most < len(files):
            message = (
                f"{len(files) - most:,} of {len(files):,} pictures do not have the most common size, {height} x {width}"
            )
            if not resize:
                where = os.path.commonpath(files)
                raise DataError(f"{where}: {message}, but pairs must have the same size.", setting=where)
            warnings.warn(
                f"{message}: they are resized and cropped to it, and the scores depend on that.", stacklevel=3
            )
        if 0 < gray < len(files):
            warnings.warn(f"{gray:,} of {len(files):,} pictures are gray among color pictures.", stacklevel=3)
        self.shape = (len(files), 1 if gray == len(files) else 3, height, width)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, places: Any) -> Tensor:
        chosen = self.files[places] if isinstance(places, slice) else [self.files[place] for place in places]
        if self.shape[2] * self.shape[3] < _SMALL_PIXELS:
            pictures = [self._read(file) for file in chosen]
        else:
            with ThreadPoolExecutor() as pool:  # PIL releases the GIL
                pictures = list(pool.map(self._read, chosen))
        return torch.from_numpy(np.stack(pictures)) if pictures else torch.empty(0, *self.shape[1:], dtype=torch.uint8)

    def _keep(self, path: str) -> tuple[int, int, bool]:
        with opened_picture(path, self.convert) as image:
            self._room -= image.height * image.width
            if self._room >= 0:  # later pictures may be larger than the first
                self._kept[path] = image
        return image.height, image.width, Image.getmodebase(image.mode) == "L"  # type: ignore[union-attr]

    def _read(self, path: str) -> np.ndarray:
        if path in self._kept:
            return to_array(self._kept[path], self.shape[1:])
        return read_picture(path, self.shape[1:], convert=self.convert)


def _look(path: str) -> tuple[int, int, bool]:
    """Return height and width of a picture as it is seen, and whether it is gray."""
    with reading(path, "a picture"), Image.open(path, formats=FORMATS) as image:
        height, width = image.height, image.width
        # PIL reads the orientation of a PNG only with all of its pixels, which would decode each picture twice.
        if height != width and image.getexif().get(0x0112) in _TURNED:
            height, width = width, height
        return height, width, Image.getmodebase(image.mode) == "L"


def read_images(path: str | Path, convert: bool = False, resize: bool = True) -> ImageSet:
    """Open a set of images.

    Args:
        path: A folder with pictures at any depth; an ``.npz`` with uint8 ``images`` or, as in guided diffusion's
            evaluation, ``arr_0``; or an ``.npy`` or ``.pt`` file of one array. Arrays are ``(N, H, W, C)`` or
            ``(N, C, H, W)`` with 1 or 3 channels, uint8, or floats in [-1, 1].
        convert: Whether to convert pictures with unusual modes.
        resize: Whether to resize pictures that do not have the most common size; otherwise they raise an error.

    Raises:
        DataError: There are no images, or they cannot be read.
    """
    path = expanded(path)
    if not path.exists():
        raise DataError(f"{path} does not exist.", setting=str(path))
    if path.is_dir():
        others: list[str] = []
        files = list_pictures(path, others=others)
        if not files:
            raise DataError(f"{path} has no pictures ({', '.join(EXTENSIONS)}).", setting=str(path), allowed=EXTENSIONS)
        if others:
            warnings.warn(printable(f"Ignored {len(others):,} other files, such as {others[0]}."), stacklevel=2)
        names = tuple(os.path.splitext(file.removeprefix(str(path)).lstrip(os.sep))[0] for file in files)
        return ImageSet(str(path), PictureFiles(files, convert, resize), file_names=names)
    if path.suffix not in ARCHIVES:
        raise DataError(
            f"{path} is not a set of images: give a folder, or a file that ends in {', '.join(ARCHIVES)}.",
            setting=str(path),
            allowed=ARCHIVES,
        )
    images, labels = read_archive(path)
    with reading(path, "a set of images"):  # sparse tensors, for example, cannot be converted
        images = as_bytes(torch.as_tensor(images), str(path))
    return ImageSet(str(path), images, None if labels is None else checked_labels(labels, len(images), str(path)))


def read_archive(path: Path) -> tuple[Any, Any]:
    """Return the array of images in a file that ends in one of :data:`ARCHIVES`, and its labels, if any.

    Raises:
        DataError: The file cannot be read, or has no such array.
    """
    return (read_tensors(path), None) if path.suffix in _TENSORS else load_images(path)


def paired(outputs: ImageSet, targets: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Return both sets in the order of their file names, or as they are if one of them has none.

    Raises:
        DataError: The file names, the numbers or the shapes of the images differ.
    """
    sets = outputs, targets
    if all(images.file_names for images in sets):
        for images, others in (sets, sets[::-1]):
            if alone := Counter(images.file_names) - Counter(others.file_names):
                message = (
                    f"{alone.total():,} pictures of {images.name} have no partner of the same name in {others.name}"
                )
                raise DataError(f"{message}, such as {min(alone)}.", setting=images.name, value=min(alone))
        outputs, targets = (
            images.chosen(torch.tensor(sorted(range(len(images)), key=images.file_names.__getitem__)))
            for images in sets
        )
    for what, ours, theirs in (
        ("number", len(outputs), len(targets)),
        ("shape (C, H, W)", list(outputs.images.shape[1:]), list(targets.images.shape[1:])),
    ):
        if ours != theirs:
            message = f"{outputs.name} and {targets.name} must have images of the same {what} to form pairs, but have"
            raise DataError(f"{message} {ours} and {theirs}.", setting=outputs.name, value=ours, allowed=theirs)
    return outputs, targets


def as_bytes(images: Any, name: str) -> Tensor:
    """Return images as uint8 ``(N, C, H, W)``.

    Args:
        images: ``(N, H, W, C)`` or ``(N, C, H, W)`` with 1 or 3 channels, uint8, or floats in [-1, 1].
        name: Name of their source, for errors.

    Raises:
        DataError: They have another type, shape or range, or are not finite.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or 0 in images.shape[1:]:
        found = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise _wrong(name, found)
    channels_last = images.shape[1] not in (1, 3)
    if channels_last and images.shape[3] not in (1, 3):
        raise _wrong(name, list(images.shape))
    ordered = images.permute(0, 3, 1, 2) if channels_last else images
    return ordered if ordered.dtype == torch.uint8 else _rounded(ordered, name)


def _rounded(images: Tensor, name: str) -> Tensor:
    if not images.is_floating_point():
        raise _wrong(name, images.dtype)
    if not images.isfinite().all():
        raise DataError(f"{name}: some values are not finite numbers.", setting=name)
    if len(images) == 0:
        return to_bytes(images)
    if images.abs().amax() > 1.01:
        raise _wrong(name, f"floats from {images.amin():.3g} to {images.amax():.3g}")
    if images.amin() >= 0:
        warnings.warn(f"{name} has no value below 0: floats must be in [-1, 1], not in [0, 1].", stacklevel=2)
    return to_bytes(images)


def _wrong(name: str, found: Any) -> DataError:
    allowed = "uint8 or floats in [-1, 1], (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
    return DataError(f"{name} holds {found}, not images: they must be {allowed}.", setting=name, allowed=allowed)
