"""Residual networks without normalization, from R3GAN (Huang et al. 2024, https://arxiv.org/abs/2501.05441).

Networks for images whose shorter side is 4 to 7 times 2^n pixels have n + 1 stages, one per resolution. ``widths`` and
``blocks`` have one entry per stage, from the lowest resolution to the full one, in both networks. ``patch_size`` is an
addition to the paper: with 2, for example, the networks work at half the resolution, on 2 x 2 patches whose pixels
become channels. This avoids the full resolution, which is most of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import SettingError, are_counts, check_counts, invalid, is_whole, shown
from lightning_gans.networks.conditioning import check_labels, look_up
from lightning_gans.networks.dcgan import levels

SLOPE = 0.2
"""Negative slope of the LeakyReLUs."""


def draw(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> None:
    """Draw weights from N(0, gain²/fan_in), with the fan-in of one group, and set the bias to zero."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, computed as a matrix product over the channels.

    Gradient penalties differentiate it twice, which is cheaper for a matrix product than for a convolution. The output
    has the memory layout ``(N, H, W, C)``.
    """

    def __init__(self, width: int, new_width: int, bias: bool = False) -> None:
        super().__init__(width, new_width, 1, bias=bias)
        draw(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, width, H, W)`` to ``(N, new_width, H, W)``."""
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class Block(nn.Module):
    """An inverted residual bottleneck: 1x1 convolution to more channels, grouped 3x3 convolution, 1x1 back.

    Only the convolutions before a LeakyReLU have a bias. The last convolution starts at zero, so that the block starts
    as the identity; the others are scaled down with the depth, so that the first updates change the network's output
    equally for any depth (Fixup, Zhang et al. 2019, arXiv:1901.09321, with three layers per branch).

    Args:
        width: Number of input and output channels.
        group_width: Channels per group of the 3x3 convolution; a single group if there are fewer channels.
        expansion: Ratio of inner channels to ``width``.
        depth: Number of blocks in the network.

    Raises:
        SettingError: ``group_width`` does not divide the inner channels.
    """

    def __init__(self, width: int, group_width: int = 16, expansion: int = 2, depth: int = 1) -> None:
        super().__init__()
        check_counts(group_width=group_width, expansion=expansion)
        inner = width * expansion
        group_width = min(group_width, inner)
        if inner % group_width:
            raise SettingError(
                f"group_width is {group_width}: it must divide the {inner} channels (width {width} times "
                f"expansion {expansion}) between a block's convolutions.",
                setting="group_width",
                value=group_width,
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
    """Holds the separable FIR filter [1, 3, 3, 1], normalized to sum 1; the border is padded with zeros."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None], persistent=False)

    def filters(self, x: Tensor) -> Tensor:
        """Return the filter of each channel, ``(C, 1, 4, 4)``."""
        return self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)


class Upsample(_Resample):
    """Double height and width; the filter has a gain of 4 to compensate for the inserted zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C, 2H, 2W)``."""
        return F.conv_transpose2d(x, self.filters(x) * 4, stride=2, padding=1, groups=x.shape[1])


class Downsample(_Resample):
    """Halve height and width."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C, H/2, W/2)``."""
        return F.conv2d(x, self.filters(x), stride=2, padding=1, groups=x.shape[1])


def in_patches(image_shape: Sequence[int], patch_size: int) -> tuple[int, int, int]:
    """Return the image shape after each patch has become a pixel, ``(C * p², H / p, W / p)``.

    Raises:
        SettingError: ``patch_size`` does not divide the image, or :func:`levels` does not support the result.
    """
    check_counts(patch_size=patch_size)
    channels, height, width = image_shape
    if height % patch_size or width % patch_size:
        raise invalid("patch_size", patch_size, f"a divisor of the image's {height} x {width} pixels")
    shape = channels * patch_size**2, height // patch_size, width // patch_size
    try:
        levels(shape)
    except SettingError as error:
        if patch_size == 1:
            raise
        raise SettingError(
            f"patch_size is {patch_size}: the image's {height} x {width} pixels give {shape[1]} x {shape[2]} patches, "
            "which cannot be halved until the shorter side is 4 to 7.",
            setting="patch_size",
            value=patch_size,
        ) from error
    return shape


class Stage(NamedTuple):
    """The blocks at one resolution and their width."""

    width: int
    blocks: list[nn.Module]


