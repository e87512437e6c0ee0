"""Pix2Pix: translation that is learned from pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import nn

from lightning_gans.errors import check_not_negative, invalid
from lightning_gans.losses import full_precision
from lightning_gans.models.base import check_sizes
from lightning_gans.models.translation import TranslationModule
from lightning_gans.networks import Inpainter, PatchDiscriminator, SRResNet, UNet
from lightning_gans.networks.normalization import Norm
from lightning_gans.networks.unet import Upsampling, check_divisible, halvings


class Pix2Pix(TranslationModule):
    """Translate images with a U-Net, against a discriminator of patches (Isola et al. 2017, arXiv:1611.07004).

    The discriminator sees an image together with its source, unless ``conditional`` is off. The generator's loss is the
    adversarial one plus the L1 distance to the target. A batch is ``(source, target)``, as
    :class:`PairedFolderDataModule` and the setting ``task`` of all image data modules yield it. If sources are smaller
    than targets, the generator is the network of SRGAN, and the discriminator sees enlarged sources.

    Args:
        image_shape: ``(C, H, W)`` of the targets.
        source_shape: ``(C, H, W)`` of the sources; None is ``image_shape``, with ``inpaint`` one channel more.
        generator: Replaces the generator; ``generator(source)`` returns images in [-1, 1].
        discriminator: Replaces the discriminator; ``discriminator(images, source)``, or ``discriminator(images)``
            without ``conditional``, returns logits.
        width: Channels of both networks at half the image size.
        depth: How often the U-Net halves the size; by default as often as possible, up to 8 times.
        norm: Normalization of both networks: ``batch``, ``instance`` or ``none``. With gradient penalties it should
            not be ``batch``.
        dropout: Dropout of the U-Net.
        upsampling: How the U-Net doubles the size: ``transposed`` convolutions, as in the paper, or the ``nearest``
            pixel and a convolution, which avoids checkerboards.
        input_skip: Whether the U-Net also concatenates the source at full size, which helps to keep sharp edges; see
            :class:`~lightning_gans.networks.UNet`.
        num_layers: Layers of the discriminator: 3 judges patches of 70 x 70 pixels, 2 of 34 x 34, 1 of 16 x 16.
        conditional: Whether the discriminator sees the source as well. Without it, it judges only whether an image
            looks like a target (the paper's L1 + GAN instead of L1 + cGAN), which overfits less if there are few pairs.
        l1_weight: Weight of the L1 distance.
        inpaint: Whether the last channel of the sources is a mask of holes, as in the task ``inpaint``: outside of
            them, outputs are the source bit for bit, also in training (:class:`~lightning_gans.networks.Inpainter`).
        **options: See :class:`TranslationModule` and :class:`GenerativeModule`.

    Example:
        >>> import torch
        >>> Pix2Pix((1, 32, 48), width=4, num_layers=1).translate(torch.zeros(2, 1, 32, 48)).shape
        torch.Size([2, 1, 32, 48])
    """

    trained_networks = ("generator", "discriminator")
    averaged_networks = ("generator",)

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 256, 256),
        source_shape: Sequence[int] | None = None,
        *,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        width: int = 64,
        depth: int | None = None,
        norm: Norm = "batch",
        dropout: float = 0.5,
        upsampling: Upsampling = "transposed",
        input_skip: bool = False,
        num_layers: int = 3,
        conditional: bool = True,
        l1_weight: float = 100.0,
        inpaint: bool = False,
        **options: Any,
    ) -> None:
        check_sizes(image_shape)
        masked = (image_shape[0] + 1, *image_shape[1:])
        if source_shape is None and inpaint:
            source_shape = masked
        sources = image_shape if source_shape is None else source_shape
        if inpaint and tuple(sources) != masked:
            raise invalid("source_shape", list(sources), f"{list(masked)}, as inpaint adds a channel to image_shape")
        check_sizes(sources, setting="source_shape")
        check_not_negative(l1_weight=l1_weight)
        channels, scale = (sources[0], image_shape[0]), image_shape[1] // sources[1]
        made = generator
        if made is None and tuple(scale * side for side in sources[1:]) != tuple(image_shape[1:]):
            allowed = f"as high and wide as image_shape, {list(image_shape)}, or smaller by one whole factor"
            raise invalid("source_shape", list(sources), allowed)
        if made is None and scale > 1:
            made = SRResNet(*channels, scale, width=width)
        elif made is None:
            halved = halvings(image_shape) if depth is None else depth
            check_divisible(image_shape, 2**halved, f"depth is {halved}")
            made = UNet(*channels, halved, width, norm, dropout, upsampling, input_skip)
        super().__init__(image_shape, source_shape, **options)
        self.l1_weight = l1_weight
        self.inpaint = inpaint
        self.conditional = conditional
        self.generator = Inpainter(made) if inpaint else made
        seen = [image_shape, *([sources] if conditional else [])]
        in_channels = sum(shape[0] for shape in seen)
        self.discriminator = discriminator or PatchDiscriminator(in_channels, num_layers, width, norm)
        self.check_discriminator("discriminator", *seen)
        self.create_ema()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update the discriminator ``d_steps`` times, then the generator; one translation serves both."""
        generator_optimizer, discriminator_optimizer = self.optimizers_of("generator", "discriminator")
        with self.step(batch, updates=self.d_steps) as step:
            for source, target in step.batches():
                fake = self.generate(self.generator, source)
                condition = source if self.conditional else None
                with self.turn("discriminator", step, self.discriminator, target, fake, condition) as turn:
                    loss = self.discriminator_loss(self.discriminator, turn.real, turn.fake, condition)
                    d_loss = turn.regularized(loss)
                step.update(d_loss, discriminator_optimizer)
                step.log(d_loss=d_loss)
            for source, target in step.last_batches():
                if self.accumulate_batches > 1:  # keep only one batch in memory
                    fake = self.generate(self.generator, source)
                condition = source if self.conditional else None
                with self.turn("generator", step, self.discriminator, target, fake, condition) as turn:
                    loss = self.generator_loss(self.discriminator, target, fake, condition)
                    g_loss = turn.regularized(self.adversarial_weight * loss)
                l1 = F.l1_loss(full_precision(fake), full_precision(target))
                step.update(g_loss + self.l1_weight * l1, generator_optimizer, counted=True)
                step.log(g_loss=g_loss, l1=l1)
