"""Custom images from a folder."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lightning_gans._lightning import rank_zero_info
from lightning_gans.datamodules.base import Split, check_fits, memory
from lightning_gans.datamodules.decoded import CheckedImages, Decoded, DecodedPictures
from lightning_gans.datamodules.label_files import Labels, read_labels
from lightning_gans.datamodules.resident import ResidentImages
from lightning_gans.datamodules.scaling import ScaledImages
from lightning_gans.errors import DataError, are_counts, check_choice, check_counts, invalid, printable
from lightning_gans.io.arrays import ARRAYS, stored_type, to_stored
from lightning_gans.io.files import expanded
from lightning_gans.io.pictures import (
    CACHE_PREFIX,
    EXTENSIONS,
    Fit,
    extensions_in,
    has_pictures,
    is_litter,
    list_pictures,
    read_picture,
)

_SPLIT_NAMES: dict[Split, str] = {"train": "train(ing)?", "val": "(val|valid|validation|dev)", "test": "test(ing)?"}
_SPLIT_SUFFIX = r"([-_ ]?(set|split|data|images|imgs|\d+))?"
_CACHE_VERSION, _DECODED_AT_ONCE = 5, 256


class ImageFolderDataModule(ScaledImages):
    """Images from a folder, ``(channels, height, width)``, one label per class folder, or labels from a file.

    ``data_dir`` is a folder of images (``num_classes`` is 0 and every label is 0), or a folder with one subfolder of
    images per class; or it has subfolders ``train`` and, optionally, ``val`` and ``test``, each of either kind. Names
    such as ``Training``, ``validation`` and ``test_set`` are splits, too. Without ``val``, ``val_size`` of the training
    images are for validation; without ``test``, the validation split is also the test split. Folders without images,
    hidden files and folders, and files that archivers leave behind are ignored. Links are followed, but no folder is
    read twice.

    The images may have any size; see ``fit``. They are rotated according to their EXIF data. They are decoded once, and
    the bytes are kept in one file per split and settings (``*.images``), which is rebuilt if an image changes or the
    file is damaged. Batches are read from this file through the system's page cache, so a data set may be larger than
    the memory: 1,000,000 images of 3x128x128 take 46 GiB of disk. A file of less than half of the memory is verified
    before the first batch; of a larger file, each image is verified when it is first read.

    Files with 16 bits per channel or floats keep their depth, unless ``convert`` is set: 16-bit PNG and TIFF, float
    TIFF, TIFF with a page per channel, and, if there are no pictures, ``.npy`` and ``.npz`` files of one array each,
    ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``. TIFF files that PIL cannot read need ``pip install
    'lightning_gans[tiff]'``. All images have values of one type, of which ``value_range`` or ``percentiles`` become
    -1 and 1. In memory and on the disk, a value takes 1 byte for 8 bits, 2 for 16 bits, and otherwise 4 (float32).

    Args:
        data_dir: The folder.
        image_size: Height and width in pixels, as one number or as ``[height, width]``.
        channels: 3 for color, 1 for gray; pictures with 8 bits are converted to these. With 4 or 2, the last channel is
            their opacity. Deeper images and arrays must have this number of channels, which may be any.
        fit: How to fit an image of another shape, resized bicubically and antialiased: ``crop`` cuts out the largest
            centered part with the right aspect ratio, ``pad`` adds black borders (zeros), ``stretch`` distorts the
            image.
        horizontal_flip: Mirror training images at random.
        val_size: As in :class:`ImageDataModule`.
        on_error: What to do with an unreadable image, or one with an unusual mode without ``convert``: ``raise`` an
            error that names it, or ``skip`` it with a warning.
        convert: Whether to convert all pictures to 8 bits: CMYK becomes RGB, transparent pixels are blended with white,
            more than 8 bits per channel are scaled down to 8, and only the first of several frames or pages is used.
        cache_dir: The folder for the decoded images; ``data_dir`` if None.
        labels: A CSV or JSON file in ``data_dir`` with the values of attributes for each image, as
            :func:`~lightning_gans.datamodules.label_files.read_labels` reads it. Labels are then vectors, and folders
            are not classes.
        label_columns: The attributes to use; None is all attributes of the file.
        value_range: See :class:`ArrayDataModule`.
        percentiles: See there.
        **options: As in :class:`ImageDataModule`.

    Raises:
        DataError: The folder or an image is missing or unreadable, or the decoded images do not fit on the disk; or the
            file of labels is invalid, or lacks an image.
    """

    image_shape: tuple[int, int, int]
    _pairing: tuple[Any, ...] = ()
    """Further settings that the decoded images depend on."""

    def __init__(
        self,
        data_dir: str | Path,
        image_size: int | Sequence[int] = 64,
        channels: int = 3,
        fit: Fit = "crop",
        horizontal_flip: bool = False,
        val_size: int | float = 0.1,
        on_error: Literal["raise", "skip"] = "raise",
        convert: bool = False,
        cache_dir: str | Path | None = None,
        labels: str | Path | None = None,
        label_columns: Sequence[str] | None = None,
        value_range: Sequence[float] | None = None,
        percentiles: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(value_range, percentiles, val_size=val_size, **options)
        sides = list(image_size) if isinstance(image_size, Sequence) else [image_size, image_size]
        if len(sides) != 2 or not are_counts(sides):
            raise invalid("image_size", image_size, "one whole number, or [height, width], each 1 or more")
        check_choice("on_error", on_error, ["raise", "skip"])
        check_choice("fit", fit, get_args(Fit))
        check_counts(channels=channels)
        self.image_shape = (channels, sides[0], sides[1])
        check_fits(16 * math.prod(self.image_shape), image_size=image_size)
        self.horizontal_flip = horizontal_flip
        self.fit = fit
        self.on_error = on_error
        self.convert = convert
        self._root = expanded(data_dir).absolute()
        if label_columns is not None and labels is None:
            raise invalid("label_columns", label_columns, "omitted without labels")
        if label_columns is not None and not 0 < len(set(label_columns)) == len(label_columns):
            raise invalid("label_columns", label_columns, "at least one attribute, each once")
        self._labels_path = None if labels is None else self._root / expanded(labels)
        self._label_columns = label_columns
        self._cache_dir = self._root if cache_dir is None else expanded(cache_dir).absolute()
        self._checksums: dict[str, np.ndarray] = {}  # for splits that are too large to verify at once

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Sorted names of the class folders, or the attributes of the file of labels; empty if there are none."""
        if self._labels is not None:
            return self._labels.names
        return _subfolders(self._folders["train"], self._extensions)

    @cached_property
    def _labels(self) -> Labels | None:
        """The file of labels."""
        return None if self._labels_path is None else read_labels(self._labels_path, self._label_columns)

    @cached_property
    def _extensions(self) -> tuple[str, ...]:
        """Extensions of the images."""
        return extensions_in(self._root)

    @cached_property
    def _folders(self) -> dict[Split, Path]:
        """The folders of the splits."""
        if not self._root.is_dir():
            message = f"{self._root} is not a folder: set data_dir to the folder of images."
            raise DataError(message, setting=str(self._root))
        names = _subfolders(self._root, self._extensions)
        splits = [_split_of(name) for name in names]
        if None in splits or "train" not in splits:  # a folder "train" among other folders is a class of trains
            return {"train": self._root}
        if len(set(splits)) < len(names):
            same = [name for name, split in zip(names, splits, strict=True) if splits.count(split) > 1]
            message = f"{self._root} has {' and '.join(same)}, which are the same split: keep one of them."
            raise DataError(message, setting=str(self._root), value=same)
        if loose := list_pictures(self._root, deep=False, extensions=self._extensions):
            _warn(f"Ignored images next to the split folders: {some_names(loose)}")
        return {split: self._root / name for split, name in zip(splits, names, strict=True) if split}

    def prepare_data(self) -> None:
        """Decode the images of splits that have no decoded file yet."""
        for split in self._folders:
            if not self._cache(split).path.is_file():
                self._set(split)

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read a split from the file of decoded images, or from the images themselves."""
        if split not in self._folders:
            return None
        files, labels = self._list(split)
        found = self._cached(split, files)
        self._types = self._types or found.types
        if found.types != self._types:
            raise self._other_types(str(self._folders[split]), found.types)
        skipped = [files[place] for place in np.flatnonzero(~found.kept)]
        if skipped:
            _warn(f"Skipped {len(skipped)} unreadable images: {some_names(skipped)}")
        if found.checksums is not None:
            self._checksums[split] = found.checksums
        with warnings.catch_warnings(action="ignore"):  # the mapped file may be read-only
            pictures = to_stored(found.images)
        return pictures, torch.tensor(labels)[torch.from_numpy(found.kept)]

    def _resident(self, split: Split, images: Tensor, labels: Tensor) -> ResidentImages:
        if split not in self._checksums:
            return super()._resident(split, images, labels)
        options = {"normalize": self._normalize, "device_resident": self.device_resident}
        return CheckedImages(images, labels, self._checksums[split], str(self._cache(split).path), **options)

    def _types_of(self, files: list[str]) -> tuple[str, ...]:
        """Return the types of the values of the first readable image; bytes if none is readable."""
        read = (self._read(path) for path in files)
        first = next((sides for sides in read if not isinstance(sides, DataError)), [np.empty(0, np.uint8)])
        return tuple(side.dtype.name for side in first)

    def _other_types(self, path: str, types: tuple[str, ...]) -> DataError:
        found, wanted = (" and ".join(names) for names in (types, self._types))
        message = f"{path} has values of type {found}, but the first image of {self._root} has {wanted}: all images "
        message += "need the same type (--data.convert true makes pictures 8 bits)."
        return DataError(message, setting=path, value=found, allowed=wanted)

    def _cached(self, split: Split, files: list[str]) -> Decoded:
        """Return the images of a split from their file; decode them into it if necessary, or else into memory."""
        key, cache = self._key(files), self._cache(split)
        if (loaded := cache.load(key)) is not None:
            return loaded
        self._types = self._types or self._types_of(files)
        num_bytes = len(files) * math.prod(self._stored_shape) * stored_type(*self._types).itemsize
        rank_zero_info(printable(f"Decoding {len(files):,} images of {self._root}."))
        try:
            saved = cache.save(key, self._stored_shape, self._types, len(files), self._decoded(files))
        except OSError as error:
            problem = f"{cache.path} cannot be written ({error.strerror or error})"
            if num_bytes >= cache.large:
                size = f"{num_bytes / 2**30:.1f} GiB of decoded images fit neither there nor into memory"
                hint = "set cache_dir to another folder, or reduce image_size"
                raise DataError(f"{problem}.\n{size}: {hint}.", setting=str(cache.path)) from None
            _warn(f"{problem}: the next run decodes the images again. Set cache_dir to another folder.")
        else:
            with contextlib.suppress(OSError):  # other runs may delete or replace files meanwhile
                self._note_others()
            return saved
        decoded = list(self._decoded(files))
        readable = [picture for picture in decoded if picture is not None]
        return Decoded(np.stack(readable), self._types, np.array([picture is not None for picture in decoded]))

    def _list(self, split: Split) -> tuple[list[str], list[Any]]:
        """Return the images of a split, in an order that does not depend on the file system, and their labels."""
        folder = self._folders[split]
        if self._labels is not None:
            files = list_pictures(folder, extensions=self._extensions)
            if not files:
                raise _no_images(folder)
            self._log_listing(split, len(files), str(self._labels))
            return files, [self._labels.of(Path(os.path.relpath(path, self._root)).as_posix()) for path in files]
        classes = _subfolders(folder, self._extensions)
        others: list[str] = []
        loose = list_pictures(folder, deep=False, others=others, extensions=self._extensions)
        if classes and loose:
            both = f"both class folders ({classes[0]}, …) and images ({os.path.basename(loose[0])}, …)"
            raise DataError(f"{folder} has {both}: keep one kind.", setting=str(folder))
        if not classes and not loose:
            raise _no_images(folder)
        if bool(classes) != bool(self.class_names) or not set(classes) <= set(self.class_names):
            these, wanted = (", ".join(names) or "(none)" for names in (classes, self.class_names))
            message = f"{folder} has the classes {these}, but the training images have {wanted}."
            raise DataError(message, setting=str(folder), value=classes, allowed=self.class_names)
        files, labels = loose, [0] * len(loose)
        for name in classes:
            found = list_pictures(folder / name, others=others, extensions=self._extensions)
            files += found
            labels += [self.class_names.index(name)] * len(found)
        if others:
            _warn(f"Ignored files that are not images: {some_names(others)}")
        below = {part for file in files for part in os.path.dirname(file)[len(str(folder)) :].split(os.sep)}
        if named := sorted(filter(_split_of, below)):
            _warn(
                f"{folder}: the folders {', '.join(named)} count as classes or as parts of classes, not as splits. "
                "For splits, data_dir must have a folder train, and no other folders with images than val and test."
            )
        counts = [f"{name} {labels.count(label):,}" for label, name in enumerate(self.class_names)]
        self._log_listing(split, len(files), f"Classes: {some_names(counts) or 'none'}.")
        return files, labels

    def _log_listing(self, split: Split, num: int, about: str) -> None:
        """Log what a folder has, and how many of its images are not trained on."""
        num_val = self._held_out(num) if split == "train" and "val" not in self._folders else 0
        held_out = f", {num_val:,} of them for validation" if num_val else ""
        rank_zero_info(printable(f"{self._folders[split]}: {num:,} {split} images{held_out}. {about}"))

    def _cache(self, split: Split) -> DecodedPictures:
        """Return the file of a split; its name contains the settings."""
        shape = "x".join(map(str, self._stored_shape))
        source = os.path.relpath(self._root, self._cache_dir)
        settings = repr((_CACHE_VERSION, source, self.fit, self.on_error, self.convert, *self._pairing))
        digest = hashlib.sha256(os.fsencode(settings)).hexdigest()[:12]
        name = f"{CACHE_PREFIX}{self._root.name[:40]}-{split}-{shape}-{digest}.images"
        return DecodedPictures(self._cache_dir / name, memory() / 2)

    def _note_others(self) -> None:
        """Log the size of the files of decoded images that are not those of this folder and these settings."""
        own = {self._cache(split).path for split in self._folders}
        others = set(self._cache_dir.glob(f"{CACHE_PREFIX}*.images")) - own
        if others:
            size = sum(path.stat().st_size for path in others) / 2**20
            what = f"{size:,.0f} MiB of decoded images that this folder does not use"
            rank_zero_info(
                printable(f"{self._cache_dir} has {what}: {CACHE_PREFIX}*.images that no run uses can be deleted.")
            )

    def _key(self, files: list[str]) -> str:
        """Return a hash of the name, size and time of every image."""
        key = hashlib.sha256()
        for path in files:
            try:
                stat = os.stat(path)
                content = f"{stat.st_size}\0{stat.st_mtime_ns}"
            except OSError:  # for example a broken link, which is not readable either
                content = "\0"
            key.update(os.fsencode(f"{os.path.relpath(path, self._root)}\0{content}\0"))
        return key.hexdigest()

    def _decoded(self, files: list[str]) -> Iterator[np.ndarray | None]:
        """Yield the images in order, ``(C, H, W)`` of the stored type, or None for an image that is skipped.

        Raises:
            DataError: An image is unreadable and not skipped, or all images are unreadable.
        """
        anything = False
        with ThreadPool(min(16, os.cpu_count() or 1)) as pool:  # threads, because PIL releases the GIL
            for start in range(0, len(files), _DECODED_AT_ONCE):  # bounds the memory
                for found in pool.map(self._decode, files[start : start + _DECODED_AT_ONCE], chunksize=8):
                    if isinstance(found, DataError) and self.on_error == "raise":
                        hint = "Repair or remove it, or skip such images with --data.on_error skip."
                        raise DataError(f"{found}\n{hint}", setting=found.setting)
                    picture = None if isinstance(found, DataError) else found
                    anything |= picture is not None
                    yield picture
        if not anything:
            raise DataError(f"None of the images in {self._root} can be read.", setting=str(self._root))

    def _decode(self, path: str) -> np.ndarray | DataError:
        """Return an image, or a pair as the channels of one, as it is stored."""
        sides = self._read(path)
        if isinstance(sides, DataError):
            return sides
        types = tuple(side.dtype.name for side in sides)
        if types != self._types:
            return self._other_types(path, types)
        return np.concatenate(sides).astype(stored_type(*types), copy=False)

    def _read(self, path: str) -> list[np.ndarray] | DataError:
        """Return an image, or the sides of a pair, with their own values, ``(C, H, W)`` each."""
        try:
            return [read_picture(path, self.image_shape, self.fit, self.convert, own_values=not self.convert)]
        except DataError as error:
            return error


def some_names(paths: Sequence[str]) -> str:
    """Return the names of at most ten files."""
    return ", ".join(map(os.path.basename, paths[:10])) + (", …" if len(paths) > 10 else "")


def _no_images(folder: Path) -> DataError:
    allowed = (*EXTENSIONS, *ARRAYS)
    message = f"{folder} has no images: their names must end in {', '.join(allowed)}."
    return DataError(message, setting=str(folder), allowed=allowed)


def _warn(text: str) -> None:
    warnings.warn(printable(text), stacklevel=4)


def _subfolders(folder: Path, extensions: tuple[str, ...]) -> list[str]:
    """Return the sorted names of the folders that contain images, at any depth."""
    folders = (path for path in folder.iterdir() if path.is_dir() and not is_litter(path.name))
    return sorted(path.name for path in folders if has_pictures(path, extensions))


def _split_of(folder: str) -> Split | None:
    """Return the split that the name of a folder stands for, or None."""
    matches = (split for split, name in _SPLIT_NAMES.items() if re.fullmatch(name + _SPLIT_SUFFIX, folder, re.I))
    return next(matches, None)
