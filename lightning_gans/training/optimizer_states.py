"""Checks of the states of optimizers, and of other parts of a checkpoint, before a run takes them."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightning_gans.errors import DataError
from lightning_gans.io.checkpoint_io import loading


def check_like(found: Any, own: Any, place: str) -> None:
    """Raise :class:`DataError` if types in a part of a checkpoint differ from those in this run's state."""
    for kind in (Mapping, (list, tuple), numbers.Real):
        if isinstance(own, kind) and not isinstance(found, kind):
            message = f"the checkpoint is damaged: {place} is a {type(found).__name__}, not a {type(own).__name__}."
            raise DataError(message, setting=place, value=found)
    if isinstance(own, Mapping):
        for key in own.keys() & found.keys():
            check_like(found[key], own[key], f"{place}.{key}")


def check_optimizers(optimizers: Sequence[torch.optim.Optimizer], states: Sequence[Any]) -> None:
    """Raise :class:`DataError` if a checkpoint's optimizers differ in their weights or the types of their options."""
    own = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in optimizers]
    with loading():
        found = [[len(group["params"]) for group in state["param_groups"]] for state in states]
        damaged = not all(isinstance(state["state"], Mapping) for state in states)
    if own != found or damaged:
        message = f"the checkpoint's optimizers have {found} weights by group, but the model's have {own}."
        raise DataError(message, setting="optimizer_states", value=found, allowed=own)
    for optimizer, state in zip(optimizers, states, strict=True):
        for group, stored in zip(optimizer.state_dict()["param_groups"], state["param_groups"], strict=True):
            options = {name: value for name, value in group.items() if not isinstance(value, bool)}  # as of the device
            check_like(stored, options, "optimizer_states")
        if isinstance(optimizer, torch.optim.Adam):
            _check_moments(optimizer, state)


def _check_moments(optimizer: torch.optim.Adam, state: Any) -> None:
    """Raise :class:`DataError` if the moments in a state of Adam have other shapes than the weights."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    indices = (index for group in state["param_groups"] for index in group["params"])
    for parameter, index in zip(parameters, indices, strict=True):
        moments = state["state"].get(index)
        if moments is not None and not _are_moments(moments, parameter):
            message = "the checkpoint is damaged: the moments of a weight do not fit it."
            raise DataError(message, setting="optimizer_states", value=index)


def _are_moments(state: Any, parameter: torch.Tensor) -> bool:
    """Return whether a state is that of a parameter under Adam."""
    if not isinstance(state, Mapping):
        return False
    moments, step = [state.get(name) for name in ("exp_avg", "exp_avg_sq")], state.get("step")
    fits = all(isinstance(moment, torch.Tensor) and moment.shape == parameter.shape for moment in moments)
    return fits and isinstance(step, (torch.Tensor, numbers.Real))
