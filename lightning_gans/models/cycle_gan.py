"""CycleGAN: translation that is learned without pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import check_choice, check_counts, check_not_negative, invalid
from lightning_gans.losses import full_precision
from lightning_gans.models.adversarial import Loss
from lightning_gans.models.base import check_sizes
from lightning_gans.models.translation import TranslationModule
from lightning_gans.networks import PatchDiscriminator, ResNetTranslator
from lightning_gans.networks.normalization import Norm
from lightning_gans.randomness import Stream
from lightning_gans.training.image_pool import ImagePool
from lightning_gans.training.step import TrainingStep


class CycleGAN(TranslationModule):
    """Translate both ways, so that an image that is translated there and back stays the same (Zhu et al. 2017).

    See https://arxiv.org/abs/1703.10593. A batch is ``(source, target)``, images that need not match, as
    :class:`UnpairedFolderDataModule` yields them. Discriminators are also shown earlier translations, from a pool.

    Args:
        image_shape: ``(C, H, W)`` of the targets.
        source_shape: ``(C, H, W)`` of the sources, with the same height and width; None is ``image_shape``.
        to_target: Replaces the generator of targets; ``to_target(source)`` returns images in [-1, 1].
        to_source: Replaces the generator of sources.
        target_discriminator: Replaces the discriminator of targets; it returns logits of images.
        source_discriminator: Replaces the discriminator of sources.
        width: Channels of the generators at the image size, and of the discriminators at half of it.
        num_blocks: Residual blocks of the generators; the paper has 6 for 128 x 128 pixels and 9 for more.
        norm: Normalization of all networks: ``batch``, ``instance`` or ``none``.
        depth: How often the generators halve the size before the blocks. With less, they see less of an image at once.
        affine: Whether each generator also learns an affine map of its images, for kinds that differ in size or place;
            see :class:`~lightning_gans.networks.ResNetTranslator`.
        num_layers: Layers of the discriminators: 3 judges patches of 70 x 70 pixels, 2 of 34 x 34, 1 of 16 x 16.
        cycle_weight: Weight of the L1 distance between an image and its translation there and back.
        cycle_noise: Standard deviation of normal noise that is added to a translation before it is translated back. It
            covers patterns too faint to see, from which the generators otherwise recover what a translation no longer
            shows (Chu et al. 2017, https://arxiv.org/abs/1712.02950; noise: https://arxiv.org/abs/1908.01517).
        identity_weight: Weight of the L1 distance between an image and its translation into its own kind; the paper
            uses half of ``cycle_weight`` to preserve colors, and 0 otherwise.
        pool_size: Images in each of the two pools; 0 shows only the newest translations.
        loss: See :class:`TranslationModule`.
        adversarial_weight: See there; 2 because the paper's least squares do not have the factor 1/2 of
            :func:`~lightning_gans.losses.least_squares_generator_loss`.
        **options: See :class:`TranslationModule` and :class:`GenerativeModule`.

    Example:
        >>> model = CycleGAN((1, 32, 48), width=4, num_blocks=1, num_layers=1, pool_size=2)
        >>> model.translate(torch.zeros(2, 1, 32, 48), to="source").shape
        torch.Size([2, 1, 32, 48])
    """

    trained_networks = ("to_target", "to_source", "target_discriminator", "source_discriminator")
    averaged_networks = ("to_target", "to_source")

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 256, 256),
        source_shape: Sequence[int] | None = None,
        *,
        to_target: nn.Module | None = None,
        to_source: nn.Module | None = None,
        target_discriminator: nn.Module | None = None,
        source_discriminator: nn.Module | None = None,
        width: int = 64,
        num_blocks: int = 9,
        depth: int = 2,
        norm: Norm = "instance",
        affine: bool = False,
        num_layers: int = 3,
        cycle_weight: float = 10.0,
        cycle_noise: float = 0.0,
        identity_weight: float = 5.0,
        pool_size: int = 50,
        loss: Loss = "least_squares",
        adversarial_weight: float = 2.0,
        **options: Any,
    ) -> None:
        sources = image_shape if source_shape is None else source_shape
        check_sizes(image_shape)
        check_sizes(sources, setting="source_shape")
        check_not_negative(cycle_weight=cycle_weight, cycle_noise=cycle_noise, identity_weight=identity_weight)
        check_counts(least=0, pool_size=pool_size)
        if tuple(sources[1:]) != tuple(image_shape[1:]):
            raise invalid("source_shape", source_shape, f"as high and wide as image_shape, {list(image_shape)}")
        if identity_weight > 0 and sources[0] != image_shape[0]:
            raise invalid("identity_weight", identity_weight, "0, as sources and targets have different channels")
        super().__init__(image_shape, source_shape, loss=loss, adversarial_weight=adversarial_weight, **options)
        here, there = sources[0], image_shape[0]
        self.cycle_weight = cycle_weight
        self.cycle_noise = cycle_noise
        self.identity_weight = identity_weight
        options_of_both = num_blocks, width, depth, norm, affine
        self.to_target = to_target or ResNetTranslator(here, there, *options_of_both)
        self.to_source = to_source or ResNetTranslator(there, here, *options_of_both)
        self.target_discriminator = target_discriminator or PatchDiscriminator(there, num_layers, width, norm)
        self.source_discriminator = source_discriminator or PatchDiscriminator(here, num_layers, width, norm)
        self.check_discriminator("target_discriminator", image_shape)
        self.check_discriminator("source_discriminator", sources)
        self.target_pool = ImagePool(pool_size, self.image_shape)
        self.source_pool = ImagePool(pool_size, self.source_shape)
        self.create_ema()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update both discriminators ``d_steps`` times, then both generators; a translation each way serves both."""
        to_target, to_source, *of_discriminators = self.optimizers_of(*self.trained_networks)
        with self.step(batch, updates=self.d_steps) as step:
            for source, target in step.batches():
                fakes = self.translations(source, target)
                d_loss = self.discriminators_loss(step, source, target, *fakes)
                step.update(d_loss, *of_discriminators)
                step.log(d_loss=d_loss)
            for source, target in step.last_batches():
                if self.accumulate_batches > 1:  # keep only one batch in memory
                    fakes = self.translations(source, target)
                g_loss = self.generators_loss(step, source, target, *fakes)
                cycle = self.cycle_loss(source, target, *self.with_noise(step, *fakes))
                identity = self.identity_loss(source, target)
                loss = g_loss + self.cycle_weight * cycle + self.identity_weight * identity
                step.update(loss, to_target, to_source, counted=True)
                step.log(g_loss=g_loss, cycle=cycle, identity=identity)

    def translations(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the translations of sources into targets, and of targets into sources."""
        return self.generate(self.to_target, source), self.generate(self.to_source, target, "source_shape")

    def discriminators_loss(
        self, step: TrainingStep, source: Tensor, target: Tensor, fake_target: Tensor, fake_source: Tensor
    ) -> Tensor:
        """Return the sum of both discriminators' losses, on real images and on translations from the pools."""
        total = torch.zeros((), device=source.device)
        for key, (network, pool, real, fake) in enumerate(
            (
                (self.target_discriminator, self.target_pool, target, fake_target),
                (self.source_discriminator, self.source_pool, source, fake_source),
            )
        ):
            with self.turn("discriminator", step, network, real, pool.exchanged(fake, step, key)) as turn:
                total = total + turn.regularized(self.discriminator_loss(network, turn.real, turn.fake))
        return total

    def generators_loss(
        self, step: TrainingStep, source: Tensor, target: Tensor, fake_target: Tensor, fake_source: Tensor
    ) -> Tensor:
        """Return the sum of both generators' adversarial losses, with their weight."""
        total = torch.zeros((), device=source.device)
        for network, real, fake in (
            (self.target_discriminator, target, fake_target),
            (self.source_discriminator, source, fake_source),
        ):
            with self.turn("generator", step, network, real, fake) as turn:
                loss = self.adversarial_weight * self.generator_loss(network, real, fake)
                total = total + turn.regularized(loss)
        return total

    def with_noise(self, step: TrainingStep, fake_target: Tensor, fake_source: Tensor) -> tuple[Tensor, Tensor]:
        """Return translations with ``cycle_noise``."""
        if self.cycle_noise == 0:
            return fake_target, fake_source

        def noisy(images: Tensor, stream: Stream) -> Tensor:
            noise = step.noise(len(images), images[0].numel(), stream).view_as(images)
            return images + self.cycle_noise * noise

        return noisy(fake_target, Stream.NOISE_ON_TARGET), noisy(fake_source, Stream.NOISE_ON_SOURCE)

    def cycle_loss(self, source: Tensor, target: Tensor, fake_target: Tensor, fake_source: Tensor) -> Tensor:
        """Return the distance of images to their translations there and back, equation 2."""
        return _l1(self.to_source(fake_target), source) + _l1(self.to_target(fake_source), target)

    def identity_loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the distance of images to their translations into their own kind, section 5.2; 0 without a weight."""
        if self.identity_weight == 0:
            return torch.zeros((), device=source.device)
        return _l1(self.to_source(source), source) + _l1(self.to_target(target), target)

    def translator(self, *, to: Literal["target", "source"] = "target", ema: bool = True) -> nn.Module:
        """Return one of the generators, or its moving average."""
        check_choice("to", to, ("target", "source"))
        network: nn.Module = self.averaged(f"to_{to}", ema)
        return network

    @torch.no_grad()
    def translate(self, images: Tensor, *, to: Literal["target", "source"] = "target", ema: bool = True) -> Tensor:
        """Translate images; see :meth:`TranslationModule.translate`.

        Args:
            images: ``(N, C, H, W)`` in [-1, 1], of any size that the network takes.
            to: The kind of images to translate into.
            ema: Whether to use the moving average of the weights.

        Returns:
            Float images in [-1, 1], on the model's device.

        Raises:
            SettingError: ``to`` is neither ``target`` nor ``source``, or the network does not take such images.
        """
        setting = "source_shape" if to == "target" else "image_shape"
        return self._translated(self.translator(to=to, ema=ema), images, setting)


def _l1(first: Tensor, second: Tensor) -> Tensor:
    return F.l1_loss(full_precision(first), full_precision(second))
