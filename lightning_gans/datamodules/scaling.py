"""The range of values that a data module maps to [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gans._lightning import rank_zero_warn
from lightning_gans.datamodules.base import ImageDataModule
from lightning_gans.datamodules.resident import Normalize
from lightning_gans.errors import DataError, SettingError, invalid
from lightning_gans.io.arrays import RANGES, Scale, from_stored, is_range

_BLOCK = 256  # images whose values are looked at together

Blocks = Callable[[], Iterable[Tensor]]
"""Returns the values of the training images in parts; it is called for each pass over them."""


class Scaling:
    """Finds the :class:`~lightning_gans.io.arrays.Scale` of a data set.

    Args:
        value_range: The lowest and the highest value; None finds them.
        percentiles: The percentiles of the training images' values that are taken as the lowest and highest value.
        setting: The name of the first setting.

    Raises:
        SettingError: A setting is invalid, or both are given.
    """

    def __init__(
        self,
        value_range: Sequence[float] | None = None,
        percentiles: Sequence[float] | None = None,
        setting: str = "value_range",
    ) -> None:
        if value_range is not None and not _ascends(value_range):
            raise invalid(setting, value_range, "two numbers, [lowest, highest], at most 1e38")
        if percentiles is not None and not (_ascends(percentiles) and percentiles[0] >= 0 and percentiles[1] <= 100):
            raise invalid("percentiles", percentiles, "two percentages, [lowest, highest], from 0 to 100")
        if value_range is not None and percentiles is not None:
            message = f"{setting} and percentiles are both given: the range is either known or computed."
            raise SettingError(message, setting="percentiles", value=percentiles, allowed=None)
        self.value_range = value_range
        self.percentiles = percentiles
        self.setting = setting

    @property
    def is_default(self) -> bool:
        """Whether the range depends on the type of the values, where that has a usual one."""
        return self.value_range is None and self.percentiles is None

    def find(self, dtype: str, blocks: Blocks, where: str) -> Scale:
        """Return the scale of values of a type.

        Args:
            dtype: NumPy's name of the type.
            blocks: The values of the training images.
            where: Where they are from, for messages.

        Raises:
            DataError: All values between the percentiles are equal.
            SettingError: All values are below or above the ``value_range``, or at its end.
        """
        low, high = self.value_range or RANGES.get(dtype, (0, 0))
        if self.percentiles is not None or low == high:
            low, high = order_statistics(blocks, self.percentiles or (0, 100))
            if self.is_default:
                rank_zero_warn(
                    f"{where}: the values of the training images, {dtype}, range from {low:.6g} to {high:.6g}, which "
                    "become -1 and 1; others are clipped. Set value_range or percentiles if the range is another."
                )
        if low >= high:
            raise DataError(f"{where}: all values are {low:.6g}, so they have no range.", setting=where, value=low)
        if self.value_range is not None and not _reaches_into(blocks(), low, high):
            raise invalid(
                self.setting, self.value_range, f"a range with values of the training images of {where} in it"
            )
        return Scale(float(low), float(high), dtype)


class ScaledImages(ImageDataModule):
    """Images with values of any type; a subclass sets ``_types`` before :meth:`load_images` returns.

    ``load_images`` returns what :func:`~lightning_gans.io.arrays.to_stored` makes of the values.

    Args:
        value_range: See :class:`Scaling`.
        percentiles: See there.
        **options: As in :class:`ImageDataModule`.
    """

    _types: tuple[str, ...] = ()
    """NumPy's names for the types of the sources, if there are any, and of the images."""

    def __init__(
        self, value_range: Sequence[float] | None = None, percentiles: Sequence[float] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._scalings = [Scaling(value_range, percentiles)]

    @cached_property
    def image_scale(self) -> Scale:
        """The values that -1 and 1 stand for in the images, and their type."""
        return self._find_scale(-1, self._channels)

    def _find_scale(self, side: int, channels: slice) -> Scale:
        """Return the scale of one of the ``_types``, whose values are in some of the stored channels."""
        source, rows = self._split("train")  # finds the types

        def blocks() -> Iterator[Tensor]:
            for block in torch.split(rows, _BLOCK):
                yield from_stored(source.stored(block)[:, channels])

        return self._scalings[side].find(self._types[side], blocks, type(self).__name__)

    @property
    def _normalize(self) -> Normalize | None:
        in_bytes = set(self._types) == {"uint8"} and all(scaling.is_default for scaling in self._scalings)
        return None if in_bytes else self._to_images

    def _to_images(self, stored: Tensor) -> Tensor:
        return self.image_scale.normalize(from_stored(stored))


def order_statistics(blocks: Blocks, percentages: Sequence[float]) -> list[float]:
    """Return percentiles of many values as float32: of n values in order, number p / 100 * (n - 1), rounded down.

    Two passes count the upper and the lower 16 bits of the values, so that they need not be in memory together.
    """
    upper = sum(np.bincount(_ordered(block) >> 16, minlength=2**16) for block in blocks())
    found = []
    for percentage in percentages:
        rank = int(percentage / 100 * (upper.sum() - 1))  # type: ignore[union-attr]
        top = int(np.searchsorted(np.cumsum(upper), rank, side="right"))
        bits = (_ordered(block) for block in blocks())
        lower = sum(np.bincount(keys[keys >> 16 == top] & 0xFFFF, minlength=2**16) for keys in bits)
        rank -= int(upper[:top].sum())  # type: ignore[index]
        key = np.uint32(top << 16 | int(np.searchsorted(np.cumsum(lower), rank, side="right")))
        found.append(float((key ^ 0x80000000 if key >> 31 else ~key).view(np.float32)))
    return found


def _ordered(values: Tensor) -> np.ndarray:
    """Return values as uint32 in the same order: the bits of a float32, those of negative ones inverted."""
    bits = values.float().contiguous().numpy().reshape(-1).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits ^ 0x80000000)


def _reaches_into(blocks: Iterable[Tensor], low: float, high: float) -> bool:
    """Return whether values are neither all clipped to the lowest, nor all to the highest; stop at the first block."""
    above = below = False
    for block in blocks:
        least, most = (float(bound) for bound in block.aminmax())
        above, below = above or most > low, below or least < high
        if above and below:
            return True
    return False


def _ascends(pair: Sequence[float]) -> bool:
    return isinstance(pair, Sequence) and len(pair) == 2 and is_range(*pair)
