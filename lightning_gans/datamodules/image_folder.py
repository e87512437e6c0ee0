"""Pictures of your own, from a folder."""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_gans.datamodules.base import ImageDataModule, Split
from lightning_gans.errors import DataError, SettingError, check_choice, check_positive
from lightning_gans.files import replacing
from lightning_gans.pictures import EXTENSIONS, UNREADABLE, read_picture

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_CACHE_VERSION = 1


class Listing(NamedTuple):
    """The pictures of a split: their files, in an order that no file system decides, and their labels."""

    files: list[Path]
    labels: list[int]


class ImageFolderDataModule(ImageDataModule):
    """Pictures from a folder, ``(channels, image_size, image_size)``, one label per class folder.

    ``data_dir`` is a folder of pictures (``num_classes`` 0, every label 0), or of folders of pictures, which
    are the classes, or has sub-folders ``train`` and, if you like, ``val`` and ``test``, each one of these.
    Without ``val``, ``val_size`` of the training pictures validate; without ``test``, the validation split is
    tested on. Names that begin with a dot are passed over.

    The shorter side is resized to ``image_size``, bicubically and antialiased, and the middle cut out. The
    pictures are decoded once and kept in one file a split (``*.npz``), which is made anew when a picture or
    a setting changes, or when it is damaged.

    All pictures live in memory, in bytes: 70,000 of 3x64x64 take 0.8 GiB.

    Args:
        data_dir: The folder.
        image_size: Height and width in pixels.
        channels: 3 for colour, 1 for grey.
        horizontal_flip: Mirror training pictures at random.
        val_size: As in :class:`ImageDataModule`.
        on_error: What an unreadable picture does: ``raise`` names it and stops, ``skip`` leaves it out with a
            warning.
        cache_dir: The folder for the decoded pictures; ``data_dir`` if None.
        **options: As in :class:`ImageDataModule`.

    Raises:
        DataError: The folder or a picture is missing or unreadable.
        SettingError: A setting is out of range, or the pictures do not fit into memory.
    """

    image_shape: tuple[int, int, int]

    def __init__(
        self,
        data_dir: str | Path,
        image_size: int = 64,
        channels: Literal[1, 3] = 3,
        horizontal_flip: bool = False,
        val_size: int | float = 0.1,
        on_error: Literal["raise", "skip"] = "raise",
        cache_dir: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, **options)
        check_positive(image_size=image_size)
        check_choice("on_error", on_error, ["raise", "skip"])
        if channels not in (1, 3):
            raise SettingError(f"channels is {channels}: it must be 1 (grey) or 3 (colour).")
        self.image_shape = (channels, image_size, image_size)
        self.horizontal_flip = horizontal_flip
        self.on_error = on_error
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
        if "train" in names and set(names) <= set(_SPLIT_FOLDERS):
            return {_SPLIT_FOLDERS[name]: self._root / name for name in names}
        return {"train": self._root}

    def prepare_data(self) -> None:
        """Decode the pictures, where this was not done before."""
        for split in self._folders:
            if not self._cache_file(split).is_file():
                self._set(split)

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read a split from the file of decoded pictures, or from the pictures themselves."""
        if split not in self._folders:
            return None
        listing = self._list(split)
        key, cache = self._key(listing), self._cache_file(split)
        loaded = _read_cache(cache, key)
        if loaded is None:
            loaded = self._decode(listing)
            try:
                with replacing(cache) as file:
                    np.savez(file, key=key, images=loaded[0], kept=loaded[1])
            except OSError as error:
                warnings.warn(
                    f"{cache} cannot be written ({error.strerror}): the next run decodes the pictures anew. "
                    "Name another folder with cache_dir.",
                    stacklevel=2,
                )
        images, kept = loaded
        self._warn_of_skipped(listing, kept)
        return torch.from_numpy(images), torch.tensor(listing.labels)[torch.from_numpy(kept)]

    def _list(self, split: Split) -> Listing:
        folder = self._folders[split]
        classes = _class_folders(folder)
        loose = sorted(path for path in folder.iterdir() if path.is_file() and _is_picture(path))
        if classes and loose:
            raise DataError(
                f"{folder} holds class folders ({classes[0]}, …) and loose pictures ({loose[0].name}, …): "
                "move the one or the other away."
            )
        if not classes and not loose:
            raise DataError(f"{folder} holds no pictures. Files count that end in {', '.join(EXTENSIONS)}.")
        if bool(classes) != bool(self.class_names) or not set(classes) <= set(self.class_names):
            raise DataError(
                f"{folder} has the classes {', '.join(classes) or '(none)'}, but the training pictures have "
                f"{', '.join(self.class_names) or '(none)'}."
            )
        if not classes:
            return Listing(loose, [0] * len(loose))
        listing = Listing([], [])
        for name in classes:
            files = sorted(_walk(folder / name))
            listing.files.extend(files)
            listing.labels.extend([self.class_names.index(name)] * len(files))
        return listing

    def _cache_file(self, split: Split) -> Path:
        channels, size, _ = self.image_shape
        return self._cache_dir / f"lightning_gans-{self._root.name}-{split}-{channels}x{size}x{size}.npz"

    def _key(self, listing: Listing) -> str:
        """Return a hash that changes with the settings and with every picture's name, size and time."""
        key = hashlib.sha256(repr((_CACHE_VERSION, self.image_shape, self.on_error)).encode())
        for path in listing.files:
            stat = path.stat()
            entry = (path.relative_to(self._root).as_posix(), stat.st_size, stat.st_mtime_ns)
            key.update(repr(entry).encode())
        return key.hexdigest()

    def _decode(self, listing: Listing) -> tuple[np.ndarray, np.ndarray]:
        """Return the readable pictures, uint8 ``(n, C, H, W)``, and which of all they are, bool ``(N,)``."""
        shape = (len(listing.files), *self.image_shape)
        self._check_memory(shape)
        rank_zero_info(f"Decoding {len(listing.files):,} pictures of {self._root}.")
        images = np.empty(shape, np.uint8)
        kept = np.ones(len(listing.files), bool)

        def decode(places: range) -> None:
            for place in places:
                path = listing.files[place]
                try:
                    images[place] = read_picture(path, self.image_shape)
                except UNREADABLE as error:
                    if self.on_error == "raise":
                        raise DataError(
                            f"{path} cannot be read as a picture: {error}.\n"
                            "Mend or remove it, or leave such pictures out with --data.on_error=skip."
                        ) from None
                    kept[place] = False

        # Threads, because PIL decodes without holding Python's lock; in chunks, because handing out a single
        # small picture costs as much as decoding it.
        chunks = [range(i, min(i + 64, len(kept))) for i in range(0, len(kept), 64)]
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            try:
                list(pool.map(decode, chunks))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if not kept.any():
            raise DataError(f"None of the {len(kept)} pictures in {self._root} can be read.")
        return (images if kept.all() else images[kept]), kept

    def _check_memory(self, shape: tuple[int, ...]) -> None:
        needed = int(np.prod(shape, dtype=np.int64))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
        if needed > memory:
            raise SettingError(
                f"image_size is {shape[-1]}: {shape[0]:,} such pictures take {needed / 2**30:.1f} GiB, but "
                f"this machine has {memory / 2**30:.1f}. Choose a smaller one."
            )

    def _warn_of_skipped(self, listing: Listing, kept: np.ndarray) -> None:
        skipped = [path.name for path, keep in zip(listing.files, kept, strict=True) if not keep]
        if skipped:
            names = ", ".join(skipped[:10]) + (", …" if len(skipped) > 10 else "")
            warnings.warn(f"Left out {len(skipped)} unreadable pictures: {names}", stacklevel=3)


def _read_cache(path: Path, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what was decoded under the key, or None; reading checks the file's own checksums."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as cache:
            return (cache["images"], cache["kept"]) if str(cache["key"]) == key else None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        warnings.warn(f"{path} is damaged ({error}): decoding the pictures anew.", stacklevel=3)
        return None


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_folders(folder: Path) -> list[str]:
    """Return the names of the sub-folders that hold pictures, at any depth."""
    return [path.name for path in _subfolders(folder) if next(_walk(path), None) is not None]


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all pictures below a folder; links are followed, because class folders are often links."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (path for path in map(Path(parent).joinpath, names) if _is_picture(path))
