"""Data sets that torchvision downloads."""

from __future__ import annotations

import hashlib
import socket
from abc import abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from lightning_gans.datamodules.base import ImageDataModule
from lightning_gans.errors import DataError
from lightning_gans.io.files import expanded

ORIGINAL = "the original file", "\nDelete it and start again to download it, or replace it."
_TIMEOUT_SECONDS = 10.0  # torchvision sets none, so a network that drops packets would block a run forever


class TorchvisionDataModule(ImageDataModule):
    """The base of data modules whose files torchvision downloads, in torchvision's layout.

    Args:
        data_dir: The folder that holds torchvision's folder.
        download: Download missing files.
        **options: As in :class:`ImageDataModule`.
    """

    _source: ClassVar[Any]  # torchvision's class, with the names, checksums and addresses of the files

    def __init__(self, data_dir: str | Path = "data", download: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.download = download
        self._root = expanded(data_dir).absolute()

    def prepare_data(self) -> None:
        """Unpack or download what is missing.

        Raises:
            DataError: Files are missing and cannot be downloaded, or a file is damaged.
        """
        if not all(path.is_file() for path in self._checksums()):
            with suppress(Exception):  # torchvision downloads what is damaged
                self._unpack()
        missing = [folder for folder in next(iter(self._checksums())).parents if not folder.exists()]
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_TIMEOUT_SECONDS)
        try:
            self._source(self._root, train=False, download=self.download)
        except Exception as error:  # unexpected bytes may raise an error of any type
            for folder in missing:  # torchvision makes them before it downloads
                with suppress(OSError):
                    folder.rmdir()
            self._check_missing(error)
            for path in self._checksums():
                self._read(path)
        finally:
            socket.setdefaulttimeout(before)

    def _check_missing(self, error: Exception) -> None:
        folder = next(iter(self._checksums())).parent
        if missing := [path.name for path in self._checksums() if not path.is_file()]:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(".")
            failed = f" and the download failed: {reason}" if self.download else ", and download is off"
            urls = " or ".join(getattr(self._source, "mirrors", None) or [self._source.url])
            hint = f"set data_dir to the folder that holds {folder.relative_to(self._root)}"
            message = f"{folder} lacks {', '.join(missing)}{failed}.\nDownload them from {urls}, or {hint}."
            raise DataError(message, setting=str(folder), value=missing) from error

    @abstractmethod
    def _checksums(self) -> dict[Path, str]:
        """Return the MD5 checksums of the unpacked files."""

    @abstractmethod
    def _unpack(self) -> None:
        """Unpack existing archives, whatever their own checksums: only those of the content count."""

    @abstractmethod
    def _read(self, path: Path) -> Any:
        """Return what is in a file; raise :class:`DataError` if it is damaged."""

    def _verified(self, path: Path) -> bytes:
        content = path.read_bytes()
        if hashlib.md5(content).hexdigest() != self._checksums()[path]:
            raise ValueError("its checksum differs")
        return content
