"""Samples of any module that has a method ``sample``."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gans import randomness
from lightning_gans._lightning import isolate_rng
from lightning_gans.errors import SettingError
from lightning_gans.randomness import Stream

BLOCK = 250
"""Number of images that are generated and extracted together, by their global index."""


def check_sampler(module: Any, user: str) -> None:
    """Raise :class:`SettingError` for a module without a method ``sample``."""
    if not callable(getattr(module, "sample", None)):
        name = type(module).__name__
        raise SettingError(
            f"{user} needs a method {name}.sample(n) that returns n images, (n, C, H, W) in [-1, 1].",
            setting=f"{name}.sample",
            allowed="a method",
        )


def num_classes(module: Any) -> int:
    """Return the number of classes whose labels ``module.sample`` takes; 0 for an unconditional module."""
    return int(getattr(module, "num_classes", 0)) if "labels" in _accepted(module) else 0


def image_shape(module: Any) -> tuple[int, ...]:
    """Return ``module.image_shape``, or else the shape of a sample."""
    shape = getattr(module, "image_shape", None)
    return tuple(draw(module, 1, seed=0).shape[1:]) if shape is None else tuple(shape)


def draw(module: Any, num: int, *, seed: int, start: int = 0, labels: Tensor | None = None, ema: bool = True) -> Tensor:
    """Generate the images ``start … start + num`` of a seed, and leave the random generators as they are.

    Args:
        module: Has ``sample(n)``, which returns n images. It gets ``seed`` and ``start``, ``labels`` and ``ema`` if it
            takes them. Without ``seed`` and ``start``, the random generators are seeded for each block of 250 images.
            ``module.value_range`` is ``(-1, 1)`` if it is missing.
        num: How many.
        seed: Seed of the images.
        start: Global index of the first image.
        labels: Labels of a conditional module, int64 ``(num,)``; by default the classes in turn.
        ema: Whether to use the moving average of the weights.

    Returns:
        Float images in [-1, 1], ``(num, C, H, W)``.

    Raises:
        SettingError: ``sample`` returns something else.
    """
    accepted, classes = _accepted(module), num_classes(module)
    if labels is None and classes:
        labels = torch.arange(start, start + num) % classes
    options: dict[str, Any] = {"seed": seed, "start": start, "ema": ema, "labels": labels}
    options = {name: value for name, value in options.items() if name in accepted and value is not None}
    if {"seed", "start"} <= options.keys():
        return _checked(module, module.sample(num, **options), num)
    blocks = []
    with evaluating(module), torch.no_grad(), isolate_rng():
        for first in range(start, start + num, BLOCK):
            size, key = min(BLOCK, start + num - first), randomness.mix(seed, Stream.SAMPLE, first)
            for seeded in (torch.manual_seed, np.random.seed, random.seed):
                seeded(key)
            if "seed" in options:
                options["seed"] = key
            if labels is not None and "labels" in options:
                options["labels"] = labels[first - start :][:size].to(module.device)
            blocks.append(_checked(module, module.sample(size, **options), size))
    return torch.cat(blocks)


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Put a module into evaluation mode inside the block, and each of its parts back into its own mode afterwards."""
    if hasattr(module, "evaluating"):
        with module.evaluating():
            yield
        return
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _accepted(module: Any) -> set[str]:
    return set(inspect.signature(module.sample).parameters)


def _checked(module: Any, images: Any, num: int) -> Tensor:
    """Return samples in [-1, 1]."""
    if not isinstance(images, Tensor) or images.dim() < 3 or len(images) != num:
        name = f"{type(module).__name__}.sample"
        found = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise SettingError(
            f"{name}({num}) returned {found}: it must return images, ({num}, C, H, W).", setting=name, value=found
        )
    low, high = getattr(module, "value_range", (-1, 1))
    return images if (low, high) == (-1, 1) else (images.float() - low) / (high - low) * 2 - 1
