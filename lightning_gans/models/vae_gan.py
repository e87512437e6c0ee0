"""The autoencoder that measures its errors in a discriminator's features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gans import losses
from lightning_gans.errors import SettingError, check_adam, check_choice, check_not_negative, check_positive
from lightning_gans.models.adversarial import Loss
from lightning_gans.models.autoencoding import AutoencodingModule
from lightning_gans.models.base import check_sizes
from lightning_gans.networks import ConvEncoder, DCGANDiscriminator, DCGANGenerator
from lightning_gans.randomness import Stream
from lightning_gans.training import discriminator_calls as judging
from lightning_gans.training.batches import Part
from lightning_gans.training.discriminator_calls import Judgements, find_feature_layer
from lightning_gans.training.regularizers import RegularizedModule


class VAEGAN(AutoencodingModule, RegularizedModule):
    r"""A VAE whose decoder is a GAN's generator (Larsen et al. 2016, https://arxiv.org/abs/1512.09300).

    The error of a reconstruction is that of a Gaussian of variance 1 around the features of a layer of the
    discriminator, :math:`E = \frac12 \|f(x) - f(\tilde x)\|^2`. The discriminator tells images from reconstructions
    and from samples of the prior, with the sum of the three cross-entropies :math:`L` as its loss. After it the
    encoder goes down :math:`KL + E`, and the decoder down :math:`\gamma E - L` (the paper's algorithm 1), both in
    one update. There is no likelihood of the images: neither an ELBO nor a bound, and ``train/reconstruction`` is
    -E, higher is better. Features are taken of images that are not augmented.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Number of latents.
        num_classes: Number of labels; 0 makes it unconditional.
        encoder: Replaces the encoder; ``encoder(images[, labels])`` gives the posterior's means and log-variances,
            ``(N, latent_dim)`` each.
        decoder: Replaces the decoder; ``decoder(latents[, labels])`` gives images in [-1, 1].
        discriminator: Replaces the discriminator; see :class:`RegularizedModule`, also for its ``feature_layer``.
        width: Channels of the convolutional networks at half the image's size.
        gamma: What reconstructing weighs in the decoder's loss against fooling the discriminator.
        kl_weight: What the KL term weighs in the encoder's loss; 1 in the paper.
        loss: The adversarial loss, out of :data:`lightning_gans.losses.ADVERSARIAL_LOSSES`: ``minimax`` is the
            paper's; ``nonsaturating`` goes down -log D in the place of log(1 - D), whose gradient is lost while the
            discriminator wins. All others are the sum of two games, against reconstructions and against samples.
        encoder_lr: Adam's learning rate for the encoder.
        decoder_lr: Adam's learning rate for the decoder.
        discriminator_lr: Adam's learning rate for the discriminator.
        betas: Adam's decay rates, for all.
        weight_decay: Adam's L2 penalty, for all.
        **options: See :class:`RegularizedModule` and :class:`GenerativeModule`.

    Example:
        >>> VAEGAN(width=4).reconstruct(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    trained_networks = ("encoder", "decoder", "discriminator")

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 20,
        num_classes: int = 0,
        *,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        width: int = 32,
        gamma: float = 0.01,
        kl_weight: float = 1.0,
        loss: Loss = "nonsaturating",
        encoder_lr: float = 2e-4,
        decoder_lr: float = 2e-4,
        discriminator_lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        check_sizes(image_shape, latent_dim, num_classes)
        encoder = encoder or ConvEncoder(image_shape, latent_dim, width, num_classes)
        decoder = decoder or DCGANGenerator(image_shape, latent_dim, width, num_classes)
        super().__init__(
            image_shape,
            latent_dim,
            num_classes,
            discriminator=discriminator or DCGANDiscriminator(image_shape, width, num_classes),
            **options,
        )
        find_feature_layer(self.discriminator, self.feature_layer)
        check_choice("loss", loss, losses.ADVERSARIAL_LOSSES)
        check_positive(encoder_lr=encoder_lr, decoder_lr=decoder_lr, discriminator_lr=discriminator_lr)
        check_not_negative(gamma=gamma, kl_weight=kl_weight)
        check_adam(betas, weight_decay)
        self.encoder = encoder
        self.decoder = decoder
        self.gamma = gamma
        self.kl_weight = kl_weight
        self.loss = loss
        self.encoder_lr = encoder_lr
        self.decoder_lr = decoder_lr
        self.discriminator_lr = discriminator_lr
        self.betas = betas
        self.weight_decay = weight_decay
        self.batches_per_step = self.accumulate_batches
        self.check_networks()
        self.create_ema()

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the scalar that the discriminator's update brings down.

        Args:
            real: Images, ``(N, C, H, W)``.
            fake: Their reconstructions, and below them samples of the prior, ``(2 N, C, H, W)``.
            labels: The images', ``(N,)``, or None.
        """
        real_logits, fake_logits = self.logits(real, labels), self.logits(fake, _twice(labels))
        loss = losses.ADVERSARIAL_LOSSES[self.loss].discriminator
        if loss is losses.discriminator_loss:  # the paper's: the fakes have twice the weight, and are twice as many
            return loss(real_logits, fake_logits) - losses.minimax_generator_loss(fake_logits)
        return 2 * loss(real_logits.repeat(2), fake_logits)

    def generator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the decoder's side of the game, from the logits of ``(N,)`` images and of ``(2 N,)`` fakes."""
        loss = losses.ADVERSARIAL_LOSSES[self.loss]
        return 2 * loss.generator(fake_logits, *([real_logits.repeat(2)] if loss.pairs else []))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update the discriminator, then the encoder and the decoder together.

        One pass through these two serves both updates; where batches are accumulated it is made again, as the memory
        of one batch has to be enough.
        """
        optimizers: Any = self.optimizers()
        encoder_optimizer, decoder_optimizer, discriminator_optimizer = optimizers
        (parts,), logging = self.batch_parts(batch), self.will_log
        kept: list[_Made] = []
        notes: list[dict[str, Tensor]] = []
        with self.step_randomness():
            weights = self.penalty_weights(self.trainer.global_step)
            d_loss = self.update(self._discriminator_losses(parts, weights, kept, notes), discriminator_optimizer)
            both = self._autoencoder_losses(parts, kept, notes)
            self.update(both, encoder_optimizer, decoder_optimizer, counted=True)
        self.end_of_step(sum(len(images) for images, _ in parts))
        if logging:
            names = {name: None for note in notes for name in note}
            means = {name: torch.stack([note[name] for note in notes if name in note]).mean() for name in names}
            self.log_scalars(d_loss=d_loss, **means)

    def losses_of(self, parts: Sequence[Part]) -> Iterator[Tensor]:
        """Yield the losses on batches of one update each, with all penalties."""
        kept: list[_Made] = []
        weights = {name: weight for name, weight in self.penalties.items() if weight > 0}
        yield from self._discriminator_losses(parts, weights, kept, [])
        yield from self._autoencoder_losses(parts, kept, [])

    def _make(self, images: Tensor, labels: Tensor | None) -> _Made:
        """Encode a batch, and decode its latents and as many of the prior; these numbers are the batch's own."""
        mean, log_variance = self.encode(images, labels, ema=False)
        posterior = mean + self.noise(len(images), 0, Stream.POSTERIOR) * (0.5 * log_variance).exp()
        latents = posterior.detach().requires_grad_()
        # In one call, so that the statistics of a BatchNorm are those of both kinds of latents.
        fake = self.decode(torch.cat([latents, self.noise(len(images), 0)]), _twice(labels), ema=False)
        self.check_made(fake)
        fake = fake.to(images.dtype)  # also under autocast: a penalty differentiates at them without it
        return _Made(mean, log_variance, posterior, latents, fake)

    def _discriminator_losses(
        self, parts: Sequence[Part], weights: Mapping[str, float], kept: list[_Made], notes: list[dict[str, Tensor]]
    ) -> Iterator[Tensor]:
        """Yield the discriminator's loss on each batch, and keep what was made where it serves twice."""
        for real, labels in self.accumulated(parts):
            if self.accumulate_batches == 1:
                kept.append(made := self._make(real, labels))
            else:
                with torch.no_grad():
                    made = self._make(real, labels)
            loss, found = self.regularized_discriminator_loss(real, made.fake, labels, weights)
            notes.append(found)
            yield loss

    def _autoencoder_losses(
        self, parts: Sequence[Part], kept: list[_Made], notes: list[dict[str, Tensor]]
    ) -> Iterator[Tensor]:
        """Yield on each batch a scalar that has the gradient of the encoder's loss there, of the decoder's here."""
        for real, labels in self.accumulated(parts):
            made = kept.pop() if kept else self._make(real, labels)
            with self.frozen(self.discriminator):
                with self.watched(1, features=True, num=len(real)) as judgements:
                    g_loss = self.generator_loss(*self._judge(real, made.fake, labels))
                    if labels is not None:
                        g_loss = g_loss + self.auxiliary_loss(judgements, (made.fake,), labels)
                    if self.feature_matching > 0:
                        g_loss = g_loss + self.feature_matching * self.feature_distance(
                            judgements, real, made.fake, labels
                        )
                if self.augment:  # an image and its reconstruction were changed in different ways
                    layer = find_feature_layer(self.discriminator, self.feature_layer)
                    with judging.watched(self.discriminator, feature_layer=layer) as judgements:
                        self._judge(real, made.fake, labels)
            wanted, features = (_features(judgements, images) for images in (real, made.fake))
            error = 0.5 * (wanted - features[: len(real)]).square().sum(1)
            kl = losses.gaussian_kl(made.mean, made.log_variance)
            # The decoder was given a copy of the latents, where its loss ends; the encoder gets the error's gradient.
            (pull,) = torch.autograd.grad(error.sum(), made.latents, retain_graph=True)
            of_encoder = (self.kl_weight * kl + (pull * made.posterior).sum(1)).mean()
            of_decoder = (self.gamma * error).mean() + g_loss
            notes.append(
                {"g_loss": g_loss.detach(), "reconstruction": -error.detach().mean(), "kl": kl.detach().mean()}
            )
            yield of_encoder + of_decoder

    def _judge(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the logits of images, without their graph, and of fakes."""
        with torch.no_grad():
            real_logits = self.logits(real, labels)
        return real_logits, self.logits(fake, _twice(labels))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing with the batch: the model is judged by its samples and reconstructions, in callbacks."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing with the batch: the model is judged by its samples and reconstructions, in callbacks."""

    def compilable_networks(self) -> tuple[str, ...]:
        """Leave out the discriminator: compiled code calls no hooks within, and its features are read by one."""
        return tuple(name for name in self.trained_networks if name != "discriminator")

    def configure_optimizers(self) -> Any:
        """Return one Adam for each network, and their schedules."""
        rates = {"encoder": self.encoder_lr, "decoder": self.decoder_lr, "discriminator": self.discriminator_lr}
        return self.scheduled(
            *(
                self.adam(getattr(self, name).parameters(), lr, self.betas, self.weight_decay)
                for name, lr in rates.items()
            )
        )


class _Made(NamedTuple):
    """What the encoder and the decoder make of a batch.

    Attributes:
        mean: Means of the posteriors, ``(N, latent_dim)``.
        log_variance: Their log-variances.
        posterior: Latents drawn from them, with their graph back to the encoder.
        latents: The same without it; the decoder's graph begins here.
        fake: The reconstructions, and below them samples of the prior, ``(2 N, C, H, W)``.
    """

    mean: Tensor
    log_variance: Tensor
    posterior: Tensor
    latents: Tensor
    fake: Tensor


def _twice(labels: Tensor | None) -> Tensor | None:
    return None if labels is None else torch.cat([labels, labels])


def _features(judgements: Judgements, images: Tensor) -> Tensor:
    """Return the features that were noted of images, ``(N, F)``."""
    judgement = judgements.of(images)
    if judgement is None or judgement.features is None:
        raise SettingError("the discriminator does not call its feature_layer: name another.")
    return losses.full_precision(judgement.features.flatten(1))
