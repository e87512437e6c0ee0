"""Downloads that leave a whole file of the right checksum, or none and one clear error."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets.utils import calculate_md5, download_url

from lightning_gans.errors import DataError
from lightning_gans.io.files import make_folder

# torchvision's downloads have none, so a network that swallows packets would hold a run for ever.
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class RemoteFile:
    """A file on the net: its name, its MD5 checksum and the folders (URLs ending in "/") that offer it."""

    name: str
    md5: str
    mirrors: tuple[str, ...]


def download(files: Sequence[RemoteFile], folder: Path, *, expects: str, allowed: bool) -> None:
    """Bring missing files into a folder; each gets its name only when it is whole.

    Args:
        files: What is missing.
        folder: Where it belongs.
        expects: What ``data_dir`` is to hold, for the error message.
        allowed: False: do not touch the network.

    Raises:
        DataError: They cannot be had; the message says where to get them and where to put them.
    """
    if not files:
        return
    lacking = f"{folder.absolute()} lacks {', '.join(file.name for file in files)}"
    remedy = (
        f"Get them from {' or '.join(files[0].mirrors)} and put them there, "
        f"or name the folder that holds {expects} with --data.data_dir."
    )
    if not allowed:
        raise DataError(f"{lacking}, and download is False.\n{remedy}")
    make_folder(folder)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary, _timeout():
        for file in files:
            reason = _download_from_any(file, Path(temporary))
            if reason:
                raise DataError(f"{lacking}; the download failed: {reason}.\n{remedy}")
            os.replace(Path(temporary) / file.name, folder / file.name)


def check_md5(path: Path, md5: str) -> None:
    """Raise :class:`DataError` if a file has another checksum; it is left as it is."""
    found = calculate_md5(path)
    if found != md5:
        raise damaged(path, f"its md5 is {found}, but should be {md5}")


def damaged(path: Path, what: str) -> DataError:
    """Return the error for a file whose content is wrong."""
    return DataError(
        f"{path.absolute()} is damaged: {what}.\n"
        "Delete it and start again to get it anew, or put a whole copy in its place."
    )


def _download_from_any(file: RemoteFile, folder: Path) -> str:
    """Try the mirrors in turn; return an empty string, or why the last one failed."""
    reason = ""
    for mirror in file.mirrors:
        try:
            download_url(mirror + file.name, folder, filename=file.name, md5=file.md5)
        except (OSError, RuntimeError, HTTPException) as error:  # URLError is an OSError
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            reason = f"{mirror}{file.name}: {first_line.rstrip('.')}"
        else:
            return ""
    return reason


@contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
