"""One generator against one discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_gans import losses
from lightning_gans.errors import (
    SettingError,
    check_adam,
    check_choice,
    check_not_negative,
    check_positive,
    check_repeats,
)
from lightning_gans.models.base import GenerativeModule
from lightning_gans.training.augmentation import Augmentation, checked_augment
from lightning_gans.training.discriminator_calls import find_feature_layer, logits_of
from lightning_gans.training.freezing import FreezeLayers
from lightning_gans.training.optimizers import OptimizerCallable
from lightning_gans.training.regularizers import (
    AuxiliaryClassifier,
    FeatureMatching,
    Regularizer,
    checked_regularizers,
    gradient_penalties,
    mismatched_labels,
    reasons_not_to_compile,
)
from lightning_gans.training.step import TrainingStep
from lightning_gans.training.turn import Player, Turn, call, take_turn

Loss = Literal["nonsaturating", "minimax", "least_squares", "hinge", "wasserstein", "relativistic"]


class AdversarialModule(GenerativeModule):
    """A generator and a discriminator that are updated in turn (Goodfellow et al. 2014, algorithm 1).

    A subclass overrides :meth:`generator_loss` and :meth:`discriminator_loss`, or passes other networks.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Length of the noise vectors.
        num_classes: Number of labels; if it is not 0, both networks are called with labels as well.
        generator: ``generator(noise[, labels])`` returns images ``(N, C, H, W)`` in [-1, 1].
        discriminator: ``discriminator(images[, labels])`` returns logits, ``(N,)`` or ``(N, 1)``, or ``(N, 1, h, w)``
            for patches; with an auxiliary classifier, a pair of such logits and class logits ``(N, num_classes)``.
        loss: Loss of both players, a key of :data:`lightning_gans.losses.ADVERSARIAL_LOSSES`.
        adversarial_weight: Weight of :meth:`generator_loss`; 0 leaves only the other terms of the loss.
        generator_lr: Adam's learning rate for the generator.
        discriminator_lr: Adam's learning rate for the discriminator; a value different from the generator's gives two
            time scales (Heusel et al. 2017, arXiv:1706.08500).
        betas: Adam's decay rates, for both.
        beta2_end: Adam's second decay rate at the end of the schedule, reached along a cosine; None keeps it constant.
        weight_decay: Adam's L2 penalty, for both.
        generator_optimizer: Builds the generator's optimizer from its parameters, instead of Adam; in YAML a class path
            with its ``init_args``. Schedules of the learning rate apply to it as well.
        discriminator_optimizer: The same for the discriminator.
        mismatch_weight: Share of real images with wrong labels in the fake half of the discriminator's loss (Reed et
            al. 2016, arXiv:1605.05396, section 4.1); 0 gives the original losses. With it, the discriminator learns
            the meaning of the labels much faster. Ignored without labels, so a conditional model's recipe also works
            for unconditional models; must be 0 for a discriminator with an auxiliary classifier.
        d_steps: Discriminator updates for each generator update, each on its own batch; ``global_step`` and
            ``max_steps`` count generator updates.
        penalties: Weights of the discriminator's gradient penalties by their names: ``r1`` and ``r2`` (gamma),
            ``wgan_gp`` and ``dragan`` (lambda); see :mod:`lightning_gans.penalties`. ``r1`` and ``r2`` use the logits
            that the loss is computed from; under autocast they use a separate forward pass with new augmentation.
        penalty_interval: Apply the penalties only to every n-th discriminator update, with n times their weights (lazy
            regularization, Karras et al. 2020, arXiv:1912.04958). They are logged for these updates.
        penalty_end: Fraction of the penalties' weights at the end of the schedule, reached along a cosine.
        feature_matching: Weight of the distance between the mean features of real and of generated images in the
            generator's loss (Salimans et al. 2016, arXiv:1606.03498).
        feature_matching_norm: ``l2``, squared as in the paper, or ``l1``.
        feature_layer: Name of the discriminator's layer whose input is used as the features; by default its last
            linear or convolutional one.
        auxiliary_weight: Weight of the cross-entropy of an auxiliary classifier in both losses (Odena et al. 2017,
            arXiv:1610.09585), if the discriminator has one.
        augment: Augmentations of every image that the discriminator sees, real or generated: a list of ``color``,
            ``translation`` and ``cutout`` (DiffAugment, Zhao et al. 2020, arXiv:2006.10738), or :class:`ADA`, whose
            strength adapts to the discriminator's overfitting.
        regularizers: More terms of the losses; see :mod:`lightning_gans.training.regularizers`.
        freeze_layers: Number of the discriminator's lower layers that keep their weights, for a start from those of
            another run (FreezeD, Mo et al. 2020, arXiv:2002.10964); see
            :class:`~lightning_gans.training.freezing.FreezeLayers`.
        **options: See :class:`GenerativeModule`.

    Attributes:
        regularizers: Terms of the losses; see :mod:`lightning_gans.training.regularizers`.
    """

    trained_networks = ("generator", "discriminator")
    averaged_networks = ("generator",)

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        num_classes: int = 0,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss = "nonsaturating",
        adversarial_weight: float = 1.0,
        generator_lr: float = 2e-4,
        discriminator_lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        beta2_end: float | None = None,
        weight_decay: float = 0.0,
        generator_optimizer: OptimizerCallable | None = None,
        discriminator_optimizer: OptimizerCallable | None = None,
        mismatch_weight: float = 0.0,
        d_steps: int = 1,
        penalties: dict[str, float] | None = None,
        penalty_interval: int = 1,
        penalty_end: float = 1.0,
        feature_matching: float = 0.0,
        feature_matching_norm: Literal["l1", "l2"] = "l2",
        feature_layer: str | None = None,
        auxiliary_weight: float = 1.0,
        augment: Sequence[str] | Augmentation = (),
        regularizers: Sequence[Regularizer] = (),
        freeze_layers: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(image_shape, latent_dim, num_classes, **options)
        check_positive(generator_lr=generator_lr, discriminator_lr=discriminator_lr)
        check_repeats(d_steps=d_steps)
        check_choice("loss", loss, losses.ADVERSARIAL_LOSSES)
        check_not_negative(adversarial_weight=adversarial_weight, auxiliary_weight=auxiliary_weight)
        check_not_negative(feature_matching=feature_matching)
        check_adam(betas, weight_decay, beta2_end)
        self.generator = generator
        self.discriminator = discriminator
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
        regularizers = checked_regularizers(regularizers)
        self.regularizers = [
            *mismatched_labels(mismatch_weight, loss, num_classes),
            *gradient_penalties(penalties, penalty_interval, penalty_end),
            AuxiliaryClassifier(auxiliary_weight),
            FeatureMatching(feature_matching, feature_matching_norm, feature_layer),
            *regularizers,
        ]
        if adversarial_weight == feature_matching == 0 and not any("generator" in r.players for r in regularizers):
            message = "adversarial_weight and feature_matching are 0: the generator has no loss."
            raise SettingError(message, setting="adversarial_weight", value=0, allowed="more than 0")
        self.check_networks("generator", "discriminator")
        self.create_ema()
        if feature_matching > 0 or feature_layer is not None:
            find_feature_layer(discriminator, feature_layer)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update the discriminator ``d_steps`` times, each time on its own batch, and then the generator once.

        The generator's update reuses the images of the last discriminator update, so the generator runs once for each
        batch. Accumulated batches are generated again, so that only one batch is in memory at a time.
        """
        generator_optimizer, discriminator_optimizer = self.optimizers_of("generator", "discriminator")
        with self.step(batch, updates=self.d_steps) as step:
            for real, labels in step.batches():
                fake = self.generate(step.noise(len(real)), labels)
                with self.turn("discriminator", step, real, fake, labels) as turn:
                    d_loss = turn.regularized(self.discriminator_loss(turn.real, turn.fake, labels))
                step.update(d_loss, discriminator_optimizer)
                step.log(d_loss=d_loss)
            for real, labels in step.last_batches():
                if self.accumulate_batches > 1:
                    fake = self.generate(step.noise(len(real)), labels)
                with self.turn("generator", step, real, fake, labels) as turn:
                    g_loss = turn.regularized(self.weighted_generator_loss(turn.real, turn.fake, labels))
                step.update(g_loss, generator_optimizer, counted=True)
                step.log(g_loss=g_loss)

    def weighted_generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return :meth:`generator_loss` times its weight; it is not computed if the weight is 0."""
        if self.adversarial_weight == 0:
            return torch.zeros((), device=fake.device)
        return self.adversarial_weight * self.generator_loss(real, fake, labels)

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the scalar that the generator's update minimizes; the gradient reaches it through ``fake``."""
        return losses.ADVERSARIAL_LOSSES[self.loss].of_generator(partial(self.logits, labels=labels), real, fake)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the scalar that the discriminator's update minimizes; ``fake`` is detached from the generator."""
        loss = losses.ADVERSARIAL_LOSSES[self.loss]
        return loss.discriminator(self.logits(real, labels), self.logits(fake, labels))

    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the discriminator's logits as float32 or better, of shape ``(N,)``, or ``(N, 1, h, w)`` of patches."""
        return logits_of(call(self.discriminator, images, labels), len(images))

    def turn(
        self, player: Player, step: TrainingStep, real: Tensor, fake: Tensor, labels: Tensor | None
    ) -> AbstractContextManager[Turn]:
        """Return a context manager for computing a player's loss, with its regularizers and augmentation.

        Compute the loss from ``turn.real`` and ``turn.fake``: penalties recognize these tensors by identity.
        """
        return take_turn(player, step, self.discriminator, real, fake, labels)

    def generate(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Return the generator's images for noise ``(N, latent_dim)``, in the noise's dtype even under autocast.

        The discriminator sees them together with real images of that dtype, and gradient penalties differentiate with
        respect to them outside autocast.
        """
        images: Tensor = call(self.generator, noise, labels)
        self.check_made(images)
        return images.to(noise.dtype)

    def decode(self, latents: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)`` in [-1, 1]."""
        images: Tensor = call(self.averaged("generator", ema), latents, labels)
        return images

    def not_compiled(self) -> dict[str, str]:
        """Exclude a discriminator that is differentiated twice or has hooked inner layers."""
        return reasons_not_to_compile(self.regularizers)

    def configure_optimizers(self) -> Any:
        """Return the optimizers of the generator and of the discriminator, in this order."""
        g_parameters, d_parameters = self.generator.parameters(), self.discriminator.parameters()
        return [
            self.make_optimizer(
                g_parameters, self.generator_lr, self.betas, self.weight_decay, self.generator_optimizer
            ),
            self.make_optimizer(
                d_parameters, self.discriminator_lr, self.betas, self.weight_decay, self.discriminator_optimizer
            ),
        ]
