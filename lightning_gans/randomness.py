"""Counter-based random numbers: each draw is a function of a key, independent of earlier draws.

A key is a tuple of integers such as ``(seed, stream, step)``. The same key gives the same numbers on any number of
processes, and before and after a resume.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


class Stream(IntEnum):
    """What a random number is for; the streams of a seed are independent of each other."""

    NOISE = 1
    SHUFFLE = 2
    FLIP = 3
    SPLIT = 4
    SAMPLE = 5
    LAYERS = 6
    POSTERIOR = 7
    LABELS = 8
    BINARIZE = 10
    AUGMENT = 11
    PENALTY = 12
    STACK = 13
    SEQUENCE = 14
    TASK = 15
    JITTER = 16
    PARTNER = 17
    POOL = 18
    CONSISTENCY = 19
    REPLACE = 20
    CROP = 21
    NOISE_ON_TARGET = 22
    NOISE_ON_SOURCE = 23
    COMPONENT = 30
    CODE = 31


def mix(*key: int) -> int:
    """Hash integers to a 32-bit seed (the rounds of MurmurHash3, Appleby 2011).

    torch's CPU generator uses only the low 32 bits of a seed. Every 32-bit word of an integer enters the hash, and so
    does its sign.

    Example:
        >>> mix(0, 1) == mix(0, 1), mix(0, 1) == mix(1, 0), mix(5) == mix(5 + 2**32)
        (True, False, False)
    """
    state = len(key)
    for value in key:
        value = int(value)
        if value < 0:  # -1 and 2³² - 1 have the same bits
            state, value = state ^ 0x9E3779B9, ~value
        while True:
            word = (value & _MASK) * 0xCC9E2D51 & _MASK
            word = ((word << 15 | word >> 17) * 0x1B873593) & _MASK
            state ^= word
            state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) & _MASK
            value >>= 32
            if value == 0:
                break
    state = (state ^ state >> 16) * 0x85EBCA6B & _MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & _MASK
    return state ^ state >> 16


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator seeded with :func:`mix` of the key."""
    return torch.Generator(device).manual_seed(mix(*key))


def randn(
    shape: tuple[int, ...], *key: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw standard normal numbers of a shape from the key."""
    return torch.randn(shape, generator=generator(*key, device=device), device=device, dtype=dtype)


def rand(shape: tuple[int, ...], *key: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw uniform numbers in [0, 1) of a shape from the key, float32."""
    return torch.rand(shape, generator=generator(*key, device=device), device=device)


def randn_rows(
    start: int,
    num: int,
    size: int,
    *key: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw rows ``start`` to ``start + num - 1`` of an infinite table of normal numbers, shape ``(num, size)``.

    Row k depends only on (key, k), not on ``start`` and ``num``. The rows are drawn on the CPU, each from its own seed,
    and moved to the device together.
    """
    source = torch.Generator()
    rows = torch.empty(num, size)
    for row in range(num):
        torch.randn(size, generator=source.manual_seed(mix(*key, start + row)), out=rows[row])
    return rows.to(device=device, dtype=dtype)


def rand_at(rows: Tensor, size: int, *key: int) -> Tensor:
    """Draw rows of an infinite table of uniform numbers in [0, 1), float32 ``(len(rows), size)``, on the CPU.

    Row k depends only on (key, k), as in :func:`randn_rows`.
    """
    source = torch.Generator()
    drawn = torch.empty(len(rows), size, dtype=torch.float32)
    for place, row in zip(drawn, rows.tolist(), strict=True):
        torch.rand(size, generator=source.manual_seed(mix(*key, row)), out=place)
    return drawn


def randn_for(items: Tensor, size: int, *key: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw a row of normal numbers for each item, shape ``(N, size)``, that depends only on the key and the item.

    Use it for numbers that belong to an image, independent of its batch and process. Equal items get equal rows.
    """
    source = torch.Generator()
    rows = torch.empty(len(items), size)
    for row, item in zip(rows, items.detach().cpu().float().flatten(1).numpy(), strict=True):
        torch.randn(size, generator=source.manual_seed(mix(*key, zlib.crc32(item.tobytes()))), out=row)
    return rows.to(device)


def stratified(labels: Tensor, num: int, *key: int) -> Tensor:
    """Choose ``num`` rows at random in the proportions of the classes; a smaller choice is a subset of a larger one.

    Args:
        labels: Classes of all rows, ``(N,)``.
        num: Number of rows to choose, at most N.
        key: Key of the choice.

    Returns:
        Ascending indices, ``(num,)``.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> labels[stratified(labels, 3, 0)]
        tensor([0, 0, 1])
    """
    order = torch.randperm(len(labels), generator=generator(*key))
    # The k-th of a class's n rows gets the position k / n, so that every prefix has the classes in proportion.
    _, classes, counts = torch.unique(labels[order], return_inverse=True, return_counts=True)
    grouped = classes.argsort(stable=True)
    places = torch.empty(len(order), dtype=torch.double)
    places[grouped] = torch.cat([(torch.arange(n, dtype=places.dtype) + 0.5) / n for n in counts.tolist()])
    return order[places.argsort(stable=True)[:num]].sort().values


@contextmanager
def default_generator_seeded(device: torch.device, *key: int) -> Iterator[None]:
    """Seed the device's default generator inside the block and restore its state afterwards.

    Use it for dropout and other operations that draw from the default generator. On the CPU and on CUDA this takes
    microseconds, because it seeds one generator; :func:`torch.manual_seed` seeds the generators of all devices.
    """
    if device.type == "cpu":
        default = torch.default_generator
    elif device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        default = torch.cuda.default_generators[index]
    else:
        with torch.random.fork_rng(device_type=device.type):
            torch.manual_seed(mix(*key))
            yield
        return
    state = default.get_state()
    default.manual_seed(mix(*key))
    try:
        yield
    finally:
        default.set_state(state)


def global_seed() -> int | None:
    """Return the seed that was given to ``seed_everything``, or None if it was not called."""
    value = os.environ.get("PL_GLOBAL_SEED")
    return None if value is None else int(value)
