"""Scales, ticks and lines of the charts."""

import math
import re
from itertools import pairwise

import pytest

from lightning_gans.cli.report_page.chart import Axis, label, make_chart, shown


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 5, [0, 1, 2, 3, 4, 5]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0.13, 0.42, [0.2, 0.3, 0.4]),
        (0, 23_437, [0, 5000, 10_000, 15_000, 20_000]),
        (-93.9, -93.1, [-93.8, -93.6, -93.4, -93.2]),
        (1e-7, 3e-7, [1e-7, 1.5e-7, 2e-7, 2.5e-7, 3e-7]),
        (-1e299, 1e299, [-1e299, -5e298, 0, 5e298, 1e299]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert Axis(low, high, 0, 1).ticks() == pytest.approx(ticks, rel=1e-12, abs=1e-12 * abs(high))


@pytest.mark.parametrize("low", [-37.0, -0.002, 0.0, 1e-5, 123.0])
@pytest.mark.parametrize("size", [1e-3, 0.7, 1.0, 49.0, 1e6])
def test_ticks_are_on_the_axis_evenly_spaced_and_few(low, size):
    ticks = Axis(low, low + size, 0, 1).ticks()
    assert 2 <= len(ticks) <= 6 and low - 1e-9 <= ticks[0] and ticks[-1] <= low + size * (1 + 1e-9)
    gaps = [after - before for before, after in pairwise(ticks)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps))
    assert f"{gaps[0]:.5e}"[0] in "125" and ticks[0] - gaps[0] < low and ticks[-1] + gaps[0] > low + size


def test_a_linear_scale():
    axis = Axis(-1, 3, 180, 20)
    assert [axis.place(value) for value in (-1, 0, 1, 3)] == [180, 140, 100, 20]


def test_a_log_scale():
    axis = Axis(0.1, 1000, 0, 400, log=True)
    assert [axis.place(value) for value in (0.1, 1, 10, 1000)] == pytest.approx([0, 100, 200, 400])
    assert axis.ticks() == pytest.approx([0.1, 1, 10, 100, 1000])
    assert Axis(0.5, 3e9, 0, 1, log=True).ticks() == pytest.approx([1, 100, 10_000, 1e6, 1e8])


@pytest.mark.parametrize("values", [[0.0], [2.5], [-1e12, -1e12], [5e-324, 0.0], [1e300], [1.0, 1.00001]])
def test_equal_values_lie_in_the_middle(values):
    axis = Axis.around(values, 180, 20)
    assert [axis.place(value) for value in values] == pytest.approx([100] * len(values), abs=0.1)
    assert len({label(tick) for tick in axis.ticks()}) >= 2


@pytest.mark.parametrize(("values", "log"), [([1, 2, 4], False), ([1, 50, 400], True)])
def test_the_space_around_the_values_is_a_twentieth_of_their_range(values, log):
    axis = Axis.around(values, 0, 110, log)
    assert [axis.place(min(values)), axis.place(max(values))] == pytest.approx([5, 105])


def places(line):
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", line.path)]


def test_a_chart_has_each_point_in_its_place():
    points = [(0, 1.0), (50, 3.0), (100, 2.0)]
    chart = make_chart("both", {"one": points, "other": [(100, 1.0)]}, 200)
    one, other = chart.lines
    assert [x for x, _ in places(one)] == [40, 128, 216]  # of 40 to 392
    height = 172 / 1.1  # from the least to the greatest
    assert [y for _, y in places(one)] == pytest.approx([94 + height / 2, 94 - height / 2, 94], abs=0.06)
    assert places(other) == [(216, places(one)[0][1])]
    assert one.steps == ["0", "50", "100"] and one.values == ["1", "3", "2"] and chart.last_step == 100


def test_values_that_are_not_finite_are_gaps():
    nan = math.nan
    series = [(0, 1.0), (1, 2.0), (2, nan), (3, 1.0), (4, nan), (5, nan), (6, 2.0), (7, 1.0), (8, nan)]
    line = make_chart("", {"": series}, 8).lines[0]
    assert re.sub(r"[\d. ]+", "", line.path) == "MLMzML"  # a point alone is closed, which draws a dot
    assert line.steps == ["0", "1", "3", "6", "7"] and line.values == ["1", "2", "1", "2", "1"]
    assert len(places(line)) == 5


def test_only_what_falls_over_two_orders_of_magnitude_has_a_log_scale():
    def is_log(*lines, floor=None):
        return make_chart("", dict(enumerate([list(enumerate(line)) for line in lines])), 9, floor).y_axis.log

    assert is_log([300, 20, 2]) and is_log([150, 5], floor=0.7) and is_log([300, 1], [200, 1])
    assert not is_log([2, 20, 300]) and not is_log([300, 4]) and not is_log([300, 1], [1, 2])
    assert not is_log([300, 20, 0]) and not is_log([300, 2], floor=-0.1)


def test_a_long_series_is_drawn_as_means_and_ranges():
    values = [math.sin(step / 50) for step in range(20_000)]
    values[6_234], values[10_000], values[15_000:15_200] = 9.0, math.nan, [math.nan] * 200
    line = make_chart("", {"": list(enumerate(values))}, 20_000).lines[0]
    parts = [[value for value in values[start : start + 100] if value == value] for start in range(0, 20_000, 100)]
    parts = [part for part in parts if part]
    ends = [end for end in range(99, 20_000, 100) if end not in (15_099, 15_199)]
    assert line.rows == 100 and line.steps == [f"{end:,}" for end in ends] and line.path.count("M") == 2
    assert line.values == [f"{sum(part) / len(part):.4g}" for part in parts]
    axis = Axis.around([9.0, min(value for value in values if value == value)], 180, 8)
    band = [float(y) for _, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", line.band)]
    assert band[150 : 2 * 150] == pytest.approx([axis.place(max(part)) for part in parts[149::-1]], abs=0.051)
    assert band[:150] == pytest.approx([axis.place(min(part)) for part in parts[:150]], abs=0.051)
    assert [y for _, y in places(line)] == pytest.approx(
        [axis.place(sum(part) / len(part)) for part in parts], abs=0.051
    )


def test_up_to_two_hundred_rows_are_drawn_each():
    lines = [make_chart("", {"": [(step, 1.0) for step in range(num)]}, num).lines[0] for num in (200, 201)]
    assert [line.rows for line in lines] == [1, 2] and [len(places(line)) for line in lines] == [200, 101]


def test_numbers_are_short():
    numbers = [0, 0.000123456, -2.71828, 9999.4, 12345.6, -1.5e6, 1e20]
    assert [*map(shown, numbers)] == ["0", "0.0001235", "-2.718", "9999", "12,346", "-1,500,000", "1e+20"]
    ticks = [0, 0.1 + 0.2, -250, 1000, 1500, 2.5e6, -2e9, 1e13]
    assert [*map(label, ticks)] == ["0", "0.3", "-250", "1k", "1.5k", "2.5M", "-2G", "1e+13"]
