"""Atomic writing of files and folders, and safe reading of tensors."""

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
"""Errors of a full disk, which may be raised while a block writes."""


@contextmanager
def replacing(path: str | Path, temporary: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` and rename it to ``path`` if the block succeeds.

    The content is synchronized to the disk before the rename, so that after a crash there is the old file or the new
    one, each whole. Missing folders are created.

    Args:
        path: The file.
        temporary: The temporary file, in the same folder; by default a name that no other process uses.

    Raises:
        UnwritableError: The file cannot be created, or the disk is full.
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
    """Create a temporary folder beside ``path`` and rename it to ``path`` if the block succeeds.

    Raises:
        DataError: ``path`` exists and is not an empty folder; raised before the block.
        UnwritableError: The folder cannot be created, or the disk is full.
    """
    path = check_free_folder(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    in_block = False
    try:
        temporary.mkdir()
        in_block = True
        yield temporary
        in_block = False
        if hasattr(os, "sync"):  # all files at once: thousands one by one take minutes
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
    """Return an :class:`UnwritableError` for an error of the disk, also if torch has raised another one from it."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    if not isinstance(error, Exception) or found is None or (in_block and found.errno not in _NO_ROOM):
        return None
    return UnwritableError(path, found)


def _sync_folder(folder: Path) -> None:
    """Synchronize the entries of a folder to the disk, if the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot synchronize them
        pass
    finally:
        os.close(descriptor)


def read_tensors(path: str | Path, map_location: Any = "cpu") -> Any:
    """Read a file written by ``torch.save`` without running code from it.

    Raises:
        DataError: The file is missing, damaged, or contains pickled code.
    """
    path = Path(os.fspath(path))
    if not path.is_file():
        message = f"{path} is a folder, not a checkpoint." if path.exists() else f"{path} does not exist."
        raise DataError(message, setting=str(path))
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        if "global" in str(error).lower():  # torch's word for the names that a pickle imports
            message = f"{path} contains pickled code, which is not loaded: it is not a lightning_gans checkpoint."
            raise DataError(message, setting=str(path)) from error
        raise _not_a_checkpoint(path) from error
    except MemoryError:
        raise
    except Exception as error:  # unpickling other bytes raises errors of any type
        raise _not_a_checkpoint(path) from error


def _not_a_checkpoint(path: Path) -> DataError:
    return DataError(f"{path} is not a checkpoint, or is damaged.", setting=str(path))


def check_writable(path: str | Path) -> Path:
    """Return ``path`` if a file can be created there, and create its folder. Call it before any work.

    Raises:
        DataError: A parent is a file, ``path`` is a folder, or the folder is not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the name of a file in it.", setting=str(path))
    make_folder(path.parent)
    return path


def check_free_folder(path: str | Path) -> Path:
    """Return the absolute ``path`` if a folder can be created there, and create its parent. Call it before any work.

    Raises:
        DataError: ``path`` is a file or a folder that is not empty, or its parent is not writable.
    """
    path = Path(path).absolute()
    if path.is_dir() and any(path.iterdir()):
        raise DataError(f"{path} is a folder with files in it: name a new one.", setting=str(path))
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file, not a folder.", setting=str(path))
    make_folder(path.parent)
    return path


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents; raise :class:`DataError` if that is impossible."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        blocking = next(parent for parent in (path, *path.parents) if parent.exists())
        message = f"{path} cannot be created: {blocking} is a file, not a folder."
        raise DataError(message, setting=str(path), value=str(blocking)) from None
    except OSError as error:
        raise DataError(f"{path} cannot be created: {error.strerror}.", setting=str(path)) from None
    if not os.access(path, os.W_OK):
        raise DataError(f"{path} is not writable.", setting=str(path))
    return path
