"""Encoders and decoders of variational autoencoders (Kingma & Welling 2013, arXiv:1312.6114).

An encoder gives the mean and the log-variance of the latents. A decoder gives the parameter of the
likelihood for each pixel, without an output activation: logits (Bernoulli) or means (Gaussian).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from lightning_gans.networks.conditioning import with_labels
from lightning_gans.networks.dcgan import downsampling, upsampling
from lightning_gans.networks.mlp import hidden_layers


class MLPEncoder(nn.Module):
    """Images through hidden layers to the posterior's parameters.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Number of latents.
        hidden_dims: Widths of the hidden layers, from the image to the latents.
        num_classes: Number of labels; 0 makes it unconditional.
        batch_norm: Whether the hidden layers have BatchNorm.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (512, 256),
        num_classes: int = 0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.hidden = hidden_layers(math.prod(image_shape) + num_classes, hidden_dims, batch_norm=batch_norm)
        self.output = nn.Linear(hidden_dims[-1], 2 * latent_dim)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map images ``(N, C, H, W)`` to means and log-variances, ``(N, latent_dim)`` each."""
        hidden = self.hidden(with_labels(images.flatten(1), labels, self.num_classes))
        mean, log_variance = self.output(hidden).chunk(2, dim=1)
        return mean, log_variance


class MLPDecoder(nn.Module):
    """Latents through hidden layers to the likelihood's parameter for each pixel.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Number of latents.
        hidden_dims: Widths of the hidden layers, from the latents to the image.
        num_classes: Number of labels; 0 makes it unconditional.
        batch_norm: Whether the hidden layers have BatchNorm.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (256, 512),
        num_classes: int = 0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.hidden = hidden_layers(latent_dim + num_classes, hidden_dims, batch_norm=batch_norm)
        self.output = nn.Linear(hidden_dims[-1], math.prod(self.image_shape))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents ``(N, latent_dim)`` to pixel parameters ``(N, C, H, W)``."""
        hidden = self.hidden(with_labels(latents, labels, self.num_classes))
        pixels: Tensor = self.output(hidden).unflatten(1, self.image_shape)
        return pixels


class ConvEncoder(nn.Module):
    """Images through DCGAN's convolutions to the posterior's parameters.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Number of latents.
        width: Channels at half the image's size.
        num_classes: Number of labels; 0 makes it unconditional.
        dense_dims: Widths of fully connected layers with BatchNorm behind the convolutions.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        width: int = 32,
        num_classes: int = 0,
        dense_dims: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.layers, num_features = downsampling(
            image_shape, image_shape[0] + num_classes, width, dense_dims=dense_dims
        )
        self.output = nn.Linear(num_features, 2 * latent_dim)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map images ``(N, C, H, W)`` to means and log-variances, ``(N, latent_dim)`` each."""
        features = self.layers(with_labels(images, labels, self.num_classes))
        mean, log_variance = self.output(features).chunk(2, dim=1)
        return mean, log_variance


class ConvDecoder(nn.Module):
    """Latents through DCGAN's transposed convolutions to the likelihood's parameter for each pixel.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Number of latents.
        width: Channels at half the image's size.
        num_classes: Number of labels; 0 makes it unconditional.
        dense_dims: Widths of fully connected layers with BatchNorm before the convolutions.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        width: int = 32,
        num_classes: int = 0,
        dense_dims: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.layers = upsampling(image_shape, latent_dim + num_classes, width, dense_dims)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents ``(N, latent_dim)`` to pixel parameters ``(N, C, H, W)``."""
        pixels: Tensor = self.layers(with_labels(latents, labels, self.num_classes))
        return pixels
