"""The recurrent GAN, for sequences, and for images row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import check_sizes
from lightning_gans.networks.recurrent import Cell, RecurrentDiscriminator, RecurrentGenerator


class RecurrentGAN(AdversarialModule):
    """GAN of two recurrent networks (Esteban et al. 2017, https://arxiv.org/abs/1706.02633: RGAN, RCGAN).

    Its images are sequences ``(N, C, T)``, or pictures ``(N, C, H, W)`` whose rows are the steps. The discriminator may
    read the steps in both directions (Mogren 2016, https://arxiv.org/abs/1611.09904).

    Args:
        image_shape: ``(C, T)`` of the sequences, or ``(C, H, W)`` of the images.
        latent_dim: Length of the noise vectors.
        num_classes: Number of labels, which both networks get with each step; 0 makes it unconditional.
        generator: Replaces the generator; ``generator(noise[, labels])`` returns sequences or images in [-1, 1].
        discriminator: Replaces the discriminator; ``discriminator(images[, labels])`` returns logits.
        hidden_dim: Hidden units of each layer in both networks.
        num_layers: Recurrent layers of both networks.
        cell: ``gru`` or ``lstm``.
        bidirectional: Whether the discriminator reads the steps in both directions.
        step_noise: Numbers of the noise vector that each step has for itself; all steps share the rest. See
            :class:`~lightning_gans.networks.recurrent.RecurrentGenerator`.
        **options: See :class:`AdversarialModule` and :class:`GenerativeModule`.

    Example:
        >>> RecurrentGAN(image_shape=(1, 32)).sample(2, seed=0).shape
        torch.Size([2, 1, 32])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 32),
        latent_dim: int = 16,
        num_classes: int = 0,
        *,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        hidden_dim: int = 64,
        num_layers: int = 1,
        cell: Cell = "lstm",
        bidirectional: bool = True,
        step_noise: int = 0,
        **options: Any,
    ) -> None:
        check_sizes(image_shape, num_classes, latent_dim=latent_dim, sequences=True)
        super().__init__(
            image_shape=image_shape,
            latent_dim=latent_dim,
            num_classes=num_classes,
            generator=generator
            or RecurrentGenerator(image_shape, latent_dim, hidden_dim, num_layers, cell, step_noise, num_classes),
            discriminator=discriminator
            or RecurrentDiscriminator(image_shape, hidden_dim, num_layers, cell, bidirectional, num_classes),
            **options,
        )
