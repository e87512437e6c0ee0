"""Which rows of a data set each process sees, in which order: a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_gans import randomness
from lightning_gans.errors import SettingError
from lightning_gans.randomness import Stream


class Fetch(NamedTuple):
    """What one process loads at once: row numbers, int64 ``(n,)``; which to mirror, bool ``(n,)``."""

    rows: Tensor
    flips: Tensor | None


def default_seed() -> int:
    """Return the seed of ``seed_everything``, or 0 where it was not called."""
    return randomness.global_seed() or 0


def _no_fetch() -> int:
    return 0


class ShardedBatchSampler(DistributedSampler[Tensor]):
    """Shuffled batches of row numbers, of which each process gets its own, and which can begin mid-epoch.

    A fetch takes ``world size x batch_size x parts`` rows of the epoch's permutation, laid out as
    ``(parts, world size, batch_size)``; process r gets ``[:, r]``. So n processes with batches of b see,
    part for part, the rows that one process with batches of n·b sees. The rows at the end of an epoch that
    fill no fetch are left out. The permutation depends on (seed, epoch), and the flips, drawn for the whole
    fetch at once, on (seed, epoch, fetch).

    It is a ``DistributedSampler`` so that Lightning leaves it alone and tells it the epoch, also as the
    ``sampler`` of a plain ``DataLoader`` with ``batch_size=None``.

    Args:
        num_rows: Rows of the data set.
        batch_size: Rows per process and part.
        parts: Batches that one training step uses.
        flips: Whether to draw which rows to mirror.
        seed: Returns the seed; asked when an epoch begins, because a resume restores the seed after the
            loader is made.
        in_flight: Returns how many fetches were handed out whose step has not ended; a checkpoint must
            count these as not seen.
        num_replicas: Number of processes; the process group's if None, asked when it is needed.
        rank: Number of this process; the process group's if None.

    Raises:
        SettingError: In ``len`` and ``iter``: the rows do not fill one fetch.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        parts: int = 1,
        flips: bool = False,
        seed: Callable[[], int] = default_seed,
        in_flight: Callable[[], int] = _no_fetch,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        # The parent's constructor is not called: it wants the process group, which may not exist yet.
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.parts = parts
        self.flips = flips
        self.epoch = 0
        self._seed = seed
        self._in_flight = in_flight
        self._place = None if num_replicas is None or rank is None else (num_replicas, rank)
        self._done = 0  # fetches of this epoch that were handed out
        self._start: dict[str, int] | None = None  # where a checkpoint was written
        self._loaded_seed: int | None = None
        self._seed_in_use: int | None = None

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """Number of processes that share the rows."""
        if self._place is not None:
            return self._place[0]
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Number of this process."""
        if self._place is not None:
            return self._place[1]
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    @property
    def rows_per_fetch(self) -> int:
        """Rows that all processes together load for one training step."""
        return self.num_replicas * self.batch_size * self.parts

    def __len__(self) -> int:
        fetches = self.num_rows // self.rows_per_fetch
        if fetches == 0:
            factors = [f"batch_size {self.batch_size}"]
            if self.num_replicas > 1:
                factors.append(f"{self.num_replicas} processes")
            if self.parts > 1:
                factors.append(f"{self.parts} batches a step")
            largest = self.num_rows // (self.num_replicas * self.parts)
            raise SettingError(
                f"One training step takes {self.rows_per_fetch} pictures ({' x '.join(factors)}), but the "
                f"training split has {self.num_rows}: "
                + (f"batch_size may be at most {largest}." if largest else "use fewer of these, or more pictures.")
            )
        return fetches

    def order(self, seed: int) -> Tensor:
        """Return the order of the rows in this epoch, int64 ``(num_rows,)``."""
        return torch.randperm(self.num_rows, generator=randomness.generator(seed, Stream.SHUFFLE, self.epoch))

    def fetches(self) -> Iterator[Fetch]:
        """Yield this process's fetches of the epoch, from the place that a loaded checkpoint names."""
        epoch, start = self.epoch, 0
        if self._start is not None and self._start["epoch"] == epoch:
            self._check_unchanged(self._start)
            start = self._start["fetches"]
        seed = self._seed_in_use = self._current_seed()
        order, shape = self.order(seed), (self.parts, self.num_replicas, self.batch_size)
        for fetch in range(start, len(self)):
            rows = order[fetch * self.rows_per_fetch :][: self.rows_per_fetch]
            flips = None
            if self.flips:
                generator = randomness.generator(seed, Stream.FLIP, epoch, fetch)
                flips = torch.randint(2, rows.shape, generator=generator, dtype=torch.bool)
                flips = flips.view(shape)[:, self.rank].reshape(-1)
            # Counted before the yield: whoever saves while the step runs has got this one.
            self._done = fetch + 1
            yield Fetch(rows.view(shape)[:, self.rank].reshape(-1), flips)
        self._start = None

    def __iter__(self) -> Iterator[Tensor]:
        for fetch in self.fetches():
            yield fetch.rows

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        if epoch != self.epoch:
            self._done = 0
            self._start = None
        self.epoch = epoch

    def _current_seed(self) -> int:
        return self._seed() if self._loaded_seed is None else self._loaded_seed

    def _check_unchanged(self, start: dict[str, int]) -> None:
        if start["fetches"] and (start["rows"], start["per_fetch"]) != (self.num_rows, self.rows_per_fetch):
            raise SettingError(
                f"The checkpoint was written within an epoch of {start['rows']} pictures, "
                f"{start['per_fetch']} a step; now they are {self.num_rows} and {self.rows_per_fetch}.\n"
                "Resume with the same data and the same batch_size x processes, or from an epoch's end."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch; at its end there is nothing left of it, until ``set_epoch`` begins another."""
        return {
            "epoch": self.epoch,
            "fetches": max(0, self._done - self._in_flight()),
            "rows": self.num_rows,
            "per_fetch": self.rows_per_fetch,
            "seed": self._current_seed() if self._seed_in_use is None else self._seed_in_use,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the epoch named in the state at the place named there; others at their beginning."""
        self._start = dict(state)
        self.epoch, self._done, self._loaded_seed = state["epoch"], state["fetches"], state["seed"]


class InOrderBatchSampler(ShardedBatchSampler, SequentialSampler):  # type: ignore[misc]
    """The rows in their own order: for evaluation, and for ``overfit_batches``.

    With ``drop_last=False`` every row is seen exactly once by all processes together and none is repeated:
    each run of ``world size x batch_size`` rows is divided evenly among the processes, so that at the end a
    batch may be short and a process may have one batch fewer than another.

    A ``SequentialSampler`` is what Lightning takes for "not shuffled".

    Args:
        num_rows: Rows of the data set.
        batch_size: Rows per process and part.
        drop_last: Leave out the rows that fill no fetch, as in training.
        **options: As in :class:`ShardedBatchSampler`.
    """

    def __init__(self, num_rows: int, batch_size: int, *, drop_last: bool = False, **options: Any) -> None:
        super().__init__(num_rows, batch_size, **options)
        self.drop_last = drop_last

    def __len__(self) -> int:
        if self.drop_last:
            return super().__len__()
        full, rest = divmod(self.num_rows, self.rows_per_fetch)
        return full + (self.rank < rest)

    def order(self, seed: int) -> Tensor:
        """Return the row numbers, ascending."""
        return torch.arange(self.num_rows)

    def fetches(self) -> Iterator[Fetch]:
        """Yield this process's share of each run of rows."""
        if self.drop_last:
            yield from super().fetches()
            return
        for rows in torch.split(torch.arange(self.num_rows), self.rows_per_fetch):
            share = rows.tensor_split(self.num_replicas)[self.rank]
            if len(share):
                yield Fetch(share, None)
