"""Regularizers: terms that are added to a player's loss, whatever that loss is.

Each is a small object with one call. It gets the :class:`Turn` of a player, which has the images, the labels, the
discriminator's calls and random numbers, and returns a scalar. A custom one is a subclass of :class:`Regularizer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans import augment as diff_augment
from lightning_gans import losses, penalties
from lightning_gans.errors import (
    SettingError,
    check_choice,
    check_choices,
    check_counts,
    check_not_negative,
    check_numbers,
    check_positive,
    check_share,
    invalid,
)
from lightning_gans.randomness import Stream
from lightning_gans.training.discriminator_calls import find_feature_layer, is_images, logits_of
from lightning_gans.training.processes import mean_over_processes
from lightning_gans.training.schedules import cosine
from lightning_gans.training.step import TrainingStep
from lightning_gans.training.turn import RESERVED, Player, Turn


class Regularizer:
    """A weighted term of a player's loss.

    A subclass implements :meth:`__call__`.

    Args:
        weight: Weight of the term, at least 0. To reward a quantity, return it with a minus sign.
        every: Apply the term only to every n-th update of the player, the last one of each interval, with n times the
            weight (lazy regularization, Karras et al. 2020, arXiv:1912.04958).
        end: Fraction of the weight at the end of the schedule, between 0 and 1, reached along a cosine.

    Attributes:
        state: What the term keeps from update to update, for each discriminator by its name (:attr:`Turn.name`):
            tensors and numbers. It is part of checkpoints, so keep it the same on all processes.

    Raises:
        SettingError: A setting is out of range.
    """

    name = ""
    """Key in the log, below ``train/``; by default the class's name in lower case.

    It begins with ``d_`` or ``g_`` if both players have a term of this name. Several terms of one name are logged as
    their mean.
    """

    players: tuple[Player, ...] = ("discriminator",)
    """Whose losses have the term."""

    differentiates: Literal["real", "fake", ""] = ""
    """The images with respect to which the term differentiates the logits of the loss; empty for none."""

    logged = True
    """Whether the unweighted term is logged."""

    def __init__(self, weight: float, *, every: int = 1, end: float = 1.0) -> None:
        self.name = type(self).name or type(self).__name__.lower()
        if self.name in RESERVED or "." in self.name:
            allowed = f"without dots, and none of {', '.join(RESERVED)}"
            raise invalid(f"{type(self).__name__}.name", self.name, allowed)
        check_choices(f"{self.name}.players", self.players, get_args(Player))
        check_not_negative(**{f"{self.name}.weight": weight})
        check_counts(every=every)
        check_share(end=end)
        self.weight, self.every, self.end = weight, every, end
        self.state: dict[str, Any] = {}

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar."""
        raise NotImplementedError

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the :attr:`state` of a checkpoint, with tensors on the CPU.

        An exception of any type means that the state is damaged.
        """
        self.state = dict(state)

    def is_due(self, step: TrainingStep, player: Player) -> bool:
        """Return whether a player's update has the term."""
        # The last update of each interval, so that logged updates have the term if log_every_n_steps is a multiple.
        update = step.global_step * step.updates + step.update_index if player == "discriminator" else step.global_step
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
    """Base of the gradient penalties; it provides the function of images that they differentiate."""

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

    The weight is their share of the fake half of the discriminator's loss.

    Args:
        weight: At least 0 and below 1.
        loss: The discriminator's loss, a function of the logits of real and of fake images.
        num_classes: Number of classes, at least 2, or length of the vectors.
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
                f"mismatch_weight is {self.weight}: it must be 0 with an auxiliary classifier, because the logit then "
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

        It cycles through the offsets 1 to ``num_classes - 1`` over the global batch and the steps. Vectors are those of
        other training images.
        """
        first = step.first_row(len(labels)) + step.global_step
        if labels.is_floating_point():
            attributes = step.module.attributes
            if attributes is None:
                message = "mismatch_weight: the labels are vectors; without model.attributes, there are no others."
                raise SettingError(message, setting="mismatch_weight", value=self.weight, allowed=0)
            others: Tensor = attributes.in_turn(len(labels), first)
            return others.to(labels)
        if self.num_classes == 1:
            raise invalid("mismatch_weight", self.weight, "0, as there is only one class")
        turn = torch.arange(first, first + len(labels), device=labels.device) % (self.num_classes - 1)
        return (labels + 1 + turn) % self.num_classes


class AuxiliaryClassifier(Regularizer):
    """Cross-entropy of the discriminator's auxiliary classifier, in both losses (Odena et al. 2017, arXiv:1610.09585).

    For labels that are vectors of numbers from 0 to 1, it is the mean of a binary cross-entropy for each number. It is
    0 for a discriminator without a classifier.
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
                logits = losses.full_precision(known.classes)
                labels = torch.cat([turn.labels] * (len(shown) // len(turn.labels)))
                if labels.is_floating_point():
                    total = total + F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
                else:
                    total = total + F.cross_entropy(logits, labels)
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
        layer = self.feature_layer_of(turn.discriminator)
        calls = [known for images in (turn.real, turn.fake) if (known := turn.calls.on(images))]
        real, fake = (known.features.get(layer) for known in calls)
        if real is None or fake is None:
            message = "feature_matching: the discriminator does not call its feature_layer; name another layer."
            raise SettingError(message, setting="feature_layer", value=self.layer)
        return losses.feature_matching_loss(real.detach(), fake, 1 if self.norm == "l1" else 2)


class LeCam(Regularizer):
    """Distance of the logits of real images to the mean logit of generated ones, and the reverse.

    See Tseng et al. 2021 (https://arxiv.org/abs/2104.03310) and :func:`lightning_gans.losses.lecam_loss`. It keeps the
    discriminator from separating few training images too far. The mean logits, the paper's anchors, are exponential
    moving averages over earlier updates and start from 0; they are part of checkpoints.

    Args:
        weight: Weight of the term. Useful values depend on the scale of the logits: the authors use 0.3 for BigGAN with
            the hinge loss, and 3e-7 to 1e-6 for StyleGAN2.
        decay: The averages' decay per update, at least 0 and below 1.
        every: See :class:`Regularizer`.
        end: See :class:`Regularizer`.

    Raises:
        SettingError: A setting is out of range.
    """

    def __init__(self, weight: float, decay: float = 0.99, *, every: int = 1, end: float = 1.0) -> None:
        super().__init__(weight, every=every, end=end)
        check_numbers(lambda value: 0 <= value < 1, "at least 0 and below 1", decay=decay)
        self.decay = decay

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar."""
        real, fake = turn.logits(turn.real), turn.logits(turn.fake)
        # Both rows are of real logits, of fake logits, and of ones: the averages' weight, and a count.
        averages, sums = self.state.get(turn.name, real.new_zeros(2, 3)).to(real)
        of_real, of_fake = averages[:2] / averages[2].clamp(min=torch.finfo(real.dtype).tiny)
        sums = sums + torch.stack([real.detach().mean(), fake.detach().mean(), real.new_ones(())])
        if turn.step.completes_update:
            means = mean_over_processes(turn.step.trainer.strategy, sums / turn.step.accumulate)
            averages, sums = means.lerp(averages, self.decay), torch.zeros_like(sums)
        self.state[turn.name] = torch.stack([averages, sums])
        return losses.lecam_loss(real, fake, of_real, of_fake)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the :attr:`state` of a checkpoint."""
        self.state = {name: averages.view(2, 3) for name, averages in state.items()}


class CR(Regularizer):
    """Squared change of the logits when real images are flipped and shifted (Zhang et al. 2020, arXiv:1910.12027).

    Images are mirrored with probability 1/2 and shifted by up to an eighth of their size, as in
    :func:`lightning_gans.augment.translation`; images that they are conditioned on are changed in the same way. The
    paper's weight is 10. Patch logits are averaged over the patches, since patches move with the image.
    """

    images: tuple[Literal["real", "fake"], ...] = ("real",)
    """Whose logits should not change."""

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar.

        Raises:
            SettingError: The model makes sequences.
        """
        if not is_images(turn.real):
            raise invalid("regularizers", self, "for images, not for sequences", " Remove it.")
        return torch.stack([self._change(turn, getattr(turn, kind), key) for key, kind in enumerate(self.images)]).sum()

    def _change(self, turn: Turn, images: Tensor, key: int) -> Tensor:
        sets = len(images) // len(turn.real)
        uniforms = turn.uniform(3, Stream.CONSISTENCY, key, sets=sets)

        def changed(images: Tensor) -> Tensor:
            return diff_augment.translation(diff_augment.flip(images, uniforms[:, :1]), uniforms[:, 1:])

        labels = changed(turn.labels.repeat(sets, 1, 1, 1)) if is_images(turn.labels) else None
        before, after = turn.logits(images), turn.call(changed(images), labels)
        return (after - before).view(len(images), -1).mean(1).square().mean()


class BCR(CR):
    """:class:`CR` of real and of generated images: balanced consistency (bCR, Zhao et al. 2020, arXiv:2002.04724).

    It keeps traces of the changes out of generated images. The paper's weight is 10.
    """

    images = ("real", "fake")


class ZCR(Regularizer):
    """Squared change of the logits when the latents of generated images change a little.

    The discriminator's part of zCR (Zhao et al. 2020, https://arxiv.org/abs/2002.04724, section 3.2), for models that
    generate from noise; :class:`ZCRDiversity` is the generator's.

    Args:
        weight: Weight of the term, 5 for example, or 20 for BigGAN's networks.
        sigma: Standard deviation of what is added to the latents.
        every: See :class:`Regularizer`.
        end: See :class:`Regularizer`.

    Raises:
        SettingError: A setting is out of range.
    """

    def __init__(self, weight: float, sigma: float = 0.03, *, every: int = 1, end: float = 1.0) -> None:
        super().__init__(weight, every=every, end=end)
        check_positive(sigma=sigma)
        self.sigma = sigma

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar.

        Raises:
            SettingError: The model does not generate from noise.
        """
        with torch.no_grad():
            neighbors = self.neighbors(turn)
        return (turn.logits(turn.fake) - turn.call(neighbors)).square().mean()

    def neighbors(self, turn: Turn) -> Tensor:
        """Return the images of latents near those of the generated images."""
        step = turn.step
        if step.module.latent_dim == 0 or not hasattr(step.module, "generate"):
            raise invalid("regularizers", self, "for models that generate from noise", " Remove it.")
        num = len(turn.real)
        noise = step.noise(num) + self.sigma * step.noise(num, stream=Stream.CONSISTENCY)
        images: Tensor = step.module.generate(noise, turn.labels)
        return images


class ZCRDiversity(ZCR):
    """Minus the squared distance between the images of near latents, in the generator's loss.

    The generator's part of zCR: images should differ where latents do. The distance is a mean over the pixels.

    Args:
        weight: Weight of the term, 0.5 for example.
        sigma: See :class:`ZCR`.
        every: See :class:`Regularizer`.
        end: See :class:`Regularizer`.

    Raises:
        SettingError: A setting is out of range.
    """

    name = "zcr_diversity"
    players = ("generator",)

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar."""
        return -F.mse_loss(losses.full_precision(self.neighbors(turn)), losses.full_precision(turn.fake))


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
    if not isinstance(weights, Mapping):
        message = f"penalties is {weights!r}: give the weight of each by its name, as in {{'r1': 0.5}}."
        raise SettingError(message, setting="penalties", value=weights, allowed=list(PENALTIES))
    for name, weight in weights.items():
        check_choice("penalties", name, PENALTIES)
        check_not_negative(**{f"penalties.{name}": weight})
    return [PENALTIES[name](weight, every=every, end=end) for name, weight in weights.items()]


def checked_regularizers(regularizers: Any) -> list[Regularizer]:
    """Return custom regularizers as a list; raise :class:`SettingError` if they are not a list of instances."""
    found: list[Any] = list(regularizers) if isinstance(regularizers, Sequence) else [None]
    if not all(isinstance(regularizer, Regularizer) for regularizer in found):
        raise invalid("regularizers", regularizers, "a list of instances of Regularizer, as in [R1(0.5)]")
    for unfinished in (type(r).__name__ for r in found if not hasattr(r, "state")):
        raise SettingError(f"{unfinished}.__init__ must call super().__init__(weight).", setting=unfinished)
    return found


def mismatched_labels(weight: float, loss: str, num_classes: int) -> list[Regularizer]:
    """Return the regularizer of ``mismatch_weight``, which has no effect without labels.

    Raises:
        SettingError: The weight is not a fraction below 1.
    """
    check_numbers(mismatch_weight=weight)
    if not 0 <= weight < 1:
        raise invalid("mismatch_weight", weight, "at least 0 and below 1")
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
