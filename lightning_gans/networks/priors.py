"""Priors over latents: the standard normal distribution, and mixtures of normal distributions.

A prior has three methods: ``kl`` and ``log_ratio`` compare it with the posterior of each image, and ``place`` turns
noise into its samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_gans.errors import check_counts
from lightning_gans.losses import full_precision, gaussian_kl


class StandardNormal:
    """The standard normal distribution, whose divergence from the posterior has a closed form."""

    def kl(self, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Return :func:`lightning_gans.losses.gaussian_kl`; the noise is not needed."""
        return gaussian_kl(mean, log_variance)

    def log_ratio(self, latents: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Return the logarithm of p(z) / q(z|x) of latents ``(..., D)``, shape ``(...)``.

        Args:
            latents: Draws from the posterior, ``mean + noise * (0.5 * log_variance).exp()``.
            log_variance: Logarithms of the posterior variances.
            noise: Standard normal numbers.
        """
        return 0.5 * (noise.square() + log_variance - latents.square()).sum(-1)  # the constants cancel

    def place(self, noise: Tensor, uniforms: Tensor) -> Tensor:
        """Return the noise."""
        return noise


class Mixture(NamedTuple):
    """A mixture of K normal distributions.

    Attributes:
        log_weights: Logarithms of the weights, ``(K,)``.
        mean: Means of the components, ``(K, D)``.
        scale: Their standard deviations, ``(K, D)``, or the Cholesky factors of their covariances, ``(K, D, D)``.
    """

    log_weights: Tensor
    mean: Tensor
    scale: Tensor

    @classmethod
    def of_posteriors(cls, mean: Tensor, log_variance: Tensor) -> Mixture:
        """Return the mean of posteriors with these means and log-variances, ``(K, D)`` each."""
        weights = mean.new_full((len(mean),), -math.log(len(mean)))
        return cls(weights, mean, (0.5 * log_variance).exp())

    def log_density(self, latents: Tensor) -> Tensor:
        """Return the logarithm of the density of latents ``(..., D)``, shape ``(...)``."""
        latents = full_precision(latents)
        if self.scale.dim() == 2:
            # Multiplied out into products of matrices, which take a tenth of the time, but cancel in float32.
            wide = torch.float32 if latents.device.type == "mps" else torch.float64
            mean, precision = self.mean.to(wide), self.scale.to(wide) ** -2
            z = latents.to(wide)
            constants = (mean.square() * precision).sum(1)
            squares = (z.square() @ precision.T - 2 * z @ (mean * precision).T + constants).to(latents.dtype)
            sizes = self.scale
        else:
            identity = torch.eye(self.mean.shape[1], dtype=self.scale.dtype, device=self.scale.device)
            inverse = torch.linalg.solve_triangular(self.scale, identity.expand_as(self.scale), upper=False)
            squares = torch.einsum("kij,...kj->...ki", inverse, latents[..., None, :] - self.mean).square().sum(-1)
            sizes = self.scale.diagonal(dim1=-2, dim2=-1)
        log_volumes = sizes.log().sum(1) + 0.5 * math.log(2 * math.pi) * self.mean.shape[1]
        return (self.log_weights - log_volumes - 0.5 * squares).logsumexp(-1)

    def kl(self, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Return an estimate of the divergence of each posterior from the prior, from one draw: ``(N,)``."""
        mean, log_variance, noise = (full_precision(part) for part in (mean, log_variance, noise))
        return -self.log_ratio(mean + noise * (0.5 * log_variance).exp(), log_variance, noise)

    def log_ratio(self, latents: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Return the logarithm of p(z) / q(z|x); see :meth:`StandardNormal.log_ratio`."""
        log_posterior = -0.5 * (noise.square() + log_variance + math.log(2 * math.pi)).sum(-1)
        return self.log_density(latents) - log_posterior

    def place(self, noise: Tensor, uniforms: Tensor) -> Tensor:
        """Return samples, ``(N, D)``.

        Args:
            noise: Standard normal numbers, ``(N, D)``: the place within a component.
            uniforms: Numbers in [0, 1), ``(N,)``, which choose the components.
        """
        shares = self.log_weights.double().softmax(0).cumsum(0)
        chosen = (shares <= uniforms[:, None]).sum(1).clamp(max=len(shares) - 1)
        mean, scale = self.mean[chosen], self.scale[chosen]
        noise = noise.to(mean.dtype)
        return mean + (scale * noise if scale.dim() == 2 else torch.einsum("nij,nj->ni", scale, noise))


class PseudoInputs(nn.Module):
    """The learned images of a VampPrior (Tomczak & Welling 2018, arXiv:1705.07120).

    The prior is the mean of the posteriors of these images. They start as dark, nearly equal images, as in the paper.

    Args:
        image_shape: Shape of an image.
        num: Number of images.
    """

    def __init__(self, image_shape: Sequence[int], num: int) -> None:
        super().__init__()
        check_counts(num=num)
        self.images = nn.Parameter(torch.randn(num, *image_shape) * 0.02 - 0.9)

    def forward(self) -> Tensor:
        """Return the images, ``(num, *image_shape)`` in [-1, 1]."""
        return self.images.clamp(-1, 1)


class FittedMixture(nn.Module):
    """A mixture of normal distributions that is not trained but set; it starts as the standard normal distribution.

    Args:
        num: Number of components.
        latent_dim: Number of latents.
    """

    same_on_processes = True
    """Excludes it from averaging over processes, which it does not need."""

    log_weights: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, num: int, latent_dim: int) -> None:
        super().__init__()
        check_counts(num=num)
        self.register_buffer("log_weights", torch.full((num,), -math.log(num)))
        self.register_buffer("mean", torch.zeros(num, latent_dim))
        self.register_buffer("scale", torch.eye(latent_dim).repeat(num, 1, 1))

    def set(self, weights: Tensor, mean: Tensor, covariance: Tensor) -> None:
        """Set the weights ``(K,)``, the means ``(K, D)`` and the covariances ``(K, D, D)``."""
        self.log_weights.copy_(weights.log())
        self.mean.copy_(mean)
        self.scale.copy_(torch.linalg.cholesky(covariance))

    def forward(self) -> Mixture:
        """Return the mixture."""
        return Mixture(*(full_precision(part) for part in (self.log_weights, self.mean, self.scale)))
