"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from lightning_gans.datamodules.base import Split
from lightning_gans.datamodules.torchvision_sets import ORIGINAL, TorchvisionDataModule
from lightning_gans.io.files import reading


class CIFAR10DataModule(TorchvisionDataModule):
    """Photographs, 32x32 in color, 10 classes (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html).

    There are 50,000 training images, of which ``val_size`` are for validation, and 10,000 test images. Torchvision
    downloads the files to ``data_dir/cifar-10-batches-py``; their checksums are verified before they are unpickled. If
    the archive ``data_dir/cifar-10-python.tar.gz`` exists, it is unpacked instead.

    Args:
        data_dir: The folder that holds the folder of batches, or the archive.
        horizontal_flip: Mirror training images at random.
        val_size: As in :class:`ImageDataModule`.
        download: Download the archive if files are missing.
        **options: As in :class:`ImageDataModule`.
    """

    image_shape = (3, 32, 32)
    class_names: Sequence[str] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    _source = datasets.CIFAR10

    def __init__(
        self,
        data_dir: str | Path = "data",
        horizontal_flip: bool = False,
        val_size: int | float = 5000,
        download: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(data_dir, download, val_size=val_size, **options)
        self.horizontal_flip = horizontal_flip

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read the training or the test images."""
        if split == "val":
            return None
        names = [name for name, _ in (self._source.train_list if split == "train" else self._source.test_list)]
        batches = [self._read(path) for path in self._checksums() if path.name in names]
        images = torch.from_numpy(np.concatenate([batch["data"] for batch in batches])).view(-1, 3, 32, 32)
        labels = [label for batch in batches for label in batch.get("labels", batch.get("fine_labels"))]
        return images, torch.tensor(labels)

    def _read(self, path: Path) -> Any:
        with reading(path, *ORIGINAL):
            return pickle.loads(self._verified(path), encoding="latin1")

    def _checksums(self) -> dict[Path, str]:
        source = self._source
        files = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        return {self._root / source.base_folder / name: checksum for name, checksum in files}

    def _unpack(self) -> None:
        packed = self._root / self._source.filename
        with reading(packed, *ORIGINAL), tarfile.open(packed) as archive:
            archive.extractall(self._root, filter="data")


class CIFAR100DataModule(CIFAR10DataModule):
    """Photographs, 32x32 in color, 100 classes, 500 training and 100 test images of each.

    The arguments are those of :class:`CIFAR10DataModule`; the folder is ``data_dir/cifar-100-python``.
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
