"""Paths, atomic writing of files and folders, and safe reading."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, TypeVar

from lightning_gans.errors import DataError, LightningGansError, UnwritableError, first_line, invalid

_Made = TypeVar("_Made")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of the disk, which may be raised while a block writes."""
_PREFIX, _STALE_SECONDS = ".lightning_gans-", 3600


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` expanded; use it for every setting that is a path.

    Raises:
        DataError: The path is empty or an address such as ``s3://bucket``, or the system rejects it or denies access.
    """
    try:
        if str(path) == "":
            raise ValueError("it is empty")
        if "://" in str(path):
            raise ValueError("it is an address, not a local path")
        found = Path(path).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            found.lstat()
        return found
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be used as a path: {reason}.", setting=str(path)) from None


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file next to ``path`` and rename it to ``path`` if the block succeeds.

    The content is synchronized to the disk before the rename, so that a crash leaves either the complete old file or
    the complete new one. Missing folders are created.

    Raises:
        UnwritableError: The file cannot be created, or the disk is full.
    """
    path = expanded(path)
    if path.exists() and not path.is_file():
        raise UnwritableError(path, OSError(errno.EEXIST, "It exists and is not a regular file"))
    with _renamed(path, lambda temporary: open(temporary, "x+b")) as file, file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Create a temporary folder next to ``path`` and rename it to ``path`` if the block succeeds.

    Raises:
        DataError: ``path`` exists and is not an empty folder; raised before the block.
        UnwritableError: The folder cannot be created, or the disk is full.
    """
    path = check_free_folder(path)

    def make(temporary: Path) -> Path:
        temporary.mkdir()
        return temporary

    with _renamed(path, make) as folder:
        yield folder
        if hasattr(os, "sync"):  # all files at once: thousands one by one take minutes
            os.sync()


@contextmanager
def _renamed(path: Path, make: Callable[[Path], _Made]) -> Iterator[_Made]:
    """Make something under a random name next to ``path``, and rename it to ``path`` if the block succeeds."""
    with _unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        temporary = path.parent / f"{_PREFIX}{secrets.token_hex(8)}.tmp"
        made = make(temporary)
    try:
        yield made
        with _unwritable(path):
            if path.is_dir():
                path.rmdir()
            os.replace(temporary, path)
    except BaseException as error:
        _remove(temporary)
        found: BaseException | None = error  # torch wraps the disk's error in another one
        while found is not None and not isinstance(found, OSError):
            found = found.__cause__ or found.__context__
        if isinstance(error, Exception) and found is not None and found.errno in _DISK_ERRORS:
            raise UnwritableError(path, found) from error
        raise
    _sync_folder(path.parent)


@contextmanager
def _unwritable(path: Path) -> Iterator[None]:
    """Turn errors of the system into :class:`UnwritableError`."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(path, error) from error


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if possible."""
    with suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _remove_stale(folder: Path) -> None:
    """Remove temporary files and folders that killed processes of this user left, unchanged for an hour."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    for path in folder.glob(f"{_PREFIX}*.tmp"):
        with suppress(OSError):
            found = path.lstat()
            if found.st_uid == user and time.time() - found.st_mtime > _STALE_SECONDS:
                _remove(path)


def _sync_folder(folder: Path) -> None:
    """Synchronize the entries of a folder to the disk, if the system can."""
    with suppress(OSError):  # Windows cannot open folders, some network file systems cannot synchronize them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def reading(path: str | Path, what: str, hint: str = "") -> Iterator[None]:
    """Turn any error that a parser raises inside the block into one that names the file.

    Args:
        path: The file.
        what: What it should be, such as ``"a picture"``.
        hint: What to do about it, if that is not obvious.

    Raises:
        DataError: The file is missing, is not a regular file (a FIFO would block), or the block raises.
    """
    if not os.path.isfile(path):
        problem = "is not a regular file" if os.path.exists(path) else "does not exist"
        raise DataError(f"{path} {problem}.", setting=str(path))
    try:
        yield
    except LightningGansError:
        raise
    except Exception as error:  # parsers raise errors of any type for bytes that they do not expect
        raise DataError(
            f"{path} is not {what}, or is damaged: {first_line(error)}.{hint}", setting=str(path)
        ) from error


def read_tensors(path: str | Path, map_location: Any = "cpu") -> Any:
    """Read a file written by ``torch.save`` without running code from it.

    Raises:
        DataError: The file is missing, damaged, or contains pickled code.
    """
    import torch  # here, as `report` and `compare` need no torch

    path = expanded(path)
    with reading(path, "a checkpoint"):
        _check_sums(path)
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except UnpicklingError as error:
            if "global" in str(error).lower():  # torch's word for the names that a pickle imports
                message = f"{path} contains pickled code, which is not loaded: it is not a lightning_gans checkpoint."
                raise DataError(message, setting=str(path)) from error
            raise ValueError("torch cannot unpickle it") from error  # torch's own message advises to run its code


def _check_sums(path: Path) -> None:
    """Raise ``ValueError`` if a part of a file of ``torch.save`` is not what was written; ``torch.load`` does not look.

    Files of older versions are no ZIP files, and checksums can be switched off in torch; then all are 0.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            stored = all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
            if stored and any(part.CRC for part in archive.infolist()) and (wrong := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {wrong} is wrong")


def check_suffix(name: str, suffixes: Sequence[str] = (".png",), option: str = "--output") -> Path:
    """Return the path of a file with one of the suffixes; raise before any work if it cannot be written."""
    if Path(name).suffix not in suffixes:
        raise invalid(option, name, f"a name that ends in {' or '.join(suffixes)}")
    return check_writable(name)


def check_writable(path: str | Path) -> Path:
    """Return the expanded ``path`` if a file can be created there. Call it before any work.

    Raises:
        DataError: A parent is a file, ``path`` is a folder or a device, or the folder is not writable.
    """
    path = expanded(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the name of a file in it.", setting=str(path))
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a regular file.", setting=str(path))
    _check_folder(path.parent)
    return path


def check_free_folder(path: str | Path) -> Path:
    """Return the absolute ``path`` if a folder can be created there. Call it before any work.

    Raises:
        DataError: ``path`` is a file, the working folder, or a folder that is not empty, or its parent is not writable.
    """
    path = expanded(path).absolute()
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file, not a folder.", setting=str(path))
    if path.is_dir() and (any(path.iterdir()) or path.samefile(os.curdir)):
        problem = "the working folder" if path.samefile(os.curdir) else "a folder with files in it"
        raise DataError(f"{path} is {problem}: name a new one.", setting=str(path))
    _check_folder(path.parent)
    return path


def _check_folder(path: Path) -> None:
    """Raise :class:`DataError` if files cannot be created in a folder, which may not exist yet."""
    blocking = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not blocking.is_dir():
        message = f"{path} cannot be created: {blocking} is a file, not a folder."
        raise DataError(message, setting=str(path), value=str(blocking))
    if not os.access(blocking, os.W_OK):
        raise DataError(
            f"{path} cannot be created: {blocking} is not writable.", setting=str(path), value=str(blocking)
        )


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents; raise :class:`DataError` if that is impossible."""
    path = expanded(path)
    _check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be created: {error.strerror}.", setting=str(path)) from None
    return path
