"""Losses as pure functions of tensors, one equation each, computed in float32 or float64.

Adversarial losses take logits, the raw discriminator outputs of shape ``(N,)``, and return a scalar. They come in
pairs, one per player; :data:`ADVERSARIAL_LOSSES` maps names to pairs. The terms of the variational bound are in nats
per image, shape ``(N,)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEVEL_WIDTH = 2 / 255
"""Distance between two neighboring levels of an 8-bit image with values in [-1, 1]."""


def full_precision(tensor: Tensor) -> Tensor:
    """Cast a tensor to float32, unless it is float64."""
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

    Goodfellow et al. 2014, section 3. Its gradients stay strong while the discriminator is winning.

    Example:
        >>> nonsaturating_generator_loss(torch.zeros(4))
        tensor(0.6931)
    """
    return F.softplus(-full_precision(fake_logits)).mean()


def minimax_generator_loss(fake_logits: Tensor) -> Tensor:
    r"""The generator's loss of the minimax game, :math:`\log(1 - \sigma(D(G(z))))`.

    Goodfellow et al. 2014, equation 1. It saturates when the discriminator is confident.

    Example:
        >>> minimax_generator_loss(torch.zeros(4))
        tensor(-0.6931)
    """
    return -F.softplus(full_precision(fake_logits)).mean()


def least_squares_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    r"""Least squares to 1 for real and 0 for fake, :math:`\frac12 (D(x) - 1)^2 + \frac12 D(G(z))^2`.

    Mao et al. 2017, equation 9 (https://arxiv.org/abs/1611.04076).

    Example:
        >>> least_squares_discriminator_loss(torch.zeros(4), torch.zeros(4))
        tensor(0.5000)
    """
    real, fake = full_precision(real_logits), full_precision(fake_logits)
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def least_squares_generator_loss(fake_logits: Tensor) -> Tensor:
    r"""Least squares to 1, :math:`\frac12 (D(G(z)) - 1)^2`.

    Mao et al. 2017, equation 9.

    Example:
        >>> least_squares_generator_loss(torch.zeros(4))
        tensor(0.5000)
    """
    return 0.5 * (full_precision(fake_logits) - 1).square().mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    r"""Hinge loss, :math:`\max(0, 1 - D(x)) + \max(0, 1 + D(G(z)))`.

    Lim & Ye 2017 (https://arxiv.org/abs/1705.02894); Miyato et al. 2018, equation 16 (https://arxiv.org/abs/1802.05957).
    The generator's loss is :func:`wasserstein_generator_loss`.

    Example:
        >>> hinge_discriminator_loss(torch.zeros(4), torch.zeros(4))
        tensor(2.)
    """
    return F.relu(1 - full_precision(real_logits)).mean() + F.relu(1 + full_precision(fake_logits)).mean()


def wasserstein_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    r"""The critic's loss, :math:`D(G(z)) - D(x)`: minus its estimate of the Wasserstein distance.

    Arjovsky et al. 2017, equation 2 (https://arxiv.org/abs/1701.07875). It requires a Lipschitz critic: use a
    gradient penalty or spectral normalization.

    Example:
        >>> wasserstein_discriminator_loss(torch.ones(4), torch.zeros(4))
        tensor(-1.)
    """
    return full_precision(fake_logits).mean() - full_precision(real_logits).mean()


def wasserstein_generator_loss(fake_logits: Tensor) -> Tensor:
    r"""The generator's loss, :math:`-D(G(z))`.

    Arjovsky et al. 2017, equation 2.

    Example:
        >>> wasserstein_generator_loss(torch.ones(4))
        tensor(-1.)
    """
    return -full_precision(fake_logits).mean()


def relativistic_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    r"""Relativistic pairing loss, :math:`-\log \sigma(D(x) - D(G(z)))`, each real image against one fake.

    Jolicoeur-Martineau 2018, section 4.1 (https://arxiv.org/abs/1807.00734). In a conditional model both images of a
    pair have the same label.

    Example:
        >>> relativistic_discriminator_loss(torch.zeros(4), torch.zeros(4))
        tensor(0.6931)
    """
    return F.softplus(full_precision(fake_logits) - full_precision(real_logits)).mean()


def relativistic_generator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    r"""The generator's loss, :math:`-\log \sigma(D(G(z)) - D(x))`.

    Jolicoeur-Martineau 2018, section 4.1.

    Example:
        >>> relativistic_generator_loss(torch.zeros(4), torch.zeros(4))
        tensor(0.6931)
    """
    return relativistic_discriminator_loss(fake_logits, real_logits)


