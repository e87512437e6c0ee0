"""Line charts as numbers: positions of lines and ticks in the picture, and the text for each point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

Points = Sequence[tuple[int, float]]

_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 392, 8, 180  # the pixels between the axes' ends, in a picture of 400 by 200
_MOST_POINTS = 200  # about one for two pixels


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels.

    Attributes:
        low: The value at ``start``.
        high: The value at ``end``.
        start: A pixel.
        end: Another pixel.
        log: Whether the scale is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, log: bool = False) -> Axis:
        """Return an axis with some space around the values."""
        low, high = min(values), max(values)
        if log:
            space = (high / low) ** 0.05
            return cls(low / space, high * space, start, end, log)
        size, space = max(abs(low), abs(high)), 0.05 * (high - low)
        if size < 1e-9 or space < 5e-6 * size:  # nearly constant: labels would be equal
            space = 0.1 * size if size > 1e-9 else 1.0
        return cls(low - space, high + space, start, end)

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values on the axis: multiples of 1, 2 or 5 times a power of ten; powers on a log scale."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            return [10.0**power for power in powers[:: math.ceil(len(powers) / 5) or 1]]
        least = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(least))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
        return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


@dataclass(frozen=True)
class Line:
    """A series in a chart.

    In a long series, a point stands for several consecutive rows.

    Attributes:
        name: The name of the series.
        path: The means of the rows, as an SVG path.
        band: The range from the lowest to the highest of the rows, as an SVG path.
        rows: The number of rows of a point.
        steps: The last step of each point, as text.
        values: The mean of each point, as text.
    """

    name: str
    path: str
    band: str
    rows: int
    steps: list[str]
    values: list[str]


@dataclass(frozen=True)
class Chart:
    """A chart of one or several lines, and a dashed line for the value of real images, if it is known."""

    title: str
    lines: list[Line]
    last_step: int
    floor: float | None
    x_axis: Axis
    y_axis: Axis


def make_chart(title: str, series: Mapping[str, Points], end: int, floor: float | None = None) -> Chart:
    """Lay out a chart.

    Args:
        title: The title.
        series: Pairs of step and value, sorted by step, by the name of the line. Each line has a finite value; values
            that are not finite leave gaps.
        end: Where the axis of steps ends.
        floor: The value of real images.
    """
    drawn = [[point for point in points if math.isfinite(point[1])] for points in series.values()]
    values = [value for points in drawn for _, value in points] + ([] if floor is None else [floor])
    falls = all(points[0][1] > points[-1][1] for points in drawn)
    # Distances fall over orders of magnitude, and their final values matter.
    log = falls and min(values) > 0 and max(values) > 100 * min(values)
    x_axis = Axis(0, max(end, 1), _LEFT, _RIGHT)
    y_axis = Axis.around(values, _BOTTOM, _TOP, log)
    lines = [_line(name, points, x_axis, y_axis) for name, points in series.items()]
    return Chart(title, lines, max(points[-1][0] for points in drawn), floor, x_axis, y_axis)


def shown(value: float) -> str:
    """Return a number as text, with four significant digits or all digits before the decimal point."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def _line(name: str, points: Points, x_axis: Axis, y_axis: Axis) -> Line:
    """Draw a series; ``z`` closes a point between two gaps, which the stroke's round ends make visible."""
    size = math.ceil(len(points) / _MOST_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    finite = [(part[-1][0], [value for _, value in part if math.isfinite(value)]) for part in parts]
    runs = [list(run) for drawn, run in groupby(finite, key=lambda part: bool(part[1])) if drawn]
    path = band = ""
    for run in runs:
        means, lows, highs = (
            [f"{x_axis.place(step):.1f} {y_axis.place(of(values)):.1f}" for step, values in run]
            for of in (_mean, min, max)
        )
        path += "M" + "L".join(means) + ("z" if len(run) == 1 else "")
        band += "M" + "L".join(lows + highs[::-1]) + "z"
    drawn = [part for run in runs for part in run]
    return Line(name, path, band, size, [f"{step:,}" for step, _ in drawn], [shown(_mean(part)) for _, part in drawn])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def label(tick: float) -> str:
    """Return a tick's label, short: 1500 is 1.5k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(tick) < 1000 * size:
            return f"{tick / size:.6g}{letter}"
    return f"{tick:.6g}"
