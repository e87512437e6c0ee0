"""Images along directions of the latent space, and the latents that a VAE uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gans.errors import SettingError, check_counts, check_positive, invalid, is_whole
from lightning_gans.losses import gaussian_kl
from lightning_gans.models import GenerativeModule
from lightning_gans.training.sampling import (
    SAMPLE_BLOCK,
    attributes_of,
    check_latents,
    checked_sample_labels,
    decoded,
    labels_in_turn,
)

_SAMPLES = 250
"""Samples that the use of latents is measured on, where no images are given."""


def traverse(
    model: GenerativeModule,
    directions: Sequence[int] | Tensor,
    point: int | Tensor = 0,
    label: int | None = None,
    *,
    span: float = 3.0,
    steps: int = 7,
    ema: bool = True,
) -> Tensor:
    """Return images along directions of the latent space, one direction at a time (Higgins et al. 2017).

    At a point z and along a unit vector n, the latents are z + (a - zᵀn) n: the component along n takes evenly spaced
    values a, and everything else stays. For a single latent, this replaces its value. The prior has the standard
    deviation 1 in every direction.

    Args:
        model: Any model with latents.
        directions: The indices of latents, or vectors ``(K, latent_dim)`` of any length other than 0.
        point: A seed, or latents ``(latent_dim,)`` such as the mean that a VAE's encoder returns.
        label: The class of all images, in a conditional model; by default 0, or the label of a training image if labels
            are vectors.
        span: Largest value of a component; the smallest is its negative.
        steps: Number of images along each direction, at least 2.
        ema: Whether to use the moving average of the weights, where the model has one.

    Returns:
        Float images in [-1, 1], ``(K, steps, C, H, W)``, on the CPU.

    Raises:
        SettingError: A direction is not one of the model's, ``point`` has another shape, the label does not match the
            model, a setting is out of range, or the model has no latents.

    Example:
        >>> from lightning_gans import VAE
        >>> traverse(VAE((1, 8, 8), latent_dim=4), [0, 3], steps=5).shape
        torch.Size([2, 5, 1, 8, 8])
    """
    check_latents(model)
    check_positive(span=span)
    check_counts(least=2, steps=steps)
    if not isinstance(point, Tensor):
        point = model.latents(1, seed=point, ema=ema)[0]
    units = _unit_vectors(directions, model.latent_dim)
    if point.shape != (model.latent_dim,):
        raise invalid("the shape of point", list(point.shape), f"[{model.latent_dim}], like the model's latents")
    along = torch.linspace(-span, span, steps) - (units @ point.cpu().float())[:, None]  # (K, steps)
    latents = point.cpu() + along[..., None] * units[:, None]
    num = len(units) * steps
    attributes = attributes_of(model)
    labels: Tensor | None
    if label is None and attributes is not None:
        labels = attributes.in_turn(1).expand(num, -1)
    else:
        unlabeled = label is None and model.num_classes == 0
        labels = checked_sample_labels(model, None if unlabeled else [label or 0] * num, num)
    return decoded(model, latents.flatten(0, 1), labels, ema).view(len(units), steps, *model.image_shape)


@torch.no_grad()
def latent_divergences(
    model: Any, images: Tensor | None = None, labels: Tensor | None = None, *, ema: bool = True
) -> Tensor:
    """Return the mean divergence of each latent's posterior from the prior, in nats, float32 ``(latent_dim,)``.

    The divergence of a latent that a VAE does not use is close to 0, and traversing it changes nothing.

    Args:
        model: A model with ``encode``, such as a VAE.
        images: Values in [-1, 1], shape ``(N, C, H, W)``; by default 250 samples of the model.
        labels: Labels of the images, ``(N,)``, if the model is conditional.
        ema: Whether to use the moving averages of the weights, where the model has them.

    Raises:
        SettingError: The model has no encoder.
    """
    if not hasattr(model, "encode"):
        message = f"a {type(model).__name__} has no encoder: only a VAE's latents have divergences."
        raise SettingError(message, setting="model")
    if images is None:
        images = model.sample(_SAMPLES, seed=0, ema=ema)
        labels = labels_in_turn(model, _SAMPLES)
    divergences = []
    with model.evaluating():
        for start in range(0, len(images), SAMPLE_BLOCK):
            block = slice(start, start + SAMPLE_BLOCK)
            some = None if labels is None else labels[block].to(model.device)
            mean, log_variance = model.encode(images[block].to(model.device).to(model.dtype), some, ema=ema)
            divergences.append(gaussian_kl(mean.reshape(-1, 1), log_variance.reshape(-1, 1)).view_as(mean).cpu())
    return torch.cat(divergences).mean(0)


def _unit_vectors(directions: Sequence[int] | Tensor, latent_dim: int) -> Tensor:
    """Return directions as unit vectors, float32 ``(K, latent_dim)``."""
    if not isinstance(directions, Tensor):
        for index in directions:
            if not is_whole(index) or not 0 <= index < latent_dim:
                raise invalid("directions", index, f"from 0 to {latent_dim - 1}, as the model has {latent_dim} latents")
        return torch.eye(latent_dim)[list(directions)]
    vectors = directions.detach().cpu().float()
    if vectors.dim() != 2 or vectors.shape[1] != latent_dim or not (vectors.norm(dim=1) > 0).all():
        raise invalid("directions", f"a tensor {list(vectors.shape)}", f"(K, {latent_dim}), with no vector of zeros")
    return F.normalize(vectors)
