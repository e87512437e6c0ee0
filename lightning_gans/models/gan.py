"""The generative adversarial network, fully connected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_gans.errors import check_widths
from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import check_sizes, check_unconditional
from lightning_gans.networks import MLPDiscriminator, MLPGenerator


class GAN(AdversarialModule):
    """Fully connected GAN (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661).

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Length of the noise vectors.
        generator: Replaces the generator; ``generator(noise)`` returns images in [-1, 1].
        discriminator: Replaces the discriminator; ``discriminator(images)`` returns logits, ``(N,)`` or ``(N, 1)``.
        generator_dims: Widths of the generator's hidden layers, from the noise to the image.
        discriminator_dims: Widths of the discriminator's hidden layers, from the image to the logit.
        dropout: Probability of dropping a hidden unit of the discriminator.
        **options: See :class:`AdversarialModule` and :class:`GenerativeModule`.

    Example:
        >>> GAN(image_shape=(1, 28, 28)).sample(4, seed=0).shape
        torch.Size([4, 1, 28, 28])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 64,
        *,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        generator_dims: Sequence[int] = (256, 512, 1024),
        discriminator_dims: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.3,
        **options: Any,
    ) -> None:
        check_unconditional(type(self).__name__, options)
        check_sizes(image_shape, latent_dim=latent_dim)
        check_widths(generator_dims=generator_dims, discriminator_dims=discriminator_dims)
        super().__init__(
            image_shape=image_shape,
            latent_dim=latent_dim,
            num_classes=0,
            generator=generator or MLPGenerator(image_shape, latent_dim, generator_dims),
            discriminator=discriminator or MLPDiscriminator(image_shape, discriminator_dims, dropout),
            **options,
        )
