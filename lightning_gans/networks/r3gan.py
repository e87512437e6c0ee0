"""Residual networks without normalization, after R3GAN (Huang et al. 2024, https://arxiv.org/abs/2501.05441).

An image of 4 x 2^n or 7 x 2^n pixels has n + 1 stages, one for each size on the way. ``widths`` and ``blocks``
have one entry a stage, from the smallest size to the full one, in both networks. ``patch_size`` is not the paper's:
where it is 2, say, the networks work on images of half the size, whose channels are the pixels of a 2 x 2 patch. What
the largest size costs, which is most of it, is saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import SettingError, are_counts, check_counts, shown
from lightning_gans.networks.conditioning import check_labels, look_up
from lightning_gans.networks.dcgan import levels

SLOPE = 0.2
"""Of the LeakyReLUs, below zero."""


def draw(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> None:
    """Draw weights from N(0, gain²/fan_in), ``fan_in`` being the inputs of one output: those of its group. No bias."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, as the matrix product over the channels that it is.

    It is differentiated twice in a gradient penalty: twice a matrix product costs less there than a
    convolution's second derivative. What it returns lies in memory as ``(N, H, W, C)``.
    """

    def __init__(self, width: int, new_width: int, bias: bool = False) -> None:
        super().__init__(width, new_width, 1, bias=bias)
        draw(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, width, H, W)`` to ``(N, new_width, H, W)``."""
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class Block(nn.Module):
    """A residual bottleneck: 1x1 to more channels, 3x3 in groups, 1x1 back, and the input added.

    Biases stand before the LeakyReLUs alone. The last convolution is zero at first, so that the block is the
    identity; the others are drawn smaller the more blocks there are, so that the first updates change the whole
    network's output by as much for any depth (Zhang et al. 2019, arXiv:1901.09321, with three layers in a branch).

    Args:
        width: Channels of the input and of the output.
        group_width: Channels in a group of the 3x3 convolution; one group where there are fewer in all.
        expansion: Channels between, for each of ``width``.
        depth: Blocks in the whole network.
    """

    def __init__(self, width: int, group_width: int = 16, expansion: int = 2, depth: int = 1) -> None:
        super().__init__()
        check_counts(group_width=group_width, expansion=expansion)
        inner = width * expansion
        group_width = min(group_width, inner)
        if inner % group_width:
            raise SettingError(
                f"group_width is {group_width}: it must divide the {inner} channels (width {width} times "
                f"expansion {expansion}) between a block's convolutions."
            )
        self.expand = Pointwise(width, inner, bias=True)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group_width)
        self.project = Pointwise(inner, width)
        gain = math.sqrt(2 / (1 + SLOPE**2)) * depth**-0.25
        draw(self.expand, gain)
        draw(self.mix, gain)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, width, H, W)`` to the same shape."""
        inner = F.leaky_relu(self.mix(F.leaky_relu(self.expand(x), SLOPE)), SLOPE)
        projected: Tensor = self.project(inner)
        return x + projected


class _Resample(nn.Module):
    """Has the FIR filter [1, 3, 3, 1] in both directions, normalized to 1; beyond the border are zeros."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None], persistent=False)

    def filters(self, x: Tensor) -> Tensor:
        """Return the filter for each channel, ``(C, 1, 4, 4)``."""
        return self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)


class Upsample(_Resample):
    """Double height and width, with the filter's gain of 4 that makes up for the zeros between the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C, 2H, 2W)``."""
        return F.conv_transpose2d(x, self.filters(x) * 4, stride=2, padding=1, groups=x.shape[1])


class Downsample(_Resample):
    """Halve height and width."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C, H/2, W/2)``."""
        return F.conv2d(x, self.filters(x), stride=2, padding=1, groups=x.shape[1])


def in_patches(image_shape: Sequence[int], patch_size: int) -> tuple[int, int, int]:
    """Return the shape of images of which every patch has become a pixel with as many channels as it had values.

    Raises:
        SettingError: The image cannot be cut into such patches, or there are not as many as :func:`levels` takes.
    """
    check_counts(patch_size=patch_size)
    channels, height, width = image_shape
    if height % patch_size or width % patch_size:
        raise SettingError(f"patch_size is {patch_size}: it must divide the image's {height} x {width} pixels.")
    shape = channels * patch_size**2, height // patch_size, width // patch_size
    try:
        levels(shape)
    except SettingError as error:
        if patch_size == 1:
            raise
        raise SettingError(
            f"patch_size is {patch_size}: the image's {height} x {width} pixels are {shape[1]} x {shape[2]} such "
            "patches, and must be 8, 16, 32 … or 14, 28, 56 … of them square."
        ) from error
    return shape


class Stage(NamedTuple):
    """The blocks at one size, and their width."""

    width: int
    blocks: list[nn.Module]


