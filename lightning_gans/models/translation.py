"""Models that translate images into images, with adversarial losses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gans import losses
from lightning_gans.errors import (
    check_adam,
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
    check_repeats,
    invalid,
)
from lightning_gans.models.adversarial import Loss
from lightning_gans.models.base import GenerativeModule, tried
from lightning_gans.training.augmentation import Augmentation, checked_augment
from lightning_gans.training.batches import check_images
from lightning_gans.training.discriminator_calls import logits_of
from lightning_gans.training.freezing import FreezeLayers
from lightning_gans.training.optimizers import OptimizerCallable
from lightning_gans.training.regularizers import (
    Regularizer,
    checked_regularizers,
    gradient_penalties,
    reasons_not_to_compile,
)
from lightning_gans.training.sampling import SAMPLE_BLOCK
from lightning_gans.training.step import TrainingStep
from lightning_gans.training.turn import Player, Turn, call, take_turn


def in_tiles(translate: Callable[[Tensor], Tensor], images: Tensor, tile: int, overlap: int) -> Tensor:
    """Translate images in tiles, for images that are too large for the device, and blend the tiles linearly.

    Far enough from the edges of tiles, by half of the pixels that an output depends on, the result is that of the whole
    image. The outermost tiles move inwards, so that all have the same size.

    Args:
        translate: Maps ``(N, C, h, w)`` to images of the same size, or of a whole multiple of it.
        images: ``(N, C, H, W)``.
        tile: Height and width of the tiles, if the images are larger.
        overlap: Number of rows and columns, at least, that neighboring tiles share.

    Returns:
        Images on the CPU.

    Raises:
        SettingError: A setting is invalid.

    Example:
        >>> in_tiles(lambda images: images / 2, torch.ones(1, 1, 20, 30), tile=8, overlap=2).unique()
        tensor([0.5000])
    """
    check_counts(tile=tile)
    check_counts(least=0, overlap=overlap)
    if overlap >= tile:
        raise invalid("overlap", overlap, f"less than tile, {tile}")
    (height, width), total = images.shape[2:], None
    for top, left in itertools.product(_starts(height, tile, overlap), _starts(width, tile, overlap)):
        part = images[:, :, top : top + tile, left : left + tile]
        made = translate(part).cpu()
        scale = made.shape[2] // part.shape[2]
        if total is None:
            total = torch.zeros(*made.shape[:2], scale * height, scale * width)
            weights = torch.zeros(total.shape[2:])
        weight = torch.outer(*(_ramps(side, scale * overlap) for side in made.shape[2:]))
        rows, columns = (slice(scale * start, scale * (start + tile)) for start in (top, left))
        total[:, :, rows, columns] += weight * made
        weights[rows, columns] += weight
    assert total is not None  # there is at least one tile
    return total / weights


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Return the first rows, or columns, of tiles."""
    last = max(0, side - tile)
    return [*range(0, last, tile - overlap), last]


def _ramps(side: int, overlap: int) -> Tensor:
    """Return weights that rise from one end to 1 within the overlap, and fall to the other end."""
    distance = torch.arange(1, side + 1)
    return torch.minimum(distance, distance.flip(0)).clamp(max=overlap + 1) / (overlap + 1)


