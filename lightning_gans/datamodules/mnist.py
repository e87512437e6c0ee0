"""MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from lightning_gans.datamodules.base import Binarization, Split, check_fits
from lightning_gans.datamodules.torchvision_sets import ORIGINAL, TorchvisionDataModule
from lightning_gans.errors import check_choice, check_counts
from lightning_gans.io.files import reading, replacing

_SIZES = {  # in bytes
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


class MNISTDataModule(TorchvisionDataModule):
    """Handwritten digits, 28x28 gray, 10 classes (LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/).

    There are 60,000 training images, of which ``val_size`` are for validation, and 10,000 test images. Torchvision
    downloads and reads the files, ``data_dir/MNIST/raw/train-images-idx3-ubyte`` and so on; compressed files (``.gz``)
    in that folder are unpacked. A file of the original size must have the original checksum. A file of another size
    counts as custom data and is not checked.

    Args:
        data_dir: The folder that holds ``MNIST/raw``.
        image_size: Height and width. 32 pads with black; other sizes resize, bilinearly and antialiased.
        val_size: As in :class:`ImageDataModule`.
        download: Download missing files.
        binarization: Draw each pixel black or white, with its gray level as the probability, as likelihoods of
            black-and-white digits need. ``static`` draws once, with a fixed seed (this is not the file of Larochelle &
            Murray 2011); ``dynamic`` draws again in each training epoch, but is the same as ``static`` in validation
            and test. :meth:`images` returns gray images.
        **options: As in :class:`ImageDataModule`.
    """

    class_names = tuple("0123456789")
    _source = datasets.MNIST
    _md5: ClassVar[tuple[str, ...]] = (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )

    def __init__(
        self,
        data_dir: str | Path = "data",
        image_size: int = 28,
        val_size: int | float = 5000,
        download: bool = True,
        binarization: Binarization = "none",
        **options: Any,
    ) -> None:
        super().__init__(data_dir, download, val_size=val_size, **options)
        check_counts(image_size=image_size)
        check_fits(70_000 * image_size**2, image_size=image_size)
        check_choice("binarization", binarization, ("none", "static", "dynamic"))
        self.binarization = binarization
        self.image_shape = (1, image_size, image_size)

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read the training or the test images."""
        if split == "val":
            return None
        prefix = "train" if split == "train" else "t10k"
        images, labels = (self._read(path) for path in self._checksums() if path.name.startswith(prefix))
        return resize(images.unsqueeze(1), self.image_shape[-1]), labels

    def _read(self, path: Path) -> Tensor:
        with reading(path, *ORIGINAL):
            if path.stat().st_size == _SIZES[path.name]:
                self._verified(path)
            tensor: Tensor = (read_image_file if "images" in path.name else read_label_file)(str(path))
            if 0 in tensor.shape:
                raise ValueError("it is empty")
            return tensor

    def _checksums(self) -> dict[Path, str]:
        folder = self._root / self._source.__name__ / "raw"
        return dict(zip(map(folder.joinpath, _SIZES), self._md5, strict=True))

    def _unpack(self) -> None:
        for path in self._checksums():
            packed = f"{path}.gz"
            if not path.exists():
                with reading(packed, *ORIGINAL), gzip.open(packed) as source, replacing(path) as file:
                    shutil.copyfileobj(source, file)


class FashionMNISTDataModule(MNISTDataModule):
    """Images of clothes, 28x28 gray, 10 classes (Xiao et al. 2017, https://arxiv.org/abs/1708.07747).

    The numbers, files and arguments are those of :class:`MNISTDataModule`; the folder is
    ``data_dir/FashionMNIST/raw``.
    """

    class_names = tuple(datasets.FashionMNIST.classes)
    _source = datasets.FashionMNIST
    _md5 = (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )


def resize(images: Tensor, size: int) -> Tensor:
    """Resize 28x28 images, uint8 ``(N, 1, 28, 28)``."""
    if size == images.shape[-1]:
        return images
    if size == 32 and images.shape[-1] == 28:
        return F.pad(images, (2, 2, 2, 2))
    # In pieces, because 60,000 images as floats take gigabytes.
    pieces = [
        F.interpolate(piece.float(), (size, size), mode="bilinear", antialias=True, align_corners=False).round_().byte()
        for piece in torch.split(images, 4096)
    ]
    return torch.cat(pieces)
