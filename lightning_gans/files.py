"""Files written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lightning_gans.errors import DataError


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` and rename it to ``path`` when the block ends well.

    The content is on the disk before the name is, so a reader, or a machine that loses power, finds the
    old file or the new one. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: str | Path) -> Path:
    """Return ``path`` if a file of that name can be made; make its folder. To be called before any work.

    Raises:
        DataError: A parent is a file, ``path`` itself is a folder, or the folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the name of a file in it.")
    make_folder(path.parent)
    return path


def make_folder(path: str | Path) -> Path:
    """Make a folder and its parents, with one clear error where that is not possible."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        blocking = next(parent for parent in (path, *path.parents) if parent.exists())
        raise DataError(f"{path} cannot be made: {blocking} is a file, not a folder.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be made: {error.strerror}.") from None
    if not os.access(path, os.W_OK):
        raise DataError(f"{path} cannot be written to.")
    return path
