"""Residual networks of SNGAN (Miyato et al. 2018, https://arxiv.org/abs/1802.05957, appendix B.4).

The networks of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028, appendix F) are the same without spectral
normalization, except that they average the last features instead of summing them. At 32 pixels, ``width=256``
(generator) and ``width=128`` (discriminator) are the paper's networks for CIFAR-10; other sizes have more or fewer
blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_gans.errors import check_choice, check_counts
from lightning_gans.networks.attention import SelfAttention, check_attention
from lightning_gans.networks.conditioning import check_labels, look_up, make_batch_norm
from lightning_gans.networks.dcgan import levels

Conditioning = Literal["projection", "auxiliary"]
Initialization = Literal["glorot", "orthogonal"]


def initialize(network: nn.Module) -> None:
    """Use Glorot's uniform initialization, with a gain of sqrt(2) in residual branches, and zero biases."""
    branches = [block.residual for block in network.modules() if isinstance(block, (UpBlock, DownBlock))]
    within = {layer for branch in branches for layer in branch}
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight, math.sqrt(2) if layer in within else 1.0)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialize_orthogonally(network: nn.Module) -> None:
    """Use orthogonal initialization (Saxe et al. 2014, arXiv:1312.6120), and zero biases, as BigGAN does."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.Embedding)):
            nn.init.orthogonal_(layer.weight)
            if isinstance(bias := getattr(layer, "bias", None), nn.Parameter):
                nn.init.zeros_(bias)


def normalize_spectra(network: nn.Module, *kinds: type[nn.Module]) -> None:
    """Divide the weight matrices of these kinds of layers by their largest singular values.

    Call it after the initialization: the power iteration starts from singular vectors of the weights.
    """
    for layer in [layer for layer in network.modules() if isinstance(layer, kinds)]:
        parametrizations.spectral_norm(layer)


def sizes_up(image_shape: Sequence[int]) -> list[int]:
    """Return the shorter sides of the feature maps that the blocks of a generator return, in order."""
    smallest, doublings = levels(image_shape)
    return [min(smallest) * 2 ** (index + 1) for index in range(doublings)]


def upsample(images: Tensor) -> Tensor:
    """Double height and width by repeating each pixel."""
    return F.interpolate(images, scale_factor=2, mode="nearest")


class UpBlock(nn.Module):
    """Double the size: BatchNorm, ReLU, upsampling, convolution, BatchNorm, ReLU, convolution; and a 1x1 shortcut.

    Args:
        width: Number of channels.
        make_norm: Makes a BatchNorm layer for a number of channels; it is called with the conditions, if there are any.
        attention: Whether self-attention follows.
    """

    def __init__(self, width: int, make_norm: Callable[[int], nn.Module], *, attention: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList([make_norm(width) for _ in range(2)])
        self.residual = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        self.shortcut = nn.Conv2d(width, width, 1)
        self.attention = SelfAttention(width) if attention else nn.Identity()

    def forward(self, images: Tensor, *conditions: Tensor) -> Tensor:
        """Map ``(N, width, H, W)`` to ``(N, width, 2H, 2W)``."""
        features = self.residual[0](upsample(self.norms[0](images, *conditions).relu()))
        features = self.residual[1](self.norms[1](features, *conditions).relu())
        # A 1x1 convolution commutes with the upsampling; this order is a quarter of the work.
        result: Tensor = self.attention(features + upsample(self.shortcut(images)))
        return result


class DownBlock(nn.Module):
    """Apply ReLU, convolution, ReLU, convolution and, with ``down``, average pooling; add a shortcut.

    Args:
        in_channels: Number of input channels.
        width: Number of output channels.
        down: Whether to halve the size.
        first: Whether the inputs are images, to which no ReLU is applied.
        attention: Whether self-attention follows.
    """

    def __init__(
        self, in_channels: int, width: int, *, down: bool, first: bool = False, attention: bool = False
    ) -> None:
        super().__init__()
        self.down = down
        self.first = first
        self.residual = nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1) for channels in (in_channels, width)])
        self.shortcut = nn.Conv2d(in_channels, width, 1) if down or in_channels != width else nn.Identity()
        self.attention = SelfAttention(width) if attention else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, width, H, W)``, or half of that height and width."""
        features = self.residual[0](images if self.first else images.relu())
        features = self.residual[1](features.relu())
        if self.down:
            features, images = F.avg_pool2d(features, 2), F.avg_pool2d(images, 2)
        result: Tensor = self.attention(features + self.shortcut(images))
        return result


