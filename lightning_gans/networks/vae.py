"""Encoders and decoders of variational autoencoders (Kingma & Welling 2013, arXiv:1312.6114).

An encoder returns the mean and the log-variance of the latents. A decoder returns the parameter of the
likelihood of each pixel without an output activation: logits (Bernoulli) or means (Gaussian).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from lightning_gans.networks.conditioning import with_labels
from lightning_gans.networks.dcgan import downsampling, upsampling
from lightning_gans.networks.mlp import hidden_layers


class _MLP(nn.Module):
    """Hidden layers and a linear output, with labels appended to the input."""

    def __init__(
        self, in_features: int, hidden_dims: Sequence[int], out_features: int, num_classes: int, batch_norm: bool
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.hidden = hidden_layers(in_features + num_classes, hidden_dims, batch_norm=batch_norm)
        self.output = nn.Linear(hidden_dims[-1], out_features)


class MLPEncoder(_MLP):
    """Map images to the parameters of the posterior with hidden layers.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Number of latents.
        hidden_dims: Widths of the hidden layers, from the image to the latents.
        num_classes: Number of classes; 0 for an unconditional network.
        batch_norm: Whether to use BatchNorm in the hidden layers.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (512, 256),
        num_classes: int = 0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(math.prod(image_shape), hidden_dims, 2 * latent_dim, num_classes, batch_norm)
        self.image_shape, self.latent_dim = tuple(image_shape), latent_dim

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map images ``(N, C, H, W)`` to means and log-variances, ``(N, latent_dim)`` each."""
        hidden = self.hidden(with_labels(images.flatten(1), labels, self.num_classes))
        mean, log_variance = self.output(hidden).chunk(2, dim=1)
        return mean, log_variance


class MLPDecoder(_MLP):
    """Map latents to the likelihood parameter of each pixel with hidden layers.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Number of latents.
        hidden_dims: Widths of the hidden layers, from the latents to the image.
        num_classes: Number of classes; 0 for an unconditional network.
        batch_norm: Whether to use BatchNorm in the hidden layers.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (256, 512),
        num_classes: int = 0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(latent_dim, hidden_dims, math.prod(image_shape), num_classes, batch_norm)
        self.image_shape, self.latent_dim = tuple(image_shape), latent_dim

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents ``(N, latent_dim)`` to pixel parameters ``(N, C, H, W)``."""
        hidden = self.hidden(with_labels(latents, labels, self.num_classes))
        pixels: Tensor = self.output(hidden).unflatten(1, self.image_shape)
        return pixels


class ConvEncoder(nn.Module):
    """Map images to the parameters of the posterior with DCGAN's convolutions.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Number of latents.
        width: Number of channels at half the image size.
        num_classes: Number of classes; 0 for an unconditional network.
        dense_dims: Widths of fully connected layers with BatchNorm after the convolutions.
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
    """Map latents to the likelihood parameter of each pixel with DCGAN's transposed convolutions.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Number of latents.
        width: Number of channels at half the image size.
        num_classes: Number of classes; 0 for an unconditional network.
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