def make_stages(
    image_shape: Sequence[int],
    widths: Sequence[int],
    blocks: int | Sequence[int],
    group_width: int,
    expansion: int,
    patch_size: int,
) -> tuple[list[Stage], tuple[int, int], int]:
    """Make the blocks of each stage, from the lowest resolution to the full one.

    Returns:
        The stages, height and width of the lowest resolution, and the channels of the images in patches.

    Raises:
        SettingError: A setting is invalid, or does not match the image or another setting.
    """
    patches = in_patches(image_shape, patch_size)
    smallest, doublings = levels(patches)
    count = doublings + 1
    numbers = [blocks] * count if is_whole(blocks) else blocks
    for name, values, least in (("widths", widths, 1), ("blocks", numbers, 0)):
        if not are_counts(values, least) or len(values) != count:
            raise SettingError(
                f"{name} is {shown(values)}: there are {count} stages, which double {smallest[0]} x {smallest[1]} "
                f"pixels up to {patches[1]} x {patches[2]}; give a whole number, {least} or more, for each.",
                setting=name,
                value=values,
            )
    depth = sum(numbers)
    stages = [
        Stage(width, [Block(width, group_width, expansion, depth) for _ in range(number)])
        for width, number in zip(widths, numbers, strict=True)
    ]
    return stages, smallest, patches[0]


def change_of_width(width: int, new_width: int) -> list[nn.Module]:
    """Return a 1x1 convolution, or nothing if the widths are equal."""
    return [] if width == new_width else [Pointwise(width, new_width)]


class R3GANGenerator(nn.Module):
    """Map noise to images: the noise scales the channels of a learned constant, which passes through residual stages.

    There is no output activation, so training pulls the images into [-1, 1] but does not bound them. Clamp them before
    they are shown or measured, as :meth:`lightning_gans.R3GAN.decode` does.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Length of the noise vectors.
        widths: Number of channels of each stage.
        blocks: Number of blocks of each stage, 0 or more; a single number applies to every stage.
        group_width: See :class:`Block`.
        expansion: See :class:`Block`.
        patch_size: Side of the patches that become one pixel each; 1 in the paper.
        num_classes: Number of classes; 0 for an unconditional network.
        label_dim: Length of the label embedding, which is appended to the noise.

    Raises:
        SettingError: A setting is invalid, or does not match the image or another setting.
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
        stages, smallest, channels = make_stages(image_shape, widths, blocks, group_width, expansion, patch_size)
        (width, layers), *larger = stages
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.patch_size = patch_size
        self.constant = nn.Parameter(torch.randn(width, *smallest))
        self.embedding = nn.Embedding(num_classes, label_dim) if num_classes > 0 else None  # N(0, 1) like the noise
        self.scale = nn.Linear(latent_dim + (label_dim if num_classes > 0 else 0), width, bias=False)
        draw(self.scale)
        for stage in larger:
            layers = [*layers, *change_of_width(width, stage.width), Upsample(), *stage.blocks]
            width = stage.width
        self.layers = nn.Sequential(*layers, Pointwise(width, channels))

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)``."""
        check_labels(labels, self.num_classes)
        if self.embedding is not None and labels is not None:
            noise = torch.cat([noise, look_up(self.embedding, labels)], 1)
        return F.pixel_shuffle(self.layers(self.constant * self.scale(noise)[:, :, None, None]), self.patch_size)


class R3GANDiscriminator(nn.Module):
    """Map images to one logit each: the generator's stages in reverse, then one weight per position and channel.

    In a conditional network, the logit is the inner product of the features and a label embedding as wide as the first
    stage. The output has no bias, because it would cancel in the relativistic loss.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        widths: Number of channels of each stage.
        blocks: Number of blocks of each stage, 0 or more; a single number applies to every stage.
        group_width: See :class:`Block`.
        expansion: See :class:`Block`.
        patch_size: Side of the patches that become one pixel each; 1 in the paper.
        num_classes: Number of classes; 0 for an unconditional network.

    Raises:
        SettingError: A setting is invalid, or does not match the image or another setting.
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
        stages, smallest, channels = make_stages(image_shape, widths, blocks, group_width, expansion, patch_size)
        (width, layers), *larger = stages
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.patch_size = patch_size
        first_width = width
        for stage in larger:
            layers = [*stage.blocks, Downsample(), *change_of_width(stage.width, width), *layers]
            width = stage.width
        self.layers = nn.Sequential(Pointwise(channels, width), *layers)
        self.gather = nn.Conv2d(first_width, first_width, smallest, groups=first_width, bias=False)
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
        if self.embedding is None or labels is None:
            return output
        return (output * look_up(self.embedding, labels)).sum(1, keepdim=True)
