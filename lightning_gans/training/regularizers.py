"""Regularizers: terms that are added to a player's loss, whatever that loss is.

Each is a small object with one call. It gets the :class:`Turn` of a player, which has the images, the labels, the
discriminator's calls and random numbers, and returns a scalar. A custom one is a subclass of :class:`Regularizer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans import augment as augmentation
from lightning_gans import losses, penalties
from lightning_gans.errors import (
    SettingError,
    check_choice,
    check_counts,
    check_not_negative,
    check_numbers,
    check_share,
)
from lightning_gans.randomness import Stream
from lightning_gans.training.acceleration import frozen
from lightning_gans.training.discriminator_calls import DiscriminatorCalls, find_feature_layer, logits_of, record_calls
from lightning_gans.training.schedules import cosine
from lightning_gans.training.step import TrainingStep

Player = Literal["discriminator", "generator"]


class Turn:
    """One player's loss on one batch, while it is computed.

    Attributes:
        player: Whose loss it is.
        step: The training step; ``step.number`` is the index of the discriminator update, ``step.module`` the model.
        discriminator: The network.
        real: Real images, ``(N, C, H, W)``; they require grad if an active regularizer needs the gradient with respect
            to them.
        fake: Generated images, ``(k * N, C, H, W)``: k sets as large as the real batch, concatenated (VAEGAN: k = 2).
        labels: Labels of the real images, ``(N,)``, or None.
        calls: The discriminator's calls so far.
    """

    def __init__(
        self,
        player: Player,
        step: TrainingStep,
        discriminator: nn.Module,
        real: Tensor,
        fake: Tensor,
        labels: Tensor | None,
        calls: DiscriminatorCalls,
        active: Sequence[Regularizer],
    ) -> None:
        self.player, self.step, self.discriminator = player, step, discriminator
        self.real, self.fake, self.labels, self.calls, self.active = real, fake, labels, calls, active
        self.update = update_of(step, player)

    def logits(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the discriminator's logits of images, from the first call on them or from a new call.

        Args:
            images: The very tensor that was shown, or new images.
            labels: Their labels; by default those of the batch, repeated for several sets of images.
        """
        if labels is None and (known := self.calls.on(images)) is not None:
            return logits_of(known.logits, len(images))
        return self.call(images, labels)

    def call(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Show images to the discriminator and return its logits."""
        if labels is None and self.labels is not None:
            labels = torch.cat([self.labels] * (len(images) // len(self.labels)))
        return logits_of(call(self.discriminator, images, labels), len(images))

    def uniform(self, size: int, stream: int, *key: int, sets: int = 1) -> Tensor:
        """Draw numbers uniform in [0, 1), ``(sets * N, size)``, that belong to the images of the batch.

        They differ between the updates of a step.

        Args:
            size: How many for each image.
            stream: What they are for; custom streams start at 1000.
            *key: Any integers, to tell several draws of one stream apart.
            sets: For several sets as large as the batch.
        """
        return uniform_for(self.step, sets, len(self.real), size, stream, self.update, *key)

    def regularized(self, loss: Tensor) -> Tensor:
        """Return a loss with the terms of this turn's regularizers, and log these and the mean logits."""
        for regularizer in self.active:
            term = regularizer(self)
            if regularizer.logged:
                self.step.log(**{regularizer.name: term})
            loss = loss + regularizer.weight_in(self.step) * term
        if self.player == "discriminator" and self.step.will_log:
            for name, images in (("d_real", self.real), ("d_fake", self.fake)):
                if (known := self.calls.on(images)) is not None:
                    self.step.log(**{name: known.logits.detach().float().mean()})
        return loss


@contextmanager
def take_turn(
    player: Player,
    step: TrainingStep,
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor,
    labels: Tensor | None,
    regularizers: Sequence[Regularizer] = (),
    augment: Sequence[str] = (),
    feature_layer: nn.Module | None = None,
) -> Iterator[Turn]:
    """Record the discriminator's calls while a player's loss is computed, and augment what it is shown.

    Args:
        player: Whose loss it is.
        step: The training step.
        discriminator: ``discriminator(images[, labels])``.
        real: Real images.
        fake: Generated images.
        labels: Labels of the real images, or None.
        regularizers: All regularizers; the turn picks those due for this player.
        augment: Policies of DiffAugment.
        feature_layer: A layer of the discriminator whose input is recorded; by default that of a regularizer.
    """
    active = [r for r in regularizers if player in r.players and r.is_due(step, player)]
    update = update_of(step, player)
    if player == "discriminator":
        real = real.detach().requires_grad_(any(r.differentiates == "real" for r in active))
        fake = fake.detach().requires_grad_(any(r.differentiates == "fake" for r in active))

    def augmented(images: Tensor, index: int) -> Tensor:
        sets = len(images) // len(real) if len(images) % len(real) == 0 else 1
        size = augmentation.NUM_UNIFORMS
        uniforms = uniform_for(step, sets, len(images) // sets, size, Stream.AUGMENT, update, index)
        return augmentation.diff_augment(images, augment, uniforms)

    for regularizer in active:
        feature_layer = feature_layer or regularizer.feature_layer_of(discriminator)
    resting = frozen(discriminator) if player == "generator" else nullcontext()
    with resting, record_calls(discriminator, augmented if augment else None, feature_layer) as calls:
        yield Turn(player, step, discriminator, real, fake, labels, calls, active)


def update_of(step: TrainingStep, player: Player) -> int:
    """Return the index of a player's update within the step; the generator's comes after the discriminator's."""
    return step.number if player == "discriminator" else step.updates


def call(network: Any, inputs: Tensor, labels: Tensor | None) -> Any:
    """Call a network, with labels if there are any."""
    return network(inputs) if labels is None else network(inputs, labels)


def uniform_for(step: TrainingStep, sets: int, num: int, size: int, *key: int) -> Tensor:
    """Draw ``(sets * num, size)`` numbers uniform in [0, 1) for sets of as many images as the batch has."""
    # All numbers of an image are in its row, so that they do not depend on how the batch is divided.
    return step.uniform(num, sets * size, *key).view(num, sets, size).transpose(0, 1).reshape(-1, size)


class Regularizer:
    """A weighted term of a player's loss.

    A subclass implements :meth:`__call__`.

    Args:
        weight: Weight of the term, at least 0. To reward a quantity, return it with a minus sign.
        every: Apply the term to every n-th update of the player only, the last one of each interval, with n times the
            weight (lazy regularization, Karras et al. 2020, arXiv:1912.04958).
        end: Fraction of the weight at the end of the schedule, reached along a cosine.
    """

    name = ""
    """Key in the log, below ``train/``; by default the class's name in lower case."""

    players: tuple[Player, ...] = ("discriminator",)
    """Whose losses have the term."""

    differentiates: Literal["real", "fake", ""] = ""
    """With respect to which images the term differentiates the loss's logits."""

    logged = True
    """Whether the unweighted term is logged."""

    def __init__(self, weight: float, *, every: int = 1, end: float = 1.0) -> None:
        self.name = type(self).name or type(self).__name__.lower()
        check_not_negative(**{f"{self.name}.weight": weight})
        check_counts(every=every)
        check_share(end=end)
        self.weight, self.every, self.end = weight, every, end

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar."""
        raise NotImplementedError

    def is_due(self, step: TrainingStep, player: Player) -> bool:
        """Return whether a player's update has the term."""
        # The last update of each interval, since logged updates are also the last of theirs.
        update = step.global_step * step.updates + step.number if player == "discriminator" else step.global_step
        return self.weight > 0 and (update + 1) % self.every == 0

    def weight_in(self, step: TrainingStep) -> float:
        """Return the weight of the term in the current update."""
        end = cosine(1.0, self.end, step.module.progress()) if self.end < 1 else 1.0
        return self.weight * self.every * end

    def feature_layer_of(self, discriminator: nn.Module) -> nn.Module | None:
        """Return the layer of the discriminator whose input the term needs, if any."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.weight}, every={self.every}, end={self.end})"


class GradientPenalty(Regularizer):
    """Base of the gradient penalties: the function of images that is differentiated."""

    def discriminator(self, turn: Turn) -> penalties.Discriminator:
        """Return the discriminator as a function of images, which uses the logits that the loss is computed from.

        Under autocast these do not have full precision, so the discriminator is called again.
        """
        exact = not torch.is_autocast_enabled(turn.real.device.type)

        def logits(images: Tensor) -> Tensor:
            known = turn.calls.on(images) if exact else None
            if known is not None and known.logits.requires_grad:
                return logits_of(known.logits, len(images))
            return turn.call(images)

        return logits


class R1(GradientPenalty):
    """Zero-centered penalty at real images; the weight is gamma (:func:`lightning_gans.penalties.r1`)."""

    differentiates = "real"

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar."""
        return penalties.r1(self.discriminator(turn), turn.real)


class R2(GradientPenalty):
    """Zero-centered penalty at generated images; the weight is gamma (:func:`lightning_gans.penalties.r2`)."""

    differentiates = "fake"

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar."""
        return penalties.r2(self.discriminator(turn), turn.fake)


class WGANGP(GradientPenalty):
    """Penalty of WGAN-GP between real and generated images; the weight is lambda, 10 in the paper.

    See :func:`lightning_gans.penalties.wgan_gp`.
    """

    name = "wgan_gp"

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar."""
        sets = len(turn.fake) // len(turn.real)
        uniform = turn.uniform(1, Stream.PENALTY, sets=sets).flatten()
        real = turn.real.repeat(sets, *[1] * (turn.real.dim() - 1))
        return penalties.wgan_gp(self.discriminator(turn), real, turn.fake, uniform)


class Dragan(GradientPenalty):
    """Penalty of DRAGAN around real images; the weight is lambda (:func:`lightning_gans.penalties.dragan`)."""

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar."""
        uniform = turn.uniform(1 + turn.real[0].numel(), Stream.PENALTY, 1)
        noise = uniform[:, 1:].view_as(turn.real)
        return penalties.dragan(self.discriminator(turn), turn.real, noise, uniform[:, 0])


class MismatchedLabels(Regularizer):
    """Real images with wrong labels as fakes (Reed et al. 2016, arXiv:1605.05396, section 4.1).

    The weight is the fraction of the fake half of the discriminator's loss that they get.

    Args:
        weight: At least 0 and below 1.
        loss: The discriminator's loss, a function of the logits of real and of fake images.
        num_classes: Number of labels, at least 2.
    """

    name = "mismatch"
    logged = False

    def __init__(self, weight: float, loss: Any, num_classes: int) -> None:
        super().__init__(weight)
        self.loss, self.num_classes = loss, num_classes

    def __call__(self, turn: Turn) -> Tensor:
        """Return how much the loss changes if the wrong labels replace the fakes."""
        assert turn.labels is not None
        if any(known.classes is not None for known in turn.calls):
            raise SettingError(
                f"mismatch_weight is {self.weight}: it must be 0 with an auxiliary classifier, as the logit beside it "
                "does not depend on the label, and real images would train as fakes.",
                setting="mismatch_weight",
                value=self.weight,
                allowed=0,
            )
        real = turn.logits(turn.real)
        wrong = turn.call(turn.real, self.wrong(turn.labels, turn.step))
        difference: Tensor = self.loss(real, wrong) - self.loss(real, turn.logits(turn.fake))
        return difference

    def wrong(self, labels: Tensor, step: TrainingStep) -> Tensor:
        """Return a wrong label for each image.

        It cycles through the offsets 1 to ``num_classes - 1`` over the global batch and the steps.
        """
        first = step.first_row(len(labels)) + step.global_step
        turn = torch.arange(first, first + len(labels), device=labels.device) % (self.num_classes - 1)
        return (labels + 1 + turn) % self.num_classes


class AuxiliaryClassifier(Regularizer):
    """Cross-entropy of the discriminator's auxiliary classifier, in both losses (Odena et al. 2017, arXiv:1610.09585).

    It is 0 for a discriminator without one.
    """

    name = "auxiliary"
    players = ("discriminator", "generator")
    logged = False

    def __call__(self, turn: Turn) -> Tensor:
        """Return the sum of the cross-entropies on the images of the turn."""
        images = (turn.real, turn.fake) if turn.player == "discriminator" else (turn.fake,)
        total = torch.zeros((), device=turn.real.device)
        if turn.labels is None:
            return total
        for shown in images:
            # A loss may not have shown these images, or not on their own.
            classifies = not turn.calls or any(call.classes is not None for call in turn.calls)
            if classifies and turn.calls.on(shown) is None:
                turn.call(shown)
            known = turn.calls.on(shown)
            if known is not None and known.classes is not None:
                labels = turn.labels.repeat(len(shown) // len(turn.labels))
                total = total + F.cross_entropy(losses.full_precision(known.classes), labels)
        return total


class FeatureMatching(Regularizer):
    """Distance between the mean features of real and of generated images, in the generator's loss.

    Salimans et al. 2016, arXiv:1606.03498, section 3.1.

    Args:
        weight: Weight of the term.
        norm: ``l2``, squared as in the paper, or ``l1``.
        layer: Name of the discriminator's layer whose input is used as the features; by default its last linear
            or convolutional one.
    """

    name = "feature_matching"
    players = ("generator",)
    logged = False

    def __init__(self, weight: float, norm: Literal["l1", "l2"] = "l2", layer: str | None = None) -> None:
        super().__init__(weight)
        check_choice("feature_matching_norm", norm, ("l1", "l2"))
        self.norm, self.layer = norm, layer

    def feature_layer_of(self, discriminator: nn.Module) -> nn.Module:
        """Return the layer of the discriminator whose input is used as the features."""
        return find_feature_layer(discriminator, self.layer)

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar."""
        turn.logits(turn.fake)
        with torch.no_grad():
            turn.logits(turn.real)
        features = [known.features for images in (turn.real, turn.fake) if (known := turn.calls.on(images))]
        real, fake = features
        if real is None or fake is None:
            message = "feature_matching: the discriminator does not call its feature_layer; name another layer."
            raise SettingError(message, setting="feature_layer", value=self.layer)
        return losses.feature_matching_loss(real.detach(), fake, 1 if self.norm == "l1" else 2)


PENALTIES: dict[str, type[GradientPenalty]] = {"wgan_gp": WGANGP, "r1": R1, "r2": R2, "dragan": Dragan}
"""The gradient penalties by their short names, as in ``penalties={"r1": 0.5}``."""


def gradient_penalties(weights: Any, every: int = 1, end: float = 1.0) -> list[Regularizer]:
    """Return the gradient penalties of a short mapping of names to weights.

    Raises:
        SettingError: It is not a mapping, a name is unknown, or a weight is invalid.
    """
    check_counts(penalty_interval=every)
    check_share(penalty_end=end)
    if weights is None:
        return []
    if not isinstance(weights, dict):
        message = f"penalties is {weights!r}: give the weight of each by its name, as in {{'r1': 0.5}}."
        raise SettingError(message, setting="penalties", value=weights, allowed=list(PENALTIES))
    for name, weight in weights.items():
        check_choice("penalties", name, PENALTIES)
        check_not_negative(**{f"penalties.{name}": weight})
    return [PENALTIES[name](weight, every=every, end=end) for name, weight in weights.items()]


def mismatched_labels(weight: float, loss: str, num_classes: int) -> list[Regularizer]:
    """Return the regularizer of ``mismatch_weight``, which has no effect without labels.

    Raises:
        SettingError: The weight is not a fraction below 1, or there is one class only.
    """
    check_numbers(mismatch_weight=weight)
    if not 0 <= weight < 1 or (weight > 0 and num_classes == 1):
        raise SettingError(
            f"mismatch_weight is {weight} with num_classes {num_classes}: it must be at least 0 and below 1, and needs "
            "two classes.",
            setting="mismatch_weight",
            value=weight,
            allowed="at least 0 and below 1",
        )
    if weight == 0 or num_classes == 0:
        return []
    return [MismatchedLabels(weight, losses.ADVERSARIAL_LOSSES[loss].discriminator, num_classes)]


def reasons_not_to_compile(regularizers: Sequence[Regularizer]) -> dict[str, str]:
    """Return why a discriminator with these regularizers cannot be compiled, under its name; empty if it can."""
    active = [regularizer for regularizer in regularizers if regularizer.weight > 0]
    if any(isinstance(regularizer, FeatureMatching) for regularizer in active):
        return {"discriminator": "feature_matching reads the input of one of its layers."}
    if any(isinstance(regularizer, GradientPenalty) for regularizer in active):
        return {"discriminator": "a gradient penalty differentiates it twice, which torch.compile does not support."}
    return {}