class AdversarialLoss(NamedTuple):
    """The losses of both players.

    Attributes:
        discriminator: Function of the logits of real and of fake images.
        generator: Function of the logits of fake images and, if ``pairs`` is True, of the logits of real images.
        pairs: Whether the generator's loss takes the logits of real images.
        boundary: The logit at which the discriminator is undecided; None if only differences of logits mean something.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[..., Tensor]
    pairs: bool = False
    boundary: float | None = 0.0

    def of_generator(self, logits: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        """Return the generator's loss, given a function from images to logits; real logits are computed if needed."""
        if not self.pairs:
            return self.generator(logits(fake))
        with torch.no_grad():
            real_logits = logits(real)
        return self.generator(logits(fake), real_logits)


ADVERSARIAL_LOSSES = {
    "nonsaturating": AdversarialLoss(discriminator_loss, nonsaturating_generator_loss),
    "minimax": AdversarialLoss(discriminator_loss, minimax_generator_loss),
    "least_squares": AdversarialLoss(least_squares_discriminator_loss, least_squares_generator_loss, boundary=0.5),
    "hinge": AdversarialLoss(hinge_discriminator_loss, wasserstein_generator_loss),
    "wasserstein": AdversarialLoss(wasserstein_discriminator_loss, wasserstein_generator_loss, boundary=None),
    "relativistic": AdversarialLoss(relativistic_discriminator_loss, relativistic_generator_loss, True, None),
}


def lecam_loss(real_logits: Tensor, fake_logits: Tensor, real_anchor: Tensor, fake_anchor: Tensor) -> Tensor:
    r"""LeCam regularization, :math:`\mathbb E (D(x) - \alpha_F)^2 + \mathbb E (D(G(z)) - \alpha_R)^2`.

    Tseng et al. 2021, section 3.2 (https://arxiv.org/abs/2104.03310).

    Args:
        real_logits: Logits of real images, any shape.
        fake_logits: Logits of generated images, any shape.
        real_anchor: Moving average of the logits of real images, a scalar.
        fake_anchor: Moving average of the logits of generated images, a scalar.

    Example:
        >>> lecam_loss(torch.ones(4), -torch.ones(4), torch.tensor(1.0), torch.tensor(-1.0))
        tensor(8.)
    """
    real, fake = full_precision(real_logits), full_precision(fake_logits)
    return (real - fake_anchor).square().mean() + (fake - real_anchor).square().mean()


def feature_matching_loss(real_features: Tensor, fake_features: Tensor, norm: int = 2) -> Tensor:
    r"""Distance between the mean features, :math:`\|\mathbb E f(x) - \mathbb E f(G(z))\|_2^2`, or its L1 norm.

    Salimans et al. 2016, section 3.1 (https://arxiv.org/abs/1606.03498).

    Args:
        real_features: Output of a discriminator layer for real images, shape ``(N, ...)``.
        fake_features: The same for generated images.
        norm: 2 for the squared L2 norm, as in the paper; 1 for the L1 norm.

    Example:
        >>> feature_matching_loss(torch.zeros(4, 3), torch.full((4, 3), 2.0))
        tensor(12.)
    """
    difference = full_precision(real_features).mean(0) - full_precision(fake_features).mean(0)
    return difference.abs().sum() if norm == 1 else difference.square().sum()


