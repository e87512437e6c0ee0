"""A model with a discriminator, and what keeps that in check whatever the losses are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans import augment as augmentation
from lightning_gans import losses, penalties
from lightning_gans._lightning import rank_zero_warn
from lightning_gans.errors import SettingError, check_choice, check_counts, check_not_negative, check_share
from lightning_gans.models.base import GenerativeModule, call
from lightning_gans.randomness import Stream
from lightning_gans.training import discriminator_calls as judging
from lightning_gans.training.discriminator_calls import Judgements, find_feature_layer, flat
from lightning_gans.training.update import cosine


class RegularizedModule(GenerativeModule):
    """Adds gradient penalties, feature matching, an auxiliary classifier and augmentation to any adversarial loss.

    They read what they need off the discriminator's calls, so that they apply to a loss of the user's own as well,
    and the logits that a loss is made from serve the penalties too.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Length of the latent vectors.
        num_classes: Number of labels; where it is not 0, the discriminator is called with labels as well.
        discriminator: ``discriminator(images[, labels])`` gives logits, ``(N,)`` or ``(N, 1)``; with an auxiliary
            classifier it gives a pair of them and of class logits, ``(N, num_classes)``.
        penalties: Weights of the discriminator's gradient penalties by their names: ``r1`` and ``r2`` (gamma),
            ``wgan_gp`` and ``dragan`` (lambda); see :mod:`lightning_gans.penalties`. ``r1`` and ``r2`` are of the
            logits that the loss is made from; under autocast of a pass of their own, for which ``augment`` draws
            other changes.
        penalty_interval: Applies them at every so-manieth discriminator update only, the last of each interval, with
            weights as many times as large (lazy regularization, Karras et al. 2020, arXiv:1912.04958). They are logged
            where such an update is.
        penalty_end: Share of their weights that is left at the end of the schedule, along a cosine.
        feature_matching: Weight of the distance between the mean features of real and of generated images in the
            generator's loss (Salimans et al. 2016, arXiv:1606.03498).
        feature_matching_norm: ``l2``, squared as in the paper, or ``l1``.
        feature_layer: Name of the discriminator's layer whose input the features are; by default its last linear
            or convolutional one.
        auxiliary_weight: Weight of the cross-entropy of an auxiliary classifier in both losses (Odena et al. 2017,
            arXiv:1610.09585), where the discriminator has one.
        augment: What the discriminator sees of every image, real or not, out of ``color``, ``translation`` and
            ``cutout`` (DiffAugment, Zhao et al. 2020, arXiv:2006.10738).
        **options: See :class:`GenerativeModule`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        num_classes: int = 0,
        *,
        discriminator: nn.Module,
        penalties: dict[str, float] | None = None,
        penalty_interval: int = 1,
        penalty_end: float = 1.0,
        feature_matching: float = 0.0,
        feature_matching_norm: Literal["l1", "l2"] = "l2",
        feature_layer: str | None = None,
        auxiliary_weight: float = 1.0,
        augment: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(image_shape, latent_dim, num_classes, **options)
        check_penalties({} if penalties is None else penalties)
        augmentation.check_policies(augment)
        if augment and len(image_shape) != 3:
            raise SettingError(
                f"augment is {list(augment)}: it is for images, not for image_shape {list(image_shape)}."
            )
        check_not_negative(feature_matching=feature_matching, auxiliary_weight=auxiliary_weight)
        check_counts(penalty_interval=penalty_interval)
        check_share(penalty_end=penalty_end)
        check_choice("feature_matching_norm", feature_matching_norm, ("l1", "l2"))
        if feature_matching > 0 or feature_layer is not None:
            find_feature_layer(discriminator, feature_layer)
        self.discriminator = discriminator
        self.penalties = dict(penalties or {})
        self.penalty_interval = penalty_interval
        self.penalty_end = penalty_end
        self.feature_matching = feature_matching
        self.feature_matching_norm = feature_matching_norm
        self.feature_layer = feature_layer
        self.auxiliary_weight = auxiliary_weight
        self.augment = tuple(augment)

    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the discriminator's logits as float32 or better, of shape ``(N,)``."""
        judged = call(self.discriminator, images, labels)
        return flat(judged[0] if isinstance(judged, tuple) else judged, len(images))

    def watched(
        self, update: int, features: bool = False, num: int | None = None
    ) -> AbstractContextManager[Judgements]:
        """Note what the discriminator is shown and answers, and augment it, while a loss of an update is made.

        Args:
            update: Number of the update within its step.
            features: Whether to note what the feature layer is given.
            num: Images of the batch, where the discriminator is shown several sets of so many in one call.
        """

        def augmented(images: Tensor, call: int) -> Tensor:
            sets = len(images) // num if num and len(images) % num == 0 else 1
            uniforms = self._uniform_for(
                sets, len(images) // sets, augmentation.NUM_UNIFORMS, Stream.AUGMENT, update, call
            )
            return augmentation.diff_augment(images, self.augment, uniforms)

        layer = find_feature_layer(self.discriminator, self.feature_layer) if features else None
        return judging.watched(self.discriminator, augmented if self.augment else None, layer)

    def penalty_weights(self, number: int) -> Mapping[str, float]:
        """Return the weights of the penalties that a discriminator update has, by how many there were before it."""
        # The last of each interval, as the updates that are logged are the last of theirs.
        if not self.penalties or (number + 1) % self.penalty_interval:
            return {}
        factor = float(self.penalty_interval)
        if self.penalty_end < 1:
            factor *= cosine(1.0, self.penalty_end, self.progress())
        return {name: weight * factor for name, weight in self.penalties.items() if weight > 0}

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the scalar that the discriminator's update brings down; ``fake`` carries no gradient."""
        raise NotImplementedError

    def regularized_discriminator_loss(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, weights: Mapping[str, float], update: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return :meth:`discriminator_loss` with the penalties and the classifier's loss, and what is logged of it.

        Args:
            real: Images, ``(N, C, H, W)``.
            fake: As many, or several sets of as many, one below another.
            labels: The images', ``(N,)``, or None.
            weights: Of the penalties that this update has.
            update: Number of the update within its step.
        """
        # Where the gradient is penalized, the logits that the loss is made from serve the penalty too.
        shown = real.detach().requires_grad_("r1" in weights)
        judged = fake.detach().requires_grad_("r2" in weights)
        with self.watched(update, num=len(real)) as judgements:
            loss = self.discriminator_loss(shown, judged, labels)
            scores = self.penalty_terms(weights, judgements, shown, judged, labels, update)
            for name, penalty in scores.items():
                loss = loss + weights[name] * penalty
            if labels is not None:
                loss = loss + self.auxiliary_loss(judgements, (shown, judged), labels)
        logged = {name: penalty.detach() for name, penalty in scores.items()}
        for name, images in (("d_real", shown), ("d_fake", judged)):
            if self.will_log and (judgement := judgements.of(images)) is not None:
                logged[name] = judgement.logits.detach().float().mean()
        return loss, logged

    def penalty_terms(
        self,
        names: Mapping[str, float],
        judgements: Judgements,
        real: Tensor,
        fake: Tensor,
        labels: Tensor | None,
        update: int,
    ) -> dict[str, Tensor]:
        """Return the penalties named, unweighted; the fakes may be several sets of as many as the real ones."""
        exact = not torch.is_autocast_enabled(real.device.type)

        def discriminator(images: Tensor) -> Tensor:
            known = judgements.of(images) if exact else None
            if known is not None and known.logits.requires_grad:
                return flat(known.logits, len(images))
            return self.logits(images, None if labels is None else labels.repeat(len(images) // len(labels)))

        found = {}
        for name in names:
            if name == "r1":
                found[name] = penalties.r1(discriminator, real)
            elif name == "r2":
                found[name] = penalties.r2(discriminator, fake)
            elif name == "wgan_gp":
                sets = len(fake) // len(real)
                uniform = self._uniform_for(sets, len(real), 1, Stream.PENALTY, update).flatten()
                each = real.repeat(sets, *[1] * (real.dim() - 1))
                found[name] = penalties.wgan_gp(discriminator, each, fake, uniform)
            else:
                uniform = self.uniform(len(real), 1 + real[0].numel(), Stream.PENALTY, update, 1)
                found[name] = penalties.dragan(discriminator, real, uniform[:, 1:].view_as(real), uniform[:, 0])
        return found

    def _uniform_for(self, sets: int, num: int, size: int, *key: int) -> Tensor:
        """Draw ``(sets * num, size)`` numbers uniform in [0, 1) for sets of as many images as the batch has."""
        # All of an image's stand in its row, so that they are the same in whatever batches the images come.
        return self.uniform(num, sets * size, *key).view(num, sets, size).transpose(0, 1).reshape(-1, size)

    def auxiliary_loss(self, judgements: Judgements, shown: Sequence[Tensor], labels: Tensor) -> Tensor | float:
        """Return the weighted cross-entropy of the auxiliary classifier on images, where there is one.

        Images that the loss has not judged, or not by themselves, are judged here; in vain only where the loss has
        judged none and there turns out to be no classifier.
        """
        if self.auxiliary_weight == 0:
            return 0.0
        for images in shown:
            classifies = not judgements or any(judgement.classes is not None for judgement in judgements)
            if classifies and judgements.of(images) is None:
                self.logits(images, labels)
        found = [judgement.classes for images in shown if (judgement := judgements.of(images)) is not None]
        classes = [losses.full_precision(logits) for logits in found if logits is not None]
        if not classes:
            return 0.0
        return (
            self.auxiliary_weight
            * torch.stack(
                [F.cross_entropy(logits, labels.repeat(len(logits) // len(labels))) for logits in classes]
            ).sum()
        )

    def feature_distance(self, judgements: Judgements, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the distance between the mean features of real and of generated images."""
        if judgements.of(fake) is None:
            self.logits(fake, labels)
        if judgements.of(real) is None:
            with torch.no_grad():
                self.logits(real, labels)
        features = [judgement.features for images in (real, fake) if (judgement := judgements.of(images)) is not None]
        of_real, of_fake = features
        if of_real is None or of_fake is None:
            raise SettingError("feature_matching: the discriminator does not call its feature_layer.")
        return losses.feature_matching_loss(of_real.detach(), of_fake, 1 if self.feature_matching_norm == "l1" else 2)

    def compilable_networks(self) -> tuple[str, ...]:
        """Leave the discriminator as it is where its features are watched: compiled code calls no hooks within."""
        if self.feature_matching == 0:
            return self.trained_networks
        rank_zero_warn("The discriminator is not compiled: feature_matching looks into it.")
        return tuple(name for name in self.trained_networks if name != "discriminator")


def check_penalties(weights: Any) -> None:
    """Raise :class:`SettingError` for what is no mapping of the penalties' names to finite weights."""
    if not isinstance(weights, Mapping):
        raise SettingError(f"penalties is {weights!r}: give the weight of each by its name, as in {{'r1': 0.5}}.")
    for name, weight in weights.items():
        check_choice("penalties", name, penalties.PENALTIES)
        check_not_negative(**{f"penalties.{name}": weight})
