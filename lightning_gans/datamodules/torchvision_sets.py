"""Data sets that torchvision downloads and reads."""

from __future__ import annotations

import socket
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from lightning_gans.datamodules.base import ImageDataModule
from lightning_gans.errors import DataError

_TIMEOUT_SECONDS = 10.0  # torchvision sets none, so a network that drops packets would block a run forever


class TorchvisionDataModule(ImageDataModule):
    """The base of data modules whose files torchvision downloads and reads, in torchvision's layout.

    Args:
        data_dir: The folder that holds torchvision's folder.
        download: Download missing files.
        **options: As in :class:`ImageDataModule`.
    """

    _source: ClassVar[Any]  # torchvision's class, with the names, checksums and addresses of the files

    def __init__(self, data_dir: str | Path = "data", download: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.download = download
        self._root = Path(data_dir).expanduser().absolute()

    def prepare_data(self) -> None:
        """Download and unpack what is missing.

        Raises:
            DataError: Files are missing and cannot be downloaded, or a file is damaged.
        """
        self._read(train=False, download=self.download)

    @abstractmethod
    def _files(self) -> list[Path]:
        """Return the unpacked files."""

    @abstractmethod
    def _is_intact(self, path: Path) -> bool:
        """Return whether a file can be read."""

    def _read(self, *, train: bool, download: bool = False) -> Any:
        """Return torchvision's data set."""
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_TIMEOUT_SECONDS)
        try:
            return self._source(self._root, train=train, download=download)
        except Exception as error:  # a reader fails in any way on bytes that it does not expect
            raise self._problem(error, download) from error
        finally:
            socket.setdefaulttimeout(before)

    def _problem(self, error: Exception, download: bool) -> DataError:
        """Return an error that names the file at fault."""
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(".")
        files = self._files()
        folder, missing = files[0].parent, [path.name for path in files if not path.is_file()]
        if missing:
            urls = getattr(self._source, "mirrors", None) or [self._source.url]
            failed = f" and the download failed: {reason}" if download else ", and download is off"
            return DataError(
                f"{folder} lacks {', '.join(missing)}{failed}.\n"
                f"Download them from {' or '.join(urls)}, or set data_dir to the folder that holds "
                f"{folder.relative_to(self._root)}.",
                setting=str(folder),
                value=missing,
            )
        damaged = next((path for path in files if not self._is_intact(path)), folder)
        return DataError(
            f"{damaged} is damaged: {reason}.\nDelete it and start again to download it, or replace it.",
            setting=str(damaged),
        )
