"""Models that give images a likelihood: its bounds, in training and on held-out images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_gans import randomness
from lightning_gans.errors import check_choice, check_counts, check_positive
from lightning_gans.losses import bernoulli_log_likelihood, full_precision, gaussian_kl, gaussian_log_likelihood
from lightning_gans.models.autoencoding import AutoencodingModule
from lightning_gans.randomness import Stream

BOUND_NUMBERS = 2**24
"""The latents of so many numbers, for all samples of some images, are drawn at once for a bound: 64 MiB."""

BOUND_ROWS = 512
"""The decoder makes about so many images at once for a bound."""


class LikelihoodModule(AutoencodingModule):
    """An autoencoder whose decoder gives a distribution of the pixels, so that images have a likelihood.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Number of latents.
        num_classes: Number of labels; 0 makes it unconditional.
        likelihood: ``bernoulli`` for black and white, ``gaussian`` for grey and colour.
        sigma: Standard deviation of the ``gaussian`` likelihood on the images' scale; None learns one for
            all pixels (Rybkin et al. 2021, arXiv:2006.13202). It has no effect on a ``bernoulli`` one,
            so that a recipe whose likelihood is overridden keeps its settings.
        **options: See :class:`GenerativeModule`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        num_classes: int = 0,
        *,
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        sigma: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(image_shape, latent_dim, num_classes, **options)
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        if sigma is not None:
            check_positive(sigma=sigma)
        self.likelihood = likelihood
        self.log_sigma = nn.Parameter(torch.tensor(sigma or 1.0).log(), requires_grad=sigma is None)
        names = ["elbo", "reconstruction", "kl"]
        if likelihood == "gaussian":  # the likelihood of 8-bit levels
            names.append("bits_per_dim")
        self.val_means, self.test_means = (
            nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in names}) for _ in range(2)
        )

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
        # log p(z) - log q(z|x), in which the normalising constants cancel
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
        with self.uncompiled():
            reconstruction, kl = self.bound_terms(images, noise, labels)
        measured = {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        if "bits_per_dim" in means:
            measured["bits_per_dim"] = -measured["elbo"] / (math.log(2) * math.prod(self.image_shape))
        for name, values in measured.items():
            mean = cast(MeanMetric, means[name])
            mean.set_dtype(torch.float32)  # a model in bfloat16 has made it bfloat16, which cannot count to 300
            mean.update(values)
            self.log(f"{stage}/{name}", mean, on_step=False, on_epoch=True)
