"""The variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_gans import randomness
from lightning_gans.errors import (
    SettingError,
    check_adam,
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
    check_widths,
)
from lightning_gans.losses import bernoulli_log_likelihood, full_precision, gaussian_kl, gaussian_log_likelihood
from lightning_gans.models.autoencoding import AutoencodingModule
from lightning_gans.models.base import check_sizes
from lightning_gans.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from lightning_gans.randomness import Stream
from lightning_gans.training.acceleration import uncompiled
from lightning_gans.training.optimizers import OptimizerCallable

BOUND_NUMBERS = 2**24
"""Latent numbers drawn at once when computing a bound (64 MiB)."""

BOUND_ROWS = 512
"""Approximate number of images decoded at once when computing a bound."""


class VAE(AutoencodingModule):
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
        importance_samples: Posterior samples K per image in training; more than 1 maximizes the tighter
            importance-weighted bound (Burda et al. 2015, arXiv:1509.00519), at the cost of K decoder passes. The logged
            value stays the ELBO.
        encoder_lr: Adam's learning rate for the encoder.
        decoder_lr: Adam's learning rate for the decoder.
        betas: Adam's decay rates, for both.
        weight_decay: Adam's L2 penalty, for both.
        encoder_optimizer: Builds the encoder's optimizer from its parameters, instead of Adam; in YAML a class path
            with its ``init_args``.
        decoder_optimizer: The same for the decoder.
        encoder_steps: 1 updates both networks together; k > 1 updates the encoder k - 1 times before that,
            each time on its own batch (He et al. 2019, arXiv:1901.05534).
        likelihood: ``bernoulli`` for binary pixels, ``gaussian`` for gray and color.
        sigma: Standard deviation of the ``gaussian`` likelihood on the images' scale; None learns one for all pixels
            (Rybkin et al. 2021, arXiv:2006.13202). Ignored for a ``bernoulli`` one, so that overriding a recipe's
            likelihood keeps its settings.
        **options: See :class:`GenerativeModule`.

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
        encoder_optimizer: OptimizerCallable | None = None,
        decoder_optimizer: OptimizerCallable | None = None,
        encoder_steps: int = 1,
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        sigma: float | None = None,
        **options: Any,
    ) -> None:
        check_sizes(image_shape, latent_dim, num_classes)
        # Checked for both architectures, so that overriding a recipe's architecture keeps its settings.
        check_counts(width=width)
        check_widths(encoder_dims=encoder_dims, decoder_dims=decoder_dims)
        check_widths(dense_dims=dense_dims, empty=True)
        super().__init__(image_shape, latent_dim, num_classes, **options)
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        if sigma is not None:
            check_positive(sigma=sigma)
        check_choice("architecture", architecture, ("mlp", "conv"))
        check_positive(encoder_lr=encoder_lr, decoder_lr=decoder_lr)
        check_counts(encoder_steps=encoder_steps, importance_samples=importance_samples)
        check_not_negative(beta=beta)
        check_adam(betas, weight_decay)
        if importance_samples > 1 and beta != 1:
            raise SettingError(
                f"importance_samples is {importance_samples}, whose weights leave no room for beta {beta}.",
                setting="beta",
                value=beta,
                allowed=1,
            )
        if architecture == "mlp":
            self.encoder = encoder or MLPEncoder(image_shape, latent_dim, encoder_dims, num_classes, batch_norm)
            self.decoder = decoder or MLPDecoder(image_shape, latent_dim, decoder_dims, num_classes, batch_norm)
        else:
            self.encoder = encoder or ConvEncoder(image_shape, latent_dim, width, num_classes, dense_dims)
            self.decoder = decoder or ConvDecoder(image_shape, latent_dim, width, num_classes, dense_dims[::-1])
        self.likelihood = likelihood
        self.log_sigma = nn.Parameter(torch.tensor(sigma or 1.0).log(), requires_grad=sigma is None)
        names = ["elbo", "reconstruction", "kl"]
        if likelihood == "gaussian":  # the likelihood of 8-bit levels
            names.append("bits_per_dim")
        self.val_means, self.test_means = (
            nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in names}) for _ in range(2)
        )
        self.beta = beta
        self.importance_samples = importance_samples
        self.encoder_lr = encoder_lr
        self.decoder_lr = decoder_lr
        self.betas = betas
        self.weight_decay = weight_decay
        self.encoder_optimizer = encoder_optimizer
        self.decoder_optimizer = decoder_optimizer
        self.encoder_steps = encoder_steps
        self.check_networks("encoder", "decoder")
        self.create_ema()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update the encoder ``encoder_steps`` times, the last time together with the decoder."""
        optimizers: Any = self.optimizers()
        encoder_optimizer, decoder_optimizer = optimizers
        with self.step(batch, updates=self.encoder_steps) as step:
            for images, labels in step.batches():
                noise = step.noise(len(images) * self.importance_samples, stream=Stream.POSTERIOR)
                loss, reconstruction, kl = self.loss_terms(images, noise, labels)
                if step.number < self.encoder_steps - 1:
                    step.update(loss, encoder_optimizer)
                else:
                    step.update(loss, encoder_optimizer, decoder_optimizer, counted=True)
                step.log(elbo=reconstruction - kl, reconstruction=reconstruction, kl=kl)

    def loss_terms(self, images: Tensor, noise: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss and the two terms of the ELBO, means over the batch.

        Args:
            images: Values in [-1, 1], shape ``(N, C, H, W)``.
            noise: Standard normal numbers that become the latents, shape ``(N * importance_samples, latent_dim)``.
            labels: One for each image, in a conditional model.
        """
        num = self.importance_samples
        if num == 1:
            reconstruction, kl = self.bound_terms(images, noise, labels, ema=False)
            return (self.beta * kl - reconstruction).mean(), reconstruction.mean(), kl.mean()
        mean, log_variance = self.encode(images, labels, ema=False)
        noise = noise.view(len(images), num, -1)
        likelihood, log_weights = self.weigh(images, mean, log_variance, noise, labels, ema=False)
        loss = math.log(num) - log_weights.logsumexp(1).mean()
        return loss, likelihood.mean(), gaussian_kl(mean, log_variance).mean()

    def configure_optimizers(self) -> Any:
        """Return the optimizers of the encoder and of the decoder, in this order; a learned sigma is the decoder's."""
        decoder = [*self.decoder.parameters(), self.log_sigma]
        encoder = self.encoder.parameters()
        return [
            self.make_optimizer(encoder, self.encoder_lr, self.betas, self.weight_decay, self.encoder_optimizer),
            self.make_optimizer(decoder, self.decoder_lr, self.betas, self.weight_decay, self.decoder_optimizer),
        ]

    def decode(self, latents: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Map latents ``(N, latent_dim)`` to the likelihood's mean images, ``(N, C, H, W)`` in [-1, 1]."""
        pixels = super().decode(latents, labels, ema=ema)
        return pixels.sigmoid() * 2 - 1 if self.likelihood == "bernoulli" else pixels.clamp(-1, 1)

    def bound_terms(
        self, images: Tensor, noise: Tensor, labels: Tensor | None = None, *, ema: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the two terms of the evidence lower bound: ELBO = reconstruction - KL.

        Args:
            images: Values in [-1, 1], shape ``(N, C, H, W)``.
            noise: Standard normal numbers that become the latents, shape ``(N, latent_dim)``.
            labels: One for each image, in a conditional model.
            ema: Whether to use the moving averages of the weights, where the model has them.

        Returns:
            The log-likelihood of each image under its latents, and the divergence of its posterior from the
            prior; nats, shape ``(N,)`` each.
        """
        mean, log_variance = self.encode(images, labels, ema=ema)
        latents = mean + noise * (0.5 * log_variance).exp()
        return self._log_likelihood(latents, images, labels, ema), gaussian_kl(mean, log_variance)

    @torch.no_grad()
    def bound(
        self,
        images: Tensor,
        iw_samples: int = 1,
        labels: Tensor | None = None,
        *,
        seed: int = 0,
        ema: bool = True,
    ) -> Tensor:
        r"""Return the importance-weighted bound on each image's log-likelihood.

        :math:`\log \frac1K \sum_k p(x, z_k) / q(z_k | x)`, which rises towards :math:`\log p(x)` with K; for K = 1
        it is an estimate of the ELBO (Burda et al. 2015, https://arxiv.org/abs/1509.00519). An image's latents
        depend on the seed and on the image alone, not on the batch or the process that it comes in.

        Args:
            images: Values in [-1, 1], shape ``(N, C, H, W)``.
            iw_samples: K.
            labels: One for each image, in a conditional model.
            seed: Seed of the latents.
            ema: Whether to use the moving averages of the weights, where the model has them.

        Returns:
            Nats, float32 ``(N,)``.
        """
        check_counts(iw_samples=iw_samples)
        bounds = [torch.empty(0, device=self.device)]
        with self.evaluating():
            size = max(1, BOUND_NUMBERS // (iw_samples * self.latent_dim))
            for start in range(0, len(images), size):
                part = images[start : start + size].to(self.device).to(self.dtype)
                part_labels = None if labels is None else labels[start : start + size].to(self.device)
                mean, log_variance = (moment.float() for moment in self.encode(part, part_labels, ema=ema))
                noise = self._noise_for(part, iw_samples, seed)
                log_weights = [
                    self.weigh(part, mean, log_variance, some, part_labels, ema)[1]
                    for some in torch.split(noise, max(1, BOUND_ROWS // len(part)), 1)
                ]
                bounds.append(torch.cat(log_weights, 1).logsumexp(1) - math.log(iw_samples))
        return torch.cat(bounds)

    def weigh(
        self, images: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor, labels: Tensor | None, ema: bool
    ) -> tuple[Tensor, Tensor]:
        """Return log p(x|z) and the logarithm of p(x, z) / q(z|x) of K latents for each image, ``(N, K)`` each.

        The noise that becomes the latents is ``(N, K, latent_dim)``.
        """
        num = noise.shape[1]
        mean, log_variance, noise = (full_precision(part) for part in (mean[:, None], log_variance[:, None], noise))
        latents = mean + noise * (0.5 * log_variance).exp()
        inputs, targets = latents.flatten(0, 1).to(images.dtype), images.repeat_interleave(num, 0)
        likelihood = self._log_likelihood(
            inputs, targets, None if labels is None else labels.repeat_interleave(num), ema
        ).view(-1, num)
        # log p(z) - log q(z|x), in which the normalizing constants cancel
        return likelihood, likelihood + 0.5 * (noise.square() + log_variance - latents.square()).sum(2)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measure the bound on held-out images."""
        self._measure(batch, self.val_means, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Measure the bound on test images."""
        self._measure(batch, self.test_means, "test")

    def _log_likelihood(self, latents: Tensor, images: Tensor, labels: Tensor | None, ema: bool) -> Tensor:
        """Return the log-likelihood of each image under its latents, nats ``(N,)``."""
        pixels = super().decode(latents, labels, ema=ema)
        self.check_made(pixels)
        if self.likelihood == "bernoulli":
            return bernoulli_log_likelihood(pixels, images)
        return gaussian_log_likelihood(pixels, images, self.log_sigma)

    def _noise_for(self, images: Tensor, num: int, seed: int) -> Tensor:
        """Draw the numbers that become an image's latents, which belong to the image, ``(N, num, latent_dim)``."""
        rows = randomness.randn_for(images, num * self.latent_dim, seed, Stream.POSTERIOR, device=self.device)
        return rows.view(len(images), num, self.latent_dim)

    def _measure(self, batch: Any, means: nn.ModuleDict, stage: str) -> None:
        """Add a batch to the means of the bound and of its terms, each image with the same weight."""
        images, labels = self.images_and_labels(batch)
        noise = self._noise_for(images, 1, seed=0)[:, 0].to(images.dtype)
        with uncompiled(self):
            reconstruction, kl = self.bound_terms(images, noise, labels)
        measured = {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        if "bits_per_dim" in means:
            measured["bits_per_dim"] = -measured["elbo"] / (math.log(2) * math.prod(self.image_shape))
        for name, values in measured.items():
            mean = cast(MeanMetric, means[name])
            mean.set_dtype(torch.float32)  # a model in bfloat16 has made it bfloat16, which cannot count to 300
            mean.update(values)
            self.log(f"{stage}/{name}", mean, on_step=False, on_epoch=True)
