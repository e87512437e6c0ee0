"""Handwritten digits from scikit-learn: a data set without a download."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gans.datamodules.base import ImageDataModule, Split, check_fits
from lightning_gans.errors import check_counts


class DigitsDataModule(ImageDataModule):
    """1,797 handwritten 8x8 digits in 17 gray levels, enlarged to ``(1, image_size, image_size)``, 10 classes.

    They are the test part of the data set of Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998
    (https://doi.org/10.24432/C50P49), which scikit-learn includes, so no network and no folder is needed. There is no
    test split; the validation split is also the test split.

    Args:
        image_size: Height and width; digits are resized with bicubic interpolation.
        val_size: As in :class:`ImageDataModule`.
        **options: As in :class:`ImageDataModule`.
    """

    class_names = tuple("0123456789")
    default_extractor = "digits"

    def __init__(self, image_size: int = 28, val_size: int | float = 197, **options: Any) -> None:
        super().__init__(val_size=val_size, **options)
        check_counts(image_size=image_size)
        check_fits(4 * 1797 * image_size**2, image_size=image_size)
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
