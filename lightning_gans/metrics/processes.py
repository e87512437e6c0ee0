"""Work shared out among processes by global index, and brought together in that order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_gans._lightning import pl
from lightning_gans.errors import DataError

T = TypeVar("T")

_GATHERED_AT_ONCE = 4096  # rows of each process, so that no process holds all rows of all


def shard(num: int, block: int, rank: int, world_size: int) -> range:
    """Return a process's run of ``num`` indices: whole blocks, in the order of the processes.

    Example:
        >>> [shard(1001, 250, rank, 2) for rank in range(2)]
        [range(0, 750), range(750, 1001)]
    """
    blocks = math.ceil(num / block)
    edges = [min(num, math.ceil(place * blocks / world_size) * block) for place in (rank, rank + 1)]
    return range(*edges)


def gather_rows(trainer: pl.Trainer, rows: Tensor) -> Tensor | None:
    """Bring all processes' rows ``(n, …)`` together on the first one, in the order of the processes.

    The rows stay on the CPU; the other processes get None.
    """
    if trainer.world_size == 1:
        return rows
    strategy = trainer.strategy
    device = strategy.root_device
    counts = strategy.all_gather(torch.tensor(len(rows), device=device)).tolist()
    parts: list[list[Tensor]] = [[] for _ in counts]
    for start in range(0, max(counts), _GATHERED_AT_ONCE):
        size = min(_GATHERED_AT_ONCE, max(counts) - start)
        padded = rows.new_zeros(size, *rows.shape[1:])
        mine = rows[start : start + size]
        padded[: len(mine)] = mine
        everyone = strategy.all_gather(padded.to(device))
        if trainer.is_global_zero:
            for rank, count in enumerate(counts):
                parts[rank].append(everyone[rank, : max(0, min(count - start, size))].cpu())
    return torch.cat([part for process in parts for part in process]) if trainer.is_global_zero else None


def everywhere(trainer: pl.Trainer, work: Callable[[], T]) -> T:
    """Do work that has no communication in it; if it fails on one process, it fails on all.

    Raises:
        DataError: It failed on another process.
    """
    result, error = None, None
    try:
        result = work()
    except Exception as caught:
        error = caught
    if not trainer.strategy.reduce_boolean_decision(error is None, all=True):
        raise error if error is not None else DataError("another process has failed; its message says why.")
    return result  # type: ignore[return-value]


def on_first_process(trainer: pl.Trainer, work: Callable[[], T]) -> T:
    """Do work on the first process, and give its result, or its error, to all."""
    outcome: tuple[Any, Exception | None] = (None, None)
    if trainer.is_global_zero:
        try:
            outcome = (work(), None)
        except Exception as caught:
            outcome = (None, caught)
    result, error = trainer.strategy.broadcast(outcome)
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]
