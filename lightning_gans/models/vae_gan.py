"""The autoencoder that measures its errors in a discriminator's features."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gans import losses
from lightning_gans.errors import SettingError, check_adam, check_choice, check_not_negative, check_positive
from lightning_gans.models.adversarial import Loss
from lightning_gans.models.autoencoding import AutoencodingModule
from lightning_gans.models.base import check_sizes
from lightning_gans.networks import ConvEncoder, DCGANDiscriminator, DCGANGenerator
from lightning_gans.randomness import Stream
from lightning_gans.training.augmentation import Augmentation, checked_augment
from lightning_gans.training.compiled import frozen
from lightning_gans.training.discriminator_calls import (
    DiscriminatorCalls,
    find_feature_layer,
    logits_of,
    record_calls,
)
from lightning_gans.training.freezing import FreezeLayers
from lightning_gans.training.regularizers import (
    AuxiliaryClassifier,
    FeatureMatching,
    Regularizer,
    checked_regularizers,
    gradient_penalties,
)
from lightning_gans.training.step import TrainingStep
from lightning_gans.training.turn import Player, Turn, call, take_turn


class VAEGAN(AutoencodingModule):
    r"""A VAE whose decoder is a GAN's generator (Larsen et al. 2016, https://arxiv.org/abs/1512.09300).

    The error of a reconstruction is measured in the features of a layer of the discriminator, as for a Gaussian of
    variance 1: :math:`E = \frac12 \|f(x) - f(\tilde x)\|^2`. The discriminator distinguishes images from
    reconstructions and from samples of the prior; its loss :math:`L` is the sum of the three cross-entropies. Then the
    encoder minimizes :math:`KL + E` and the decoder :math:`\gamma E - L` (the paper's algorithm 1), in one update.
    The images have no likelihood, so there is neither an ELBO nor a bound. ``train/reconstruction`` is -E; higher is
    better. Features are those of images that are not augmented.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Number of latents.
        num_classes: Number of labels; 0 makes it unconditional.
        encoder: Replaces the encoder; ``encoder(images[, labels])`` returns the posterior's means and log-variances,
            ``(N, latent_dim)`` each.
        decoder: Replaces the decoder; ``decoder(latents[, labels])`` returns images in [-1, 1].
        discriminator: Replaces the discriminator; ``discriminator(images[, labels])`` returns logits.
        width: Channels of the convolutional networks at half the image's size.
        gamma: Weight of the reconstruction error relative to the adversarial term in the decoder's loss.
        kl_weight: Weight of the KL term in the encoder's loss; 1 in the paper.
        loss: The adversarial loss, a key of :data:`lightning_gans.losses.ADVERSARIAL_LOSSES`: ``minimax`` is the
            paper's; ``nonsaturating`` minimizes -log D instead of log(1 - D), which saturates. All others are the sum
            of two games, against reconstructions and against samples.
        encoder_lr: Adam's learning rate for the encoder.
        decoder_lr: Adam's learning rate for the decoder.
        discriminator_lr: Adam's learning rate for the discriminator.
        betas: Adam's decay rates, for all.
        weight_decay: Adam's L2 penalty, for all.
        penalties: See :class:`AdversarialModule`, also for the arguments from here on.
        penalty_interval: See there.
        penalty_end: See there.
        feature_matching: See there.
        feature_matching_norm: See there.
        feature_layer: See there; the input of this layer is also the features :math:`f`.
        auxiliary_weight: See there.
        augment: See there.
        regularizers: See there.
        freeze_layers: See there.
        **options: See :class:`GenerativeModule`.

    Attributes:
        regularizers: Terms of the losses; see :mod:`lightning_gans.training.regularizers`.

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
        check_sizes(image_shape, num_classes, latent_dim=latent_dim)
        made = (
            encoder or ConvEncoder(image_shape, latent_dim, width, num_classes),
            decoder or DCGANGenerator(image_shape, latent_dim, width, num_classes),
            discriminator or DCGANDiscriminator(image_shape, width, num_classes),
        )
        super().__init__(image_shape, latent_dim, num_classes, **options)
        check_choice("loss", loss, losses.ADVERSARIAL_LOSSES)
        check_positive(encoder_lr=encoder_lr, decoder_lr=decoder_lr, discriminator_lr=discriminator_lr)
        check_not_negative(gamma=gamma, kl_weight=kl_weight, auxiliary_weight=auxiliary_weight)
        check_not_negative(feature_matching=feature_matching)
        check_adam(betas, weight_decay)
        self.encoder, self.decoder, self.discriminator = made
        self.gamma = gamma
        self.kl_weight = kl_weight
        self.loss = loss
        self.encoder_lr = encoder_lr
        self.decoder_lr = decoder_lr
        self.discriminator_lr = discriminator_lr
        self.betas = betas
        self.weight_decay = weight_decay
        self.feature_layer = feature_layer
        self.augment = checked_augment(augment, image_shape)
        self.freeze_layers = freeze_layers
        if freeze_layers != 0:
            self._callbacks.append(FreezeLayers(freeze_layers))
        self.regularizers = [
            *gradient_penalties(penalties, penalty_interval, penalty_end),
            AuxiliaryClassifier(auxiliary_weight),
            FeatureMatching(feature_matching, feature_matching_norm, feature_layer),
            *checked_regularizers(regularizers),
        ]
        self.check_networks("encoder", "decoder", "discriminator")
        self.create_ema()
        find_feature_layer(self.discriminator, feature_layer)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update the discriminator, then the encoder and the decoder together.

        One pass through the encoder and the decoder serves both updates. With accumulated batches it is repeated, so
        that only one batch is in memory at a time.
        """
        names = ("encoder", "decoder", "discriminator")
        encoder_optimizer, decoder_optimizer, discriminator_optimizer = self.optimizers_of(*names)
        with self.step(batch) as step:
            for real, labels in step.batches():
                made = self.make(real, labels, step)
                with self.turn("discriminator", step, real, made.fake, labels) as turn:
                    d_loss = turn.regularized(self.discriminator_loss(turn.real, turn.fake, labels))
                step.update(d_loss, discriminator_optimizer)
                step.log(d_loss=d_loss)
            for real, labels in step.last_batches():
                if self.accumulate_batches > 1:
                    made = self.make(real, labels, step)
                loss, terms = self.autoencoder_loss(real, made, labels, step)
                step.update(loss, encoder_optimizer, decoder_optimizer, counted=True)
                step.log(**terms)

    def make(self, images: Tensor, labels: Tensor | None, step: TrainingStep) -> Made:
        """Encode a batch, and decode its latents and as many latents of the prior."""
        mean, log_variance = self.encode(images, labels, ema=False)
        posterior = mean + step.noise(len(images), stream=Stream.POSTERIOR) * (0.5 * log_variance).exp()
        latents = posterior.detach().requires_grad_()
        # In one call, so that BatchNorm's statistics cover both kinds of latents.
        fake = self.decode(torch.cat([latents, step.noise(len(images))]), _twice(labels), ema=False)
        self.check_made(fake)
        fake = fake.to(images.dtype)  # also under autocast: penalties differentiate with respect to them outside it
        return Made(mean, log_variance, posterior, latents, fake)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the scalar that the discriminator's update minimizes.

        Args:
            real: Images, ``(N, C, H, W)``.
            fake: Their reconstructions, followed by samples of the prior, ``(2 N, C, H, W)``.
            labels: Labels of the images, ``(N,)``, or None.
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

    def autoencoder_loss(
        self, real: Tensor, made: Made, labels: Tensor | None, step: TrainingStep
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a scalar for both updates, and what is logged of it.

        Its gradient with respect to the encoder is that of the encoder's loss, and likewise for the decoder.
        """
        layer = find_feature_layer(self.discriminator, self.feature_layer)
        with self.turn("generator", step, real, made.fake, labels, [layer]) as turn:
            g_loss = turn.regularized(self.generator_loss(*self._both_logits(real, made.fake, labels)))
        calls = turn.calls
        if self.augment:  # an image and its reconstruction were changed in different ways
            with frozen(self.discriminator), record_calls(self.discriminator, layers=[layer]) as calls:
                self._both_logits(real, made.fake, labels)
        wanted, features = (_features(calls, layer, images) for images in (real, made.fake))
        error = 0.5 * (wanted - features[: len(real)]).square().sum(1)
        kl = losses.gaussian_kl(made.mean, made.log_variance)
        # The decoder got detached latents, so its graph ends there; the encoder receives the error's gradient through
        # `pull`.
        (pull,) = torch.autograd.grad(error.sum(), made.latents, retain_graph=True)
        of_encoder = (self.kl_weight * kl + (pull * made.posterior).sum(1)).mean()
        of_decoder = (self.gamma * error).mean() + g_loss
        return of_encoder + of_decoder, {"g_loss": g_loss, "reconstruction": -error.mean(), "kl": kl.mean()}

    def _both_logits(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the logits of images, without their graph, and of fakes."""
        with torch.no_grad():
            real_logits = self.logits(real, labels)
        return real_logits, self.logits(fake, _twice(labels))

    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the discriminator's logits as float32 or better, of shape ``(N,)``."""
        return logits_of(call(self.discriminator, images, labels), len(images))

    def turn(
        self,
        player: Player,
        step: TrainingStep,
        real: Tensor,
        fake: Tensor,
        labels: Tensor | None,
        layers: Sequence[nn.Module] = (),
    ) -> AbstractContextManager[Turn]:
        """Return a context manager for computing a player's loss, with its regularizers and augmentation."""
        return take_turn(player, step, self.discriminator, real, fake, labels, layers)

    def not_compiled(self) -> dict[str, str]:
        """Exclude the discriminator: its features are read by a hook, which compiled code does not call."""
        return {"discriminator": "the features of one of its layers are read."}

    def configure_optimizers(self) -> Any:
        """Return an Adam optimizer per network: encoder, decoder, discriminator."""
        rates = {"encoder": self.encoder_lr, "decoder": self.decoder_lr, "discriminator": self.discriminator_lr}
        return [
            self.make_optimizer(getattr(self, name).parameters(), lr, self.betas, self.weight_decay)
            for name, lr in rates.items()
        ]


class Made(NamedTuple):
    """The outputs of the encoder and the decoder for a batch.

    Attributes:
        mean: Means of the posteriors, ``(N, latent_dim)``.
        log_variance: Their log-variances.
        posterior: Latents drawn from them, with their graph back to the encoder.
        latents: The same without it; the decoder's graph begins here.
        fake: The reconstructions, followed by samples of the prior, ``(2 N, C, H, W)``.
    """

    mean: Tensor
    log_variance: Tensor
    posterior: Tensor
    latents: Tensor
    fake: Tensor


def _twice(labels: Tensor | None) -> Tensor | None:
    return None if labels is None else torch.cat([labels, labels])


def _features(calls: DiscriminatorCalls, layer: nn.Module, images: Tensor) -> Tensor:
    """Return the features of images that were recorded at a layer, ``(N, F)``."""
    known = calls.on(images)
    if known is None or layer not in known.features:
        message = "the discriminator does not call its feature_layer: name another layer."
        raise SettingError(message, setting="feature_layer")
    return losses.full_precision(known.features[layer].flatten(1))