class TranslationModule(GenerativeModule):
    """A model of pairs of images ``(source, target)``, with any number of generators and discriminators.

    A subclass creates its networks, and implements ``training_step``, and :meth:`translator` if its network is not
    called ``generator``. There are no latents, so
    :meth:`translate` replaces ``sample``.

    Args:
        image_shape: ``(C, H, W)`` of the targets.
        source_shape: ``(C, H, W)`` of the sources; None is ``image_shape``.
        loss: Loss of all players, a key of :data:`lightning_gans.losses.ADVERSARIAL_LOSSES`.
        adversarial_weight: Weight of the generators' adversarial losses; 0 leaves only the other terms.
        generator_lr: Adam's learning rate for the generators.
        discriminator_lr: Adam's learning rate for the discriminators.
        betas: Adam's decay rates, for all.
        beta2_end: See :class:`AdversarialModule`.
        weight_decay: Adam's L2 penalty, for all.
        generator_optimizer: Builds the optimizer of each generator from its parameters, instead of Adam; see there.
        discriminator_optimizer: The same for each discriminator.
        d_steps: Updates of the discriminators for each update of the generators, each on its own batch;
            ``global_step`` and ``max_steps`` count updates of the generators.
        penalties: See :class:`AdversarialModule`, also for the arguments from here on.
        penalty_interval: See there.
        penalty_end: See there.
        augment: Augmentations of every image that a discriminator sees; its source is augmented in the same way.
        regularizers: See there.
        freeze_layers: See there; for all discriminators.
        **options: See :class:`GenerativeModule`.

    Attributes:
        regularizers: Terms of the losses; see :mod:`lightning_gans.training.regularizers`.
    """

    batch_kind = "pairs"

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 256, 256),
        source_shape: Sequence[int] | None = None,
        *,
        loss: Loss = "nonsaturating",
        adversarial_weight: float = 1.0,
        generator_lr: float = 2e-4,
        discriminator_lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        beta2_end: float | None = None,
        weight_decay: float = 0.0,
        generator_optimizer: OptimizerCallable | None = None,
        discriminator_optimizer: OptimizerCallable | None = None,
        d_steps: int = 1,
        penalties: dict[str, float] | None = None,
        penalty_interval: int = 1,
        penalty_end: float = 1.0,
        augment: Sequence[str] | Augmentation = (),
        regularizers: Sequence[Regularizer] = (),
        freeze_layers: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(image_shape, latent_dim=0, num_classes=0, **options)
        check_positive(generator_lr=generator_lr, discriminator_lr=discriminator_lr)
        check_choice("loss", loss, losses.ADVERSARIAL_LOSSES)
        check_not_negative(adversarial_weight=adversarial_weight)
        check_adam(betas, weight_decay, beta2_end)
        check_repeats(d_steps=d_steps)
        self.source_shape = self.image_shape if source_shape is None else tuple(source_shape)
        self.loss = loss
        self.adversarial_weight = adversarial_weight
        self.generator_lr = generator_lr
        self.discriminator_lr = discriminator_lr
        self.betas = betas
        self.beta2_end = beta2_end
        self.weight_decay = weight_decay
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.d_steps = d_steps
        self.augment = checked_augment(augment, image_shape)
        self.freeze_layers = freeze_layers
        if freeze_layers != 0:
            self._callbacks.append(FreezeLayers(freeze_layers))
        self.regularizers = [
            *gradient_penalties(penalties, penalty_interval, penalty_end),
            *checked_regularizers(regularizers),
        ]

    def translator(self, *, ema: bool = True) -> nn.Module:
        """Return the network that maps sources to targets, or its moving average: ``generator``, if not overridden."""
        network: nn.Module = self.averaged("generator", ema)
        return network

    # --- losses ---------------------------------------------------------------------------------------------------

    def discriminator_loss(
        self, discriminator: nn.Module, real: Tensor, fake: Tensor, source: Tensor | None = None
    ) -> Tensor:
        """Return the scalar that a discriminator's update minimizes.

        Args:
            discriminator: ``discriminator(images[, source])`` returns logits.
            real: Real images.
            fake: Generated images, detached from the generator.
            source: The source of both images, for a conditional discriminator.
        """
        loss = losses.ADVERSARIAL_LOSSES[self.loss]
        return loss.discriminator(self.logits(discriminator, real, source), self.logits(discriminator, fake, source))

    def generator_loss(
        self, discriminator: nn.Module, real: Tensor, fake: Tensor, source: Tensor | None = None
    ) -> Tensor:
        """Return the adversarial part of what a generator's update minimizes; see :meth:`discriminator_loss`."""
        logits = partial(self.logits, discriminator, source=source)
        return losses.ADVERSARIAL_LOSSES[self.loss].of_generator(logits, real, fake)

    def logits(self, discriminator: nn.Module, images: Tensor, source: Tensor | None) -> Tensor:
        """Return a discriminator's logits as float32 or better, of shape ``(N,)``, or ``(N, 1, h, w)`` of patches."""
        return logits_of(call(discriminator, images, source), len(images))

    def turn(
        self,
        player: Player,
        step: TrainingStep,
        discriminator: nn.Module,
        real: Tensor,
        fake: Tensor,
        source: Tensor | None = None,
    ) -> AbstractContextManager[Turn]:
        """Return a context manager for computing a player's loss, with its regularizers and augmentation."""
        return take_turn(player, step, discriminator, real, fake, source)

    def generate(self, network: nn.Module, images: Tensor, setting: str = "image_shape") -> Tensor:
        """Return a generator's images in the dtype of its input, even under autocast; ``setting`` names their shape."""
        made: Tensor = network(images)
        self.check_made(made, setting)
        return made.to(images.dtype)

    def not_compiled(self) -> dict[str, str]:
        """Exclude discriminators that are differentiated twice."""
        names = [name for name in self.trained_networks if "discriminator" in name]
        return {name: reason for reason in reasons_not_to_compile(self.regularizers).values() for name in names}

    def check_discriminator(self, name: str, *shapes: Sequence[int]) -> None:
        """Raise :class:`SettingError` if a discriminator does not return logits of an image, and of its source if any.

        Args:
            name: The discriminator's name.
            *shapes: ``(C, H, W)`` of the images that it is called with.
        """
        logits_of(tried(name, getattr(self, name), *shapes), 1)

    def configure_optimizers(self) -> Any:
        """Return an optimizer for each network."""
        of_generators = self.generator_lr, self.generator_optimizer
        of_discriminators = self.discriminator_lr, self.discriminator_optimizer
        optimizers = []
        for name, network in self.networks(self.trained_networks).items():
            lr, custom = of_discriminators if "discriminator" in name else of_generators
            optimizers.append(self.make_optimizer(network.parameters(), lr, self.betas, self.weight_decay, custom))
        return optimizers

    # --- translations ---------------------------------------------------------------------------------------------

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        """Return the translations of images; see :meth:`translate`."""
        made: Tensor = self.translator()(images)
        return made

    @torch.no_grad()
    def translate(self, images: Tensor, *, ema: bool = True) -> Tensor:
        """Translate images ``(N, C, H, W)`` in [-1, 1], of any size that the network takes.

        Args:
            images: The sources.
            ema: Whether to use the moving average of the weights, where the model has one.

        Returns:
            Float images in [-1, 1], on the model's device.

        Raises:
            SettingError: The images do not have the channels of ``source_shape``, or the network does not take their
                size.
        """
        return self._translated(self.translator(ema=ema), images)

    def _translated(self, network: nn.Module, images: Tensor, setting: str = "source_shape") -> Tensor:
        channels: int = getattr(self, setting)[0]
        check_images(images, (channels, *images.shape[-2:]), setting)
        with self.evaluating():
            blocks = [
                network(block.to(self.device).to(self.dtype)).float() for block in torch.split(images, SAMPLE_BLOCK)
            ]
        return torch.cat(blocks).clamp(-1, 1)

    def images_and_labels(self, batch: Any) -> tuple[Tensor, None]:
        """Return the targets of a batch."""
        return self.unpack(batch)[1], None

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the translations of a batch of sources, or of pairs."""
        return self.translate(batch[0] if isinstance(batch, (tuple, list)) else batch)
