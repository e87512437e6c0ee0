"""MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import datasets

from lightning_gans.datamodules.base import Binarization, ImageDataModule, Split
from lightning_gans.datamodules.downloads import RemoteFile, check_md5, damaged, download
from lightning_gans.errors import DataError, check_choice, check_positive


class MNISTDataModule(ImageDataModule):
    """Handwritten digits, 28x28 grey, 10 classes (LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/).

    60,000 training pictures, of which ``val_size`` validate, and 10,000 test pictures. The files lie as
    torchvision has them, ``data_dir/MNIST/raw/train-images-idx3-ubyte`` and so on; the packed ones (``.gz``)
    are read as they are, so a folder that has either works without network and without write permission.

    Args:
        data_dir: The folder that holds ``MNIST/raw``.
        image_size: Height and width. 32 pads with black; others resize, bilinearly and antialiased.
        val_size: As in :class:`ImageDataModule`.
        download: Download missing files.
        binarization: Draw each pixel black or white, with its grey level as the probability, as likelihoods of
            black and white digits need: ``static`` once and for all (by a seed of its own: not the file of
            Larochelle & Murray 2011), ``dynamic`` anew in each epoch of training, validation and test as with
            ``static``. :meth:`images` stays grey.
        **options: As in :class:`ImageDataModule`.

    Raises:
        DataError: Files are missing and cannot be downloaded, or are damaged.
    """

    class_names = tuple("0123456789")
    _source: ClassVar[type[datasets.MNIST]] = datasets.MNIST  # has the file names, checksums and mirrors

    def __init__(
        self,
        data_dir: str | Path = "data",
        image_size: int = 28,
        val_size: int | float = 5000,
        download: bool = True,
        binarization: Binarization = "none",
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, **options)
        check_positive(image_size=image_size)
        check_choice("binarization", binarization, ("none", "static", "dynamic"))
        self.binarization = binarization
        self.image_shape = (1, image_size, image_size)
        self.download = download
        self._folder = Path(data_dir).expanduser() / self._source.__name__ / "raw"

    def prepare_data(self) -> None:
        """Download what is missing; check what lies there packed."""
        missing = []
        for name, md5 in self._source.resources:
            packed = self._folder / name
            if packed.with_suffix("").is_file():
                continue
            if packed.is_file():
                check_md5(packed, md5)
            else:
                missing.append(RemoteFile(name, md5, tuple(self._source.mirrors)))
        expects = f"{self._source.__name__}/raw"
        download(missing, self._folder, expects=expects, allowed=self.download)

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read the training or the test pictures."""
        if split == "val":
            return None
        prefix = "train" if split == "train" else "t10k"
        images = read_idx(self._folder / f"{prefix}-images-idx3-ubyte", num_dims=3)
        labels = read_idx(self._folder / f"{prefix}-labels-idx1-ubyte", num_dims=1)
        if len(images) != len(labels):
            raise DataError(
                f"{self._folder.absolute()} has {len(images)} {prefix} pictures, but {len(labels)} labels.\n"
                f"Delete its {prefix}-* files and start again to get them anew."
            )
        return resize(images.unsqueeze(1), self.image_shape[-1]), labels.long()


class FashionMNISTDataModule(MNISTDataModule):
    """Pictures of clothes, 28x28 grey, 10 classes (Xiao et al. 2017, https://arxiv.org/abs/1708.07747).

    The same numbers, files and arguments as :class:`MNISTDataModule`, in ``data_dir/FashionMNIST/raw``.
    """

    class_names = tuple(datasets.FashionMNIST.classes)
    _source = datasets.FashionMNIST


def read_idx(path: Path, num_dims: int) -> Tensor:
    """Read a uint8 tensor from an IDX file, or from the packed one (``.gz``) beside it.

    The format (http://yann.lecun.com/exdb/mnist/): two zero bytes, 8 for uint8, the number of dimensions,
    each dimension as a big-endian 32-bit integer, the values.

    Raises:
        DataError: The file is missing, truncated or of another kind.
    """
    if not path.is_file():
        path = path.with_name(f"{path.name}.gz")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, str(error)) from None
    except OSError as error:
        raise DataError(f"{path.absolute()} cannot be read: {error.strerror}.") from None
    header = 4 + 4 * num_dims
    if content[:4] != bytes([0, 0, 8, num_dims]) or len(content) < header:
        raise damaged(path, "it is no IDX file of this kind")
    shape = np.frombuffer(content, ">i4", count=num_dims, offset=4).tolist()
    if len(content) != header + math.prod(shape):
        raise damaged(path, f"it should have {header + math.prod(shape)} bytes, but has {len(content)}")
    # Copied, because torch warns of memory that it may not write to.
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def resize(images: Tensor, size: int) -> Tensor:
    """Bring 28x28 pictures, uint8 ``(N, 1, 28, 28)``, to another size."""
    if size == images.shape[-1]:
        return images
    if size == 32 and images.shape[-1] == 28:
        return F.pad(images, (2, 2, 2, 2))
    # In pieces: 60,000 pictures as floats would take gigabytes.
    pieces = [
        F.interpolate(piece.float(), (size, size), mode="bilinear", antialias=True, align_corners=False).round_().byte()
        for piece in torch.split(images, 4096)
    ]
    return torch.cat(pieces)
