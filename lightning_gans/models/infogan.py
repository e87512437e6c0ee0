"""The GAN that finds its own classes and directions: its codes can be read from its images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans import losses
from lightning_gans.errors import check_counts, check_not_negative, check_widths, invalid
from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import check_sizes
from lightning_gans.networks import DCGANGenerator, InfoGANDiscriminator
from lightning_gans.randomness import Stream
from lightning_gans.training.step import TrainingStep
from lightning_gans.training.turn import Turn


class InfoGAN(AdversarialModule):
    r"""GAN whose images reveal their codes, learned without labels (Chen et al. 2016, https://arxiv.org/abs/1606.03657).

    The codes c are a class, drawn uniformly, and the first ``continuous_dim`` latents, which are standard normal like
    the noise. A recognition head Q on the discriminator's body predicts them from a generated image. Both networks
    also minimize :math:`-\log Q(c|G(z, c))`, ``train/info_loss``. The entropy of the codes (:meth:`entropy`) minus this
    loss is a lower bound of the mutual information of the codes and the images.

    The class takes the place of the label in ``sample(labels=…)``, in grids and in commands, but it is not one of the
    data's labels, which are ignored.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Number of latents: the continuous codes, then noise.
        num_classes: Number of values of the categorical code; 0 for none.
        continuous_dim: Number of continuous codes, at most ``latent_dim``.
        categorical_weight: Weight of the categorical code's part of the loss.
        continuous_weight: Weight of the continuous codes' part of the loss.
        generator: Replaces the generator; ``generator(latents[, labels])`` returns images in [-1, 1].
        discriminator: Replaces the discriminator; ``discriminator(images)`` returns logits, ``(N,)`` or ``(N, 1)``, and
            the codes' parameters, as those of :class:`~lightning_gans.networks.InfoGANDiscriminator`.
        width: Channels of both networks at half the image's size; each halving doubles them.
        batch_norm: Whether the discriminator has BatchNorm; with a gradient penalty it should not.
        dense_dims: Widths of fully connected layers after the discriminator's convolutions, from the image to the
            heads; the generator has them in reverse order before its convolutions.
        recognition_dims: Widths of the hidden layers of the recognition head.
        **options: See :class:`AdversarialModule` and :class:`GenerativeModule`; ``mismatch_weight`` must be 0.

    Raises:
        SettingError: A setting is out of range, or there are no codes.

    Example:
        >>> InfoGAN(width=4, dense_dims=[8]).sample(labels=[3, 1, 4], seed=0).shape
        torch.Size([3, 1, 28, 28])
    """

    labels_of_data = False

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 64,
        num_classes: int = 10,
        *,
        continuous_dim: int = 2,
        categorical_weight: float = 1.0,
        continuous_weight: float = 0.1,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        width: int = 64,
        batch_norm: bool = True,
        dense_dims: Sequence[int] = (1024,),
        recognition_dims: Sequence[int] = (128,),
        **options: Any,
    ) -> None:
        check_sizes(image_shape, num_classes, latent_dim=latent_dim)
        check_counts(least=0, continuous_dim=continuous_dim)
        if not max(1 - num_classes, 0) <= continuous_dim <= latent_dim:
            raise invalid("continuous_dim", continuous_dim, f"1 to latent_dim, {latent_dim}; 0 only with num_classes")
        if mismatch := options.get("mismatch_weight"):
            raise invalid("mismatch_weight", mismatch, "0, as the classes are not the images' labels")
        check_not_negative(categorical_weight=categorical_weight, continuous_weight=continuous_weight)
        check_widths(recognition_dims=recognition_dims)
        check_widths(dense_dims=dense_dims, empty=True)
        of_discriminator = (width, num_classes, continuous_dim, batch_norm, dense_dims, recognition_dims)
        super().__init__(
            image_shape=image_shape,
            latent_dim=latent_dim,
            num_classes=num_classes,
            generator=generator or DCGANGenerator(image_shape, latent_dim, width, num_classes, dense_dims[::-1]),
            discriminator=discriminator or InfoGANDiscriminator(image_shape, *of_discriminator),
            **options,
        )
        self.continuous_dim = continuous_dim
        self.categorical_weight = categorical_weight
        self.continuous_weight = continuous_weight

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update the discriminator with its recognition head ``d_steps`` times, then the generator once.

        As in :class:`AdversarialModule`, one batch of images serves both updates.
        """
        generator_optimizer, discriminator_optimizer = self.optimizers_of("generator", "discriminator")
        with self.step(batch, updates=self.d_steps) as step:
            for real, _ in step.batches():
                latents, labels = self.draw_latents(step, len(real))
                fake = self.generate(latents, labels)
                with self.turn("discriminator", step, real, fake, None) as turn:
                    d_loss = turn.regularized(self.discriminator_loss(turn.real, turn.fake, None))
                    recognition = self.recognition_of(turn)
                weighted, _ = self.info_loss(recognition, latents, labels)
                step.update(d_loss + weighted, discriminator_optimizer)
                step.log(d_loss=d_loss)
            for real, _ in step.last_batches():
                if self.accumulate_batches > 1:
                    latents, labels = self.draw_latents(step, len(real))
                    fake = self.generate(latents, labels)
                with self.turn("generator", step, real, fake, None) as turn:
                    g_loss = turn.regularized(self.weighted_generator_loss(turn.real, turn.fake, None))
                    recognition = self.recognition_of(turn)
                weighted, info_loss = self.info_loss(recognition, latents, labels)
                step.update(g_loss + weighted, generator_optimizer, counted=True)
                step.log(g_loss=g_loss, info_loss=info_loss)

    def draw_latents(self, step: TrainingStep, num: int) -> tuple[Tensor, Tensor | None]:
        """Draw latents ``(num, latent_dim)`` and classes ``(num,)``, the same ones when called again in an update."""
        latents = step.noise(num)
        if self.num_classes == 0:
            return latents, None
        uniform = step.uniform(num, 1, Stream.LABELS, step.update_index).flatten()
        return latents, (uniform * self.num_classes).long()

    def recognition_of(self, turn: Turn) -> Recognition:
        """Return what the recognition head says of a turn's generated images, from the call that the loss has made."""
        turn.logits(turn.fake)  # calls the discriminator if a custom loss has not
        known = turn.calls.on(turn.fake)
        return self._split(known.classes if known is not None else None)

    def info_loss(self, recognition: Recognition, latents: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        r"""Return :math:`-\log Q(c|x)`, averaged over the images: its weighted and its plain sum over the codes.

        Args:
            recognition: What the head says of images.
            latents: The latents that they were generated from, ``(N, latent_dim)``.
            labels: Their classes, ``(N,)``, or None.
        """
        of_class = latents.new_zeros(()) if labels is None else F.cross_entropy(recognition.class_logits, labels)
        codes = latents[:, : self.continuous_dim]
        of_codes = losses.gaussian_nll(recognition.mean, recognition.log_variance, codes).mean()
        return self.categorical_weight * of_class + self.continuous_weight * of_codes, of_class + of_codes

    def entropy(self) -> float:
        """Return the entropy of the codes in nats: discrete for the class, differential for the continuous codes."""
        of_class = math.log(self.num_classes) if self.num_classes > 0 else 0.0
        return of_class + self.continuous_dim * 0.5 * math.log(2 * math.pi * math.e)

    @torch.no_grad()
    def recognize(self, images: Tensor) -> Recognition:
        """Predict the codes of images ``(N, C, H, W)`` in [-1, 1], in evaluation mode."""
        with self.evaluating():
            return self._split(self.discriminator(images)[1])

    def _split(self, parameters: Tensor | None) -> Recognition:
        """Split the output of the recognition head.

        Raises:
            SettingError: There is none, or it has another length.
        """
        sizes = [self.num_classes, self.continuous_dim, self.continuous_dim]
        if parameters is None or parameters.shape[1:] != (sum(sizes),):
            found = "logits alone" if parameters is None else f"parameters {list(parameters.shape)}"
            raise invalid("the output of the discriminator", found, f"logits, and parameters (N, {sum(sizes)})")
        return Recognition(*torch.split(losses.full_precision(parameters), sizes, dim=1))


class Recognition(NamedTuple):
    """What the recognition head says of images.

    Attributes:
        class_logits: Logits of the categorical code, ``(N, num_classes)``.
        mean: Means of the continuous codes, ``(N, continuous_dim)``.
        log_variance: Logarithms of their variances, of the same shape.
    """

    class_logits: Tensor
    mean: Tensor
    log_variance: Tensor
