"""The conditional GAN: the label enters both networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_gans import losses
from lightning_gans.errors import SettingError, check_choice, check_positive, check_share, check_widths
from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import check_sizes
from lightning_gans.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator


class ConditionalGAN(AdversarialModule):
    """GAN whose samples are of the class asked for (Mirza & Osindero 2014, https://arxiv.org/abs/1411.1784).

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Length of the noise vectors.
        num_classes: Number of labels, at least 1.
        architecture: ``mlp`` (the paper's) or ``conv`` (DCGAN's networks).
        generator: Replaces the generator; ``generator(noise, labels)`` gives images in [-1, 1].
        discriminator: Replaces the discriminator; ``discriminator(images, labels)`` gives logits.
        generator_dims: Widths of the hidden layers of the ``mlp`` generator.
        discriminator_dims: Widths of the hidden layers of the ``mlp`` discriminator.
        dropout: Probability of dropping a hidden unit of the ``mlp`` discriminator.
        width: Channels of the ``conv`` networks at half the image's size; each halving doubles them.
        batch_norm: Whether the ``conv`` discriminator has BatchNorm; with a gradient penalty it should not.
        dense_dims: Widths of fully connected layers behind the convolutions of the ``conv`` discriminator, from the
            image on; the generator has them in reverse before its own.
        generator_conditioning: Where a label enters the ``conv`` generator: ``input``, beside the noise, or
            ``batch_norm``, as scale and shift of each BatchNorm (de Vries et al. 2017, arXiv:1707.00683).
        mismatch_weight: Share of the discriminator's loss on what is not real that goes to real images with
            a wrong label (Reed et al. 2016, arXiv:1605.05396, section 4.1), the rest going to fakes; 0 is
            the paper's loss. The discriminator learns much faster what the label means.
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
        mismatch_weight: float = 0.0,
        **options: Any,
    ) -> None:
        check_choice("architecture", architecture, ("mlp", "conv"))
        check_positive(num_classes=num_classes)
        if not 0 <= mismatch_weight < 1 or (mismatch_weight > 0 and num_classes < 2):
            raise SettingError(
                f"mismatch_weight is {mismatch_weight} with num_classes {num_classes}: "
                "it is a share, from 0 to below 1, and needs two classes."
            )
        check_sizes(image_shape, latent_dim)
        # Whichever architecture they are for, so that a recipe whose architecture is overridden keeps its settings.
        check_choice("generator_conditioning", generator_conditioning, ("input", "batch_norm"))
        check_positive(width=width)
        check_share(dropout=dropout)
        check_widths(generator_dims=generator_dims, discriminator_dims=discriminator_dims)
        check_widths(dense_dims=dense_dims, empty=True)
        if architecture == "mlp":
            generator = generator or MLPGenerator(image_shape, latent_dim, generator_dims, num_classes)
            discriminator = discriminator or MLPDiscriminator(image_shape, discriminator_dims, dropout, num_classes)
        else:
            generator = generator or DCGANGenerator(
                image_shape, latent_dim, width, num_classes, dense_dims[::-1], generator_conditioning
            )
            discriminator = discriminator or DCGANDiscriminator(image_shape, width, num_classes, batch_norm, dense_dims)
        super().__init__(
            image_shape=image_shape,
            latent_dim=latent_dim,
            num_classes=num_classes,
            generator=generator,
            discriminator=discriminator,
            **options,
        )
        self.mismatch_weight = mismatch_weight

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the loss on real and fake images, and on real images with wrong labels."""
        if self.mismatch_weight == 0 or labels is None:
            return super().discriminator_loss(real, fake, labels)
        real_logits, fake_logits = self.logits(real, labels), self.logits(fake, labels)
        wrong_logits = self.logits(real, self._wrong(labels))
        loss = losses.ADVERSARIAL_LOSSES[self.loss].discriminator
        return (
            loss(real_logits, fake_logits) * (1 - self.mismatch_weight)
            + loss(real_logits, wrong_logits) * self.mismatch_weight
        )

    def _wrong(self, labels: Tensor) -> Tensor:
        """Return another label for each: the next but 0, 1, 2 … in turn over the global batch and the steps."""
        first = self.first_row(len(labels)) + self.trainer.global_step
        turn = torch.arange(first, first + len(labels), device=labels.device) % (self.num_classes - 1)
        return (labels + 1 + turn) % self.num_classes
