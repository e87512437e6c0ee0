"""Decoded pictures in a file, which is mapped into memory."""

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
    """A file of decoded pictures, and beside it one that says what is in it.

    The second is written last, and holds the first one's checksum.

    Args:
        path: The first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about = path.with_suffix(".json")

    def exists(self) -> bool:
        """Whether something was saved."""
        return self.path.is_file() and self.about.is_file()

    def load(self, key: str, check: bool) -> tuple[np.ndarray, np.ndarray] | None:
        """Return what was saved under the key, or None.

        Args:
            key: What :meth:`save` was given.
            check: Read all of it once and compare its checksum; else its size alone is compared, and the pictures
                cannot be written to.

        Returns:
            The readable pictures, uint8 ``(n, C, H, W)``, and which of all they are, bool ``(N,)``.
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
                raise ValueError(f"it has {self.path.stat().st_size:,} bytes and not {math.prod(shape):,}")
            # As fast as a copy in memory from the second reading on, there at once, and one for all processes. Changes
            # to a set that fits are the process's own ("c"); room for those of a larger one Linux would not promise.
            images = np.memmap(self.path, np.uint8, "c" if check else "r", shape=shape)
            if check and zlib.crc32(images.data) != about["checksum"]:
                raise ValueError("its checksum is another")
            return images, kept
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            warnings.warn(f"{self.path} is damaged ({error}): decoding the pictures anew.", stacklevel=4)
            return None

    def save(self, key: str, shape: tuple[int, int, int], pictures: Iterable[np.ndarray | None]) -> None:
        """Write pictures as they come; None stands for one that is left out."""
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
            self.about.unlink(missing_ok=True)  # which is of the old file
        about = {"key": key, "shape": shape, "num": num, "left_out": left_out, "checksum": checksum}
        with replacing(self.about) as file:
            file.write(json.dumps(about).encode())

    def check_room(self, num_bytes: int) -> None:
        """Raise :class:`OSError` where the disk has no room for so many bytes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.path.parent).free
        if num_bytes > free:
            raise OSError(f"the disk has {free / 2**30:.1f} GiB left")
