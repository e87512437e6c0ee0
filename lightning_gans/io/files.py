"""Files written whole or not at all, and read without running anything of them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from lightning_gans.errors import DataError, UnwritableError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a block that writes can meet and is not to blame for."""


@contextmanager
def replacing(path: str | Path, temporary: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` and rename it to ``path`` when the block ends well.

    The content is on the disk before the name is, so a reader, or a machine that loses power, finds the
    old file or the new one. Missing folders are made.

    Args:
        path: The file.
        temporary: Name of the temporary file, in the same folder; by default one that no other process uses.

    Raises:
        UnwritableError: There is no place for the file, or no room.
    """
    path = Path(path)
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    in_block = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            in_block = True
            yield file
            in_block = False
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if (unwritable := _of_the_disk(error, path, in_block)) is not None:
            raise unwritable from error
        raise
    _sync_folder(path.parent)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Make a temporary folder beside ``path`` and rename it to ``path`` when the block ends well.

    Raises:
        DataError: Before the block: there is something of this name that is no empty folder.
        UnwritableError: There is no place for the folder, or no room.
    """
    path = check_free_folder(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    in_block = False
    try:
        temporary.mkdir()
        in_block = True
        yield temporary
        in_block = False
        if hasattr(os, "sync"):  # all files at once: one after the other takes minutes for thousands
            os.sync()
        if path.is_dir():
            path.rmdir()
        os.replace(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if (unwritable := _of_the_disk(error, path, in_block)) is not None:
            raise unwritable from error
        raise
    _sync_folder(path.parent)


def _of_the_disk(error: BaseException, path: Path, in_block: bool) -> UnwritableError | None:
    """Return the error of ours for one that the disk is to blame for; torch raises another from it."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    if not isinstance(error, Exception) or found is None or (in_block and found.errno not in _NO_ROOM):
        return None
    return UnwritableError(path, found)


def _sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # nor do some network file systems sync them
        pass
    finally:
        os.close(descriptor)


def read_tensors(path: str | Path, map_location: Any = "cpu") -> Any:
    """Read what ``torch.save`` has written, without running anything of it.

    Raises:
        DataError: There is no such file, it is damaged, or it holds pickled code.
    """
    path = Path(os.fspath(path))
    if not path.is_file():
        raise DataError(f"{path} does not exist." if not path.exists() else f"{path} is a folder, not a checkpoint.")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        if "global" in str(error).lower():  # what torch calls the names that a pickle wants to be imported
            raise DataError(f"{path} holds pickled code, which is not loaded: it is no checkpoint of ours.") from error
        raise DataError(f"{path} is no checkpoint, or a damaged one.") from error
    except MemoryError:
        raise
    except Exception as error:  # the reader of pickles fails in every way on bytes that are none
        raise DataError(f"{path} is no checkpoint, or a damaged one.") from error


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


def check_free_folder(path: str | Path) -> Path:
    """Return ``path``, absolute, if a folder of that name can be made; make its parent. To be called before any work.

    Raises:
        DataError: There is a file of this name or a folder with something in it, or the parent cannot be written to.
    """
    path = Path(path).absolute()
    if path.is_dir() and any(path.iterdir()):
        raise DataError(f"{path} is a folder with files in it: name a new one.")
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file, not a folder.")
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
