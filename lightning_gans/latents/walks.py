"""Interpolation between latents, and images along the way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_gans.errors import SettingError, check_choice, check_counts, invalid, is_whole
from lightning_gans.models import GenerativeModule
from lightning_gans.training.sampling import check_latents, checked_sample_labels, decoded, slerp

Easing = Literal["smooth", "linear"]

_EASINGS = {"smooth": lambda share: share**2 * (3 - 2 * share), "linear": lambda share: share}


def interpolated(
    points: Tensor, steps: int, *, closed: bool = False, straight: bool = False, easing: Easing = "linear"
) -> Tensor:
    """Interpolate from point to point, each of which is met once.

    Args:
        points: Shape ``(K, D)``.
        steps: Number of steps from one point to the next.
        closed: Whether the last point is followed by the first.
        straight: Interpolate linearly. By default, follow arcs, as suits Gaussian noise (White 2016, arXiv:1609.04468).
        easing: ``linear`` moves evenly; ``smooth`` comes to rest at each point.

    Returns:
        Shape ``((K - 1) * steps + 1, D)``, or ``(K * steps, D)`` if closed.

    Example:
        >>> interpolated(torch.tensor([[0.0], [4.0], [6.0]]), 2, straight=True).flatten()
        tensor([0., 2., 4., 5., 6.])
    """
    shares = _EASINGS[easing](torch.arange(steps) / steps).to(points)
    stops = [*points, points[0]] if closed else list(points)
    parts = [
        torch.lerp(start, end, shares[:, None]) if straight else slerp(start, end, shares)
        for start, end in itertools.pairwise(stops)
    ]
    return torch.cat(parts if closed else [*parts, points[-1:]])


def walk(
    model: GenerativeModule,
    points: Sequence[int] | Tensor,
    labels: int | Sequence[int] | Tensor | None = None,
    *,
    frames: int = 25,
    loop: bool = False,
    easing: Easing = "smooth",
    truncation: float | None = None,
    ema: bool = True,
) -> Tensor:
    """Return images along a way through the latent space, for an animation.

    The way follows arcs between the key points. Labels do not mix: the label of a key point holds until the next one.

    Args:
        model: Any model with latents.
        points: The key points: at least two seeds, or latents ``(K, latent_dim)``.
        labels: In a conditional model, one label for all, or one for each key point; by default the classes in turn.
        frames: Images from one key point to the next.
        loop: Return from the last key point to the first, for an animation that repeats without a jump.
        easing: ``smooth`` comes to rest at each key point; ``linear`` moves evenly.
        truncation: See :meth:`GenerativeModule.latents`; for seeds only.
        ema: Whether to use the moving average of the weights, where the model has one.

    Returns:
        Float images in [-1, 1], on the CPU: ``((K - 1) * frames + 1, C, H, W)``, or ``(K * frames, C, H, W)`` with
        ``loop``.

    Raises:
        SettingError: There are fewer than two key points, the labels do not match them or the model, ``frames`` is
            below 1, or the model has no latents.

    Example:
        >>> from lightning_gans import GAN
        >>> model = GAN((1, 8, 8), latent_dim=4)
        >>> walk(model, [1, 2, 3], frames=10, loop=True).shape
        torch.Size([30, 1, 8, 8])
    """
    check_latents(model)
    check_counts(frames=frames)
    if not isinstance(points, Tensor) and not all(map(is_whole, points)):
        raise invalid("points", points, "a list of seeds, which are whole numbers, or latents")
    check_choice("easing", easing, _EASINGS)
    if len(points) < 2:
        raise invalid("the number of key points", len(points), "2 or more")
    if not isinstance(points, Tensor):
        points = torch.cat([model.latents(1, seed=seed, truncation=truncation, ema=ema) for seed in points])
    elif points.shape[1:] != (model.latent_dim,):
        allowed = f"(K, {model.latent_dim})"
        message = f"points has the shape {list(points.shape)}, but the model's latents are {allowed}."
        raise SettingError(message, setting="points", value=list(points.shape), allowed=allowed)
    if is_whole(labels):
        labels = [labels] * len(points)
    at_points = checked_sample_labels(model, labels, len(points))
    way = interpolated(points.cpu(), frames, closed=loop, easing=easing)
    on_way = None if at_points is None else at_points.repeat_interleave(frames, 0)[: len(way)]
    return decoded(model, way, on_way, ema)
