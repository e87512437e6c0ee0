"""The update of some networks: the only place where gradients are zeroed, computed, averaged and applied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_gans._lightning import pl
from lightning_gans.training.processes import average_over_processes, unsynchronized


def update(
    module: pl.LightningModule, loss: Tensor, *optimizers: Any, part: int = 0, parts: int = 1, counted: bool = False
) -> None:
    """Zero the gradients, backpropagate and step.

    Only the parameters of ``optimizers`` get gradients. With several processes the gradients are averaged in one
    all-reduce; in a counted update the module's floating-point buffers (BatchNorm's statistics) are averaged with them,
    so that processes never differ.

    Args:
        module: Any ``LightningModule`` with manual optimization, in its ``training_step``.
        loss: The scalar to minimize.
        *optimizers: As ``self.optimizers()`` returns them; they step in this order.
        part: Index of the batch among the batches of this update. The first one zeroes the gradients, the last one
            steps.
        parts: How many batches are averaged into this update (gradient accumulation).
        counted: Whether ``trainer.global_step`` counts the last optimizer's step. Count the generator
            (or decoder). Other optimizers step through the strategy, which is the same (precision plugins and hooks
            included) except for counting.
    """
    strategy = module.trainer.strategy
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"] if p.requires_grad]
    if part == 0:
        for optimizer in optimizers:
            optimizer.zero_grad()
    if parameters:
        with unsynchronized(strategy):
            module.manual_backward(loss / parts if parts > 1 else loss, inputs=parameters)
    if part + 1 < parts:
        return
    average_over_processes(strategy, parameters, trained_buffers(module) if counted else ())
    scaler = getattr(strategy.precision_plugin, "scaler", None) if len(optimizers) > 1 else None
    scale = 1.0 if scaler is None else scaler.get_scale()
    for optimizer in optimizers:
        if scaler is not None and (changed := scaler.get_scale()) != scale:
            # The previous optimizer's step has changed float16's scale, but these gradients have the old one.
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                if parameter.grad is not None:
                    parameter.grad *= changed / scale
        if counted and optimizer is optimizers[-1]:
            optimizer.step()
        else:
            strategy.optimizer_step(optimizer.optimizer, lambda: None)
    # An autocast that caches the low-precision copies of the weights (Lightning's does not) keeps them until the end of
    # the step, but the next forward pass needs the weights that have just changed.
    torch.clear_autocast_cache()


def trained_buffers(module: pl.LightningModule) -> Iterator[Tensor]:
    """Yield the floating-point buffers that training changes; moving averages only copy them."""
    yield from (b for name, b in module.named_buffers() if b.is_floating_point() and not name.startswith("ema."))
