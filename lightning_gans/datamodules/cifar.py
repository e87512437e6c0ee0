"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from lightning_gans.datamodules.base import ImageDataModule, Split
from lightning_gans.datamodules.downloads import RemoteFile, check_md5, damaged, download
from lightning_gans.errors import DataError
from lightning_gans.io.files import make_folder


class CIFAR10DataModule(ImageDataModule):
    """Photographs, 32x32 in colour, 10 classes (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html).

    50,000 training pictures, of which ``val_size`` validate, and 10,000 test pictures. The files lie as
    torchvision has them, in ``data_dir/cifar-10-batches-py``; a folder that has them works without network
    and without write permission. The archive, ``data_dir/cifar-10-python.tar.gz``, is unpacked there.

    Args:
        data_dir: The folder that holds the folder of batches, or the archive.
        horizontal_flip: Mirror training pictures at random.
        val_size: As in :class:`ImageDataModule`.
        download: Download the archive if it is missing.
        **options: As in :class:`ImageDataModule`.

    Raises:
        DataError: Files are missing and cannot be downloaded, or are damaged.
    """

    image_shape = (3, 32, 32)
    class_names: Sequence[str] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    _source: ClassVar[type[datasets.CIFAR10]] = datasets.CIFAR10  # has the file names, checksums and URL
    _label_key = "labels"

    def __init__(
        self,
        data_dir: str | Path = "data",
        horizontal_flip: bool = False,
        val_size: int | float = 5000,
        download: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, **options)
        self.horizontal_flip = horizontal_flip
        self.download = download
        self._root = Path(data_dir).expanduser()
        self._folder = self._root / self._source.base_folder

    def prepare_data(self) -> None:
        """Unpack the archive if batches are missing, after downloading it if that is missing too."""
        batches = [*self._batches("train"), *self._batches("test")]
        missing = [name for name, _ in batches if not (self._folder / name).is_file()]
        if not missing:
            return
        source = self._source
        archive = self._root / source.filename
        if archive.is_file():
            check_md5(archive, source.tgz_md5)
        else:
            mirror = source.url.removesuffix(source.filename)
            files = [RemoteFile(source.filename, source.tgz_md5, (mirror,))]
            download(files, self._root, expects=source.base_folder, allowed=self.download)
        self._unpack(archive, [*missing, source.meta["filename"]])  # torchvision wants the last one

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read the training or the test pictures."""
        if split == "val":
            return None
        batches = [self._read(*batch) for batch in self._batches(split)]
        images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, *self.image_shape)
        labels = [label for batch in batches for label in batch[self._label_key]]
        return torch.from_numpy(images), torch.tensor(labels)

    def _batches(self, split: Split) -> list[tuple[str, str]]:
        """Return the names and MD5 checksums of a split's files."""
        return [(name, md5) for name, md5 in getattr(self._source, f"{split}_list")]

    def _read(self, name: str, md5: str) -> dict[str, Any]:
        path = self._folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path.absolute()} cannot be read: {error.strerror}.") from None
        # Before unpickling, because a pickle can run any code.
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise damaged(path, f"its md5 is {found}, but should be {md5}")
        batch: dict[str, Any] = pickle.loads(content, encoding="latin1")
        return batch

    def _unpack(self, archive: Path, names: list[str]) -> None:
        """Take files out of the archive; each gets its name only when it is whole."""
        make_folder(self._folder)
        try:
            with (
                tarfile.open(archive) as tar,
                tempfile.TemporaryDirectory(prefix=".unpack-", dir=self._root) as temporary,
            ):
                wanted = {f"{self._source.base_folder}/{name}" for name in names}
                for member in tar:
                    content = tar.extractfile(member) if member.name in wanted else None
                    if content is not None:
                        whole = Path(temporary) / Path(member.name).name
                        with open(whole, "wb") as file:
                            shutil.copyfileobj(content, file)
                        os.replace(whole, self._root / member.name)
                        wanted.remove(member.name)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise damaged(archive, str(error)) from None
        except OSError as error:
            raise DataError(f"{archive.absolute()} cannot be unpacked: {error.strerror or error}.") from None
        if wanted:
            raise damaged(archive, f"it lacks {', '.join(sorted(wanted))}")


class CIFAR100DataModule(CIFAR10DataModule):
    """Photographs, 32x32 in colour, 100 classes, 500 training and 100 test pictures of each.

    The same arguments as :class:`CIFAR10DataModule`; the folder is ``data_dir/cifar-100-python``, the archive
    ``data_dir/cifar-100-python.tar.gz``.
    """

    class_names = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
        "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
        "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup",
        "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
        "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man",
        "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
        "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
        "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew",
        "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower",
        "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor", "train", "trout",
        "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
    )  # fmt: skip
    _source = datasets.CIFAR100
    _label_key = "fine_labels"
