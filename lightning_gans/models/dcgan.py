"""The deep convolutional GAN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_gans.errors import check_counts, check_widths
from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import check_sizes, check_unconditional
from lightning_gans.networks import DCGANDiscriminator, DCGANGenerator


class DCGAN(AdversarialModule):
    """Convolutional GAN for images of 28, 64, 96 x 160 … pixels (Radford et al. 2015, arXiv:1511.06434).

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Length of the noise vectors.
        generator: Replaces the generator; ``generator(noise)`` returns images in [-1, 1].
        discriminator: Replaces the discriminator; ``discriminator(images)`` returns logits, ``(N,)`` or ``(N, 1)``.
        width: Channels of both networks at half the image's size; each halving doubles them.
        discriminator_width: The discriminator's width, if it differs.
        batch_norm: Whether the discriminator has BatchNorm; with a gradient penalty it should not.
        dense_dims: Widths of fully connected layers after the discriminator's convolutions, from the image to the
            logit; the generator has them in reverse order before its convolutions. InfoGAN has one of 1024 (Chen et al.
            2016, arXiv:1606.03657).
        **options: See :class:`AdversarialModule` and :class:`GenerativeModule`.

    Example:
        >>> DCGAN(image_shape=(3, 64, 64), width=8).sample(2, seed=0).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 100,
        *,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        width: int = 64,
        discriminator_width: int | None = None,
        batch_norm: bool = True,
        dense_dims: Sequence[int] = (),
        **options: Any,
    ) -> None:
        check_unconditional(type(self).__name__, options)
        check_sizes(image_shape, latent_dim=latent_dim)
        check_widths(dense_dims=dense_dims, empty=True)
        if discriminator_width is not None:
            check_counts(discriminator_width=discriminator_width)
        d_width = width if discriminator_width is None else discriminator_width
        super().__init__(
            image_shape=image_shape,
            latent_dim=latent_dim,
            num_classes=0,
            generator=generator or DCGANGenerator(image_shape, latent_dim, width, dense_dims=dense_dims[::-1]),
            discriminator=discriminator
            or DCGANDiscriminator(image_shape, d_width, batch_norm=batch_norm, dense_dims=dense_dims),
            **options,
        )
