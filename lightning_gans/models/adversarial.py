"""The alternating update of a generator and a discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_gans import losses, randomness
from lightning_gans.errors import (
    SettingError,
    check_adam,
    check_choice,
    check_counts,
    check_not_negative,
    check_numbers,
    check_positive,
)
from lightning_gans.models.base import call
from lightning_gans.randomness import Stream
from lightning_gans.training.batches import Part
from lightning_gans.training.discriminator_calls import Judgements
from lightning_gans.training.regularizers import RegularizedModule
from lightning_gans.training.update import cosine

Loss = Literal["nonsaturating", "minimax", "least_squares", "hinge", "wasserstein", "relativistic"]


class AdversarialModule(RegularizedModule):
    """A generator and a discriminator that are updated in turn (Goodfellow et al. 2014, algorithm 1).

    A subclass overrides :meth:`generator_loss` and :meth:`discriminator_loss`, or passes other networks.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Length of the noise vectors.
        num_classes: Number of labels; where it is not 0, both networks are called with labels as well.
        generator: ``generator(noise[, labels])`` gives images ``(N, C, H, W)`` in [-1, 1].
        discriminator: See :class:`RegularizedModule`.
        loss: Both players' loss, out of :data:`lightning_gans.losses.ADVERSARIAL_LOSSES`.
        adversarial_weight: Weight of :meth:`generator_loss`; 0 leaves feature matching alone.
        generator_lr: Adam's learning rate for the generator.
        discriminator_lr: Adam's learning rate for the discriminator; another than the generator's makes it two
            time scales (Heusel et al. 2017, arXiv:1706.08500).
        betas: Adam's decay rates, for both.
        beta2_end: The second of them at the end of the schedule, where it is to change along a cosine.
        weight_decay: Adam's L2 penalty, for both.
        mismatch_weight: Share of the discriminator's loss on what is not real that goes to real images with
            a wrong label (Reed et al. 2016, arXiv:1605.05396, section 4.1), the rest going to fakes; 0 is
            the papers' losses. The discriminator learns much faster what the label means. Without labels it has
            no effect, so that a recipe of a conditional model serves others too. It is not for a discriminator with an
            auxiliary classifier, whose logit does not depend on the label.
        d_steps: Discriminator updates for each generator update, each on its own batch.
        **options: See :class:`RegularizedModule` and :class:`GenerativeModule`.
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
        mismatch_weight: float = 0.0,
        d_steps: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(image_shape, latent_dim, num_classes, discriminator=discriminator, **options)
        check_positive(generator_lr=generator_lr, discriminator_lr=discriminator_lr)
        check_counts(d_steps=d_steps)
        check_choice("loss", loss, losses.ADVERSARIAL_LOSSES)
        check_not_negative(adversarial_weight=adversarial_weight)
        check_adam(betas, weight_decay, beta2_end)
        check_numbers(mismatch_weight=mismatch_weight)
        if not 0 <= mismatch_weight < 1 or (mismatch_weight > 0 and num_classes == 1):
            raise SettingError(
                f"mismatch_weight is {mismatch_weight} with num_classes {num_classes}: "
                "it is a share, from 0 to below 1, and needs two classes."
            )
        if adversarial_weight == self.feature_matching == 0:
            raise SettingError("adversarial_weight and feature_matching are 0: the generator has no loss.")
        self.generator = generator
        self.loss = loss
        self.adversarial_weight = adversarial_weight
        self.generator_lr = generator_lr
        self.discriminator_lr = discriminator_lr
        self.betas = betas
        self.beta2_end = beta2_end
        self.weight_decay = weight_decay
        self.mismatch_weight = mismatch_weight
        self.d_steps = d_steps
        self.batches_per_step = d_steps * self.accumulate_batches
        self.check_networks()
        self.create_ema()

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the scalar that the generator's update brings down; the gradient reaches it through ``fake``."""
        loss = losses.ADVERSARIAL_LOSSES[self.loss]
        if not loss.pairs:
            return loss.generator(self.logits(fake, labels))
        with torch.no_grad():
            real_logits = self.logits(real, labels)
        return loss.generator(self.logits(fake, labels), real_logits)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the scalar that the discriminator's update brings down; ``fake`` carries no gradient."""
        loss = losses.ADVERSARIAL_LOSSES[self.loss].discriminator
        real_logits, fake_logits = self.logits(real, labels), self.logits(fake, labels)
        if self.mismatch_weight == 0 or labels is None:
            return loss(real_logits, fake_logits)
        wrong_logits = self.logits(real, self._wrong(labels))
        share = self.mismatch_weight
        return (1 - share) * loss(real_logits, fake_logits) + share * loss(real_logits, wrong_logits)

    def _wrong(self, labels: Tensor) -> Tensor:
        """Return another label for each: the next but 0, 1, 2 … in turn over the global batch and the steps."""
        first = self.first_row(len(labels)) + self.trainer.global_step
        turn = torch.arange(first, first + len(labels), device=labels.device) % (self.num_classes - 1)
        return (labels + 1 + turn) % self.num_classes

    def auxiliary_loss(self, judgements: Judgements, shown: Sequence[Tensor], labels: Tensor) -> Tensor | float:
        """Refuse real images with wrong labels beside an auxiliary classifier."""
        if judgements and judgements[0].classes is not None:
            check_mismatch(self.mismatch_weight)
        return super().auxiliary_loss(judgements, shown, labels)

    def generate(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Return the generator's images for noise ``(N, latent_dim)``, in its type also under autocast.

        They are judged beside real images of that type, and a penalty differentiates at them without autocast.
        """
        images: Tensor = call(self.generator, noise, labels)
        self.check_made(images)
        return images.to(noise.dtype)

    def decode(self, latents: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)`` in [-1, 1]."""
        images: Tensor = call(self.averaged("generator", ema), latents, labels)
        return images

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update the discriminator ``d_steps`` times and the generator once.

        The images that the last discriminator update judged serve the generator's update too: one forward
        pass through the generator for each batch. Where batches are accumulated they are made again, as the
        memory of one batch has to be enough.
        """
        optimizers: Any = self.optimizers()
        generator_optimizer, discriminator_optimizer = optimizers
        updates, logging = self.batch_parts(batch), self.will_log
        kept: list[Tensor] = []
        with self.step_randomness():
            for number, parts in enumerate(updates):
                keep = number == self.d_steps - 1 and self.accumulate_batches == 1
                scores: list[dict[str, Tensor]] = []
                weights = self.penalty_weights(self.trainer.global_step * self.d_steps + number)
                d_losses = self._discriminator_losses(parts, number, weights, kept if keep else None, scores)
                d_loss = self.update(d_losses, discriminator_optimizer)
            g_losses = self._generator_losses(parts, number, kept)
            g_loss = self.update(g_losses, generator_optimizer, counted=True)
        self.end_of_step(sum(len(images) for parts in updates for images, _ in parts))
        if logging:
            means = {name: torch.stack([part[name] for part in scores]).mean() for name in scores[0]}
            self.log_scalars(d_loss=d_loss, g_loss=g_loss, **means)

    def _discriminator_losses(
        self,
        parts: Sequence[Part],
        update: int,
        weights: Mapping[str, float],
        kept: list[Tensor] | None,
        scores: list[dict[str, Tensor]],
    ) -> Iterator[Tensor]:
        """Yield the discriminator's loss on each batch of an update, and keep the fakes where they serve twice."""
        for real, labels in self.accumulated(parts):
            with torch.set_grad_enabled(kept is not None):
                fake = self.generate(self.noise(len(real), update), labels)
            if kept is not None:
                kept.append(fake)
            loss, found = self.regularized_discriminator_loss(real, fake, labels, weights, update)
            scores.append(found)
            yield loss

    def _generator_losses(self, parts: Sequence[Part], update: int, kept: list[Tensor]) -> Iterator[Tensor]:
        """Yield the generator's loss on each batch of its update."""
        for real, labels in self.accumulated(parts):
            fake = kept.pop() if kept else self.generate(self.noise(len(real), update), labels)
            with self.frozen(self.discriminator), self.watched(self.d_steps, self.feature_matching > 0) as judgements:
                loss = torch.zeros((), device=fake.device)
                if self.adversarial_weight > 0:
                    loss = self.adversarial_weight * self.generator_loss(real, fake, labels)
                if labels is not None:
                    loss = loss + self.auxiliary_loss(judgements, (fake,), labels)
                if self.feature_matching > 0:
                    loss = loss + self.feature_matching * self.feature_distance(judgements, real, fake, labels)
            yield loss

    def losses_of(self, parts: Sequence[Part]) -> Iterator[Tensor]:
        """Yield the discriminator's loss and the generator's, on batches of one update each, with all penalties."""
        kept: list[Tensor] = []
        weights = {name: weight for name, weight in self.penalties.items() if weight > 0}
        yield from self._discriminator_losses(parts, 0, weights, kept, [])
        yield from self._generator_losses(parts, 0, kept)

    def move_schedules(self) -> None:
        """Set Adam's second decay rate, where it changes."""
        if self.beta2_end is None:
            return
        optimizers: Any = self.optimizers()
        beta2 = cosine(self.betas[1], self.beta2_end, self.progress())
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["betas"] = (group["betas"][0], beta2)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing with the batch: adversarial models are judged by their samples, in callbacks."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing with the batch: adversarial models are judged by their samples, in callbacks."""

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return samples of a batch's labels, ``(N, C, H, W)`` in [-1, 1]."""
        if self.num_classes == 0:
            return super().predict_step(batch, batch_idx)
        _, labels = self.images_and_labels(batch)
        seed = randomness.mix(self.run_seed, Stream.SAMPLE, batch_idx, self.global_rank)
        return self.sample(labels=labels, seed=seed)

    def configure_optimizers(self) -> Any:
        """Return one Adam for each network, and their schedules."""
        return self.scheduled(
            self.adam(self.generator.parameters(), self.generator_lr, self.betas, self.weight_decay),
            self.adam(self.discriminator.parameters(), self.discriminator_lr, self.betas, self.weight_decay),
        )


def check_mismatch(mismatch_weight: float) -> None:
    """Raise :class:`SettingError` for real images with wrong labels where a discriminator has a classifier."""
    if mismatch_weight > 0:
        raise SettingError(
            f"mismatch_weight is {mismatch_weight}: it must be 0 with an auxiliary classifier, as the logit beside it "
            "does not depend on the label, and real images would train as fakes."
        )
