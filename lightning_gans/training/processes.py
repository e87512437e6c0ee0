"""What processes exchange: one all-reduce of a network's gradients per update, and statistics of the global batch.

Strategies under which networks cannot be updated in turn are rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_gans import _lightning
from lightning_gans.errors import SettingError
from lightning_gans.losses import full_precision

_UNFIT = {
    "DeepSpeedStrategy": "it supports only one optimizer",
    "FSDPStrategy": "it shards weights that two optimizers update in turn",
    "ModelParallelStrategy": "it averages gradients itself, even those of the network that is not being updated",
}


def check_strategy_name(name: str) -> None:
    """Reject by name strategies that may fail to construct, before Lightning tries.

    Raises:
        SettingError: Names the strategy, and what to use.
    """
    for prefix, cls in {"deepspeed": "DeepSpeedStrategy", "fsdp": "FSDPStrategy"}.items():
        if name.startswith(prefix):
            message = f"trainer.strategy is {name}, but {_UNFIT[cls]}: use ddp."
            raise SettingError(message, setting="trainer.strategy", value=name, allowed="ddp")


def check_strategy(strategy: Any) -> None:
    """Reject strategies under which networks cannot be updated in turn, before training starts.

    Raises:
        SettingError: Names the strategy, and what to use.
    """
    for cls in type(strategy).__mro__:
        if cls.__name__ in _UNFIT:
            message = f"trainer.strategy is {cls.__name__}, but {_UNFIT[cls.__name__]}: use ddp."
            raise SettingError(message, setting="trainer.strategy", value=cls.__name__, allowed="ddp")
    if _lightning.has_static_graph(strategy):
        raise SettingError(
            "trainer.strategy has static_graph=True, but the graph depends on which network is being updated: "
            "use ddp without it.",
            setting="trainer.strategy",
            value="static_graph=True",
            allowed="ddp",
        )
    if _lightning.synchronizes_batch_norm(strategy) and strategy.root_device.type != "cuda":
        raise SettingError(
            "trainer.sync_batchnorm is True, but torch supports it only on GPUs: leave it out, and each process uses "
            "the statistics of its own batch.",
            setting="trainer.sync_batchnorm",
            value=True,
            allowed=False,
        )


def unsynchronized(strategy: Any) -> AbstractContextManager[Any]:
    """Keep DDP's reducer out of a backward pass: it expects every parameter of every network to take part."""
    block = getattr(strategy, "block_backward_sync", None)
    return nullcontext() if block is None else block()


def average_over_processes(strategy: Any, parameters: Sequence[nn.Parameter], buffers: Iterable[Tensor]) -> None:
    """Average gradients and buffers over all processes with one all-reduce; a no-op with one process."""
    if getattr(strategy, "world_size", 1) == 1:
        return
    tensors = [p.grad for p in parameters if p.grad is not None] + list(buffers)
    if not tensors:  # the network is frozen
        return
    flat = mean_over_processes(strategy, torch.cat([full_precision(t.detach().reshape(-1)) for t in tensors]))
    for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(mean.view_as(tensor))


def mean_over_processes(strategy: Any, values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes; it may overwrite the tensor."""
    if getattr(strategy, "world_size", 1) == 1:
        return values
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)  # Lightning's own waits at a barrier first, on the host
        return values.div_(strategy.world_size)
    mean: Tensor = strategy.reduce(values, reduce_op="mean")
    return mean


def rows_of_processes(module: Any, rows: Tensor) -> Tensor:
    """Return the rows ``(N, ...)`` of all processes in order, ``(processes * N, ...)``, with their graph."""
    if getattr(_lightning.trainer_of(module), "world_size", 1) == 1:
        return rows
    gathered: Tensor = module.all_gather(rows, sync_grads=True)
    return gathered.flatten(0, 1)
