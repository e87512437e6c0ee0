"""Gradients of one network out of several, averaged over the processes in one message."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gans.losses import full_precision


def unsynchronized(strategy: Any) -> AbstractContextManager[Any]:
    """Keep DDP's reducer out of a backward pass: it expects every parameter of every network to take part."""
    block = getattr(strategy, "block_backward_sync", None)
    return nullcontext() if block is None else block()


def average_over_processes(strategy: Any, parameters: Sequence[nn.Parameter], buffers: Sequence[Tensor]) -> None:
    """Average gradients and buffers over all processes with one all-reduce; nothing to do for one process."""
    if getattr(strategy, "world_size", 1) == 1:
        return
    tensors = [p.grad for p in parameters if p.grad is not None] + list(buffers)
    flat = torch.cat([full_precision(tensor.detach().reshape(-1)) for tensor in tensors])
    flat = strategy.reduce(flat, reduce_op="mean")
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(mean.view_as(tensor))
