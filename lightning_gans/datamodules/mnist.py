"""MNIST and Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import datasets
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from lightning_gans.datamodules.base import Binarization, Split
from lightning_gans.datamodules.torchvision_sets import TorchvisionDataModule
from lightning_gans.errors import check_choice, check_positive


class MNISTDataModule(TorchvisionDataModule):
    """Handwritten digits, 28x28 gray, 10 classes (LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/).

    60,000 training images, of which ``val_size`` validate, and 10,000 test images. Torchvision downloads and reads the
    files, ``data_dir/MNIST/raw/train-images-idx3-ubyte`` and so on. It unpacks packed ones (``.gz``) that are there.

    Args:
        data_dir: The folder that holds ``MNIST/raw``.
        image_size: Height and width. 32 pads with black; other sizes resize, bilinearly and antialiased.
        val_size: As in :class:`ImageDataModule`.
        download: Download missing files.
        binarization: Draw each pixel black or white, with its gray level as the probability, as likelihoods of
            black-and-white digits need. ``static`` draws once, with a fixed seed (not the file of Larochelle & Murray
            2011); ``dynamic`` draws again in each training epoch, and like ``static`` for validation and test.
            :meth:`images` stays gray.
        **options: As in :class:`ImageDataModule`.

    Raises:
        DataError: Files are missing and cannot be downloaded, or are damaged.
    """

    class_names = tuple("0123456789")
    _source = datasets.MNIST

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
        check_positive(image_size=image_size)
        check_choice("binarization", binarization, ("none", "static", "dynamic"))
        self.binarization = binarization
        self.image_shape = (1, image_size, image_size)

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read the training or the test images."""
        if split == "val":
            return None
        digits = self._read(train=split == "train")
        return resize(digits.data.unsqueeze(1), self.image_shape[-1]), digits.targets

    def _files(self) -> list[Path]:
        folder = self._root / self._source.__name__ / "raw"
        return [folder / name.removesuffix(".gz") for name, _ in self._source.resources]

    def _is_intact(self, path: Path) -> bool:
        try:
            read_sn3_pascalvincent_tensor(str(path))
        except Exception:
            return False
        return True


class FashionMNISTDataModule(MNISTDataModule):
    """Images of clothes, 28x28 gray, 10 classes (Xiao et al. 2017, https://arxiv.org/abs/1708.07747).

    The numbers, files and arguments are those of :class:`MNISTDataModule`; the folder is
    ``data_dir/FashionMNIST/raw``.
    """

    class_names = tuple(datasets.FashionMNIST.classes)
    _source = datasets.FashionMNIST


def resize(images: Tensor, size: int) -> Tensor:
    """Resize 28x28 images, uint8 ``(N, 1, 28, 28)``."""
    if size == images.shape[-1]:
        return images
    if size == 32 and images.shape[-1] == 28:
        return F.pad(images, (2, 2, 2, 2))
    # In pieces: 60,000 images as floats take gigabytes.
    pieces = [
        F.interpolate(piece.float(), (size, size), mode="bilinear", antialias=True, align_corners=False).round_().byte()
        for piece in torch.split(images, 4096)
    ]
    return torch.cat(pieces)
