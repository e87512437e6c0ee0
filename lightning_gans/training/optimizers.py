"""Optimizers: Adam by flat settings, or any other by an ``OptimizerCallable``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Adam, Optimizer

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
"""A function from parameters to an optimizer; in YAML a class path with its ``init_args``."""


def adam(
    module: Any, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
) -> Optimizer:
    """Make Adam for one network's parameters, fused if the device supports it.

    Lightning lets a fused optimizer unscale float16 gradients itself, after all hooks; clipping needs unscaled
    gradients, so ``16-mixed`` uses the plain Adam.
    """
    fused = module.device.type in ("cpu", "cuda") and module.trainer.precision != "16-mixed"
    # Plain numbers, as the optimizer's state enters checkpoints: NumPy's would not load again.
    return Adam(parameters, float(lr), (float(betas[0]), float(betas[1])), 1e-8, float(weight_decay), fused=fused)
