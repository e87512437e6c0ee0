"""Pictures of your own, from a folder."""

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
from lightning_gans.errors import DataError, SettingError, check_choice
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
    """The pictures of a split: their files, in an order that no file system decides, and their labels."""

    files: list[str]
    labels: list[int]


class ImageFolderDataModule(ImageDataModule):
    """Pictures from a folder, ``(channels, height, width)``, one label per class folder.

    ``data_dir`` is a folder of pictures (``num_classes`` 0, every label 0), or of folders of pictures, which
    are the classes, or has sub-folders ``train`` and, if you like, ``val`` and ``test``, each one of these.
    Without ``val``, ``val_size`` of the training pictures validate; without ``test``, the validation split is
    tested on. Names that begin with a dot are passed over. Links are followed, but into no folder twice.

    The pictures may have any size; see ``fit``. Those that a camera held sideways are turned upright, by their EXIF
    data. They are decoded once, and their bytes kept in one file a split (``*.images``, with what is in it in
    ``*.json``), which is made anew when a picture or a setting changes, or when it is damaged. Batches are read from
    that file as it lies in the system's page cache, so that a set may be larger than the memory: 1,000,000 pictures of
    3x128x128 take 46 GiB of disk. One of less than half of the memory is read and checked before the first batch.

    Args:
        data_dir: The folder.
        image_size: Height and width in pixels, as one number or as ``[height, width]``.
        channels: 3 for colour, 1 for grey.
        fit: How a picture of another shape is made to fit, resized bicubically and antialiased: ``crop`` cuts out the
            largest part of the shape in its middle, ``pad`` adds black borders to the whole, ``stretch`` distorts it.
        horizontal_flip: Mirror training pictures at random.
        val_size: As in :class:`ImageDataModule`.
        on_error: What a picture does that is unreadable, or of an odd mode without ``convert``: ``raise`` names it and
            stops, ``skip`` leaves it out with a warning.
        convert: Whether to take pictures of odd modes too: CMYK becomes RGB, what is transparent is laid on white,
            more than 8 bits a channel are scaled down to 8, and of several frames or pages the first is taken.
        cache_dir: The folder for the decoded pictures; ``data_dir`` if None.
        **options: As in :class:`ImageDataModule`.

    Raises:
        DataError: The folder or a picture is missing or unreadable, or the decoded pictures do not fit on the disk.
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
            raise SettingError(
                f"image_size is {image_size!r}: give one whole number, or [height, width], each 1 or more."
            )
        check_choice("on_error", on_error, ["raise", "skip"])
        check_choice("fit", fit, get_args(Fit))
        if channels not in (1, 3):
            raise SettingError(f"channels is {channels}: it must be 1 (grey) or 3 (colour).")
        self.image_shape = (channels, sides[0], sides[1])
        self.horizontal_flip = horizontal_flip
        self.fit = fit
        self.on_error = on_error
        self.convert = convert
        self._root = Path(data_dir).expanduser().absolute()
        self._cache_dir = self._root if cache_dir is None else Path(cache_dir).expanduser()

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Names of the class folders, sorted; empty where there are none."""
        return _class_folders(self._folders["train"])

    @cached_property
    def _folders(self) -> dict[Split, Path]:
        """The folder of each split that has one."""
        if not self._root.is_dir():
            raise DataError(f"{self._root} is no folder: name that of your pictures with --data.data_dir.")
        names = [path.name for path in _subfolders(self._root)]
        # A folder "train" among other classes is one of trains.
        if "train" not in names or not set(names) <= set(_SPLIT_FOLDERS):
            return {"train": self._root}
        folders = {_SPLIT_FOLDERS[name]: self._root / name for name in names}
        if len(folders) < len(names):
            same = [name for name in names if _SPLIT_FOLDERS[name] == "val"]
            raise DataError(f"{self._root} holds {' and '.join(same)}, each a validation split: move all but one away.")
        return folders

    def prepare_data(self) -> None:
        """Decode the pictures, where this was not done before."""
        for split in self._folders:
            if not self._cache(split).exists():
                self._set(split)

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read a split from the file of decoded pictures, or from the pictures themselves."""
        if split not in self._folders:
            return None
        listing = self._list(split)
        key, cache = self._key(listing), self._cache(split)
        num_bytes = len(listing.files) * math.prod(self.image_shape)
        fits = num_bytes < _memory() / 2
        loaded = cache.load(key, check=fits)
        if loaded is None:
            rank_zero_info(f"Decoding {len(listing.files):,} pictures of {self._root}.")
            try:
                cache.check_room(num_bytes)
                cache.save(key, self.image_shape, self._decoded(listing))
                loaded = cache.load(key, check=fits)
            except OSError as error:
                if not fits:
                    raise DataError(
                        f"{cache.path} cannot be written: {error.strerror or error}.\n"
                        f"{num_bytes / 2**30:.1f} GiB of decoded pictures fit neither there nor into memory: name a "
                        "folder with --data.cache_dir, or choose a smaller image_size."
                    ) from None
                warnings.warn(
                    f"{cache.path} cannot be written ({error.strerror or error}): the next run decodes the pictures "
                    "anew. Name another folder with cache_dir.",
                    stacklevel=2,
                )
        if loaded is None:
            if not fits:
                raise DataError(f"{cache.path} cannot be read back after it was written: is the disk sound?")
            decoded = list(self._decoded(listing))
            readable = [picture for picture in decoded if picture is not None]
            loaded = np.stack(readable), np.array([picture is not None for picture in decoded])
        images, kept = loaded
        self._warn_of_skipped(listing, kept)
        with warnings.catch_warnings():  # that what is mapped is not to be written to
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
                f"{folder} holds class folders ({classes[0]}, …) and loose pictures ({os.path.basename(loose[0])}, …): "
                "move the one or the other away."
            )
        if not classes and not loose:
            raise DataError(f"{folder} holds no pictures. Files count that end in {', '.join(EXTENSIONS)}.")
        if bool(classes) != bool(self.class_names) or not set(classes) <= set(self.class_names):
            raise DataError(
                f"{folder} has the classes {', '.join(classes) or '(none)'}, but the training pictures have "
                f"{', '.join(self.class_names) or '(none)'}."
            )
        listing = Listing(loose, [0] * len(loose))
        for name in classes:
            files = sorted(_walk(folder / name, others), key=lambda path: path.split(os.sep))
            listing.files.extend(files)
            listing.labels.extend([self.class_names.index(name)] * len(files))
        if others:
            warnings.warn(f"Passed over what is no picture by its name: {_some(others)}", stacklevel=3)
        return listing

    def _cache(self, split: Split) -> DecodedPictures:
        shape = "x".join(map(str, self.image_shape))
        return DecodedPictures(self._cache_dir / f"{_CACHE_PREFIX}{self._root.name}-{split}-{shape}.images")

    def _key(self, listing: Listing) -> str:
        """Return a hash that changes with the settings and with every picture's name, size and time."""
        settings = (_CACHE_VERSION, self.image_shape, self.fit, self.on_error, self.convert)
        key = hashlib.sha256(repr(settings).encode())
        root = f"{self._root}{os.sep}"
        for path in listing.files:
            try:
                stat = os.stat(path)
                content = f"{stat.st_size}\0{stat.st_mtime_ns}"
            except OSError:  # as of a link to nowhere, which is not readable either
                content = "\0"
            key.update(os.fsencode(f"{path.removeprefix(root)}\0{content}\0"))
        return key.hexdigest()

    def _decoded(self, listing: Listing) -> Iterator[np.ndarray | None]:
        """Yield the pictures in their order, uint8 ``(C, H, W)``, and None for those left out.

        Raises:
            DataError: One is unreadable, where such are not left out, or all are.
        """

        def decode(places: range) -> list[np.ndarray | None]:
            pictures: list[np.ndarray | None] = []
            for path in (listing.files[place] for place in places):
                try:
                    pictures.append(read_picture(path, self.image_shape, self.fit, self.convert))
                except UNREADABLE as error:
                    if self.on_error == "raise":
                        raise DataError(
                            f"{path} cannot be read as a picture: {error}.\n"
                            "Mend or remove it, or leave such pictures out with --data.on_error=skip."
                        ) from None
                    pictures.append(None)
            return pictures

        # Threads, because PIL decodes without holding Python's lock; in chunks, because handing out a single
        # small picture costs as much as decoding it. A few chunks are under way at once, not all of them.
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
            raise DataError(f"None of the {num} pictures in {self._root} can be read.")

    def _warn_of_skipped(self, listing: Listing, kept: np.ndarray) -> None:
        skipped = [listing.files[place] for place in np.flatnonzero(~kept)]
        if skipped:
            warnings.warn(f"Left out {len(skipped)} unreadable pictures: {_some(skipped)}", stacklevel=3)


def _memory() -> float:
    """Return this machine's memory in bytes."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _some(paths: Sequence[str]) -> str:
    """Return the names of files, but of no more than ten."""
    return ", ".join(map(os.path.basename, paths[:10])) + (", …" if len(paths) > 10 else "")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_folders(folder: Path) -> list[str]:
    """Return the names of the sub-folders that hold pictures, at any depth."""
    return [path.name for path in _subfolders(folder) if next(_walk(path, []), None) is not None]


def _walk(folder: Path, others: list[str], deep: bool = True) -> Iterator[str]:
    """Yield all pictures below a folder, or in it alone, and note what other files there are.

    Links are followed, because class folders are often links; but none to a folder in which they stand, or which was
    seen already, as its pictures would count several times.
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
    """Return what is the same for a folder by all its names."""
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino
