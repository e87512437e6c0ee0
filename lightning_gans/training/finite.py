"""Checks that a model and its optimizers have not diverged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lightning_gans.errors import DivergedError


def check_finite(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()) -> None:
    """Raise :class:`DivergedError` if a weight, BatchNorm's statistics or an optimizer's state is not finite.

    Nor may another buffer be NaN; a mask may be infinite.
    """
    wrong = not_finite(model, optimizers)
    if wrong is not None:
        raise DivergedError(f"training has diverged: {wrong} is not finite. The last checkpoint is finite.")


def not_finite(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()) -> str | None:
    """Return the name of the first of these values that is not finite; None if all are."""
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    values |= {name: value for name, value in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            moments = {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
            values |= {f"{key} of {names.get(parameter, 'a parameter')}": moment for key, moment in moments.items()}
    if values and not nn.utils.get_total_norm(values.values(), torch.inf).isfinite():
        return next(name for name, value in values.items() if not value.isfinite().all())
    return next((name for name, buffer in model.named_buffers() if buffer.isnan().any()), None)
