"""Gradient penalties of discriminators as pure functions.

Each takes the discriminator as a function from images ``(N, ...)`` to logits ``(N,)``; labels and augmentation are part
of that function. Each returns a scalar to add to the discriminator's loss. The gradient is that of each logit with
respect to its own image, computed in float32 or float64, without autocast. If the discriminator mixes the images of a
batch (BatchNorm), there is no such gradient, and the gradient of the sum of the logits is used instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Discriminator = Callable[[Tensor], Tensor]

PENALTIES = ("wgan_gp", "r1", "r2", "dragan")
"""Names of the penalties in this module."""


def input_gradients(discriminator: Discriminator, images: Tensor) -> Tensor:
    """Return the gradient of each image's logit with respect to the image, which can be differentiated again.

    Args:
        discriminator: Images to logits ``(N,)``. Images that require a gradient are passed unchanged, so the function
            may return logits that it has already computed for them.
        images: Shape ``(N, ...)``.

    Returns:
        Shape ``(N, D)``, where D is the number of values of an image.
    """
    if not images.requires_grad:
        images = images.detach().requires_grad_()
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        logits = discriminator(images)
        (found,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    gradients: Tensor = found.flatten(1)
    return gradients if gradients.dtype == torch.float64 else gradients.float()


def to_one(gradients: Tensor) -> Tensor:
    r"""Return :math:`\mathbb E (\|\nabla D\|_2 - 1)^2` of gradients ``(N, D)``."""
    norms: Tensor = torch.linalg.vector_norm(gradients, dim=1)
    return (norms - 1).square().mean()


def to_zero(gradients: Tensor) -> Tensor:
    r"""Return :math:`\frac12 \mathbb E \|\nabla D\|_2^2` of gradients ``(N, D)``."""
    return 0.5 * gradients.square().sum(1).mean()


def wgan_gp(discriminator: Discriminator, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
    r"""Penalty of WGAN-GP, :math:`\mathbb E (\|\nabla D(\hat x)\|_2 - 1)^2`, :math:`\hat x = u x + (1 - u) G(z)`.

    Gulrajani et al. 2017, equation 3 (https://arxiv.org/abs/1704.00028); the paper's weight is 10.

    Args:
        discriminator: Images to logits ``(N,)``.
        real: Shape ``(N, ...)``.
        fake: Of the same shape.
        uniform: Uniform numbers u in [0, 1), shape ``(N,)``.
    """
    share = uniform.to(real.dtype).view(-1, *[1] * (real.dim() - 1))
    return to_one(input_gradients(discriminator, (share * real + (1 - share) * fake).detach()))


def r1(discriminator: Discriminator, real: Tensor) -> Tensor:
    r"""Zero-centered penalty at real images, :math:`\frac12 \mathbb E \|\nabla D(x)\|_2^2`.

    Mescheder et al. 2018, equation 9 (https://arxiv.org/abs/1801.04406); the weight is their gamma.
    """
    return to_zero(input_gradients(discriminator, real))


def r2(discriminator: Discriminator, fake: Tensor) -> Tensor:
    r"""Zero-centered penalty at fake images, :math:`\frac12 \mathbb E \|\nabla D(G(z))\|_2^2`.

    Mescheder et al. 2018, equation 10; the weight is their gamma.
    """
    return to_zero(input_gradients(discriminator, fake))


def dragan(discriminator: Discriminator, real: Tensor, uniform: Tensor, share: Tensor) -> Tensor:
    r"""Penalty of DRAGAN, :math:`\mathbb E (\|\nabla D(x + \delta)\|_2 - 1)^2`, around real images.

    Kodali et al. 2017 (https://arxiv.org/abs/1705.07215); the paper's weight is 10. The perturbation follows the
    authors' code, :math:`\delta = \alpha \cdot \frac12 \operatorname{std}(x) \cdot u` with the standard
    deviation over the whole batch, so this penalty depends on the batch.

    Args:
        discriminator: Images to logits ``(N,)``.
        real: Shape ``(N, ...)``.
        uniform: Uniform numbers u in [0, 1), of the shape of ``real``.
        share: Uniform numbers alpha in [0, 1), shape ``(N,)``.
    """
    share = share.to(real.dtype).view(-1, *[1] * (real.dim() - 1))
    perturbed = real + share * 0.5 * real.std(correction=0) * uniform.to(real.dtype)
    return to_one(input_gradients(discriminator, perturbed.detach()))
