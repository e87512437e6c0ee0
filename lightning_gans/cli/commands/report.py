"""``lightning-gans report``: a run as one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_gans.cli.report_page import render
from lightning_gans.cli.report_page.chart import Chart, Points, make_chart
from lightning_gans.cli.run_folder import RunFolder, read_json, step_of
from lightning_gans.errors import DataError, printable
from lightning_gans.io.files import check_suffix, check_writable, replacing

_MOST_PICTURES = 12


def run(run: str, output: str | None = None) -> None:
    """Write the page."""
    folder = RunFolder(run)
    folder.check_folder()
    if not folder.holds(folder.metrics):
        message = f"{run} has no {folder.metrics.name}: it is not the folder of a run, or nothing was logged yet."
        raise DataError(message, setting=run)
    path = check_writable(folder.report) if output is None else check_suffix(output, (".html", ".htm"))
    page = make_page(folder)
    with replacing(path) as file:
        file.write(page.encode(errors="replace"))
    print(printable(f"{path}"))


def make_page(run: RunFolder) -> str:
    """Return the page of a run."""
    evaluations = [found for found in map(read_json, run.all_scores()) if _mapping(found, "scores")]
    latest = evaluations[-1] if evaluations else {}
    fits = read_json(run.record).get("fits") if run.holds(run.record) else None
    fits = [fit for fit in fits if isinstance(fit, dict)] if isinstance(fits, list) else []
    return render(
        title="/".join(run.path.absolute().parts[-2:]),
        about=_about(latest, fits),
        pictures={kind: _pictures(run.pictures(kind)) for kind in ("samples", "reconstructions", "neighbors")},
        explorations=[
            {"name": path.name, "kind": path.suffix[1:], "content": _content(path)} for path in run.explorations()
        ],
        drawn=_charts(read_series(run.metrics), latest),
        scored=f"{latest.get('stage')}, step {_grouped(latest.get('step'))}",
        tables=_tables(latest),
        fits=[{name.replace("_", " "): _grouped(value) for name, value in fit.items()} for fit in fits],
        versions=_mapping(latest, "versions"),
        protocol=_mapping(latest, "protocol"),
        config=_read_text(run.config) if run.holds(run.config) else "",
    )


def read_series(path: Path) -> dict[str, Points]:
    """Return the columns of a run's metrics as pairs of step and value, NaN for those that are not finite."""
    series: dict[str, list[tuple[int, float]]] = {}
    try:
        for row in csv.DictReader(io.StringIO(_read_text(path), newline="")):
            for name, text in row.items():
                if name not in (None, "epoch", "step") and text:
                    step, value = int(row["step"]), float(text)
                    if not 0 <= step < 2**63:
                        raise ValueError("a step is out of range")
                    series.setdefault(name, []).append((step, value if abs(value) < 1e300 else math.nan))
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}.", setting=str(path)) from None
    return {name: sorted(points, key=lambda point: point[0]) for name, points in series.items()}


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", setting=str(path)) from None


def _mapping(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a part of a file that may have been edited by hand; an empty dict unless it is a mapping."""
    part = found.get(name)
    return part if isinstance(part, dict) else {}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, (int, float)) and abs(value) < 1e300}


def _grouped(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value or "")


def _about(latest: Mapping[str, Any], fits: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the run in a few facts."""
    last = fits[-1] if fits else {}
    seconds = sum(_numbers({"": fit.get("seconds")}).get("", 0) for fit in fits)
    facts = {
        "model": latest.get("model"),
        "data": _mapping(latest, "protocol").get("data"),
        "updates": last.get("step"),
        "images seen": last.get("images_seen"),
        "time": f"{seconds / 60:,.1f} min" if seconds else "",
        "hardware": last.get("hardware"),
    }
    return {name: _grouped(value) for name, value in facts.items() if value}


def _tables(latest: Mapping[str, Any]) -> dict[str, tuple[list[str], dict[str, dict[str, float]]]]:
    """Return a table of the scores, and of each metric with a score for each class: its rows and its columns.

    The columns are the scores, the scores of as many samples as there are real images to compare with, and the scores
    of these real images.
    """
    floor = _mapping(latest, "floor")
    num_samples, num_real = _grouped(_mapping(latest, "protocol").get("num_samples")), _grouped(floor.get("num_images"))
    scores = _numbers(_mapping(latest, "scores"))
    columns = {
        f"{num_samples} samples" if num_samples else "value": scores,
        f"std of {_grouped(latest.get('num_repeats'))} sets": _numbers(_mapping(latest, "standard_deviations")),
        f"first {num_real} samples": _numbers(_mapping(floor, "samples")),
        f"{num_real} real images": _numbers(_mapping(floor, "scores")),
    }
    rows: dict[str, list[str]] = {}
    for name in scores:
        rows.setdefault(name.rpartition("/")[0], []).append(name)
    return {
        metric: (names, {head: column for head, column in columns.items() if column.keys() & set(names)})
        for metric, names in rows.items()
    }


def _charts(series: Mapping[str, Points], latest: Mapping[str, Any]) -> dict[str, list[Chart]]:
    """Return the charts of each section; the players share one, and so do a likelihood's training and validation."""
    scores, floor = _numbers(_mapping(latest, "scores")), _mapping(latest, "floor")
    real = {} if "samples" in floor else _numbers(_mapping(floor, "scores"))  # these are of fewer images
    sections = {"val": "scores", "test": "scores", "watchdog": "watchdog"}
    found: dict[str, dict[str, dict[str, Points]]] = {
        "training": {"Losses": {}, "Logits": {}},
        "scores": {name: {} for name in scores},
        "watchdog": {},
    }
    for name, points in sorted(series.items()):
        prefix, _, key = name.partition("/")
        section = "training" if f"train/{key}" in series else sections.get(prefix, "training")
        num = sum(math.isfinite(value) for _, value in points)
        if num == 0 or (section == "scores" and key in scores and (num == 1 or "/" in key)):
            continue  # the table already shows all there is to draw
        title = "Losses" if key.endswith("loss") else "Logits" if key in ("d_real", "d_fake") else key or name
        found[section].setdefault(title, {})[name] = points
    end = max((points[-1][0] for points in series.values()), default=0)
    return {
        section: [
            make_chart(title, lines, end, real.get(title) if section == "scores" else None)
            for title, lines in charts.items()
            if lines
        ]
        for section, charts in found.items()
    }


def _pictures(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Return the pictures, or an even selection of many, with the first and the last."""
    if len(paths) > _MOST_PICTURES:
        places = [round(k * (len(paths) - 1) / (_MOST_PICTURES - 1)) for k in range(_MOST_PICTURES)]
        paths = [paths[place] for place in places]
    return [{"step": f"{step_of(path):,}", "content": _content(path)} for path in paths]


def _content(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
