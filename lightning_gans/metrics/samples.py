"""Samples of any module that has a method ``sample``."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gans import randomness
from lightning_gans.errors import SettingError
from lightning_gans.io.pictures import from_bytes
from lightning_gans.randomness import Stream
from lightning_gans.training import sampling
from lightning_gans.training.sampling import evaluating

BLOCK = 250
"""Number of images that are generated and extracted together, by their global index."""


Sample = Callable[..., Tensor]
"""``sample(module, n)`` returns n images; it may take the options that :func:`draw` lists."""


class FunctionSampler:
    """A module with a function instead of its method ``sample``.

    Args:
        module: The module; this object has all of its other attributes.
        function: Returns images, ``function(module, n)``.
    """

    def __init__(self, module: Any, function: Sample) -> None:
        self.module = module
        self.sample = partial(function, module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def translates(module: Any, function: Sample | None = None) -> bool:
    """Return whether a module is a translator, without a function that samples: it has a method ``translate``."""
    return function is None and callable(getattr(module, "translate", None))


def _isolated() -> AbstractContextManager[None]:
    """Keep the random generators as they are."""
    from lightning_gans._lightning import isolate_rng  # here, because scores of files do not need Lightning

    return isolate_rng()


def translated(module: Any, images: Tensor, **options: Any) -> Tensor:
    """Return translations in [-1, 1], and leave the random generators as they are.

    Args:
        module: Has ``translate(images)``; its images are bytes, or floats in ``module.value_range``.
        images: The sources.
        **options: ``ema`` and ``to``, which the module gets if it takes them.
    """
    accepted = inspect.signature(module.translate).parameters
    options = {name: value for name, value in options.items() if name in accepted}
    with evaluating(module), torch.no_grad(), _isolated():
        return normalized(module, module.translate(images.to(module.device), **options))


class TranslationSampler:
    """A translator as a sampler: image k is the translation of source k.

    Args:
        module: The translator, whose other attributes are this object's.
        pairs: ``pairs[start:stop]`` gives sources and targets.
    """

    value_range = (-1, 1)  # of :meth:`sample`, whatever the module's is

    def __init__(self, module: Any, pairs: Any) -> None:
        self.module = module
        self.pairs = pairs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def sample(self, num: int, *, seed: int, start: int, ema: bool = True) -> Tensor:
        """Return translations; they do not depend on the seed."""
        return translated(self.module, self.pairs[start : start + num][0], ema=ema)

    def targets(self, start: int, stop: int) -> Tensor:
        """Return the targets of translations in [-1, 1]."""
        return normalized(self.module, self.pairs[start:stop][1])


def sampler_of(module: Any, function: Sample | None, user: str) -> Any:
    """Return an object with a method ``sample``: the module, or the module with a function; a translator as it is.

    Args:
        module: The module.
        function: Replaces ``module.sample``; None uses the method.
        user: Name of the caller, for the error.

    Raises:
        SettingError: There is neither a function nor a method ``sample``.
    """
    if function is not None:
        return FunctionSampler(module, function)
    if not translates(module) and not callable(getattr(module, "sample", None)):
        name = type(module).__name__
        raise SettingError(
            f"{user} needs a method {name}.sample(n) that returns n images, (n, C, H, W) in [-1, 1], or "
            f"{user}(sample=function), with function(module, n).",
            setting=f"{name}.sample",
            allowed="a method",
        )
    return module


def num_classes(module: Any) -> int:
    """Return the number of classes whose labels ``module.sample`` takes; 0 for an unconditional module."""
    return int(getattr(module, "num_classes", 0)) if "labels" in _accepted(module) else 0


def num_labels(module: Any) -> int:
    """Return :func:`num_classes`, or 0 if the module says that its labels are not those of the data."""
    return num_classes(module) if getattr(module, "labels_of_data", True) else 0


def labels_in_turn(module: Any, num: int, start: int = 0) -> Tensor | None:
    """Return the labels that samples ``start`` to ``start + num - 1`` get by default; None for an unconditional module.

    See :func:`lightning_gans.training.sampling.labels_in_turn`.
    """
    return sampling.labels_in_turn(module, num, start) if num_classes(module) else None


def data_labels_in_turn(module: Any, num: int) -> Tensor | None:
    """Return :func:`labels_in_turn` of the first ``num`` samples; None too if they are not labels of the data."""
    return labels_in_turn(module, num) if num_labels(module) > 0 else None


def image_shape(module: Any) -> tuple[int, ...]:
    """Return ``module.image_shape``, or else the shape of a sample."""
    shape = getattr(module, "image_shape", None)
    return tuple(draw(module, 1, seed=0).shape[1:]) if shape is None else tuple(shape)


def draw(module: Any, num: int, *, seed: int, start: int = 0, labels: Tensor | None = None, ema: bool = True) -> Tensor:
    """Generate images ``start`` to ``start + num - 1`` of a seed, without changing the state of random generators.

    Args:
        module: Has ``sample(n)``, which returns n images. ``sample`` gets ``seed``, ``start``, ``labels`` and ``ema``
            if it takes them. If it does not take ``seed`` and ``start``, the random generators are seeded for each
            block of 250 images. The images are bytes, or floats in ``module.value_range``, by default ``(-1, 1)``.
        num: Number of images.
        seed: Seed of the images.
        start: Global index of the first image.
        labels: Labels of a conditional module, ``(num, …)``; by default :func:`labels_in_turn`.
        ema: Whether to use the moving average of the weights.

    Returns:
        Float images in [-1, 1], ``(num, C, H, W)``.

    Raises:
        SettingError: ``sample`` returns something else.
    """
    accepted = _accepted(module)
    if labels is None:
        labels = labels_in_turn(module, num, start)
    options: dict[str, Any] = {"seed": seed, "start": start, "ema": ema, "labels": labels}
    options = {name: value for name, value in options.items() if name in accepted and value is not None}
    blocks = []
    with evaluating(module), torch.no_grad(), _isolated():
        if "labels" in options:
            options["labels"] = options["labels"].to(getattr(module, "device", "cpu"))
        if {"seed", "start"} <= options.keys():
            return _checked(module, module.sample(num, **options), num)
        for first in range(start, start + num, BLOCK):
            size, key = min(BLOCK, start + num - first), randomness.mix(seed, Stream.SAMPLE, first)
            for seeded in (torch.manual_seed, np.random.seed, random.seed):
                seeded(key)
            if "seed" in options:
                options["seed"] = key
            of_block = {"labels": options["labels"][first - start :][:size]} if "labels" in options else {}
            blocks.append(_checked(module, module.sample(size, **options | of_block), size))
    return torch.cat(blocks)


def is_averaged(module: Any, ema: bool) -> bool | None:
    """Return whether samples come from a moving average of the weights; None if the module has no such option.

    Args:
        module: As for :func:`draw`.
        ema: Whether the caller asks for the average; a module whose attribute ``ema`` is empty has none.
    """
    method = module.module.translate if isinstance(module, TranslationSampler) else module.sample
    if "ema" not in inspect.signature(method).parameters:
        return None
    return ema and bool(getattr(module, "ema", True))


def _accepted(module: Any) -> set[str]:
    return set(inspect.signature(module.sample).parameters)


def _checked(module: Any, images: Any, num: int) -> Tensor:
    """Return samples in [-1, 1]."""
    if not isinstance(images, Tensor) or images.dim() < 3 or len(images) != num:
        name = "sample" if isinstance(module, FunctionSampler) else f"{type(module).__name__}.sample"
        found = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise SettingError(
            f"{name}({num}) returned {found}: it must return images, ({num}, C, H, W).", setting=name, value=found
        )
    return normalized(module, images)


def normalized(module: Any, images: Tensor) -> Tensor:
    """Map images of ``module.value_range``, or bytes, to [-1, 1].

    Raises:
        SettingError: A value is outside the range by more than the width of the range.
    """
    if images.dtype == torch.uint8:
        return from_bytes(images)
    low, high = getattr(module, "value_range", (-1, 1))
    if (low, high) != (-1, 1):
        images = (images.float() - low) / (high - low) * 2 - 1
    if (images.abs() > 3).any():
        least, most = ((float(value) + 1) / 2 * (high - low) + low for value in images.aminmax())
        owner = module.module if isinstance(module, FunctionSampler) else module
        name = f"{type(owner).__name__}.value_range"
        message = (
            f"images range from {least:.4g} to {most:.4g}, but must be in ({low}, {high}): scale them, or set the "
            f"attribute {name} = (lowest, highest)."
        )
        if math.isfinite(least + most):  # the callers report values that are not finite
            raise SettingError(message, setting=name, value=(least, most), allowed=(low, high))
    return images
