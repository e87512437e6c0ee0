"""The alternating update of a generator and a discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_gans import losses, randomness
from lightning_gans.errors import SettingError, check_choice, check_positive
from lightning_gans.models.base import GenerativeModule
from lightning_gans.models.updates import Part
from lightning_gans.randomness import Stream

GENERATOR_LOSSES = {
    "nonsaturating": losses.nonsaturating_generator_loss,
    "minimax": losses.minimax_generator_loss,
}


class AdversarialModule(GenerativeModule):
    """A generator and a discriminator that are updated in turn (Goodfellow et al. 2014, algorithm 1).

    A subclass overrides :meth:`generator_loss` and :meth:`discriminator_loss`, or passes other networks.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Length of the noise vectors.
        num_classes: Number of labels; where it is not 0, both networks are called with labels as well.
        generator: ``generator(noise[, labels])`` gives images ``(N, C, H, W)`` in [-1, 1].
        discriminator: ``discriminator(images[, labels])`` gives logits, ``(N,)`` or ``(N, 1)``.
        loss: The generator's loss: ``nonsaturating`` (the paper's section 3) or ``minimax`` (its equation 1).
        generator_lr: Adam's learning rate for the generator.
        discriminator_lr: Adam's learning rate for the discriminator.
        betas: Adam's decay rates, for both.
        weight_decay: Adam's L2 penalty, for both.
        d_steps: Discriminator updates for each generator update, each on its own batch.
        **options: See :class:`GenerativeModule`.
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
        loss: Literal["nonsaturating", "minimax"] = "nonsaturating",
        generator_lr: float = 2e-4,
        discriminator_lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 0.0,
        d_steps: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(image_shape, latent_dim, num_classes, **options)
        check_positive(generator_lr=generator_lr, discriminator_lr=discriminator_lr, d_steps=d_steps)
        check_choice("loss", loss, GENERATOR_LOSSES)
        self.generator = generator
        self.discriminator = discriminator
        self.loss = loss
        self.generator_lr = generator_lr
        self.discriminator_lr = discriminator_lr
        self.betas = betas
        self.weight_decay = weight_decay
        self.d_steps = d_steps
        self.batches_per_step = d_steps * self.accumulate_batches
        self.create_ema()

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the scalar that the generator's update brings down; the gradient reaches it through ``fake``."""
        return GENERATOR_LOSSES[self.loss](self.logits(fake, labels))

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the scalar that the discriminator's update brings down; ``fake`` carries no gradient."""
        return losses.discriminator_loss(self.logits(real, labels), self.logits(fake, labels))

    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the discriminator's logits as float32 or better, of shape ``(N,)``."""
        logits = self.discriminator(images) if labels is None else self.discriminator(images, labels)
        if logits.shape not in ((len(images),), (len(images), 1)):
            raise SettingError(
                f"the discriminator gave the shape {list(logits.shape)} for {len(images)} images: "
                "it must be (N,) or (N, 1)."
            )
        return losses.full_precision(logits.flatten())

    def generate(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Return the generator's images for noise ``(N, latent_dim)``."""
        images: Tensor = self.generator(noise) if labels is None else self.generator(noise, labels)
        return images

    def decode(self, latents: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)`` in [-1, 1]."""
        generator = self.averaged("generator", ema)
        images: Tensor = generator(latents) if labels is None else generator(latents, labels)
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
                d_losses = self._discriminator_losses(parts, number, kept if keep else None, scores)
                d_loss = self.update(d_losses, discriminator_optimizer)
            g_losses = self._generator_losses(parts, number, kept)
            g_loss = self.update(g_losses, generator_optimizer, counted=True)
        self.end_of_step(sum(len(images) for parts in updates for images, _ in parts))
        if logging:
            means = {name: torch.stack([part[name] for part in scores]).mean() for name in scores[0]}
            self.log_scalars(d_loss=d_loss, g_loss=g_loss, **means)

    def _discriminator_losses(
        self, parts: Sequence[Part], update: int, kept: list[Tensor] | None, scores: list[dict[str, Tensor]]
    ) -> Iterator[Tensor]:
        """Yield the discriminator's loss on each batch of an update, and keep the fakes where they serve twice."""
        for real, labels in self.accumulated(parts):
            with torch.set_grad_enabled(kept is not None):
                fake = self.generate(self.noise(len(real), update), labels)
            if kept is not None:
                kept.append(fake)
            judged = fake.detach()
            with self._watched(real, judged) as watched:
                loss = self.discriminator_loss(real, judged, labels)
            scores.append(watched)
            yield loss

    def _generator_losses(self, parts: Sequence[Part], update: int, kept: list[Tensor]) -> Iterator[Tensor]:
        """Yield the generator's loss on each batch of its update."""
        for real, labels in self.accumulated(parts):
            fake = kept.pop() if kept else self.generate(self.noise(len(real), update), labels)
            with self.frozen(self.discriminator):
                loss = self.generator_loss(real, fake, labels)
            yield loss

    def losses_of(self, parts: Sequence[Part]) -> Iterator[Tensor]:
        """Yield the discriminator's loss and the generator's, on batches of one update each."""
        kept: list[Tensor] = []
        yield from self._discriminator_losses(parts, 0, kept, [])
        yield from self._generator_losses(parts, 0, kept)

    @contextmanager
    def _watched(self, real: Tensor, fake: Tensor) -> Iterator[dict[str, Tensor]]:
        """Collect the mean logits of the real and the fake images, on steps that are logged.

        They are read off the discriminator's calls, so that a loss of the user's own is logged as well.
        """
        scores: dict[str, Tensor] = {}

        def note(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
            images = inputs[0] if inputs else None
            name = "d_real" if images is real else "d_fake" if images is fake else None
            if name is not None and name not in scores:  # the first call: the same images may be judged again
                scores[name] = logits.detach().float().mean()

        if not self.will_log:
            yield scores
            return
        handle = self.discriminator.register_forward_hook(note)
        try:
            yield scores
        finally:
            handle.remove()

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
