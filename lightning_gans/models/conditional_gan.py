"""The conditional GAN: the label enters both networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from lightning_gans.errors import check_choice, check_counts, check_share, check_widths
from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import check_sizes
from lightning_gans.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator


class ConditionalGAN(AdversarialModule):
    """GAN that generates images of a given class (Mirza & Osindero 2014, https://arxiv.org/abs/1411.1784).

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Length of the noise vectors.
        num_classes: Number of labels, at least 1.
        architecture: ``mlp`` (the paper's) or ``conv`` (DCGAN's networks).
        generator: Replaces the generator; ``generator(noise, labels)`` returns images in [-1, 1].
        discriminator: Replaces the discriminator; ``discriminator(images, labels)`` returns logits.
        generator_dims: Widths of the hidden layers of the ``mlp`` generator.
        discriminator_dims: Widths of the hidden layers of the ``mlp`` discriminator.
        dropout: Probability of dropping a hidden unit of the ``mlp`` discriminator.
        width: Channels of the ``conv`` networks at half the image's size; each halving doubles them.
        batch_norm: Whether the ``conv`` discriminator has BatchNorm; with a gradient penalty it should not.
        dense_dims: Widths of fully connected layers after the convolutions of the ``conv`` discriminator, from the
            image to the logit; the generator has them in reverse order before its convolutions.
        generator_conditioning: Where a label enters the ``conv`` generator: ``input``, appended to the noise, or
            ``batch_norm``, as scale and shift of each BatchNorm (de Vries et al. 2017, arXiv:1707.00683).
        **options: See :class:`AdversarialModule` and :class:`GenerativeModule`.

    Example:
        >>> ConditionalGAN(num_classes=10).sample(labels=[3, 1, 4], seed=0).shape
        torch.Size([3, 1, 28, 28])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 64,
        num_classes: int = 10,
        *,
        architecture: Literal["mlp", "conv"] = "mlp",
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        generator_dims: Sequence[int] = (256, 512, 1024),
        discriminator_dims: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.3,
        width: int = 64,
        batch_norm: bool = True,
        dense_dims: Sequence[int] = (),
        generator_conditioning: Literal["input", "batch_norm"] = "input",
        **options: Any,
    ) -> None:
        check_choice("architecture", architecture, ("mlp", "conv"))
        check_counts(num_classes=num_classes)
        check_sizes(image_shape, latent_dim=latent_dim)
        # Check the settings of both architectures: a recipe keeps them when its architecture is overridden.
        check_choice("generator_conditioning", generator_conditioning, ("input", "batch_norm"))
        check_counts(width=width)
        check_share(dropout=dropout)
        check_widths(generator_dims=generator_dims, discriminator_dims=discriminator_dims)
        check_widths(dense_dims=dense_dims, empty=True)
        if architecture == "mlp":
            made = (
                generator or MLPGenerator(image_shape, latent_dim, generator_dims, num_classes),
                discriminator or MLPDiscriminator(image_shape, discriminator_dims, dropout, num_classes),
            )
        else:
            sizes, conditioning = (image_shape, latent_dim, width, num_classes), generator_conditioning
            made = (
                generator or DCGANGenerator(*sizes, dense_dims[::-1], conditioning),
                discriminator or DCGANDiscriminator(image_shape, width, num_classes, batch_norm, dense_dims),
            )
        super().__init__(
            image_shape=image_shape,
            latent_dim=latent_dim,
            num_classes=num_classes,
            generator=made[0],
            discriminator=made[1],
            **options,
        )