def feature_distance(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    r"""Content loss :math:`\|\phi(G(x)) - \phi(y)\|_2^2`, divided by the number of features.

    Ledig et al. 2017, equations 4 and 5 (https://arxiv.org/abs/1609.04802).

    Args:
        features: Features of each image on one or more layers, tensors of shape ``(N, ...)``.
        targets: The same for the images that they should equal.

    Returns:
        The mean over the layers, of shape ``(N,)``.

    Example:
        >>> feature_distance([torch.zeros(2, 3, 4, 4)], [torch.full((2, 3, 4, 4), 2.0)])
        tensor([4., 4.])
    """
    layers = [
        (full_precision(of_image) - full_precision(of_target)).square().flatten(1).mean(1)
        for of_image, of_target in zip(features, targets, strict=True)
    ]
    return torch.stack(layers).mean(0)


def bernoulli_log_likelihood(logits: Tensor, images: Tensor) -> Tensor:
    r"""Sum of :math:`x \log p + (1 - x) \log(1 - p)` over the pixels, :math:`p = \sigma(\text{logits})`.

    This is a likelihood for pixels that are 0 or 1. For gray levels in between it is a common surrogate, whose values
    are not comparable with likelihoods of binarized images.

    Args:
        logits: The decoder's output, shape ``(N, C, H, W)``.
        images: Values in [-1, 1], of the same shape; -1 stands for the pixel value 0.

    Returns:
        Nats per image, shape ``(N,)``.

    Example:
        >>> bernoulli_log_likelihood(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor([-2.7726])
    """
    targets = (full_precision(images) + 1) / 2
    return -F.binary_cross_entropy_with_logits(full_precision(logits), targets, reduction="none").flatten(1).sum(1)


def gaussian_log_likelihood(mean: Tensor, images: Tensor, log_sigma: Tensor) -> Tensor:
    r"""Log-probability of 8-bit pixels under :math:`\mathcal N(\text{mean}, \sigma^2)`, summed over the pixels.

    The density at each pixel is multiplied by the width of a level, 2/255. The product approximates the probability of
    the level unless sigma is much smaller than that width.

    Args:
        mean: The decoder's output, shape ``(N, C, H, W)``.
        images: Values in [-1, 1], of the same shape.
        log_sigma: Logarithm of the standard deviation, on the scale of the images; any shape that broadcasts.

    Returns:
        Nats per image, shape ``(N,)``.
    """
    log_sigma = full_precision(log_sigma)
    standardized = (full_precision(images) - full_precision(mean)) * torch.exp(-log_sigma)
    density = -0.5 * standardized.square() - log_sigma - 0.5 * math.log(2 * math.pi)
    return (density + math.log(LEVEL_WIDTH)).flatten(1).sum(1)


def gaussian_nll(mean: Tensor, log_variance: Tensor, values: Tensor) -> Tensor:
    r"""Negative log-density :math:`-\log \mathcal N(\text{values}; \mu, \sigma^2)`, summed over the values of each row.

    Args:
        mean: Shape ``(N, D)``.
        log_variance: Logarithms of the variances, of the same shape.
        values: The same shape.

    Returns:
        Nats per row, shape ``(N,)``.

    Example:
        >>> gaussian_nll(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2))
        tensor([2.8379])
    """
    mean, log_variance, values = (full_precision(part) for part in (mean, log_variance, values))
    standardized = (values - mean) * torch.exp(-0.5 * log_variance)
    return 0.5 * (standardized.square() + log_variance + math.log(2 * math.pi)).sum(1)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Divergence :math:`\mathrm{KL}(\mathcal N(\mu, \sigma^2) \,\|\, \mathcal N(0, 1))`, summed over the latents.

    Kingma & Welling 2013, appendix B (https://arxiv.org/abs/1312.6114).

    Args:
        mean: Posterior means, shape ``(N, latent_dim)``.
        log_variance: Logarithms of the posterior variances, of the same shape.

    Returns:
        Nats per image, shape ``(N,)``, never negative.

    Example:
        >>> gaussian_kl(torch.ones(1, 2), torch.zeros(1, 2))
        tensor([1.])
    """
    return gaussian_kl_of_latents(mean, log_variance).sum(1)


def gaussian_kl_of_latents(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The terms of :func:`gaussian_kl`, one for each latent: ``(N, latent_dim)``."""
    mean, log_variance = full_precision(mean), full_precision(log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def total_correlation(
    latents: Tensor, mean: Tensor, log_variance: Tensor, num_images: float = math.inf, first: int = 0
) -> Tensor:
    r"""Estimate of the total correlation :math:`\mathrm{KL}(q(z) \,\|\, \prod_j q(z_j))` of the aggregated posterior.

    Chen et al. 2018 (https://arxiv.org/abs/1802.04942). The densities are those of minibatch stratified sampling
    (appendix C.2), averaged over the orders of the batch: with M posteriors in the batch and N images in the data,
    :math:`q(z) \approx \frac1N q(z|x) + \frac{N - 1}{N (M - 1)} \sum q(z|x')` over the other images :math:`x'`. Its
    expectation over batches is exact.

    Args:
        latents: One draw from the posterior of each of n images, shape ``(n, latent_dim)``.
        mean: Posterior means of the batch's M images, shape ``(M, latent_dim)``.
        log_variance: Logarithms of the posterior variances, of the same shape.
        num_images: Number N of images in the data, at least M.
        first: Row of the batch that the first of the latents belongs to.

    Returns:
        :math:`\log q(z) - \sum_j \log q(z_j)` in nats, shape ``(n,)``; the mean is the estimate.
    """
    latents, mean, log_variance = (full_precision(part) for part in (latents, mean, log_variance))
    num, batch = len(latents), len(mean)
    standardized = (latents[:, None] - mean) * torch.exp(-0.5 * log_variance)
    densities = -0.5 * (standardized.square() + log_variance + math.log(2 * math.pi))  # (n, M, latent_dim)
    weights = densities.new_full((num, batch), math.log((1 - 1 / num_images) / (batch - 1)) if batch > 1 else 0.0)
    weights.diagonal(first).fill_(-math.log(num_images))
    joint = (weights + densities.sum(2)).logsumexp(1)
    return joint - (weights[:, :, None] + densities).logsumexp(1).sum(1)
