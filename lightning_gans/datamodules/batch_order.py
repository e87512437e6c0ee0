"""The order of a data set: which rows each process sees in which batch, a function of only the seed and the epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import SequentialSampler

from lightning_gans import randomness
from lightning_gans.errors import SettingError, invalid
from lightning_gans.randomness import Stream


class BatchRows(NamedTuple):
    """The rows of one batch of a process, int64 ``(n,)``, and which of them to mirror, bool ``(n,)``."""

    rows: Tensor
    flips: Tensor | None


class ShuffledOrder:
    """Shuffled batches of row numbers, split among the processes, that can start in the middle of an epoch.

    Batch k takes ``world_size x batch_size`` consecutive rows of the epoch's permutation. Each process gets
    ``batch_size`` consecutive ones of them: n processes with batches of b see the same rows as one process with batches
    of n·b. The last rows of an epoch that do not fill a batch are left out. The permutation depends on (seed, epoch);
    the flips, drawn for all processes at once, depend on (seed, epoch, k).

    Args:
        num_rows: Rows of the data set.
        batch_size: Rows per batch and process.
        flips: Whether to draw which rows to mirror.
        seed: Returns the seed; called when an epoch begins, because it may be restored after the loader is made.
        place: ``(world_size, rank)``; by default that of the process group, looked up when it is needed.

    Raises:
        SettingError: In ``len`` and ``iter``: there are fewer rows than one batch takes.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        flips: bool = False,
        seed: Callable[[], int] = lambda: 0,
        place: tuple[int, int] | None = None,
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.flips = flips
        self.epoch = 0
        self._current_seed = seed
        self._place = place
        self._start = 0  # the first batch of the next iteration
        self._done = 0  # batches of this epoch that were yielded
        self._resumed_size: dict[str, int] = {}
        self._resumed_seed: int | None = None

    @property
    def place(self) -> tuple[int, int]:
        """World size and rank: the number of processes that share the rows, and the index of this one."""
        if self._place is not None:
            return self._place
        return (dist.get_world_size(), dist.get_rank()) if dist.is_available() and dist.is_initialized() else (1, 0)

    @property
    def rows_per_batch(self) -> int:
        """Rows of a batch of all processes together."""
        return self.place[0] * self.batch_size

    def __len__(self) -> int:
        batches = self.num_rows // self.rows_per_batch
        if batches == 0:
            most = self.num_rows // self.place[0]
            hint = f" The training split has {self.num_rows} images for {self.place[0]} process(es)."
            raise invalid("batch_size", self.batch_size, f"at most {most}", hint)
        return batches

    def _seed(self) -> int:
        return self._current_seed() if self._resumed_seed is None else self._resumed_seed

    def permutation(self) -> Tensor:
        """Return the order of the rows in this epoch, int64 ``(num_rows,)``."""
        return torch.randperm(self.num_rows, generator=randomness.generator(self._seed(), Stream.SHUFFLE, self.epoch))

    def __iter__(self) -> Iterator[BatchRows]:
        """Yield the batches of this process, from the position of a loaded state on."""
        self._check_size()
        order, size, rank = self.permutation(), self.rows_per_batch, self.place[1]
        share = slice(rank * self.batch_size, (rank + 1) * self.batch_size)
        for batch in range(self._start, len(self)):
            flips = None
            if self.flips:
                generator = randomness.generator(self._seed(), Stream.FLIP, self.epoch, batch)
                flips = torch.randint(2, (size,), generator=generator, dtype=torch.bool)[share]
            self._done = batch + 1  # before the yield: a checkpoint of the step that uses the batch includes it
            yield BatchRows(order[batch * size :][share], flips)
        self._start = 0

    def from_start(self) -> ShuffledOrder:
        """Return an order of the same epoch with a position of its own, at the start."""
        order = copy.copy(self)
        order._start = order._done = 0
        return order

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; Lightning calls this at the start of each epoch."""
        if epoch != self.epoch:
            self._start = self._done = 0
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch: ``batches`` is the number of those that were yielded."""
        return {"epoch": self.epoch, "batches": self._done, "seed": self._seed(), **self._size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration of that epoch at that position."""
        self._resumed_size = {"rows": state["rows"], "per_batch": state.get("per_batch", self.rows_per_batch)}
        if "fetches" in state:  # 0.1: a fetch was all batches of one training step
            if state["per_fetch"] % self.rows_per_batch:
                self._resumed_size["per_batch"] = state["per_fetch"]
            state = {**state, "batches": state["fetches"] * state["per_fetch"] // self._resumed_size["per_batch"]}
        self.epoch, self._resumed_seed = state["epoch"], state["seed"]
        self._start = self._done = state["batches"]

    @property
    def _size(self) -> dict[str, int]:
        return {"rows": self.num_rows, "per_batch": self.rows_per_batch}

    def _check_size(self) -> None:
        """Raise :class:`SettingError` if a loaded position is of an order with another size."""
        then, now = self._resumed_size, self._size
        if self._start and then != now:
            message = (
                f"the checkpoint was saved within an epoch of {then['rows']} images, {then['per_batch']} in a batch of "
                f"all processes; now they are {now['rows']} and {now['per_batch']}.\nResume with the same data and the "
                "same batch_size x processes, or from a checkpoint saved at the end of an epoch."
            )
            raise SettingError(message, setting="batch_size", value=now, allowed=then)


class SequentialOrder(ShuffledOrder, SequentialSampler):
    """Batches of the rows in ascending order, for evaluation and ``overfit_batches``.

    Without ``drop_last``, all processes together see each row exactly once: each block of ``world_size x batch_size``
    rows is divided evenly among the processes, so the last batches may be smaller and a process may have one batch
    fewer.

    It is a ``SequentialSampler`` because Lightning warns about shuffling for every other type of sampler.

    Args:
        num_rows: Rows of the data set.
        batch_size: Rows per batch and process.
        drop_last: Leave out the last rows that do not fill a batch on every process, as in training.
        **options: As in :class:`ShuffledOrder`.
    """

    def __init__(self, num_rows: int, batch_size: int, *, drop_last: bool = False, **options: Any) -> None:
        super().__init__(num_rows, batch_size, **options)
        self.drop_last = drop_last

    def __len__(self) -> int:
        if self.drop_last:
            return super().__len__()
        full, rest = divmod(self.num_rows, self.rows_per_batch)
        return full + (self.place[1] < rest)

    def permutation(self) -> Tensor:
        """Return the row numbers in ascending order."""
        return torch.arange(self.num_rows)

    def __iter__(self) -> Iterator[BatchRows]:  # type: ignore[override]
        """Yield this process's share of each block of rows."""
        if self.drop_last:
            yield from super().__iter__()
            return
        processes, rank = self.place
        for rows in torch.split(torch.arange(self.num_rows), self.rows_per_batch):
            share = rows.tensor_split(processes)[rank]
            if len(share):
                yield BatchRows(share, None)
