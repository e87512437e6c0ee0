"""Counter-based random numbers: each is a function of what it is for, not of the process that draws it.

A key is a tuple of integers such as ``(seed, stream, step)``. The same key gives the same numbers on any
number of processes, before and after a resume, because nothing is carried from one draw to the next.
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
    """What a random number is for; streams of one seed never share a number."""

    NOISE = 1
    SHUFFLE = 2
    FLIP = 3
    SPLIT = 4
    SAMPLE = 5
    LAYERS = 6
    POSTERIOR = 7
    LABELS = 8
    INIT = 9
    BINARIZE = 10
    AUGMENT = 11
    PENALTY = 12
    STACK = 13
    SEQUENCE = 14


def mix(*key: int) -> int:
    """Hash integers into one 32-bit seed (MurmurHash3's rounds, Appleby 2011).

    torch's CPU generator reads only the low 32 bits of a seed, so the mixing has to end in 32 bits.
    Integers of any size count whole, in 32-bit words, and so does their sign.

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
    """Draw standard normal numbers of the given shape from the key."""
    return torch.randn(shape, generator=generator(*key, device=device), device=device, dtype=dtype)


def rand(shape: tuple[int, ...], *key: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw numbers uniform in [0, 1) of the given shape from the key, float32."""
    return torch.rand(shape, generator=generator(*key, device=device), device=device)


def randn_rows(
    start: int,
    num: int,
    size: int,
    *key: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw rows ``start … start + num`` of an endless table of normal numbers, shape ``(num, size)``.

    Row k depends on (key, k) alone, however many are drawn at once: the rows come from the CPU, one
    generator seeded anew for each, and are moved to the device together.
    """
    source = torch.Generator()
    rows = torch.empty(num, size)
    for row in range(num):
        torch.randn(size, generator=source.manual_seed(mix(*key, start + row)), out=rows[row])
    return rows.to(device=device, dtype=dtype)


def rand_at(rows: Tensor, size: int, *key: int) -> Tensor:
    """Draw the given rows of an endless table of numbers uniform in [0, 1), shape ``(len(rows), size)``, on the CPU.

    Row k depends on (key, k) alone, as in :func:`randn_rows`.
    """
    source = torch.Generator()
    drawn = torch.empty(len(rows), size)
    for place, row in zip(drawn, rows.tolist(), strict=True):
        torch.rand(size, generator=source.manual_seed(mix(*key, row)), out=place)
    return drawn


def randn_for(items: Tensor, size: int, *key: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw a row of normal numbers for each item, shape ``(N, size)``, that depends on (key, the item's bits) alone.

    For numbers that belong to an image whichever batch or process it comes in; equal items get equal rows.
    """
    source = torch.Generator()
    rows = torch.empty(len(items), size)
    for row, item in zip(rows, items.detach().cpu().float().flatten(1).numpy(), strict=True):
        torch.randn(size, generator=source.manual_seed(mix(*key, zlib.crc32(item.tobytes()))), out=row)
    return rows.to(device)


@contextmanager
def default_generator_seeded(device: torch.device, *key: int) -> Iterator[None]:
    """Seed the device's default generator inside the block and put its state back afterwards.

    For dropout and whatever else draws from the global stream. On the CPU and on CUDA this touches one
    generator, which costs microseconds; :func:`torch.manual_seed` visits every device.
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
    """Return the seed given to ``seed_everything``, or None where it was not called."""
    value = os.environ.get("PL_GLOBAL_SEED")
    return None if value is None else int(value)
