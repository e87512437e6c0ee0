"""The variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_gans.errors import (
    SettingError,
    check_adam,
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
    check_widths,
)
from lightning_gans.losses import gaussian_kl
from lightning_gans.models.base import check_sizes
from lightning_gans.models.likelihood import LikelihoodModule
from lightning_gans.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from lightning_gans.randomness import Stream
from lightning_gans.training.batches import Part


class VAE(LikelihoodModule):
    """Variational autoencoder (Kingma & Welling 2013, https://arxiv.org/abs/1312.6114).

    Likelihoods are log-likelihoods in nats for each image: negative, and higher is better.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Number of latents.
        num_classes: Number of labels; 0 makes it unconditional.
        architecture: ``mlp`` (the paper's) or ``conv`` (DCGAN's convolutions).
        encoder: Replaces the encoder; ``encoder(images[, labels])`` gives the posterior's means and
            log-variances, ``(N, latent_dim)`` each.
        decoder: Replaces the decoder; ``decoder(latents[, labels])`` gives logits (``bernoulli``) or means
            on the images' scale (``gaussian``), ``(N, C, H, W)``.
        encoder_dims: Widths of the hidden layers of the ``mlp`` encoder.
        decoder_dims: Widths of the hidden layers of the ``mlp`` decoder.
        batch_norm: Whether the hidden layers of the ``mlp`` networks have BatchNorm; the ``conv`` ones always do.
        width: Channels of the ``conv`` networks at half the image's size.
        dense_dims: Widths of fully connected layers between the convolutions and the latents, from the image to
            the latents in the encoder, the other way round in the decoder.
        beta: Weight of the KL term in the loss (Higgins et al. 2017); what is logged stays unweighted.
        importance_samples: K: samples of the posterior for each image in training. More than 1 goes up the
            importance-weighted bound in the place of the ELBO (Burda et al. 2015, arXiv:1509.00519), which is
            tighter, and costs as many passes through the decoder; what is logged stays the ELBO.
        encoder_lr: Adam's learning rate for the encoder.
        decoder_lr: Adam's learning rate for the decoder.
        betas: Adam's decay rates, for both.
        weight_decay: Adam's L2 penalty, for both.
        encoder_steps: 1 updates both networks together; k > 1 updates the encoder k - 1 times before that,
            each time on its own batch (He et al. 2019, arXiv:1901.05534).
        **options: See :class:`LikelihoodModule` and :class:`GenerativeModule`.

    Example:
        >>> VAE().reconstruct(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 20,
        num_classes: int = 0,
        *,
        architecture: Literal["mlp", "conv"] = "mlp",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        encoder_dims: Sequence[int] = (512, 256),
        decoder_dims: Sequence[int] = (256, 512),
        batch_norm: bool = False,
        width: int = 32,
        dense_dims: Sequence[int] = (),
        beta: float = 1.0,
        importance_samples: int = 1,
        encoder_lr: float = 1e-3,
        decoder_lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        encoder_steps: int = 1,
        **options: Any,
    ) -> None:
        check_sizes(image_shape, latent_dim)
        super().__init__(image_shape, latent_dim, num_classes, **options)
        check_choice("architecture", architecture, ("mlp", "conv"))
        check_positive(encoder_lr=encoder_lr, decoder_lr=decoder_lr)
        check_counts(encoder_steps=encoder_steps, importance_samples=importance_samples)
        check_not_negative(beta=beta)
        check_adam(betas, weight_decay)
        # Whichever architecture they are for, so that a recipe whose architecture is overridden keeps its settings.
        check_counts(width=width)
        check_widths(encoder_dims=encoder_dims, decoder_dims=decoder_dims)
        check_widths(dense_dims=dense_dims, empty=True)
        if importance_samples > 1 and beta != 1:
            raise SettingError(
                f"importance_samples is {importance_samples}, whose weights leave no room for beta {beta}."
            )
        if architecture == "mlp":
            encoder = encoder or MLPEncoder(image_shape, latent_dim, encoder_dims, num_classes, batch_norm)
            decoder = decoder or MLPDecoder(image_shape, latent_dim, decoder_dims, num_classes, batch_norm)
        else:
            encoder = encoder or ConvEncoder(image_shape, latent_dim, width, num_classes, dense_dims)
            decoder = decoder or ConvDecoder(image_shape, latent_dim, width, num_classes, dense_dims[::-1])
        self.encoder = encoder
        self.decoder = decoder
        self.beta = beta
        self.importance_samples = importance_samples
        self.encoder_lr = encoder_lr
        self.decoder_lr = decoder_lr
        self.betas = betas
        self.weight_decay = weight_decay
        self.encoder_steps = encoder_steps
        self.batches_per_step = encoder_steps * self.accumulate_batches
        self.check_networks()
        self.create_ema()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update the encoder ``encoder_steps`` times, the last time together with the decoder."""
        optimizers: Any = self.optimizers()
        encoder_optimizer, decoder_optimizer = optimizers
        updates, logging = self.batch_parts(batch), self.will_log
        with self.step_randomness():
            for number, parts in enumerate(updates):
                terms: list[Tensor] = []
                if number < self.encoder_steps - 1:
                    self.update(self._losses(parts, number, terms), encoder_optimizer)
                else:
                    self.update(self._losses(parts, number, terms), encoder_optimizer, decoder_optimizer, counted=True)
        self.end_of_step(sum(len(images) for parts in updates for images, _ in parts))
        if logging:
            reconstruction, kl = torch.stack(terms).mean(0)
            self.log_scalars(elbo=reconstruction - kl, reconstruction=reconstruction, kl=kl)

    def losses_of(self, parts: Sequence[Part]) -> Iterator[Tensor]:
        """Yield the loss on batches of one update each."""
        yield from self._losses(parts, 0, [])

    def _losses(self, parts: Sequence[Part], update: int, terms: list[Tensor]) -> Iterator[Tensor]:
        """Yield the loss on each batch of an update, and note the means of its two terms."""
        for images, labels in self.accumulated(parts):
            num = self.importance_samples
            noise = self.noise(len(images) * num, update, Stream.POSTERIOR)
            if num == 1:
                reconstruction, kl = self.bound_terms(images, noise, labels, ema=False)
                loss = (self.beta * kl - reconstruction).mean()
            else:
                mean, log_variance = self.encode(images, labels, ema=False)
                noise = noise.view(len(images), num, -1)
                likelihood, log_weights = self.weigh(images, mean, log_variance, noise, labels, ema=False)
                reconstruction, kl = likelihood.mean(1), gaussian_kl(mean, log_variance)
                loss = math.log(num) - log_weights.logsumexp(1).mean()
            terms.append(torch.stack([reconstruction.detach().mean(), kl.detach().mean()]))
            yield loss

    def configure_optimizers(self) -> Any:
        """Return one Adam for each network, and their schedules; a learned sigma is the decoder's."""
        decoder = [*self.decoder.parameters(), self.log_sigma]
        return self.scheduled(
            self.adam(self.encoder.parameters(), self.encoder_lr, self.betas, self.weight_decay),
            self.adam(decoder, self.decoder_lr, self.betas, self.weight_decay),
        )
