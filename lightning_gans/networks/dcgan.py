"""Convolutional networks of DCGAN (Radford et al. 2015, https://arxiv.org/abs/1511.06434).

For images whose shorter side is 4 to 7 times 2^n pixels, such as 28, 64 or 96 x 160, the generator has n transposed
convolutions that double the size, and the discriminator n convolutions that halve it. ``width`` is the number of
channels at half the image size; each halving doubles it. The paper's networks for 64 x 64 pixels have ``width=128``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from lightning_gans.errors import SettingError, check_choice, check_counts, check_widths
from lightning_gans.networks.conditioning import call_layers, check_labels, look_up, make_batch_norm, with_labels
from lightning_gans.networks.mlp import hidden_layers


def levels(image_shape: Sequence[int]) -> tuple[tuple[int, int], int]:
    """Return height and width of the smallest feature map, and the number of doublings up to the image size.

    The shorter side of the smallest map is 4 to 7.

    Raises:
        SettingError: Height and width cannot be halved, at least once and both equally often, down to such a map.

    Example:
        >>> levels((1, 28, 28)), levels((3, 64, 64)), levels((5, 96, 160))
        (((7, 7), 2), ((4, 4), 4), ((6, 10), 4))
    """
    _, height, width = image_shape
    doublings = 0
    while height % 2 == width % 2 == 0 and min(height, width) >= 8:
        height, width, doublings = height // 2, width // 2, doublings + 1
    if not 4 <= min(height, width) <= 7 or doublings == 0:
        raise SettingError(
            f"image_shape is {tuple(image_shape)}: a convolutional network halves height and width until the shorter "
            "one is 4 to 7, as for 28 x 28, 64 x 64 or 96 x 160 pixels.",
            setting="image_shape",
            value=tuple(image_shape),
            allowed="4 to 7 times a power of 2",
        )
    return (height, width), doublings


def initialize(module: nn.Module, normalized: bool = True) -> None:
    """Initialize as in the paper: weights from N(0, 0.02²), BatchNorm scales from N(1, 0.02²), biases zero.

    Without BatchNorm (``normalized=False``) such small weights would let activations vanish; convolutions and linear
    layers then use He initialization (He et al. 2015, arXiv:1502.01852).
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight, 1.0, 0.02)
        elif normalized and isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, 0.2)
        else:
            continue
        if isinstance(bias := getattr(layer, "bias", None), nn.Parameter):
            nn.init.zeros_(bias)


def upsampling(
    image_shape: Sequence[int], in_features: int, width: int, dense_dims: Sequence[int] = (), num_classes: int = 0
) -> nn.Sequential:
    """Stack fully connected layers, if any, and transposed convolutions, from a vector to pixels without activation."""
    check_counts(width=width)
    check_widths(dense_dims=dense_dims, empty=True)
    smallest, doublings = levels(image_shape)
    channels = width * 2 ** (doublings - 1)
    layers: list[nn.Module] = []
    if dense_dims:
        layers.append(hidden_layers(in_features, dense_dims, batch_norm=True, num_classes=num_classes))
        in_features = dense_dims[-1]
    layers += [
        nn.Linear(in_features, channels * math.prod(smallest), bias=False),
        nn.Unflatten(1, (channels, *smallest)),
        make_batch_norm(channels, num_classes),
        nn.ReLU(),
    ]
    for _ in range(doublings - 1):
        layers += [
            nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1, bias=False),
            make_batch_norm(channels // 2, num_classes),
            nn.ReLU(),
        ]
        channels //= 2
    layers.append(nn.ConvTranspose2d(channels, image_shape[0], 4, stride=2, padding=1))
    return nn.Sequential(*layers)


def downsampling(
    image_shape: Sequence[int],
    in_channels: int,
    width: int,
    batch_norm: bool = True,
    dense_dims: Sequence[int] = (),
) -> tuple[nn.Sequential, int]:
    """Stack convolutions from an image to a vector; the first has no BatchNorm, as in the paper.

    Returns:
        The layers and the length of the vector.
    """
    smallest, doublings = levels(image_shape)
    check_counts(width=width)
    check_widths(dense_dims=dense_dims, empty=True)
    layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for _ in range(doublings - 1):
        layers.append(nn.Conv2d(width, width * 2, 4, stride=2, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width * 2))
        layers.append(nn.LeakyReLU(0.2))
        width *= 2
    layers.append(nn.Flatten())
    num_features = width * math.prod(smallest)
    if dense_dims:
        layers.append(hidden_layers(num_features, dense_dims, batch_norm=batch_norm))
        num_features = dense_dims[-1]
    return nn.Sequential(*layers), num_features


class DCGANGenerator(nn.Module):
    """Map noise to images in [-1, 1] with transposed convolutions, BatchNorm and ReLU.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`levels` for the sizes.
        latent_dim: Length of the noise vectors.
        width: Number of channels at half the image size.
        num_classes: Number of classes; 0 for an unconditional network.
        dense_dims: Widths of fully connected layers between the noise and the convolutions.
        conditioning: Where labels enter: ``input`` appends them to the noise, ``batch_norm`` uses a scale and shift
            per label in each BatchNorm.

    Raises:
        SettingError: A setting is invalid.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        width: int = 64,
        num_classes: int = 0,
        dense_dims: Sequence[int] = (),
        conditioning: Literal["input", "batch_norm"] = "input",
    ) -> None:
        super().__init__()
        check_choice("conditioning", conditioning, ("input", "batch_norm"))
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.conditioning = conditioning
        if conditioning == "input":
            self.layers = upsampling(image_shape, latent_dim + num_classes, width, dense_dims)
        else:
            self.layers = upsampling(image_shape, latent_dim, width, dense_dims, num_classes)
        initialize(self)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)``."""
        if self.conditioning == "input":
            noise = with_labels(noise, labels, self.num_classes)
        else:
            check_labels(labels, self.num_classes)
        return call_layers(self.layers, noise, labels).tanh()


class DCGANDiscriminator(nn.Module):
    """Map images to one logit each with strided convolutions, BatchNorm and LeakyReLU.

    Labels enter twice: as planes appended to the image, and by projection on the last features (Miyato & Koyama 2018,
    arXiv:1802.05637), since the planes alone are too far from the features that separate the classes.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`levels` for the sizes.
        width: Number of channels at half the image size.
        num_classes: Number of classes; 0 for an unconditional network.
        batch_norm: Whether to use BatchNorm. It mixes the images of a batch, so use ``False`` with gradient penalties.
        dense_dims: Widths of fully connected layers between the convolutions and the logit.

    Raises:
        SettingError: A setting is invalid.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        width: int = 64,
        num_classes: int = 0,
        batch_norm: bool = True,
        dense_dims: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.layers, num_features = downsampling(
            image_shape, image_shape[0] + num_classes, width, batch_norm, dense_dims
        )
        self.output = nn.Linear(num_features, 1)
        self.projection = nn.Embedding(num_classes, num_features) if num_classes > 0 else None
        initialize(self, normalized=batch_norm)
        if self.projection is not None:
            nn.init.normal_(self.projection.weight, 0.0, 0.02)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, 1)``."""
        features = self.layers(with_labels(images, labels, self.num_classes))
        logits: Tensor = self.output(features)
        if self.projection is not None and labels is not None:
            logits = logits + (look_up(self.projection, labels) * features).sum(1, keepdim=True)
        return logits
