"""The networks of FastGAN (Liu et al. 2021, https://arxiv.org/abs/2101.04775).

For images whose shorter side is 4 to 7 times 2^3 to 2^8 pixels, such as 32, 64, 256 or 1024. A level is a number of
doublings from the smallest feature map, of 4 x 4 for these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_gans.errors import check_counts, invalid
from lightning_gans.networks.dcgan import initialize, levels

_FACTORS = (16, 8, 4, 2, 2, 1, 1 / 2, 1 / 4, 1 / 8)
"""Channels of the generator at each level, as multiples of its width."""

_PICTURE_LEVEL = 5
"""Level of the picture that the generator adds to larger images, 128 pixels in the paper."""

_FIRST_LEVEL = 6
"""Highest level of the discriminator's residual blocks, 256 pixels in the paper."""


def checked_levels(image_shape: Sequence[int]) -> tuple[tuple[int, int], int]:
    """Return height and width of the smallest map, and the number of doublings; see :func:`levels`.

    Raises:
        SettingError: There are fewer than 3 or more than 8 doublings.
    """
    smallest, doublings = levels(image_shape)
    if not 3 <= doublings <= 8:
        raise invalid("image_shape", tuple(image_shape), "4 to 7 times 2^3 to 2^8 pixels, such as 32, 64, 256 or 1024")
    return smallest, doublings


class SkipLayerExcitation(nn.Module):
    """Skip-layer excitation: scale the channels of a map by numbers from 0 to 1, computed from another map (eq. 1).

    Args:
        in_channels: Channels of the map that the numbers are computed from.
        width: Channels of the map that is scaled.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(4),
            nn.Conv2d(in_channels, width, 4, bias=False),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Map ``(N, in_channels, h, w)`` and ``(N, width, H, W)`` to ``(N, width, H, W)``."""
        scaled: Tensor = target * self.layers(source)
        return scaled


