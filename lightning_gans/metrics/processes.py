"""Share work among processes by global index, and gather the results in that order.

A *strategy* is Lightning's, as in ``trainer.strategy``, or :class:`OneProcess` where there is no trainer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_gans.errors import DataError

T = TypeVar("T")

_ROWS_AT_ONCE = 4096  # per process, so that no process holds the rows of all


class OneProcess:
    """The part of a strategy that this package uses, for a single process.

    Args:
        device: The device of the process.
    """

    global_rank, world_size, is_global_zero = 0, 1, True

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.root_device = torch.device(device)

    def broadcast(self, value: T) -> T:
        """Return the value."""
        return value

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Return the decision."""
        return decision


def warn_once(strategy: Any, message: str) -> None:
    """Warn on the first process, at the line of the caller's caller."""
    if strategy.is_global_zero:
        warnings.warn(message, stacklevel=3)


def shard(num: int, block: int, rank: int, world_size: int) -> range:
    """Return the indices of one process: whole blocks, in the order of the processes.

    Example:
        >>> [shard(1001, 250, rank, 2) for rank in range(2)]
        [range(0, 750), range(750, 1001)]
    """
    blocks = math.ceil(num / block)
    edges = [min(num, math.ceil(place * blocks / world_size) * block) for place in (rank, rank + 1)]
    return range(*edges)


def gather_rows(strategy: Any, rows: Tensor) -> Tensor | None:
    """Gather the rows ``(n, …)`` of all processes on the first one, on the CPU; the other processes get None."""
    if strategy.world_size == 1:
        return rows
    device = strategy.root_device
    counts = strategy.all_gather(torch.tensor(len(rows), device=device)).tolist()
    parts: list[list[Tensor]] = [[] for _ in counts]
    for start in range(0, max(counts), _ROWS_AT_ONCE):
        size = min(_ROWS_AT_ONCE, max(counts) - start)
        padded = rows.new_zeros(size, *rows.shape[1:])
        mine = rows[start : start + size]
        padded[: len(mine)] = mine
        gathered = strategy.all_gather(padded.to(device))
        if strategy.is_global_zero:
            for rank, count in enumerate(counts):
                parts[rank].append(gathered[rank, : max(0, min(count - start, size))].cpu())
    return torch.cat([part for process in parts for part in process]) if strategy.is_global_zero else None


def everywhere(strategy: Any, work: Callable[[], T]) -> T:
    """Run work that needs no communication on every process; an error on one process is raised on all.

    Raises:
        DataError: Another process failed.
    """
    result, error = None, None
    try:
        result = work()
    except Exception as caught:
        error = caught
    if not strategy.reduce_boolean_decision(error is None, all=True):
        raise error if error is not None else DataError("another process failed; see its error message.")
    return result  # type: ignore[return-value]


def on_first_process(strategy: Any, work: Callable[[], T]) -> T:
    """Run work on the first process and broadcast its result, or its error, to all."""
    outcome: tuple[Any, Exception | None] = (None, None)
    if strategy.is_global_zero:
        try:
            outcome = (work(), None)
        except Exception as caught:
            outcome = (None, caught)
    result, error = strategy.broadcast(outcome)
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]
