"""SRGAN: super-resolution that is learned from pairs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_gans import losses
from lightning_gans.errors import SettingError, check_choice, check_counts, check_not_negative, invalid
from lightning_gans.models.base import check_sizes, tried
from lightning_gans.models.translation import TranslationModule
from lightning_gans.networks import EfficientNetLite0, SRGANDiscriminator, SRResNet
from lightning_gans.networks.normalization import Norm
from lightning_gans.training.step import TrainingStep

Content = Literal["pixels", "efficientnet"]


class SRGAN(TranslationModule):
    """Enlarge images with SRResNet, against a discriminator of whole images (Ledig et al. 2017, arXiv:1609.04802).

    The generator's loss is a content loss, the distance to the target, plus the adversarial one. A batch is
    ``(source, target)``, as :class:`PairedFolderDataModule` and the tasks ``super_resolution_x2`` and
    ``super_resolution_x4`` of all image data modules yield it.

    The paper trains SRResNet on the mean squared error first, and SRGAN from there. Both are one run here, with
    ``pretrain_steps``, so that one recipe and one command make an SRGAN, and a resumed run knows its stage from
    ``global_step`` alone. SRResNet by itself is this model with ``adversarial_weight=0``. As its checkpoint is one of
    an SRGAN, ``fit --init_from`` (:meth:`load_weights`) starts further runs from it.

    Args:
        image_shape: ``(C, H, W)`` of the targets.
        source_shape: ``(C, H, W)`` of the sources, smaller by a power of 2; None is a quarter of height and width.
        generator: Replaces the generator; ``generator(source)`` returns images in [-1, 1].
        discriminator: Replaces the discriminator; ``discriminator(images)`` returns logits.
        width: Channels of the generator, and of the discriminator's first convolutions.
        num_blocks: Residual blocks of the generator.
        norm: Normalization of both networks: ``batch``, ``instance`` or ``none``. With gradient penalties it should
            not be ``batch``.
        content: What the content loss compares: ``pixels``; ``efficientnet``, the feature maps of
            :class:`~lightning_gans.networks.EfficientNetLite0`, for images with 1 or 3 channels; or those of a custom
            network, which maps images in [-1, 1] to a tensor ``(N, ...)`` or a list of such tensors. The network is
            frozen. It belongs to training only: it is neither in checkpoints nor needed to translate.
        content_weight: Weight of the content loss, a mean square.
        pretrain_steps: Number of steps in which only the generator is updated, with the mean squared error of pixels.
            Of the ``d_steps`` batches of such a step, it uses the last.
        adversarial_weight: Weight of the adversarial loss; with 0 there is no discriminator in the training.
        generator_lr: See :class:`TranslationModule`, also for the next two.
        discriminator_lr: See there.
        betas: See there.
        **options: See :class:`TranslationModule` and :class:`GenerativeModule`.

    Example:
        >>> SRGAN((1, 32, 48), width=4, num_blocks=1).translate(torch.zeros(2, 1, 8, 12)).shape
        torch.Size([2, 1, 32, 48])
    """

    content: Content | nn.Module
    trained_networks = ("generator", "discriminator")
    averaged_networks = ("generator",)

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 96, 96),
        source_shape: Sequence[int] | None = None,
        *,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        width: int = 64,
        num_blocks: int = 16,
        norm: Norm = "batch",
        content: Content | nn.Module = "pixels",
        content_weight: float = 1.0,
        pretrain_steps: int = 0,
        adversarial_weight: float = 1e-3,
        generator_lr: float = 1e-4,
        discriminator_lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        **options: Any,
    ) -> None:
        check_sizes(image_shape)
        channels, height, across = image_shape
        sources = (channels, height // 4, across // 4) if source_shape is None else source_shape
        check_sizes(sources, setting="image_shape" if source_shape is None else "source_shape")
        scale = height // sources[1]
        if (scale * sources[1], scale * sources[2]) != (height, across):
            raise invalid("source_shape", list(sources), f"smaller by the same whole factor than {list(image_shape)}")
        check_not_negative(content_weight=content_weight)
        check_counts(least=0, pretrain_steps=pretrain_steps)
        if callable(getattr(content, "extract", None)):  # an extractor of lightning_gans.metrics
            raise invalid("content", type(content).__name__, "a network of images in [-1, 1]; an Extractor takes bytes")
        if isinstance(content, nn.Module):
            _layers(tried("content", content, image_shape))
        else:
            check_choice("content", content, get_args(Content))
        if content == "efficientnet" and channels not in (1, 3):
            raise invalid("content", content, f"another one, as it takes 1 or 3 channels and images have {channels}")
        if content_weight == adversarial_weight == 0:
            message = "content_weight and adversarial_weight are 0: the generator has no loss."
            raise SettingError(message, setting="content_weight", value=0, allowed="more than 0")
        super().__init__(
            image_shape,
            sources,
            adversarial_weight=adversarial_weight,
            generator_lr=generator_lr,
            discriminator_lr=discriminator_lr,
            betas=betas,
            **options,
        )
        vars(self)["content"] = content  # not registered as a part of this module
        self.content_weight = content_weight
        self.pretrain_steps = pretrain_steps
        self.generator = generator or SRResNet(sources[0], channels, scale, num_blocks, width, norm)
        self.discriminator = discriminator or SRGANDiscriminator(image_shape, width, norm)
        self.check_discriminator("discriminator", image_shape)
        self.create_ema()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update the discriminator ``d_steps`` times, then the generator; one translation serves both."""
        generator_optimizer, discriminator_optimizer = self.optimizers_of("generator", "discriminator")
        with self.step(batch, updates=self.d_steps) as step:
            plays = self.adversarial_weight > 0 and step.global_step >= self.pretrain_steps
            for source, target in step.batches() if plays else ():
                fake = self.generate(self.generator, source)
                with self.turn("discriminator", step, self.discriminator, target, fake) as turn:
                    d_loss = turn.regularized(self.discriminator_loss(self.discriminator, turn.real, turn.fake))
                step.update(d_loss, discriminator_optimizer)
                step.log(d_loss=d_loss)
            for source, target in step.last_batches():
                if not plays or self.accumulate_batches > 1:  # keep only one batch in memory
                    fake = self.generate(self.generator, source)
                loss = self.distance(step, fake, target)
                if plays:
                    with self.turn("generator", step, self.discriminator, target, fake) as turn:
                        adversarial = self.generator_loss(self.discriminator, target, fake)
                        g_loss = turn.regularized(self.adversarial_weight * adversarial)
                    loss = loss + g_loss
                    step.log(g_loss=g_loss)
                step.update(loss, generator_optimizer, counted=True)

    def distance(self, step: TrainingStep, fake: Tensor, target: Tensor) -> Tensor:
        """Return what the generator minimizes besides the adversarial loss, and log it."""
        if step.global_step < self.pretrain_steps:
            mse = losses.feature_distance([fake], [target]).mean()
            step.log(mse=mse)
            return mse
        content = self.content_loss(fake, target)
        step.log(content=content)
        return self.content_weight * content

    def content_loss(self, fake: Tensor, target: Tensor) -> Tensor:
        """Return the mean square distance of the features of images to those of their targets."""
        with torch.no_grad():
            wanted = _layers(self.content_network(target))
        return losses.feature_distance(_layers(self.content_network(fake)), wanted).mean()

    @cached_property
    def content_network(self) -> nn.Module:
        """The frozen network of the content loss."""
        made = {"pixels": nn.Identity, "efficientnet": EfficientNetLite0}
        network: nn.Module = made[self.content]() if isinstance(self.content, str) else self.content
        return network.requires_grad_(False).eval()

    def configure_optimizers(self) -> Any:
        """Return the optimizers; the network of the content loss is loaded first, which may fail."""
        self.content_network.to(self.device, self.dtype)  # type: ignore[arg-type]
        return super().configure_optimizers()


def _layers(features: Any) -> Sequence[Tensor]:
    """Return what a network of features returned as a list of tensors."""
    layers = [features] if isinstance(features, Tensor) else features
    if not isinstance(layers, (list, tuple)) or not all(isinstance(layer, Tensor) for layer in layers):
        found = type(features).__name__
        message = f"the network of content returned a {found}: it must return a tensor, or a list of tensors."
        raise SettingError(message, setting="content", value=found)
    return layers
