"""A turn: one player's loss on one batch, while a model's training step computes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lightning_gans import losses
from lightning_gans.augment.pipeline import Draw
from lightning_gans.errors import invalid
from lightning_gans.randomness import Stream
from lightning_gans.training.augmentation import Augmentation
from lightning_gans.training.compiled import frozen
from lightning_gans.training.discriminator_calls import DiscriminatorCalls, logits_of, record_calls
from lightning_gans.training.step import TrainingStep

if TYPE_CHECKING:
    from lightning_gans.training.regularizers import Regularizer

Player = Literal["discriminator", "generator"]

RESERVED = ("d_loss", "g_loss", "d_real", "d_fake", "loss", "real", "fake", "augment")
"""Names that regularizers cannot have: keys that a training step logs, alone or after ``d_`` or ``g_``, and that of the
augmentation's state."""


@dataclass
class Turn:
    """One player's loss on one batch, while it is computed.

    Attributes:
        player: Whose loss it is.
        step: The training step; ``step.update_index`` is the index of the discriminator's update, ``step.module`` the
            model.
        discriminator: The network.
        real: Real images, ``(N, C, H, W)``; they require grad if an active regularizer needs the gradient with respect
            to them.
        fake: Generated images, ``(k * N, C, H, W)``: k sets as large as the real batch, concatenated (VAEGAN: k = 2).
        labels: What the real images are conditioned on: classes ``(N,)``, vectors ``(N, K)`` or source images
            ``(N, C, H, W)``; None for nothing.
        calls: The discriminator's calls so far.
        active: The regularizers of this update.
    """

    player: Player
    step: TrainingStep
    discriminator: nn.Module
    real: Tensor
    fake: Tensor
    labels: Tensor | None
    calls: DiscriminatorCalls
    active: Sequence[Regularizer]

    @property
    def name(self) -> str:
        """Name of the discriminator in the model."""
        return name_in(self.step.module, self.discriminator)

    def logits(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the discriminator's logits of images, from the first call on them or from a new call.

        Args:
            images: The tensor object that was shown, or new images.
            labels: Their labels; by default those of the batch, repeated for several sets of images.
        """
        if labels is None and (known := self.calls.on(images)) is not None:
            return logits_of(known.logits, len(images))
        return self.call(images, labels)

    def certainty(self) -> Tensor:
        """Return how far each real image's logit is above the decision boundary: positive if it is taken for real.

        If the loss has no boundary, return how far it is above the logit of a generated image.
        """
        real = self.logits(self.real)
        boundary = losses.ADVERSARIAL_LOSSES[self.step.module.loss].boundary
        if boundary is not None:
            return real - boundary
        fake = self.logits(self.fake)
        return torch.cat([real] * (len(fake) // len(real))) - fake

    def call(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Show images to the discriminator and return its logits."""
        if labels is None and self.labels is not None:
            labels = torch.cat([self.labels] * (len(images) // len(self.labels)))
        return logits_of(call(self.discriminator, images, labels), len(images))

    def uniform(self, size: int, stream: int, *key: int, sets: int = 1) -> Tensor:
        """Draw numbers uniform in [0, 1), ``(sets * N, size)``, that belong to the images of the batch.

        They differ between the updates of a step. For normal numbers use ``step.noise``.

        Args:
            size: Number of values for each image.
            stream: What they are for; custom streams start at 1000.
            *key: Any integers, to tell several draws of one stream apart.
            sets: Number of sets of images, each as large as the batch.
        """
        return uniform_for(self.step, sets, len(self.real), size, stream, update_of(self.step, self.player), *key)

    def regularized(self, loss: Tensor) -> Tensor:
        """Return a loss plus the terms of this turn's regularizers, and log the terms and the mean logits.

        Raises:
            SettingError: A term is not a scalar.
        """
        for regularizer in self.active:
            term = regularizer(self)
            if not isinstance(term, Tensor):
                raise invalid(f"the term of {regularizer!r}", type(term).__name__, "a scalar tensor")
            if term.numel() != 1:
                raise invalid(f"the term of {regularizer!r}", list(term.shape), "a scalar tensor", " Take its mean.")
            if regularizer.logged and self.step.will_log:
                self.step.log(**{self._log_key(regularizer.name): term})
            loss = loss + regularizer.weight_in(self.step) * term
        if self.player == "discriminator" and self.step.will_log:
            for name, images in (("d_real", self.real), ("d_fake", self.fake)):
                if (known := self.calls.on(images)) is not None:
                    self.step.log(**{name: known.logits.detach().float().mean()})
        return loss

    def _log_key(self, name: str) -> str:
        """Return a term's key in the log, with the prefix ``d_`` or ``g_`` if both players have a term of its name."""
        players = {player for r in self.step.module.regularizers if r.name == name for player in r.players}
        return name if len(players) < 2 else f"{self.player[0]}_{name}"


@contextmanager
def take_turn(
    player: Player,
    step: TrainingStep,
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor,
    labels: Tensor | None,
    layers: Iterable[nn.Module] = (),
) -> Iterator[Turn]:
    """Record the discriminator's calls while a player's loss is computed, and augment what it is shown.

    The regularizers and the augmentation are those of the step's model.

    Args:
        player: Whose loss it is.
        step: The training step.
        discriminator: ``discriminator(images[, labels])``.
        real: Real images.
        fake: Generated images.
        labels: What the real images are conditioned on, or None.
        layers: Layers of the discriminator whose inputs are recorded, in addition to those of the regularizers.
    """
    active = [r for r in step.module.regularizers if player in r.players and r.is_due(step, player)]
    augment: Augmentation | None = step.module.augment
    update, num, name = update_of(step, player), len(real), name_in(step.module, discriminator) if augment else ""

    def drawing(images: Tensor, stream: int, *key: int) -> Draw:
        sets = len(images) // num if len(images) % num == 0 else 1
        return lambda size, *more: uniform_for(step, sets, len(images) // sets, size, stream, update, *key, *more)

    def augmented(images: Tensor, index: int) -> Tensor:
        assert augment is not None
        return augment(images, drawing(images, Stream.AUGMENT, index), name)

    if player == "discriminator":
        if augment is not None:
            real = augment.shown_as_real(real, fake, drawing(real, Stream.REPLACE), name)
        real = real.detach().requires_grad_(any(r.differentiates == "real" for r in active))
        fake = fake.detach().requires_grad_(any(r.differentiates == "fake" for r in active))
    of_terms = [layer for r in active if (layer := r.feature_layer_of(discriminator)) is not None]
    resting = frozen(discriminator) if player == "generator" else nullcontext()
    with resting, record_calls(discriminator, augmented if augment else None, [*layers, *of_terms]) as calls:
        turn = Turn(player, step, discriminator, real, fake, labels, calls, active)
        yield turn
        if augment is not None and player == "discriminator":
            augment.adapt(turn)


def name_in(module: nn.Module, network: nn.Module) -> str:
    """Return the name of a network in a module."""
    return str(next(name for name, part in module.named_modules() if part is network))


def update_of(step: TrainingStep, player: Player) -> int:
    """Return the index of a player's update within the step; the generator's comes after the discriminator's."""
    return step.update_index if player == "discriminator" else step.updates


def call(network: Any, inputs: Tensor, labels: Tensor | None) -> Any:
    """Call a network, with labels if there are any."""
    return network(inputs) if labels is None else network(inputs, labels)


def uniform_for(step: TrainingStep, sets: int, num: int, size: int, *key: int) -> Tensor:
    """Draw ``(sets * num, size)`` numbers uniform in [0, 1) for sets of as many images as the batch has."""
    # All numbers of an image are in its row, so that they do not depend on how the batch is divided.
    return step.uniform(num, sets * size, *key).view(num, sets, size).transpose(0, 1).reshape(-1, size)
