"""Sprites drawn by code: images of which all factors of variation are known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from lightning_gans.datamodules.base import ImageDataModule, Split, check_fits
from lightning_gans.errors import invalid, is_whole


class DSpritesDataModule(ImageDataModule):
    """White sprites on black, one image for each combination of five factors; 3 classes, the shapes.

    The factors are those of dSprites (Matthey et al. 2017, https://github.com/google-deepmind/dsprites-dataset): 3
    shapes (square, ellipse, heart), 6 scales from 0.5 to 1, 40 orientations from 0 to 2π, 32 horizontal and 32 vertical
    positions, one pixel apart: 737,280 images of 64x64 in the same order. The sprites are drawn here, so their pixels
    are not those of the published file. Smaller images have as many positions as half their size.

    :meth:`factors` returns the factors of a split's images, as :class:`~lightning_gans.metrics.MutualInformationGap`
    takes them. There is no test split; the validation split is also the test split.

    Args:
        image_size: Height and width, a multiple of 4 from 16 on. The images take 3 GB of memory at 64 and 190 MB at 32.
        val_size: As in :class:`ImageDataModule`.
        **options: As in :class:`ImageDataModule`.
    """

    class_names = ("square", "ellipse", "heart")
    factor_names = ("shape", "scale", "orientation", "x", "y")

    def __init__(self, image_size: int = 64, val_size: int | float = 0.1, **options: Any) -> None:
        super().__init__(val_size=val_size, **options)
        if not is_whole(image_size) or image_size < 16 or image_size % 4:
            raise invalid("image_size", image_size, "a multiple of 4, at least 16")
        self.image_shape = (1, image_size, image_size)
        self.factor_sizes = (3, 6, 40, image_size // 2, image_size // 2)
        check_fits(math.prod(self.factor_sizes) * image_size**2, image_size=image_size)

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Draw all images as the training split."""
        if split != "train":
            return None
        size, positions = self.image_shape[-1], self.factor_sizes[-1]
        sprites = self._draw_sprites()
        images = torch.empty(len(sprites), positions, positions, size, size, dtype=torch.uint8)
        for x, y in itertools.product(range(positions), repeat=2):
            # The further left the window, the further right the sprite.
            left, top = positions - 1 - x, positions - 1 - y
            images[:, x, y] = sprites[:, top : top + size, left : left + size]
        return images.view(-1, *self.image_shape), self._factor_table()[:, 0]

    def factors(self, split: Split) -> Tensor:
        """Return the factors of the images of a split in the order of :meth:`images`, int64 ``(N, 5)``.

        The values of a factor are 0, 1, …; ``factor_names`` and ``factor_sizes`` say which and how many.
        """
        return self._factor_table()[self._split(split)[1]]

    def _factor_table(self) -> Tensor:
        return torch.cartesian_prod(*map(torch.arange, self.factor_sizes))

    def _draw_sprites(self) -> Tensor:
        """Draw each shape, scale and orientation in the middle of a picture, uint8 ``(720, W, W)``."""
        radius = self.image_shape[-1] // 4  # of the largest sprite
        _, scales, orientations = self.factor_sizes[:3]
        scale = torch.linspace(0.5, 1, scales)[:, None, None, None]
        angle = torch.linspace(0, 2 * math.pi, orientations)[:, None, None]
        axis = torch.arange(-3 * radius + 1, 3 * radius) / radius
        x, y = axis / scale, -axis[:, None] / scale
        x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
        # Each shape lies within a circle of radius 1.
        square = torch.maximum(x.abs(), y.abs()) <= math.sqrt(0.5)
        ellipse = x**2 + (y / 0.6) ** 2 <= 1
        x, y = 1.45 * x, 1.45 * y
        heart = (x**2 + y**2 - 1) ** 3 <= x**2 * y**3
        return torch.stack([square, ellipse, heart]).flatten(0, 2).byte() * 255