class ResNetGenerator(nn.Module):
    """Map noise to images in [-1, 1] with residual blocks and BatchNorm, one block per doubling of the size.

    Labels enter each BatchNorm of the blocks (Miyato & Koyama 2018, arXiv:1802.05637).

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Length of the noise vectors.
        width: Number of channels of all blocks.
        num_classes: Number of classes; 0 for an unconditional network.
        attention: Sizes of the feature maps, by their shorter sides, that have a self-attention layer.
        spectral_norm: Whether to divide the weight matrices of convolutions and linear layers by their largest singular
            values, as SAGAN does.

    Raises:
        SettingError: A setting is invalid.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        width: int = 256,
        num_classes: int = 0,
        attention: Sequence[int] = (),
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        check_counts(width=width)
        smallest, _ = levels(image_shape)
        sizes = sizes_up(image_shape)
        check_attention(attention, sizes)
        make_norm = partial(make_batch_norm, num_classes=num_classes)
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        first = nn.Linear(latent_dim, width * math.prod(smallest))
        self.input = nn.Sequential(first, nn.Unflatten(1, (width, *smallest)))
        self.blocks = nn.ModuleList([UpBlock(width, make_norm, attention=size in attention) for size in sizes])
        self.output = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, image_shape[0], 3, padding=1))
        initialize(self)
        if spectral_norm:
            normalize_spectra(self, nn.Conv2d, nn.Linear)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)``."""
        check_labels(labels, self.num_classes)
        features = self.input(noise)
        for block in self.blocks:
            features = block(features) if labels is None else block(features, labels)
        images: Tensor = self.output(features).tanh()
        return images


class ResNetDiscriminator(nn.Module):
    """Map images to one logit each with residual blocks and a sum over the pixels, without batch statistics.

    Blocks halve the size until the shorter side is 5 to 8 pixels (4 for images of 8 pixels); two more blocks keep it.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        width: Number of channels of all blocks.
        num_classes: Number of classes; 0 for an unconditional network.
        spectral_norm: Whether to divide every weight matrix by its largest singular value, estimated by one power
            iteration per forward pass in training mode.
        conditioning: How labels enter if there are any: ``projection`` adds the inner product of a label embedding
            and the features to the logit (Miyato & Koyama 2018, arXiv:1802.05637); ``auxiliary`` returns class
            logits as well (Odena et al. 2017, arXiv:1610.09585).
        attention: Sizes of the feature maps, by their shorter sides, that have a self-attention layer: half the size of
            the images, a quarter, ….
        initialization: ``glorot`` (SNGAN) or ``orthogonal`` (BigGAN).

    Raises:
        SettingError: A setting is invalid.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        width: int = 128,
        num_classes: int = 0,
        spectral_norm: bool = True,
        conditioning: Conditioning = "projection",
        attention: Sequence[int] = (),
        initialization: Initialization = "glorot",
    ) -> None:
        super().__init__()
        check_counts(width=width)
        check_choice("conditioning", conditioning, ("projection", "auxiliary"))
        check_choice("initialization", initialization, ("glorot", "orthogonal"))
        levels(image_shape)
        sizes = [min(image_shape[1:]) // 2]
        while sizes[-1] > 8:
            sizes.append(sizes[-1] // 2)
        check_attention(attention, sizes)
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        channels = [image_shape[0], *[width] * len(sizes)]
        blocks = [
            DownBlock(channels[index], width, down=True, first=index == 0, attention=size in attention)
            for index, size in enumerate(sizes)
        ]
        self.blocks = nn.Sequential(*blocks, *(DownBlock(width, width, down=False) for _ in range(2)))
        self.output = nn.Linear(width, 1)
        projects = conditioning == "projection"
        self.projection = nn.Embedding(num_classes, width) if num_classes > 0 and projects else None
        self.classifier = nn.Linear(width, num_classes) if num_classes > 0 and not projects else None
        if self.projection is not None:
            nn.init.xavier_uniform_(self.projection.weight)
        (initialize if initialization == "glorot" else initialize_orthogonally)(self)
        if spectral_norm:
            normalize_spectra(self, nn.Conv2d, nn.Linear, nn.Embedding)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map images ``(N, C, H, W)`` to logits ``(N, 1)``, or to logits and class logits ``(N, num_classes)``."""
        check_labels(labels, self.num_classes)
        features = self.blocks(images).relu().sum((2, 3))
        logits: Tensor = self.output(features)
        if self.projection is not None and labels is not None:
            logits = logits + (look_up(self.projection, labels) * features).sum(1, keepdim=True)
        if self.classifier is None:
            return logits
        return logits, self.classifier(features)
