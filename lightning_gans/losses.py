"""Losses as pure functions of tensors; each reads like its equation and is computed in float32 or better.

The adversarial losses take logits: raw discriminator outputs, shape ``(N,)``, without a sigmoid. The terms
of the variational bound are log-likelihoods in nats, one for each image, shape ``(N,)``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEVEL_WIDTH = 2 / 255
"""The distance between two of the 256 levels of a picture with values in [-1, 1]."""


def full_precision(tensor: Tensor) -> Tensor:
    """Return a tensor as float32, or as float64 where it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    r"""Cross-entropy of the discriminator, :math:`-\log \sigma(D(x)) - \log(1 - \sigma(D(G(z))))`.

    Goodfellow et al. 2014, equation 1 (https://arxiv.org/abs/1406.2661).

    Example:
        >>> discriminator_loss(torch.zeros(4), torch.zeros(4))
        tensor(1.3863)
    """
    return F.softplus(-full_precision(real_logits)).mean() + F.softplus(full_precision(fake_logits)).mean()


def nonsaturating_generator_loss(fake_logits: Tensor) -> Tensor:
    r"""The generator's non-saturating loss, :math:`-\log \sigma(D(G(z)))`.

    Goodfellow et al. 2014, section 3: strong gradients while the discriminator still wins.

    Example:
        >>> nonsaturating_generator_loss(torch.zeros(4))
        tensor(0.6931)
    """
    return F.softplus(-full_precision(fake_logits)).mean()


def minimax_generator_loss(fake_logits: Tensor) -> Tensor:
    r"""The generator's side of the minimax game, :math:`\log(1 - \sigma(D(G(z))))`.

    Goodfellow et al. 2014, equation 1. It saturates where the discriminator is sure of itself.

    Example:
        >>> minimax_generator_loss(torch.zeros(4))
        tensor(-0.6931)
    """
    return -F.softplus(full_precision(fake_logits)).mean()


def bernoulli_log_likelihood(logits: Tensor, images: Tensor) -> Tensor:
    r"""Sum of :math:`x \log p + (1 - x) \log(1 - p)` over the pixels, :math:`p = \sigma(\text{logits})`.

    A likelihood where the pixels are 0 or 1. For grey levels between it is the usual surrogate and not
    comparable with likelihoods of binarized images.

    Args:
        logits: The decoder's output, shape ``(N, C, H, W)``.
        images: Values in [-1, 1], of the same shape; -1 is the pixel 0, 1 the pixel 1.

    Returns:
        Nats for each image, shape ``(N,)``.

    Example:
        >>> bernoulli_log_likelihood(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor([-2.7726])
    """
    targets = (full_precision(images) + 1) / 2
    return -F.binary_cross_entropy_with_logits(full_precision(logits), targets, reduction="none").flatten(1).sum(1)


def gaussian_log_likelihood(mean: Tensor, images: Tensor, log_sigma: Tensor) -> Tensor:
    r"""Log-probability of 8-bit pixels under :math:`\mathcal N(\text{mean}, \sigma^2)`, summed over the pixels.

    The density at each pixel times the width of one level, 2/255: the probability of the level as long as
    sigma is not much narrower than that.

    Args:
        mean: The decoder's output, shape ``(N, C, H, W)``.
        images: Values in [-1, 1], of the same shape.
        log_sigma: Logarithm of the standard deviation, on the scale of the images; any shape that broadcasts.

    Returns:
        Nats for each image, shape ``(N,)``.
    """
    log_sigma = full_precision(log_sigma)
    standardized = (full_precision(images) - full_precision(mean)) * torch.exp(-log_sigma)
    density = -0.5 * standardized.square() - log_sigma - 0.5 * math.log(2 * math.pi)
    return (density + math.log(LEVEL_WIDTH)).flatten(1).sum(1)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Divergence :math:`\mathrm{KL}(\mathcal N(\mu, \sigma^2) \,\|\, \mathcal N(0, 1))`, summed over the latents.

    Kingma & Welling 2013, appendix B (https://arxiv.org/abs/1312.6114).

    Args:
        mean: Posterior means, shape ``(N, latent_dim)``.
        log_variance: Logarithms of the posterior variances, of the same shape.

    Returns:
        Nats for each image, shape ``(N,)``, never negative.

    Example:
        >>> gaussian_kl(torch.ones(1, 2), torch.zeros(1, 2))
        tensor([1.])
    """
    mean, log_variance = full_precision(mean), full_precision(log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
