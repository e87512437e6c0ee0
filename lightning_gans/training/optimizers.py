"""Optimizers: Adam by flat settings, or any other by an ``OptimizerCallable``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Adam, Optimizer

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
"""Makes an optimizer of parameters; in YAML a class path with its ``init_args``."""


def adam(
    module: Any, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
) -> Optimizer:
    """Make Adam for one network's parameters, fused where the device has it.

    Lightning leaves the unscaling of float16 gradients to a fused optimizer, after every hook; clipping needs them
    unscaled before, so ``16-mixed`` takes the plain one.
    """
    fused = module.device.type in ("cpu", "cuda") and module.trainer.precision != "16-mixed"
    # Plain numbers, as the optimizer's state enters checkpoints: NumPy's would not load again.
    return Adam(parameters, float(lr), (float(betas[0]), float(betas[1])), 1e-8, float(weight_decay), fused=fused)
