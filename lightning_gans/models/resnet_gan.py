"""The residual GAN: SNGAN and WGAN-GP are settings of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import check_sizes
from lightning_gans.networks import ResNetDiscriminator, ResNetGenerator
from lightning_gans.networks.resnet import Conditioning


class ResNetGAN(AdversarialModule):
    """GAN of residual networks for square images of 28, 32, 64 … pixels (Miyato et al. 2018, arXiv:1802.05957).

    The networks default to those of SNGAN on CIFAR-10. With ``loss="hinge"`` it is SNGAN; with
    ``loss="wasserstein"``, ``penalties={"wgan_gp": 10}`` and ``spectral_norm=False`` WGAN-GP (Gulrajani et al. 2017,
    arXiv:1704.00028).

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Length of the noise vectors.
        num_classes: Number of labels; 0 makes it unconditional.
        generator: Replaces the generator; ``generator(noise[, labels])`` gives images in [-1, 1].
        discriminator: Replaces the discriminator; ``discriminator(images[, labels])`` gives logits.
        generator_width: Channels of the generator's blocks.
        discriminator_width: Channels of the discriminator's blocks.
        spectral_norm: Whether every weight matrix of the discriminator is divided by its largest singular value.
        conditioning: How a label enters the discriminator, where there are labels: ``projection`` (Miyato & Koyama
            2018, arXiv:1802.05637), or ``auxiliary``, a classifier beside the logit (Odena et al. 2017,
            arXiv:1610.09585), whose loss has the weight ``auxiliary_weight``.
        **options: See :class:`AdversarialModule` and :class:`GenerativeModule`.

    Example:
        >>> ResNetGAN(num_classes=10, generator_width=8, discriminator_width=8).sample(labels=[3, 1], seed=0).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 32, 32),
        latent_dim: int = 128,
        num_classes: int = 0,
        *,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        generator_width: int = 256,
        discriminator_width: int = 128,
        spectral_norm: bool = True,
        conditioning: Conditioning = "projection",
        **options: Any,
    ) -> None:
        check_sizes(image_shape, latent_dim, num_classes)
        super().__init__(
            image_shape=image_shape,
            latent_dim=latent_dim,
            num_classes=num_classes,
            generator=generator or ResNetGenerator(image_shape, latent_dim, generator_width, num_classes),
            discriminator=discriminator
            or ResNetDiscriminator(image_shape, discriminator_width, num_classes, spectral_norm, conditioning),
            **options,
        )
