"""Custom images from a folder."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from lightning_gans._lightning import rank_zero_info
from lightning_gans.datamodules.base import ImageDataModule, Split
from lightning_gans.datamodules.decoded import DecodedPictures
from lightning_gans.errors import DataError, check_choice, invalid
from lightning_gans.io.pictures import EXTENSIONS, UNREADABLE, Fit, read_picture

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_CACHE_VERSION, _CACHE_PREFIX = 3, "lightning_gans-"


class Listing(NamedTuple):
    """The images of a split: their files, in an order that does not depend on the file system, and their labels."""

    files: list[str]
    labels: list[int]


class ImageFolderDataModule(ImageDataModule):
    """Images from a folder, ``(channels, height, width)``, one label per class folder.

    ``data_dir`` is a folder of images (``num_classes`` 0, every label 0), or of folders of images, which are the
    classes, or has subfolders ``train`` and, optionally, ``val`` and ``test``, each one of these. Without ``val``,
    ``val_size`` of the training images validate; without ``test``, the validation split is also the test split. Names
    that begin with a dot are ignored. Links are followed, but no folder is read twice.

    The images may have any size; see ``fit``. They are rotated according to their EXIF data. They are decoded once, and
    the bytes are kept in one file per split (``*.images``, described in ``*.json``), which is rebuilt if an image or a
    setting changes, or if it is damaged. Batches are read from this file through the system's page cache, so a data set
    may be larger than the memory: 1,000,000 images of 3x128x128 take 46 GiB of disk. A file of less than half of the
    memory is read and checked before the first batch.

    Args:
        data_dir: The folder.
        image_size: Height and width in pixels, as one number or as ``[height, width]``.
        channels: 3 for color, 1 for gray.
        fit: How to fit an image of another shape, resized bicubically and antialiased: ``crop`` cuts out the largest
            part of the shape in the center, ``pad`` adds black borders, ``stretch`` distorts.
        horizontal_flip: Mirror training images at random.
        val_size: As in :class:`ImageDataModule`.
        on_error: What to do with an unreadable image, or one of an unusual mode without ``convert``: ``raise`` an error
            that names it, or ``skip`` it with a warning.
        convert: Whether to accept unusual modes: CMYK becomes RGB, transparent pixels are blended with white, more than
            8 bits per channel are scaled down to 8, and of several frames or pages the first is used.
        cache_dir: The folder for the decoded images; ``data_dir`` if None.
        **options: As in :class:`ImageDataModule`.

    Raises:
        DataError: The folder or an image is missing or unreadable, or the decoded images do not fit on the disk.
        SettingError: A setting is out of range.
    """

    image_shape: tuple[int, int, int]

    def __init__(
        self,
        data_dir: str | Path,
        image_size: int | Sequence[int] = 64,
        channels: Literal[1, 3] = 3,
        fit: Fit = "crop",
        horizontal_flip: bool = False,
        val_size: int | float = 0.1,
        on_error: Literal["raise", "skip"] = "raise",
        convert: bool = False,
        cache_dir: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, **options)
        sides = list(image_size) if isinstance(image_size, Iterable) else [image_size, image_size]
        if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
            raise invalid("image_size", image_size, "one whole number, or [height, width], each 1 or more")
        check_choice("on_error", on_error, ["raise", "skip"])
        check_choice("fit", fit, get_args(Fit))
        if channels not in (1, 3):
            raise invalid("channels", channels, "1 (gray) or 3 (color)")
        self.image_shape = (channels, sides[0], sides[1])
        self.horizontal_flip = horizontal_flip
        self.fit = fit
        self.on_error = on_error
        self.convert = convert
        self._root = Path(data_dir).expanduser().absolute()
        self._cache_dir = self._root if cache_dir is None else Path(cache_dir).expanduser()

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Sorted names of the class folders; empty if there are none."""
        return _class_folders(self._folders["train"])

    @cached_property
    def _folders(self) -> dict[Split, Path]:
        """The folders of the splits."""
        if not self._root.is_dir():
            raise DataError(
                f"{self._root} is not a folder: set data_dir to the folder of images.", setting=str(self._root)
            )
        names = [path.name for path in _subfolders(self._root)]
        # A folder "train" among other folders is a class of trains.
        if "train" not in names or not set(names) <= set(_SPLIT_FOLDERS):
            return {"train": self._root}
        folders = {_SPLIT_FOLDERS[name]: self._root / name for name in names}
        if len(folders) < len(names):
            same = [name for name in names if _SPLIT_FOLDERS[name] == "val"]
            message = f"{self._root} has {' and '.join(same)}, which are all validation splits: keep one of them."
            raise DataError(message, setting=str(self._root), value=same)
        return folders

    def prepare_data(self) -> None:
        """Decode the images of splits that have no decoded file yet."""
        for split in self._folders:
            if not self._cache(split).exists():
                self._set(split)

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read a split from the file of decoded images, or from the images themselves."""
        if split not in self._folders:
            return None
        listing = self._list(split)
        key, cache = self._key(listing), self._cache(split)
        num_bytes = len(listing.files) * math.prod(self.image_shape)
        fits = num_bytes < _memory() / 2
        loaded = cache.load(key, check=fits)
        if loaded is None:
            rank_zero_info(f"Decoding {len(listing.files):,} images of {self._root}.")
            try:
                cache.check_room(num_bytes)
                cache.save(key, self.image_shape, self._decoded(listing))
                loaded = cache.load(key, check=fits)
            except OSError as error:
                if not fits:
                    raise DataError(
                        f"{cache.path} cannot be written: {error.strerror or error}.\n"
                        f"{num_bytes / 2**30:.1f} GiB of decoded images fit neither there nor into memory: set "
                        "cache_dir to another folder, or reduce image_size.",
                        setting=str(cache.path),
                    ) from None
                warnings.warn(
                    f"{cache.path} cannot be written ({error.strerror or error}): the next run decodes the images "
                    "again. Set cache_dir to another folder.",
                    stacklevel=2,
                )
        if loaded is None:
            if not fits:
                raise DataError(
                    f"{cache.path} cannot be read back after it was written: check the disk.", setting=str(cache.path)
                )
            decoded = list(self._decoded(listing))
            readable = [picture for picture in decoded if picture is not None]
            loaded = np.stack(readable), np.array([picture is not None for picture in decoded])
        images, kept = loaded
        self._warn_of_skipped(listing, kept)
        with warnings.catch_warnings():  # the mapped file may be read-only
            warnings.filterwarnings("ignore", message=".*is not writable")
            pictures = torch.from_numpy(images)
        return pictures, torch.tensor(listing.labels)[torch.from_numpy(kept)]

    def _list(self, split: Split) -> Listing:
        folder = self._folders[split]
        classes = _class_folders(folder)
        others: list[str] = []
        loose = sorted(_walk(folder, others, deep=False))
        if classes and loose:
            raise DataError(
                f"{folder} has both class folders ({classes[0]}, …) and images ({os.path.basename(loose[0])}, …): "
                "keep one kind.",
                setting=str(folder),
            )
        if not classes and not loose:
            message = f"{folder} has no images: their names must end in {', '.join(EXTENSIONS)}."
            raise DataError(message, setting=str(folder), allowed=EXTENSIONS)
        if bool(classes) != bool(self.class_names) or not set(classes) <= set(self.class_names):
            raise DataError(
                f"{folder} has the classes {', '.join(classes) or '(none)'}, but the training images have "
                f"{', '.join(self.class_names) or '(none)'}.",
                setting=str(folder),
                value=classes,
                allowed=self.class_names,
            )
        listing = Listing(loose, [0] * len(loose))
        for name in classes:
            files = sorted(_walk(folder / name, others), key=lambda path: path.split(os.sep))
            listing.files.extend(files)
            listing.labels.extend([self.class_names.index(name)] * len(files))
        if others:
            warnings.warn(f"Ignored files that are not images: {_some(others)}", stacklevel=3)
        return listing

    def _cache(self, split: Split) -> DecodedPictures:
        shape = "x".join(map(str, self.image_shape))
        return DecodedPictures(self._cache_dir / f"{_CACHE_PREFIX}{self._root.name}-{split}-{shape}.images")

    def _key(self, listing: Listing) -> str:
        """Return a hash of the settings and of the name, size and time of every image."""
        settings = (_CACHE_VERSION, self.image_shape, self.fit, self.on_error, self.convert)
        key = hashlib.sha256(repr(settings).encode())
        root = f"{self._root}{os.sep}"
        for path in listing.files:
            try:
                stat = os.stat(path)
                content = f"{stat.st_size}\0{stat.st_mtime_ns}"
            except OSError:  # for example a broken link, which is not readable either
                content = "\0"
            key.update(os.fsencode(f"{path.removeprefix(root)}\0{content}\0"))
        return key.hexdigest()

    def _decoded(self, listing: Listing) -> Iterator[np.ndarray | None]:
        """Yield the images in order, uint8 ``(C, H, W)``, and None for those that are skipped.

        Raises:
            DataError: An image is unreadable and not skipped, or all images are unreadable.
        """

        def decode(places: range) -> list[np.ndarray | None]:
            pictures: list[np.ndarray | None] = []
            for path in (listing.files[place] for place in places):
                try:
                    pictures.append(read_picture(path, self.image_shape, self.fit, self.convert))
                except UNREADABLE as error:
                    if self.on_error == "raise":
                        raise DataError(
                            f"{path} cannot be read as an image: {error}.\n"
                            "Repair or remove it, or skip such images with on_error=skip.",
                            setting=path,
                        ) from None
                    pictures.append(None)
            return pictures

        # Threads, because PIL releases the GIL; in chunks, because submitting one small image costs as much as decoding
        # it. Only a few chunks are in flight, to bound the memory.
        num, workers, anything = len(listing.files), min(16, os.cpu_count() or 1), False
        chunks = iter([range(i, min(i + 64, num)) for i in range(0, num, 64)])
        with ThreadPoolExecutor(workers) as pool:
            waiting = deque(pool.submit(decode, chunk) for chunk in itertools.islice(chunks, 4 * workers))
            try:
                while waiting:
                    pictures = waiting.popleft().result()
                    waiting.extend(pool.submit(decode, chunk) for chunk in itertools.islice(chunks, 1))
                    anything |= any(picture is not None for picture in pictures)
                    yield from pictures
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if not anything:
            raise DataError(f"None of the {num} images in {self._root} can be read.", setting=str(self._root))

    def _warn_of_skipped(self, listing: Listing, kept: np.ndarray) -> None:
        skipped = [listing.files[place] for place in np.flatnonzero(~kept)]
        if skipped:
            warnings.warn(f"Skipped {len(skipped)} unreadable images: {_some(skipped)}", stacklevel=3)


def _memory() -> float:
    """Return this machine's memory in bytes."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _some(paths: Sequence[str]) -> str:
    """Return the names of at most ten files."""
    return ", ".join(map(os.path.basename, paths[:10])) + (", …" if len(paths) > 10 else "")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_folders(folder: Path) -> list[str]:
    """Return the names of the subfolders that contain images, at any depth."""
    return [path.name for path in _subfolders(folder) if next(_walk(path, []), None) is not None]


def _walk(folder: Path, others: list[str], deep: bool = True) -> Iterator[str]:
    """Yield all images below a folder, or (not ``deep``) directly in it, and collect the other files.

    Links are followed, because class folders are often links, but not to a parent folder or to one that was already
    visited, whose images would be counted twice.
    """
    seen = {_identity(parent) for parent in (*folder.parents, *folder.resolve().parents)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        if _identity(parent) in seen:
            folders.clear()
            continue
        seen.add(_identity(parent))
        folders[:] = sorted(name for name in folders if deep and not name.startswith("."))
        for name in names:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.join(parent, name)
            elif not name.startswith((".", _CACHE_PREFIX)):
                others.append(os.path.join(parent, name))


def _identity(folder: str | Path) -> tuple[int, int]:
    """Return what identifies a folder under all its names."""
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino
