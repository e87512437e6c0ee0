"""The discriminator of SRGAN (Ledig et al. 2017, https://arxiv.org/abs/1609.04802, figure 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from lightning_gans.errors import check_counts, invalid
from lightning_gans.networks.dcgan import initialize
from lightning_gans.networks.normalization import Norm, make_norm

_MOST_PLACES = 6  # on each side, as of 96 pixels in the paper


class SRGANDiscriminator(nn.Module):
    """Eight 3x3 convolutions, of which every second one halves the size, and two dense layers.

    The dense layers get 6 x 6 places, as in the paper, which trains on 96 x 96 pixels. The features of larger images
    are pooled to 6 x 6; those of smaller images are not pooled. With 96 pixels or more, there are 23,565,505 weights.

    Args:
        image_shape: ``(C, H, W)`` of the images, which may have any size.
        width: Channels of the first two convolutions, doubled three times; the dense layer has 16 times as many units.
        norm: Normalization after all convolutions except the first: ``batch``, ``instance`` (for more than 16 x 16
            pixels) or ``none``. BatchNorm mixes the images of a batch, so do not use it with gradient penalties.

    Raises:
        SettingError: A setting is invalid.

    Example:
        >>> import torch
        >>> SRGANDiscriminator((3, 64, 96), width=4)(torch.zeros(2, 3, 64, 96)).shape
        torch.Size([2, 1])
    """

    def __init__(self, image_shape: Sequence[int] = (3, 96, 96), width: int = 64, norm: Norm = "batch") -> None:
        super().__init__()
        check_counts(width=width)
        self.image_shape = tuple(image_shape)
        inputs, *sides = self.image_shape
        layers: list[nn.Module] = []
        for number in range(8):
            outputs, stride = width * 2 ** (number // 2), 1 + number % 2
            normalization = make_norm(norm, outputs) if number else nn.Identity()
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), normalization, nn.LeakyReLU(0.2)]
            inputs = outputs
        places = tuple(min(_MOST_PLACES, math.ceil(side / 16)) for side in sides)
        if norm == "instance" and max(places) == 1:
            raise invalid("norm", norm, "batch or none for images of up to 16 x 16 pixels, as they end in one place")
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(places), nn.Flatten())
        dense = nn.Linear(inputs * math.prod(places), 16 * width)
        self.head = nn.Sequential(dense, nn.LeakyReLU(0.2), nn.Linear(16 * width, 1))
        initialize(self, normalized=norm != "none")

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, 1)``."""
        logits: Tensor = self.head(self.layers(images))
        return logits
