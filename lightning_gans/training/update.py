"""The update of some networks: the only place where gradients are zeroed, computed, averaged and applied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_gans._lightning import count_step, pl
from lightning_gans.errors import invalid
from lightning_gans.training.processes import average_over_processes, unsynchronized


def update(
    module: pl.LightningModule,
    loss: Tensor,
    *optimizers: Any,
    micro_batch: int = 0,
    micro_batches: int = 1,
    counted: bool = False,
) -> None:
    """Zero the gradients, backpropagate and step.

    Only the parameters of ``optimizers`` get gradients. With several processes the gradients are averaged in one
    all-reduce; in a counted update the module's floating-point buffers (BatchNorm's statistics) are averaged with them,
    so that processes never differ.

    Args:
        module: Any ``LightningModule`` with manual optimization, in its ``training_step``.
        loss: The scalar to minimize.
        *optimizers: As ``self.optimizers()`` returns them; they step in this order.
        micro_batch: Index of the batch among those of this update. The first zeroes the gradients, the last steps.
        micro_batches: Number of batches that are averaged into this update (gradient accumulation).
        counted: Whether ``trainer.global_step`` counts the last optimizer's step. Count the generator's (or decoder's)
            step. The other optimizers step through the strategy, which differs only in not counting: precision plugins
            and hooks are the same.

    Raises:
        SettingError: The loss is not a scalar.
    """
    if loss.numel() != 1:
        raise invalid("loss", list(loss.shape), "a scalar", " Take its mean.")
    strategy = module.trainer.strategy
    trained = [[p for group in o.param_groups for p in group["params"] if p.requires_grad] for o in optimizers]
    parameters = [parameter for of_one in trained for parameter in of_one]
    if micro_batch == 0:
        for optimizer in optimizers:
            optimizer.zero_grad()
    if parameters:
        with unsynchronized(strategy):
            module.manual_backward(loss / micro_batches if micro_batches > 1 else loss, inputs=parameters)
    if micro_batch + 1 < micro_batches:
        return
    average_over_processes(strategy, parameters, trained_buffers(module) if counted else ())
    scaler = getattr(strategy.precision_plugin, "scaler", None) if len(optimizers) > 1 else None
    scale = 1.0 if scaler is None else scaler.get_scale()
    for optimizer, of_one in zip(optimizers, trained, strict=True):
        is_counted = counted and optimizer is optimizers[-1]
        if not of_one:  # its network is frozen
            if is_counted:
                count_step(optimizer)
            continue
        if scaler is not None and (changed := scaler.get_scale()) != scale:
            # The previous optimizer's step has changed float16's scale, but these gradients have the old one.
            for parameter in of_one:
                if parameter.grad is not None:
                    parameter.grad *= changed / scale
        if is_counted:
            optimizer.step()
        else:
            strategy.optimizer_step(optimizer.optimizer, lambda: None)
    # An autocast that caches the low-precision copies of the weights (Lightning's does not) keeps them until the end of
    # the step, but the next forward pass needs the weights that have just changed.
    torch.clear_autocast_cache()


def trained_buffers(module: pl.LightningModule) -> Iterator[Tensor]:
    """Yield the floating-point buffers that may differ between processes; moving averages and image pools do not."""
    same = tuple(f"{name}." for name, part in module.named_modules() if getattr(part, "same_on_processes", False))
    yield from (b for name, b in module.named_buffers() if b.is_floating_point() and not name.startswith(same))