class Noise(nn.Module):
    """Add normal noise, the same in all channels, with a learned strength.

    Training draws it from torch's default generator. In evaluation it is always the same, so that a sample depends only
    on its latents.

    Args:
        size: Height and width.
        seed: Seed of the noise in evaluation.
    """

    fixed: Tensor

    same_on_processes = True
    """Excludes the fixed noise from averaging over processes."""

    def __init__(self, size: Sequence[int], seed: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(1))
        fixed = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(seed), device="cpu")
        self.register_buffer("fixed", fixed, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        noise = torch.randn_like(features[:, :1]) if self.training else self.fixed
        return features + self.strength * noise


def up_block(in_channels: int, width: int, noise_size: Sequence[int] = ()) -> nn.Sequential:
    """Stack nearest-neighbor upsampling, convolution, BatchNorm and a gated linear unit.

    Args:
        in_channels: Number of input channels.
        width: Number of output channels.
        noise_size: Height and width of the result, for a second convolution and for noise before each BatchNorm.
    """
    layers: list[nn.Module] = [nn.Upsample(scale_factor=2)]
    for number in range(2 if noise_size else 1):
        layers.append(nn.Conv2d(in_channels, 2 * width, 3, padding=1, bias=False))
        if noise_size:
            layers.append(Noise(noise_size, number))
        layers += [nn.BatchNorm2d(2 * width), nn.GLU(1)]
        in_channels = width
    return nn.Sequential(*layers)


class FastGANGenerator(nn.Module):
    """Map noise to images in [-1, 1]: one or two convolutions at each size, with skip-layer excitation between sizes.

    The features of 4, 8, 16 and 32 pixels scale the channels at 16 times their size; in images of 64 pixels, those of 4
    and 8 pixels scale the channels at 8 times their size, in images of 32 pixels at 4 times. Blocks with noise and two
    convolutions alternate with blocks of one. Above 128 pixels, a picture of 128 pixels is enlarged and added to the
    image. With 256 pixels, three colors, ``latent_dim=256`` and ``width=64`` there are 29,127,846 weights.

    Args:
        image_shape: ``(C, H, W)`` of the images, from 32 to 1024 pixels.
        latent_dim: Length of the noise vectors.
        width: Channels at 128 pixels; smaller maps have up to 16 times as many, larger ones fewer.

    Raises:
        SettingError: A setting is invalid.

    Example:
        >>> FastGANGenerator((3, 64, 64), 8, width=2)(torch.zeros(2, 8)).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(self, image_shape: Sequence[int], latent_dim: int = 256, width: int = 64) -> None:
        super().__init__()
        check_counts(latent_dim=latent_dim, width=width)
        smallest, doublings = checked_levels(image_shape)
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.reach = min(4, doublings - 1)
        widths = [math.ceil(factor * width) for factor in _FACTORS[: doublings + 1]]
        self.input = nn.Sequential(
            nn.Linear(latent_dim, 2 * widths[0] * math.prod(smallest), bias=False),
            nn.Unflatten(1, (2 * widths[0], *smallest)),
            nn.BatchNorm2d(2 * widths[0]),
            nn.GLU(1),
        )
        self.blocks = nn.ModuleList()
        for level, (old, new) in enumerate(pairwise(widths), 1):
            size = [side * 2**level for side in smallest]
            self.blocks.append(up_block(old, new, size if level % 2 else ()))
        self.excitations = nn.ModuleList(
            SkipLayerExcitation(widths[level], widths[level + self.reach])
            for level in range(min(4, doublings + 1 - self.reach))
        )
        self.output = nn.Conv2d(widths[-1], image_shape[0], 3, padding=1, bias=False)
        self.picture = None
        if doublings > _PICTURE_LEVEL:
            self.picture = nn.Conv2d(widths[_PICTURE_LEVEL], image_shape[0], 1, bias=False)
        initialize(self)

    def forward(self, noise: Tensor) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)``."""
        maps = [self.input(noise)]
        for level, block in enumerate(self.blocks, 1):
            maps.append(block(maps[-1]))
            source = level - self.reach
            if 0 <= source < len(self.excitations):
                maps[level] = self.excitations[source](maps[source], maps[level])
        images: Tensor = self.output(maps[-1])
        if self.picture is not None:
            images = images + F.interpolate(self.picture(maps[_PICTURE_LEVEL]), images.shape[2:])
        return images.tanh()


class Seen(NamedTuple):
    """What the discriminator has of images.

    Attributes:
        images: As they were shown, ``(N, C, H, W)``.
        middle: Features of four times the smallest size, 16 x 16 in the paper.
        last: Features of twice the smallest size, 8 x 8 in the paper.
    """

    images: Tensor
    middle: Tensor
    last: Tensor


class DownBlock(nn.Module):
    """Halve the size in two ways, by two convolutions and by average pooling, and return their mean."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, width, H/2, W/2)``."""
        halved: Tensor = (self.convolutions(features) + self.shortcut(features)) / 2
        return halved


class Head(nn.Module):
    """Map features to logits of overlapping patches. It takes a :class:`Seen`, so that a hook also gets the images."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 2 * in_channels, 1, bias=False),
            nn.BatchNorm2d(2 * in_channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * in_channels, 1, 4, bias=False),
        )

    def forward(self, seen: Seen) -> Tensor:
        """Map the last features ``(N, C, h, w)`` to ``(N, 1, h - 3, w - 3)``."""
        logits: Tensor = self.layers(seen.last)
        return logits


class FastGANDiscriminator(nn.Module):
    """Map images to logits of patches, 5 x 5, and reconstruct images from two of its feature maps.

    Residual blocks halve the size down to 8 x 8, with skip-layer excitation between maps whose sizes differ by the
    factor 8. One decoder makes the image from the last map, another a quarter of the image from a part of the 16 x 16
    map. All convolutions have spectral normalization, except those of the decoders.

    Args:
        image_shape: ``(C, H, W)`` of the images, from 32 to 1024 pixels.
        width: Channels of the features at 64 x 64; smaller maps have up to 8 times as many, larger ones fewer.

    Raises:
        SettingError: A setting is invalid.

    Example:
        >>> FastGANDiscriminator((3, 64, 64), width=2)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 1, 5, 5])
    """

    def __init__(self, image_shape: Sequence[int], width: int = 64) -> None:
        super().__init__()
        check_counts(width=width)
        _, doublings = checked_levels(image_shape)
        self.image_shape = tuple(image_shape)
        channels, first = image_shape[0], min(doublings, _FIRST_LEVEL)
        widths = [math.ceil(16 * width / 2**level) for level in range(doublings + 1)]
        stem: list[nn.Module] = [nn.Conv2d(channels, widths[first], 3, padding=1, bias=False), nn.LeakyReLU(0.2)]
        if doublings > first:
            stem = [nn.Conv2d(channels, widths[doublings - 1], 4, 2, padding=1, bias=False), nn.LeakyReLU(0.2)]
        for level in range(doublings - 1, first, -1):
            stem.append(nn.Conv2d(widths[level], widths[level - 1], 4, 2, padding=1, bias=False))
            stem += [nn.BatchNorm2d(widths[level - 1]), nn.LeakyReLU(0.2)]
        self.stem = nn.Sequential(*stem)
        self.reach = min(3, first - 1)
        pairs = list(pairwise(widths[level] for level in range(first, 0, -1)))
        self.blocks = nn.ModuleList(DownBlock(old, new) for old, new in pairs)
        self.excitations = nn.ModuleList(
            SkipLayerExcitation(widths[level], widths[level - self.reach]) for level in range(first, self.reach, -1)
        )
        # No reconstruction is larger than its target, nor than 16 times its features.
        self.whole = decoder(channels, widths[1], width, min(doublings - 1, 4))
        self.part = decoder(channels, widths[2], width, min(doublings - 2, 4))
        self.head = Head(widths[1])
        initialize(self)
        for part in (self.stem, self.blocks, self.excitations, self.head):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    parametrizations.spectral_norm(layer)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, 1, h, w)``."""
        maps = [self.stem(images)]
        for place, block in enumerate(self.blocks, 1):
            maps.append(block(maps[-1]))
            source = place - self.reach
            if source >= 0:
                maps[place] = self.excitations[source](maps[source], maps[place])
        logits: Tensor = self.head(Seen(images, *maps[-2:]))
        return logits

    def reconstruct(self, seen: Seen, places: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return reconstructions and what they should equal, of the whole images and of a quarter of each.

        Args:
            seen: The input of :attr:`head`.
            places: Where the quarters are, from 0 to 1 of the way down and to the right, ``(N, 2)``.

        Returns:
            Two pairs of images ``(N, C, h, w)``.
        """
        height, width = seen.last.shape[2:]
        offsets = [(places[:, axis] * (side + 1)).long() for axis, side in enumerate((height, width))]
        scale = seen.images.shape[2] // seen.middle.shape[2]
        part = self.part(cropped(seen.middle, offsets, (height, width)))
        quarter = cropped(seen.images, [scale * offset for offset in offsets], (scale * height, scale * width))
        pairs = ((self.whole(seen.last), seen.images), (part, quarter))
        return [(made, F.adaptive_avg_pool2d(target.detach(), made.shape[2:])) for made, target in pairs]


def decoder(channels: int, in_channels: int, width: int, doublings: int) -> nn.Sequential:
    """Stack layers that map features to images in [-1, 1], enlarged by a power of 2."""
    widths = [in_channels, *(math.ceil(factor * width) for factor in (2, 1, 1, 1 / 2)[:doublings])]
    output = nn.Conv2d(widths[-1], channels, 3, padding=1, bias=False)
    return nn.Sequential(*(up_block(old, new) for old, new in pairwise(widths)), output, nn.Tanh())


def cropped(maps: Tensor, offsets: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Return a part of each map.

    Args:
        maps: Shape ``(N, C, H, W)``.
        offsets: First row and first column of each part, two tensors ``(N,)``.
        size: Height and width of the parts.
    """
    rows, columns = (
        offset[:, None] + torch.arange(side, device=maps.device) for offset, side in zip(offsets, size, strict=True)
    )
    images = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps.movedim(1, -1)[images, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