def make_stages(
    image_shape: Sequence[int], widths: Sequence[int], blocks: int | Sequence[int], group_width: int, expansion: int
) -> list[Stage]:
    """Make the blocks of each stage, from the smallest size to the full one.

    Raises:
        SettingError: The sizes do not fit the image or each other.
    """
    side, doublings = levels(image_shape)
    count = doublings + 1
    numbers = [blocks] * count if isinstance(blocks, int) else blocks
    for name, values, least in (("widths", widths, 1), ("blocks", numbers, 0)):
        if not are_counts(values, least) or len(values) != count:
            raise SettingError(
                f"{name} is {shown(values)}: there are {count} stages, from {side} pixels, doubled, "
                f"to {image_shape[1]}; give each a whole number, {least} or more."
            )
    depth = sum(numbers)
    return [
        Stage(width, [Block(width, group_width, expansion, depth) for _ in range(number)])
        for width, number in zip(widths, numbers, strict=True)
    ]


def change_of_width(width: int, new_width: int) -> list[nn.Module]:
    """Return a 1x1 convolution, or nothing where the widths are the same."""
    return [] if width == new_width else [Pointwise(width, new_width)]


class R3GANGenerator(nn.Module):
    """Noise to images: a learned constant, each channel scaled by the noise, through residual stages.

    There is no activation at the end. Training pulls the images into [-1, 1], but nothing holds them there;
    whoever shows or measures them clamps them (:meth:`lightning_gans.R3GAN.decode` does).

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Length of the noise vectors.
        widths: Channels of each stage.
        blocks: Blocks of each stage, 0 or more; a single number is for every stage.
        group_width: See :class:`Block`.
        expansion: See :class:`Block`.
        patch_size: Side of the patches that are a pixel each; 1 is the paper's.
        num_classes: Number of labels; 0 makes it unconditional.
        label_dim: Length of a label's embedding, which stands beside the noise.

    Raises:
        SettingError: The sizes do not fit the image or each other.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int = 64,
        widths: Sequence[int] = (768, 768, 768, 768),
        blocks: int | Sequence[int] = 2,
        group_width: int = 16,
        expansion: int = 2,
        patch_size: int = 1,
        num_classes: int = 0,
        label_dim: int = 64,
    ) -> None:
        super().__init__()
        check_counts(label_dim=label_dim)
        patches = in_patches(image_shape, patch_size)
        side, _ = levels(patches)
        (width, layers), *larger = make_stages(patches, widths, blocks, group_width, expansion)
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.patch_size = patch_size
        self.constant = nn.Parameter(torch.randn(width, side, side))
        self.embedding = nn.Embedding(num_classes, label_dim) if num_classes > 0 else None  # N(0, 1), as the noise is
        self.scale = nn.Linear(latent_dim + (label_dim if num_classes > 0 else 0), width, bias=False)
        draw(self.scale)
        for stage in larger:
            layers = [*layers, *change_of_width(width, stage.width), Upsample(), *stage.blocks]
            width = stage.width
        self.layers = nn.Sequential(*layers, Pointwise(width, patches[0]))

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)``."""
        check_labels(labels, self.num_classes)
        if self.embedding is not None and labels is not None:
            noise = torch.cat([noise, look_up(self.embedding, labels)], 1)
        return F.pixel_shuffle(self.layers(self.constant * self.scale(noise)[:, :, None, None]), self.patch_size)


class R3GANDiscriminator(nn.Module):
    """Images to logits: the generator's stages in reverse, then one weight for each place and channel.

    In a conditional network the logit is the scalar product of the features with an embedding of the label that
    is as wide as the first stage. There is no bias at the end, which the relativistic loss would not see.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        widths: Channels of each stage.
        blocks: Blocks of each stage, 0 or more; a single number is for every stage.
        group_width: See :class:`Block`.
        expansion: See :class:`Block`.
        patch_size: Side of the patches that are a pixel each; 1 is the paper's.
        num_classes: Number of labels; 0 makes it unconditional.

    Raises:
        SettingError: The sizes do not fit the image or each other.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        widths: Sequence[int] = (768, 768, 768, 768),
        blocks: int | Sequence[int] = 2,
        group_width: int = 16,
        expansion: int = 2,
        patch_size: int = 1,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        patches = in_patches(image_shape, patch_size)
        side, _ = levels(patches)
        (width, layers), *larger = make_stages(patches, widths, blocks, group_width, expansion)
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.patch_size = patch_size
        first_width = width
        for stage in larger:
            layers = [*stage.blocks, Downsample(), *change_of_width(stage.width, width), *layers]
            width = stage.width
        self.layers = nn.Sequential(Pointwise(patches[0], width), *layers)
        self.gather = nn.Conv2d(first_width, first_width, side, groups=first_width, bias=False)
        self.output = nn.Linear(first_width, first_width if num_classes > 0 else 1, bias=False)
        self.embedding = nn.Embedding(num_classes, first_width) if num_classes > 0 else None
        draw(self.gather)
        draw(self.output)
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, 0.0, first_width**-0.5)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, 1)``."""
        check_labels(labels, self.num_classes)
        features = self.gather(self.layers(F.pixel_unshuffle(images, self.patch_size)))
        output: Tensor = self.output(features.flatten(1))
        return output if self.embedding is None else (output * self.embedding(labels)).sum(1, keepdim=True)
