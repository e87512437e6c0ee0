"""Residual networks of SNGAN (Miyato et al. 2018, https://arxiv.org/abs/1802.05957, appendix B.4).

WGAN-GP's (Gulrajani et al. 2017, arXiv:1704.00028, appendix F) are the same without spectral normalisation, but
for a mean where Miyato has the sum over the last features. At 32 pixels, ``width=256`` and ``width=128`` are
the paper's for CIFAR-10; at other sizes there are blocks of the same width for more doublings, or fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_gans.errors import check_choice, check_counts
from lightning_gans.networks.conditioning import check_labels, make_batch_norm
from lightning_gans.networks.dcgan import levels

Conditioning = Literal["projection", "auxiliary"]


def initialize(network: nn.Module) -> None:
    """Draw weights from Glorot's uniform distribution, with a gain of sqrt(2) within residual branches; biases zero."""
    branches = [block.residual for block in network.modules() if isinstance(block, (UpBlock, DownBlock))]
    within = {layer for branch in branches for layer in branch}
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight, math.sqrt(2) if layer in within else 1.0)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def upsample(images: Tensor) -> Tensor:
    """Double the size by repeating each pixel."""
    return F.interpolate(images, scale_factor=2, mode="nearest")


class UpBlock(nn.Module):
    """Doubles the size: BatchNorm, ReLU, up, convolution, BatchNorm, ReLU, convolution; and a 1x1 shortcut."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([make_batch_norm(width, num_classes) for _ in range(2)])
        self.residual = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, images: Tensor, *labels: Tensor) -> Tensor:
        """Map ``(N, width, H, W)`` to ``(N, width, 2H, 2W)``."""
        features = self.residual[0](upsample(self.norms[0](images, *labels).relu()))
        features = self.residual[1](self.norms[1](features, *labels).relu())
        # A 1x1 convolution and the repetition of pixels commute; this order computes a quarter.
        result: Tensor = features + upsample(self.shortcut(images))
        return result


class DownBlock(nn.Module):
    """ReLU, convolution, ReLU, convolution, and a mean over 2x2 pixels where it halves the size; and a shortcut.

    Args:
        in_channels: Channels that come in.
        width: Channels that go out.
        down: Whether to halve the size.
        first: Whether these are the images themselves, on which there is no ReLU.
    """

    def __init__(self, in_channels: int, width: int, *, down: bool, first: bool = False) -> None:
        super().__init__()
        self.down = down
        self.first = first
        self.residual = nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1) for channels in (in_channels, width)])
        self.shortcut = nn.Conv2d(in_channels, width, 1) if down or in_channels != width else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, width, H, W)``, or half of that height and width."""
        features = self.residual[0](images if self.first else images.relu())
        features = self.residual[1](features.relu())
        if self.down:
            features, images = F.avg_pool2d(features, 2), F.avg_pool2d(images, 2)
        result: Tensor = features + self.shortcut(images)
        return result


class ResNetGenerator(nn.Module):
    """Noise through residual blocks with BatchNorm, one for each doubling of the size, to an image in [-1, 1].

    A label enters each BatchNorm in the blocks (Miyato & Koyama 2018, arXiv:1802.05637).

    Args:
        image_shape: ``(C, H, W)`` of the images made; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Length of the noise vectors.
        width: Channels of all blocks.
        num_classes: Number of labels; 0 makes it unconditional.
    """

    def __init__(self, image_shape: Sequence[int], latent_dim: int, width: int = 256, num_classes: int = 0) -> None:
        super().__init__()
        check_counts(width=width)
        side, doublings = levels(image_shape)
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.input = nn.Sequential(nn.Linear(latent_dim, width * side**2), nn.Unflatten(1, (width, side, side)))
        self.blocks = nn.ModuleList([UpBlock(width, num_classes) for _ in range(doublings)])
        self.output = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, image_shape[0], 3, padding=1))
        initialize(self)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)``."""
        check_labels(labels, self.num_classes)
        features = self.input(noise)
        for block in self.blocks:
            features = block(features) if labels is None else block(features, labels)
        images: Tensor = self.output(features).tanh()
        return images


class ResNetDiscriminator(nn.Module):
    """Images through residual blocks and a sum over the pixels to one logit each, without normalising a batch.

    Blocks halve the size until it is 7 or 8 pixels (of an image of 8, 4); two more leave it as it is.

    Args:
        image_shape: ``(C, H, W)`` of the images judged; see :func:`lightning_gans.networks.dcgan.levels`.
        width: Channels of all blocks.
        num_classes: Number of labels; 0 makes it unconditional.
        spectral_norm: Whether to divide every weight matrix by its largest singular value, which one power
            iteration in each forward pass of training follows.
        conditioning: How a label enters, where there are labels: ``projection`` adds its inner product with the
            features to the logit (Miyato & Koyama 2018, arXiv:1802.05637); ``auxiliary`` has the discriminator
            tell the label as well (Odena et al. 2017, arXiv:1610.09585): it returns class logits beside.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        width: int = 128,
        num_classes: int = 0,
        spectral_norm: bool = True,
        conditioning: Conditioning = "projection",
    ) -> None:
        super().__init__()
        check_counts(width=width)
        check_choice("conditioning", conditioning, ("projection", "auxiliary"))
        levels(image_shape)
        channels, size, _ = image_shape
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        blocks = [DownBlock(channels, width, down=True, first=True)]
        while (size := size // 2) > 8:
            blocks.append(DownBlock(width, width, down=True))
        self.blocks = nn.Sequential(*blocks, *(DownBlock(width, width, down=False) for _ in range(2)))
        self.output = nn.Linear(width, 1)
        projects = conditioning == "projection"
        self.projection = nn.Embedding(num_classes, width) if num_classes > 0 and projects else None
        self.classifier = nn.Linear(width, num_classes) if num_classes > 0 and not projects else None
        if self.projection is not None:
            nn.init.xavier_uniform_(self.projection.weight)
        initialize(self)
        if spectral_norm:  # after the weights are drawn, as it starts from their singular vectors
            for layer in [layer for layer in self.modules() if isinstance(layer, (nn.Conv2d, nn.Linear, nn.Embedding))]:
                parametrizations.spectral_norm(layer)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map images ``(N, C, H, W)`` to logits ``(N, 1)``, or to a pair of them and class logits."""
        check_labels(labels, self.num_classes)
        features = self.blocks(images).relu().sum((2, 3))
        logits: Tensor = self.output(features)
        if self.projection is not None:
            logits = logits + (self.projection(labels) * features).sum(1, keepdim=True)
        if self.classifier is None:
            return logits
        return logits, self.classifier(features)
