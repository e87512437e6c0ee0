"""The residual GAN: SNGAN, WGAN-GP, SAGAN and BigGAN are settings of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from lightning_gans.errors import check_choice
from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import check_sizes
from lightning_gans.networks import BigGANGenerator, ResNetDiscriminator, ResNetGenerator
from lightning_gans.networks.resnet import Conditioning


class ResNetGAN(AdversarialModule):
    """GAN of residual networks for images of 28, 64, 96 x 160 … pixels (Miyato et al. 2018, arXiv:1802.05957).

    The networks default to those of SNGAN on CIFAR-10. With ``loss="hinge"``, it is SNGAN. With ``loss="wasserstein"``,
    ``penalties={"wgan_gp": 10}`` and ``spectral_norm=False``, it is WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028).
    With ``attention``, ``generator_spectral_norm=True`` and ``loss="hinge"``, it is SAGAN (Zhang et al. 2019,
    arXiv:1805.08318), and with ``architecture="biggan"`` as well, BigGAN (Brock et al. 2019, arXiv:1809.11096). BigGAN
    has ``latent_dim=80``, ``generator_width=384``, ``discriminator_width=192`` and ``attention=[16]`` on CIFAR-10.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Length of the noise vectors.
        num_classes: Number of labels; 0 makes it unconditional.
        architecture: ``sngan``, or ``biggan``: the generator is a :class:`~lightning_gans.networks.BigGANGenerator`,
            where each block gets a part of the noise and all share an embedding of the labels, and both networks start
            orthogonal.
        generator: Replaces the generator; ``generator(noise[, labels])`` returns images in [-1, 1].
        discriminator: Replaces the discriminator; ``discriminator(images[, labels])`` returns logits.
        generator_width: Channels of the generator's blocks.
        discriminator_width: Channels of the discriminator's blocks.
        spectral_norm: Whether every weight matrix of the discriminator is divided by its largest singular value.
        generator_spectral_norm: The same for the generator's convolutions and linear layers.
        attention: Sizes of the feature maps, by their shorter sides, that have self-attention in both networks; for 32
            pixels, 8 or 16.
        conditioning: How a label enters the discriminator, if there are labels: ``projection`` (Miyato & Koyama 2018,
            arXiv:1802.05637), or ``auxiliary``, a classifier in addition to the logit (Odena et al. 2017,
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
        architecture: Literal["sngan", "biggan"] = "sngan",
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        generator_width: int = 256,
        discriminator_width: int = 128,
        spectral_norm: bool = True,
        generator_spectral_norm: bool = False,
        attention: Sequence[int] = (),
        conditioning: Conditioning = "projection",
        **options: Any,
    ) -> None:
        check_choice("architecture", architecture, ("sngan", "biggan"))
        check_sizes(image_shape, num_classes, latent_dim=latent_dim)
        biggan = architecture == "biggan"
        g_settings = (latent_dim, generator_width, num_classes, attention, generator_spectral_norm)
        d_settings = (discriminator_width, num_classes, spectral_norm, conditioning, attention)
        super().__init__(
            image_shape=image_shape,
            latent_dim=latent_dim,
            num_classes=num_classes,
            generator=generator or (BigGANGenerator if biggan else ResNetGenerator)(image_shape, *g_settings),
            discriminator=discriminator
            or ResNetDiscriminator(image_shape, *d_settings, "orthogonal" if biggan else "glorot"),
            **options,
        )
