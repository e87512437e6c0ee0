"""Decoded images in a file that is mapped into memory."""

from __future__ import annotations

import json
import math
import shutil
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lightning_gans.io.files import replacing


class DecodedPictures:
    """A file of decoded images, and a second file (``.json``) with its key, shape and checksum, written last.

    Args:
        path: The file of images.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about = path.with_suffix(".json")

    def exists(self) -> bool:
        """Return whether both files exist."""
        return self.path.is_file() and self.about.is_file()

    def load(self, key: str, check: bool) -> tuple[np.ndarray, np.ndarray] | None:
        """Return what was saved under the key, or None.

        Args:
            key: The key passed to :meth:`save`.
            check: Read everything once and compare the checksum. Otherwise only the size is compared, and the images
                are read-only.

        Returns:
            The readable images, uint8 ``(n, C, H, W)``, and a mask of them among all, bool ``(N,)``.
        """
        if not self.exists():
            return None
        try:
            about = json.loads(self.about.read_bytes())
            if about["key"] != key:
                return None
            kept = np.ones(about["num"], bool)
            kept[about["left_out"]] = False
            shape = (int(kept.sum()), *about["shape"])
            if self.path.stat().st_size != math.prod(shape):
                raise ValueError(f"it has {self.path.stat().st_size:,} bytes instead of {math.prod(shape):,}")
            # Processes share the page cache. Copy-on-write ("c") keeps changes private, but Linux refuses to reserve
            # memory for those of a data set that is larger than the memory.
            images = np.memmap(self.path, np.uint8, "c" if check else "r", shape=shape)
            if check and zlib.crc32(images.data) != about["checksum"]:
                raise ValueError("its checksum differs")
            return images, kept
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            warnings.warn(f"{self.path} is damaged ({error}): decoding the images again.", stacklevel=4)
            return None

    def save(self, key: str, shape: tuple[int, int, int], pictures: Iterable[np.ndarray | None]) -> None:
        """Write images one by one; None stands for an image that is skipped."""
        left_out, num, checksum = [], 0, 0
        with replacing(self.path) as file:
            for picture in pictures:
                if picture is None:
                    left_out.append(num)
                else:
                    content = picture.tobytes()
                    file.write(content)
                    checksum = zlib.crc32(content, checksum)
                num += 1
            self.about.unlink(missing_ok=True)  # it describes the old file
        about = {"key": key, "shape": shape, "num": num, "left_out": left_out, "checksum": checksum}
        with replacing(self.about) as file:
            file.write(json.dumps(about).encode())

    def check_room(self, num_bytes: int) -> None:
        """Raise :class:`OSError` if the disk has less free space than ``num_bytes``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.path.parent).free
        if num_bytes > free:
            raise OSError(f"the disk has {free / 2**30:.1f} GiB left")
