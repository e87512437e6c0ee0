"""The variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_gans import randomness
from lightning_gans._lightning import Callback, trainer_of
from lightning_gans.errors import (
    SettingError,
    check_adam,
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
    check_repeats,
    check_widths,
    invalid,
)
from lightning_gans.losses import (
    bernoulli_log_likelihood,
    full_precision,
    gaussian_kl_of_latents,
    gaussian_log_likelihood,
    total_correlation,
)
from lightning_gans.models.autoencoding import AutoencodingModule
from lightning_gans.models.base import check_sizes
from lightning_gans.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from lightning_gans.networks.priors import FittedMixture, Mixture, PseudoInputs, StandardNormal
from lightning_gans.randomness import Stream
from lightning_gans.training.compiled import uncompiled
from lightning_gans.training.fitted_prior import FitPrior
from lightning_gans.training.optimizers import OptimizerCallable
from lightning_gans.training.processes import mean_over_processes, rows_of_processes
from lightning_gans.training.sampling import labels_in_turn

Prior = Literal["normal", "vamp", "mixture"]

_COMPONENTS: dict[str, int] = {"normal": 0, "vamp": 500, "mixture": 10}
"""The priors, and their default numbers of components."""

BOUND_NUMBERS = 2**24
"""Latent numbers drawn at once when computing a bound (64 MiB)."""

BOUND_ROWS = 512
"""Approximate number of images decoded at once when computing a bound."""


class VAE(AutoencodingModule):
    r"""Variational autoencoder (Kingma & Welling 2013, https://arxiv.org/abs/1312.6114).

    Likelihoods are log-likelihoods in nats for each image: negative, and higher is better.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Number of latents.
        num_classes: Number of labels; 0 makes it unconditional.
        architecture: ``mlp`` (the paper's) or ``conv`` (DCGAN's convolutions).
        encoder: Replaces the encoder; ``encoder(images[, labels])`` returns the posterior's means and
            log-variances, ``(N, latent_dim)`` each.
        decoder: Replaces the decoder; ``decoder(latents[, labels])`` returns logits (``bernoulli``) or means
            on the images' scale (``gaussian``), ``(N, C, H, W)``.
        encoder_dims: Widths of the hidden layers of the ``mlp`` encoder.
        decoder_dims: Widths of the hidden layers of the ``mlp`` decoder.
        batch_norm: Whether the hidden layers of the ``mlp`` networks have BatchNorm; the ``conv`` ones always do.
        width: Channels of the ``conv`` networks at half the image's size.
        dense_dims: Widths of fully connected layers between the convolutions and the latents, from the image to
            the latents in the encoder, the other way round in the decoder.
        beta: Weight of the KL term in the loss (Higgins et al. 2017); what is logged stays unweighted.
        kl_warmup_images: Number of images over which the weight of the KL term rises from 0 to ``beta`` along a line
            (Sønderby et al. 2016, arXiv:1602.02282).
        free_bits: Nats per latent below which the batch's mean KL is not reduced further, so that latents are not
            switched off (Kingma et al. 2016, arXiv:1606.04934, equation 15). Accumulated batches are judged separately.
        tc_weight: Additional weight of the total correlation in the loss: :math:`\beta - 1` of the β-TC-VAE (Chen et
            al. 2018, arXiv:1802.04942), with ``beta`` 1; see :func:`lightning_gans.losses.total_correlation`. It is
            estimated from the batch on all processes; accumulated batches are separate.
        prior: Distribution of the latents: ``normal`` is standard normal. ``vamp`` is a VampPrior, the mean of the
            posteriors of learned images (Tomczak & Welling 2018, arXiv:1705.07120). ``mixture`` trains with ``normal``
            and fits a mixture of normal distributions to the posteriors of training images before each validation
            (Ghosh et al. 2020, arXiv:1903.12436); samples and bounds are those of this mixture. No prior depends on
            labels.
        prior_components: Number of learned images, or of components of the mixture; by default 500 and 10.
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
            (Rybkin et al. 2021, arXiv:2006.13202). Ignored for ``bernoulli``, so that a recipe keeps this setting when
            its likelihood is overridden.
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
        kl_warmup_images: int = 0,
        free_bits: float = 0.0,
        tc_weight: float = 0.0,
        prior: Prior = "normal",
        prior_components: int | None = None,
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
        check_sizes(image_shape, num_classes, latent_dim=latent_dim)
        # Check the settings of both architectures: a recipe keeps them when its architecture is overridden.
        check_counts(width=width)
        check_widths(encoder_dims=encoder_dims, decoder_dims=decoder_dims)
        check_widths(dense_dims=dense_dims, empty=True)
        super().__init__(image_shape, latent_dim, num_classes, **options)
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        if sigma is not None:
            check_positive(sigma=sigma)
        check_choice("architecture", architecture, ("mlp", "conv"))
        check_positive(encoder_lr=encoder_lr, decoder_lr=decoder_lr)
        check_repeats(encoder_steps=encoder_steps)
        check_counts(importance_samples=importance_samples)
        check_counts(least=0, kl_warmup_images=kl_warmup_images)
        check_not_negative(beta=beta, free_bits=free_bits, tc_weight=tc_weight)
        check_adam(betas, weight_decay)
        check_choice("prior", prior, _COMPONENTS)
        if prior_components is not None:
            check_counts(prior_components=prior_components)
        if prior == "vamp" and free_bits > 0:
            raise invalid("free_bits", free_bits, "0 with prior vamp, whose KL is not a sum over the latents")
        if importance_samples > 1:
            needed = {"beta": (beta, 1), "kl_warmup_images": (kl_warmup_images, 0)}
            needed |= {"free_bits": (free_bits, 0), "tc_weight": (tc_weight, 0)}
            for name, (value, allowed) in needed.items():
                if value != allowed:
                    given = f"importance_samples is {importance_samples} and {name} is {value}"
                    message = f"{given}: the importance-weighted bound needs {name} {allowed}."
                    raise SettingError(message, setting=name, value=value, allowed=allowed)
        if architecture == "mlp":
            self.encoder = encoder or MLPEncoder(image_shape, latent_dim, encoder_dims, num_classes, batch_norm)
            self.decoder = decoder or MLPDecoder(image_shape, latent_dim, decoder_dims, num_classes, batch_norm)
        else:
            self.encoder = encoder or ConvEncoder(image_shape, latent_dim, width, num_classes, dense_dims)
            self.decoder = decoder or ConvDecoder(image_shape, latent_dim, width, num_classes, dense_dims[::-1])
        self.likelihood = likelihood
        self.log_sigma = nn.Parameter(torch.tensor(float(sigma or 1)).log(), requires_grad=sigma is None)
        self.beta = beta
        self.kl_warmup_images = kl_warmup_images
        self.free_bits = free_bits
        self.tc_weight = tc_weight
        self.prior = prior
        self.prior_components = prior_components
        components = prior_components or _COMPONENTS[prior]
        self.pseudo_inputs = PseudoInputs(image_shape, components) if prior == "vamp" else None
        self.mixture = FittedMixture(components, latent_dim) if prior == "mixture" else None
        if prior == "vamp":
            self.averaged_networks = (*self.averaged_networks, "pseudo_inputs")
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
        encoder_optimizer, decoder_optimizer = self.optimizers_of("encoder", "decoder")
        with self.step(batch, updates=self.encoder_steps) as step:
            for images, labels in step.batches():
                noise = step.noise(len(images) * self.importance_samples, stream=Stream.POSTERIOR)
                loss, terms = self.loss_terms(images, noise, labels)
                if step.update_index < self.encoder_steps - 1:
                    step.update(loss, encoder_optimizer)
                else:
                    step.update(loss, encoder_optimizer, decoder_optimizer, counted=True)
                step.log(elbo=terms["reconstruction"] - terms["kl"], **terms)

    def loss_terms(self, images: Tensor, noise: Tensor, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the terms of the ELBO and what else is logged, all of them means over the batch.

        Args:
            images: Values in [-1, 1], shape ``(N, C, H, W)``.
            noise: Standard normal numbers that become the latents, shape ``(N * importance_samples, latent_dim)``.
            labels: One for each image, in a conditional model.
        """
        num = self.importance_samples
        mean, log_variance, prior = self.infer(images, labels, ema=False, fitted=False)
        kl = prior.kl(mean, log_variance, noise[::num])
        if num > 1:
            noise = noise.view(len(images), num, -1)
            likelihood, log_weights = self.weigh(images, mean, log_variance, noise, labels, prior, ema=False)
            loss = math.log(num) - log_weights.logsumexp(1).mean()
            return loss, {"reconstruction": likelihood.mean(), "kl": kl.mean()}
        latents = mean + noise * (0.5 * log_variance).exp()
        reconstruction = self._log_likelihood(latents, images, labels, ema=False)
        limited = self._limited_kl(mean, log_variance) if self.free_bits > 0 else kl
        loss = (self.kl_weight() * limited - reconstruction).mean()
        terms = {"reconstruction": reconstruction.mean(), "kl": kl.mean()}
        if self.tc_weight > 0:
            terms["total_correlation"] = self._total_correlation(latents, mean, log_variance)
            loss = loss + self.tc_weight * terms["total_correlation"]
        return loss, terms

    def infer(
        self, images: Tensor, labels: Tensor | None = None, *, ema: bool = True, fitted: bool = True
    ) -> tuple[Tensor, Tensor, StandardNormal | Mixture]:
        """Return the posteriors of images and the prior of the latents.

        The images of a VampPrior are encoded together with the others, so that BatchNorm's statistics cover both.

        Args:
            images: Values in [-1, 1], shape ``(N, C, H, W)``.
            labels: One for each image, in a conditional model. Those of a VampPrior's images are the classes in turn.
            ema: Whether to use the moving averages of the weights, where the model has them.
            fitted: Whether the prior is the fitted mixture, if there is one, or the normal one that it trains with.

        Returns:
            Means and log-variances, ``(N, latent_dim)`` each, and the prior.
        """
        if self.pseudo_inputs is None:
            mean, log_variance = self.encode(images, labels, ema=ema)
            return mean, log_variance, self.mixture() if self.mixture is not None and fitted else StandardNormal()
        pseudo_inputs = self.averaged("pseudo_inputs", ema)().to(images.dtype)
        of_prior = labels_in_turn(self, len(pseudo_inputs))
        if labels is not None and of_prior is not None:
            labels = torch.cat([labels, of_prior.to(labels.device)])
        mean, log_variance = self.encode(torch.cat([images, pseudo_inputs]), labels, ema=ema)
        posteriors = (full_precision(part[len(images) :]) for part in (mean, log_variance))
        return mean[: len(images)], log_variance[: len(images)], Mixture.of_posteriors(*posteriors)

    def latents(
        self, num: int, *, seed: int, start: int = 0, truncation: float | None = None, ema: bool = True
    ) -> Tensor:
        """Return the latents of samples, drawn from the prior; see :meth:`GenerativeModule.latents`."""
        noise = super().latents(num, seed=seed, start=start, truncation=truncation)
        if self.prior == "normal":
            return noise
        uniforms = randomness.rand_at(torch.arange(start, start + num), 1, seed, Stream.COMPONENT)[:, 0]
        with self.evaluating(), torch.no_grad():
            nothing = self.log_sigma.new_empty(0, *self.image_shape)
            labels = labels_in_turn(self, 0)
            prior = self.infer(nothing, None if labels is None else labels.to(self.device), ema=ema)[2]
            return prior.place(noise.to(self.device), uniforms.to(self.device)).float().cpu()

    def configure_callbacks(self) -> list[Callback]:
        """Add the callback that fits a mixture."""
        return [*super().configure_callbacks(), *([FitPrior()] if self.mixture is not None else [])]

    def kl_weight(self) -> float:
        """Return the current weight of the KL term in the loss."""
        return self.beta * min(1.0, self.images_seen / self.kl_warmup_images) if self.kl_warmup_images else self.beta

    def _limited_kl(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Return the sum over the latents of the batch's mean KL, or of ``free_bits`` where that is more."""
        means = gaussian_kl_of_latents(mean, log_variance).mean(0)
        of_all = mean_over_processes(getattr(trainer_of(self), "strategy", None), means.detach().clone())
        return torch.where(of_all > self.free_bits, means, self.free_bits).sum()

    def _total_correlation(self, latents: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Return the total correlation of this process's latents under the posteriors of all processes."""
        posteriors = rows_of_processes(self, torch.cat([mean, log_variance], 1))
        mean, log_variance = posteriors.chunk(2, 1)
        num_images = getattr(trainer_of(self), "num_training_batches", math.inf) * len(posteriors)
        return total_correlation(latents, mean, log_variance, num_images, self.global_rank * len(latents)).mean()

    def configure_optimizers(self) -> Any:
        """Return the optimizers of the encoder and of the decoder, in this order.

        A learned sigma and the images of a VampPrior are the decoder's.
        """
        decoder = [*self.decoder.parameters(), self.log_sigma]
        if self.pseudo_inputs is not None:
            decoder += self.pseudo_inputs.parameters()
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
            prior, or an estimate of it if the prior is a mixture; nats, shape ``(N,)`` each.
        """
        mean, log_variance, prior = self.infer(images, labels, ema=ema)
        latents = mean + noise * (0.5 * log_variance).exp()
        return self._log_likelihood(latents, images, labels, ema), prior.kl(mean, log_variance, noise)

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
        depend only on the seed and on the image, not on its batch or process.

        Args:
            images: Values in [-1, 1], shape ``(N, C, H, W)``.
            iw_samples: Number K of posterior samples for each image.
            labels: One for each image, in a conditional model.
            seed: Seed of the latents.
            ema: Whether to use the moving averages of the weights, where the model has them.

        Returns:
            Nats, float32 ``(N,)``.

        Raises:
            SettingError: ``iw_samples`` is below 1.
        """
        check_counts(iw_samples=iw_samples)
        bounds = [torch.empty(0, device=self.device)]
        with self.evaluating():
            size = max(1, BOUND_NUMBERS // (iw_samples * self.latent_dim))
            for start in range(0, len(images), size):
                part = images[start : start + size].to(self.device).to(self.dtype)
                part_labels = None if labels is None else labels[start : start + size].to(self.device)
                mean, log_variance, prior = self.infer(part, part_labels, ema=ema)
                mean, log_variance = mean.float(), log_variance.float()
                noise = self._noise_for(part, iw_samples, seed)
                log_weights = [
                    self.weigh(part, mean, log_variance, some, part_labels, prior, ema)[1]
                    for some in torch.split(noise, max(1, BOUND_ROWS // len(part)), 1)
                ]
                bounds.append(torch.cat(log_weights, 1).logsumexp(1) - math.log(iw_samples))
        return torch.cat(bounds)

    def weigh(
        self,
        images: Tensor,
        mean: Tensor,
        log_variance: Tensor,
        noise: Tensor,
        labels: Tensor | None,
        prior: StandardNormal | Mixture,
        ema: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return log p(x|z) and the logarithm of p(x, z) / q(z|x) of K latents for each image, ``(N, K)`` each.

        The noise that becomes the latents is ``(N, K, latent_dim)``.
        """
        num = noise.shape[1]
        mean, log_variance, noise = (full_precision(part) for part in (mean[:, None], log_variance[:, None], noise))
        latents = mean + noise * (0.5 * log_variance).exp()
        inputs, targets = latents.flatten(0, 1).to(images.dtype), images.repeat_interleave(num, 0)
        likelihood = self._log_likelihood(
            inputs, targets, None if labels is None else labels.repeat_interleave(num, 0), ema
        ).view(-1, num)
        return likelihood, likelihood + prior.log_ratio(latents, log_variance, noise)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure the bound on held-out images."""
        self._measure(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure the bound on test images."""
        self._measure(batch, "test")

    def _log_likelihood(self, latents: Tensor, images: Tensor, labels: Tensor | None, ema: bool) -> Tensor:
        """Return the log-likelihood of each image under its latents, nats ``(N,)``."""
        pixels = super().decode(latents, labels, ema=ema)
        self.check_made(pixels)
        if self.likelihood == "bernoulli":
            return bernoulli_log_likelihood(pixels, images)
        return gaussian_log_likelihood(pixels, images, self.log_sigma)

    def _noise_for(self, images: Tensor, num: int, seed: int) -> Tensor:
        """Draw the numbers that become the latents of each image, ``(N, num, latent_dim)``, from its content."""
        rows = randomness.randn_for(images, num * self.latent_dim, seed, Stream.POSTERIOR, device=self.device)
        return rows.view(len(images), num, self.latent_dim)

    def _measure(self, batch: Any, stage: str) -> None:
        """Add a batch to the means of the bound and of its terms, each image with the same weight."""
        images, labels = self.images_and_labels(batch)
        noise = self._noise_for(images, 1, seed=0)[:, 0].to(images.dtype)
        with uncompiled(self):
            reconstruction, kl = self.bound_terms(images, noise, labels)
        measured = {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        if self.likelihood == "gaussian":  # bits per dimension are those of 8-bit levels
            measured["bits_per_dim"] = -measured["elbo"] / (math.log(2) * math.prod(self.image_shape))
        means = {f"{stage}/{name}": values.mean() for name, values in measured.items()}
        self.log_dict(means, on_epoch=True, sync_dist=True, batch_size=len(images))
