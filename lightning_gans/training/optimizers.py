"""Optimizers: Adam by flat settings, or any other by an ``OptimizerCallable``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Adam, Optimizer

from lightning_gans.errors import SettingError

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
    # Python's own numbers, because the optimizer's state enters checkpoints: NumPy's would not load again.
    return Adam(parameters, float(lr), (float(betas[0]), float(betas[1])), 1e-8, float(weight_decay), fused=fused)


def places_of(networks: Mapping[str, nn.Module], optimizers: Sequence[Optimizer]) -> list[int]:
    """Return, for each network, the index of the optimizer that holds its parameters; optimizers may be in any order.

    Raises:
        SettingError: A network does not have its own optimizer, or an optimizer needs a closure.
    """
    held = [{id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in optimizers]
    places: list[int] = []
    for name, network in networks.items():
        own = {id(parameter) for parameter in network.parameters()}
        place = max(range(len(held)), key=lambda place: len(own & held[place]))
        if not own & held[place] or place in places:
            raise SettingError(
                f"configure_optimizers must return an optimizer with the parameters of each of {', '.join(networks)}; "
                f"the {name} does not have its own.",
                setting="configure_optimizers",
                value=[type(optimizer).__name__ for optimizer in optimizers],
                allowed=list(networks),
            )
        places.append(place)
        kind = type(optimizers[place])
        closure = inspect.signature(kind.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            message = (
                f"the {name}'s optimizer is {kind.__name__}, which evaluates the loss several times per step: "
                "alternating updates need one that evaluates it once, such as Adam."
            )
            raise SettingError(message, setting="configure_optimizers", value=kind.__name__)
    return places
