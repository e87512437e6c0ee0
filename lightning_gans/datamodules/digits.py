"""Handwritten digits from scikit-learn: a data set without a download."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gans.datamodules.base import ImageDataModule, Split
from lightning_gans.errors import check_positive


class DigitsDataModule(ImageDataModule):
    """1,797 handwritten digits in 17 gray levels, 8x8, enlarged to ``(1, image_size, image_size)``, 10 classes.

    The test part of the data set of Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998
    (https://doi.org/10.24432/C50P49), as scikit-learn includes it. It needs no network and no folder. There is no test
    split; the validation split is also the test split.

    Args:
        image_size: Height and width; digits are resized with bicubic interpolation.
        val_size: As in :class:`ImageDataModule`.
        **options: As in :class:`ImageDataModule`.
    """

    class_names = tuple("0123456789")

    def __init__(self, image_size: int = 28, val_size: int | float = 197, **options: Any) -> None:
        super().__init__(val_size=val_size, **options)
        check_positive(image_size=image_size)
        self.image_shape = (1, image_size, image_size)

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read all digits as the training split."""
        if split != "train":
            return None
        from sklearn.datasets import load_digits  # scikit-learn takes a second to import

        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
        images = F.interpolate(images, self.image_shape[1:], mode="bicubic", align_corners=False)
        return images.clamp(0, 1).mul(255).round().byte(), torch.from_numpy(digits.target).long()
