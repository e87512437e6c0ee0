"""What the numbers of a label vector stand for: attributes with names and values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_gans import randomness
from lightning_gans.errors import DataError, SettingError, invalid, is_number, nearest
from lightning_gans.randomness import Stream

NUM_ROWS = 1000
"""Largest number of training images whose labels are kept, for samples without labels."""

_ROWS_OF_GRID = 10


@dataclass(frozen=True)
class Attributes:
    """The attributes of a data set whose labels are vectors, float32 ``(N, K)``.

    In a label, the lowest value of an attribute among the training images is 0, and its highest value is 1; an
    attribute that an image has or does not have is 1 or 0.

    Args:
        names: Names of the K attributes.
        lows: Their lowest values.
        highs: Their highest values.
        rows: Labels of training images, at most 1,000, as tuples of K numbers.

    Example:
        >>> attributes = Attributes.of(["smiling", "angle"], torch.tensor([[0.0, -45.0], [1.0, 15.0], [1.0, 45.0]]))
        >>> attributes.normalize(torch.tensor([[1.0, 0.0]]))
        tensor([[1.0000, 0.5000]])
    """

    names: tuple[str, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, names: Sequence[str], values: Tensor) -> Attributes:
        """Return the attributes of training images with these values, float32 ``(N, K)``, without rows.

        Raises:
            DataError: All images have the same value of an attribute, other than 0 or 1.
        """
        binary = ((values == 0) | (values == 1)).all(0)
        lows, highs = torch.where(binary, 0.0, values.amin(0)), torch.where(binary, 1.0, values.amax(0))
        for name, low, high in zip(names, lows.tolist(), highs.tolist(), strict=True):
            if low == high:
                message = f"all training images have the value {low:g} of {name!r}: leave this attribute out."
                raise DataError(message, setting=name, value=low)
        return cls(tuple(names), tuple(lows.tolist()), tuple(highs.tolist()))

    @classmethod
    def stored(cls, about: Any) -> Attributes | None:
        """Return the attributes of a checkpoint's entry, or None for a model without them.

        Raises:
            DataError: The entry is invalid.
        """
        if about is None:
            return None
        try:
            names, lows, highs, rows = (tuple(about[name]) for name in ("names", "lows", "highs", "rows"))
            rows = tuple(map(tuple, rows))
            sizes = {len(names), len(lows), len(highs), *map(len, rows)}
            numbers = [*lows, *highs, *(value for row in rows for value in row)]
            ascend = all(map(is_number, numbers)) and all(low < high for low, high in zip(lows, highs, strict=True))
            if len(sizes) == 1 and rows and ascend and all(isinstance(n, str) for n in names):
                return cls(names, lows, highs, rows)
        except (TypeError, KeyError, ValueError):
            pass
        raise DataError("the checkpoint is damaged: its entry for the attributes is invalid.", setting="attributes")

    def with_rows(self, labels: Tensor) -> Attributes:
        """Return the attributes with the labels of training images as rows; of more than 1,000, random ones."""
        order = torch.randperm(len(labels), generator=randomness.generator(0, Stream.LABELS, len(labels)))
        rows = labels[order[:NUM_ROWS]].tolist()
        return Attributes(self.names, self.lows, self.highs, tuple(map(tuple, rows)))

    def normalize(self, values: Tensor) -> Tensor:
        """Map values ``(N, K)`` to labels, float32; those outside of the range become less than 0 or more than 1."""
        low, width = self._ranges()
        return ((values.double() - low) / width).float()

    def restore(self, labels: Tensor) -> Tensor:
        """Map labels ``(N, K)`` to values, float32; the inverse of :meth:`normalize`."""
        low, width = self._ranges()
        return (labels.double() * width + low).float()

    def _ranges(self) -> tuple[Tensor, Tensor]:
        """Return the lowest values, and the differences of the highest from them, float64 ``(K,)`` each."""
        low, high = (torch.tensor(bounds, dtype=torch.float64) for bounds in (self.lows, self.highs))
        return low, high - low

    def in_turn(self, num: int, start: int = 0) -> Tensor:
        """Return the rows in turn, float32 ``(num, K)``, from number ``start``."""
        return self._rows[torch.arange(start, start + num) % len(self.rows)]

    @cached_property
    def _rows(self) -> Tensor:
        return torch.tensor(self.rows, dtype=torch.float32)

    def conditions(self, texts: Sequence[str], num: int, setting: str = "--condition") -> Tensor:
        """Return the labels of ``num`` samples for conditions such as ``smiling=1,angle=30``, ``(num, K)``.

        Args:
            texts: The conditions, which samples get in turn; at least one. Attributes that a condition does not name
                have the values of the training images in turn.
            num: Number of samples.
            setting: Name of the setting, for errors.

        Raises:
            SettingError: A condition is not of this form, or names an unknown attribute.
        """
        labels = self.in_turn(num)
        for start, text in enumerate(texts):
            for name, value in self._parsed(text, setting):
                place = self.names.index(name)
                low, high = self.lows[place], self.highs[place]
                labels[start :: len(texts), place] = (value - low) / (high - low)
        return labels

    def _parsed(self, text: str, setting: str) -> Iterable[tuple[str, float]]:
        """Yield the names and the values of a condition; raise :class:`SettingError` as :meth:`conditions` does."""
        named: set[str] = set()
        for part in text.split(","):
            name, equals, number = (piece.strip() for piece in part.rpartition("="))
            if name in named:
                raise invalid(setting, text, f"one value of {name}")
            named.add(name)
            if not equals:
                raise invalid(setting, text, f"NAME=VALUE, or several with commas, as in {self.names[0]}=1")
            if name not in self.names:
                names = ", ".join(self.names)
                message = f"{setting} is {text!r}: the model has the attributes {names}.{nearest(name, self.names)}"
                raise SettingError(message, setting=setting, value=name, allowed=self.names)
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise invalid(setting, text, f"a finite number after {name}=")
            yield name, value

    def examples(self, num: int) -> dict[str, Tensor]:
        """Return rows of labels for a grid, ``(num, K)`` each, by a name such as ``angle=30``.

        A single attribute has 10 values, evenly spaced from lowest to highest, and more attributes have 2 to 5. The
        other attributes are those of the training images in turn.
        """
        names = self.names[:_ROWS_OF_GRID]
        found = {}
        for place, name in enumerate(names):
            low, high = self.lows[place], self.highs[place]
            decimals = max(0, 3 - math.floor(math.log10(high - low)))  # as 2000.4, not 2e+03, if the highest is 2020
            for share in torch.linspace(0, 1, max(2, _ROWS_OF_GRID // len(names))).tolist():
                labels = self.in_turn(num)
                labels[:, place] = share
                found[f"{name}={round(low + share * (high - low), decimals):.15g}"] = labels
        return found
