"""Decoded images in a file that is mapped into memory."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_gans.datamodules.resident import ResidentImages
from lightning_gans.errors import DataError, printable
from lightning_gans.io.arrays import stored_type
from lightning_gans.io.files import replacing

_FOOTER = struct.Struct("<QI")  # size and checksum of the description before it


class Decoded(NamedTuple):
    """The readable images, stored as ``(n, C, H, W)``, and what is known about them.

    Attributes:
        images: The images, in the common stored type of ``types``.
        types: NumPy's names for the types of their own values, or of those of the sides of pairs.
        kept: Mask of the readable images among all, ``(N,)``.
        checksums: CRC-32 of each image, ``(n,)``; None if they are verified.
    """

    images: np.ndarray
    types: tuple[str, ...]
    kept: np.ndarray
    checksums: np.ndarray | None = None


class DecodedPictures:
    """A file of decoded images, with its description (key, shape, types, and checksums of the images) at its end.

    A small file is verified when it is loaded, and mapped copy-on-write, so that changes stay private. A large one is
    mapped read-only, as Linux does not reserve memory for the changes of a file that is larger than the memory.

    Args:
        path: The file.
        large: Size in bytes from which a file is large.
    """

    def __init__(self, path: Path, large: float) -> None:
        self.path = path
        self.large = large

    def load(self, key: str) -> Decoded | None:
        """Return what was saved under the key, or None."""
        if not self.path.is_file():
            return None
        try:
            with open(self.path, "rb") as file:
                file.seek(-_FOOTER.size, os.SEEK_END)
                size, checksum = _FOOTER.unpack(file.read())
                file.seek(-_FOOTER.size - size, os.SEEK_END)
                num_bytes, text = file.tell(), file.read(size)
                if zlib.crc32(text) != checksum:
                    raise ValueError("its description has changed")
                about = json.loads(text)
                each = math.prod(about["shape"]) * stored_type(*about["types"]).itemsize
                if num_bytes != len(about["checksums"]) * each:
                    raise ValueError("its size has changed")
                if about["key"] != key:
                    return None
                loaded = self._mapped(file, about)
            if loaded.checksums is None and list(map(zlib.crc32, loaded.images)) != about["checksums"]:
                raise ValueError("its checksum differs")
            return loaded
        except Exception as error:  # unexpected bytes may raise an error of any type
            warnings.warn(printable(f"{self.path} is damaged ({error}): decoding the images again."), stacklevel=5)
            return None

    def save(
        self,
        key: str,
        shape: tuple[int, ...],
        types: tuple[str, ...],
        num: int,
        pictures: Iterable[np.ndarray | None],
    ) -> Decoded:
        """Write images one by one.

        Args:
            key: The key to load them with.
            shape: Shape of each image.
            types: See :class:`Decoded`.
            num: Number of images.
            pictures: The images in the stored type; None stands for one that is skipped.

        Raises:
            OSError: The file cannot be written, or the disk has no room for all images.
        """
        left_out, checksums = [], []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.path.parent).free
        if num * math.prod(shape) * stored_type(*types).itemsize > free:
            raise OSError(f"the disk has {free / 2**30:.1f} GiB left")
        with replacing(self.path) as file:
            for place, picture in enumerate(pictures):
                if picture is None:
                    left_out.append(place)
                else:
                    content = picture.tobytes()
                    file.write(content)
                    checksums.append(zlib.crc32(content))
            about = {"key": key, "shape": shape, "types": types, "left_out": left_out, "checksums": checksums}
            text = json.dumps(about).encode()
            file.write(text + _FOOTER.pack(len(text), zlib.crc32(text)))
            file.flush()
            return self._mapped(file, about)  # this file, even if another process replaces it right away

    def _mapped(self, file: IO[bytes], about: Mapping[str, Any]) -> Decoded:
        checksums, dtype = np.array(about["checksums"], np.uint32), stored_type(*about["types"])
        kept = np.ones(len(checksums) + len(about["left_out"]), bool)
        kept[about["left_out"]] = False
        shape = len(checksums), *about["shape"]
        is_large = math.prod(shape) * dtype.itemsize >= self.large
        images = np.memmap(file, dtype, "r" if is_large else "c", shape=shape)
        return Decoded(images, tuple(about["types"]), kept, checksums if is_large else None)


class CheckedImages(ResidentImages):
    """Decoded images whose checksums are verified when they are first read.

    Args:
        images: As in :class:`ResidentImages`, like the labels.
        labels: int64 ``(N,)``.
        checksums: CRC-32 of each image, ``(N,)``.
        name: The file, for the :class:`DataError` that reports a changed image.
        **options: As in :class:`ResidentImages`.
    """

    def __init__(self, images: Tensor, labels: Tensor, checksums: np.ndarray, name: str, **options: Any) -> None:
        super().__init__(images, labels, **options)
        self.checksums = checksums
        self.name = name
        self._unverified = torch.ones(len(images), dtype=torch.bool)

    def stored(self, rows: Tensor | slice) -> Tensor:
        """Return images as stored, verified."""
        numbers = torch.arange(len(self))[rows]
        for row in numbers[self._unverified[rows]].tolist():
            if zlib.crc32(self.images[row].numpy().data) != self.checksums[row]:
                raise DataError(f"{self.name} is damaged: delete it and start again.", setting=self.name)
            self._unverified[row] = False
        return super().stored(rows)
