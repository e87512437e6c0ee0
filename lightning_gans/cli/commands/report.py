"""``lightning-gans report``: a run as one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
import csv
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_gans.cli.run_folder import RunFolder, read_json, step_of
from lightning_gans.errors import DataError
from lightning_gans.io.files import check_writable, replacing

_MOST_PICTURES = 12
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1100px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; border-bottom: 1px solid #ddd; margin-top: 2em; }
table { border-collapse: collapse; } td, th { padding: 0.15em 0.8em 0.15em 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f6f6f6; padding: 0.8em; overflow-x: auto; font-size: 13px; }
.charts, .pictures { display: flex; flex-wrap: wrap; gap: 1em; }
figure { margin: 0; } figcaption { color: #666; font-size: 13px; } .pictures img { max-width: 520px; height: auto; }
"""


def run(run: str, output: str | None = None) -> None:
    """Write the page."""
    folder = RunFolder(run)
    folder.check_folder()
    if not folder.metrics.is_file():
        message = f"{run} has no {folder.metrics.name}: it is not the folder of a run, or nothing was logged yet."
        raise DataError(message, setting=run)
    path = check_writable(output or folder.report)
    page = make_page(folder)
    with replacing(path) as file:
        file.write(page.encode())
    print(path)


def make_page(run: RunFolder) -> str:
    """Return the page of a run."""
    series = read_series(run.metrics)
    evaluations = [found for found in map(read_json, run.all_scores()) if _mapping(found, "scores")]
    latest = evaluations[-1] if evaluations else {}
    name = "/".join(run.path.absolute().parts[-2:])
    config = f"<pre>{html.escape(_read_text(run.config))}</pre>" if run.config.is_file() else ""
    parts = [
        f"<h1>{html.escape(name)}</h1>",
        _table(_about(run, latest)),
        _section("Losses", _charts(series, "train/", {})),
        _section("Scores", _score_table(latest) + _charts(series, "val/", _floor(latest))),
        *(
            _section(title, _pictures(run.pictures(kind)))
            for kind, title in (
                ("samples", "Samples"),
                ("reconstructions", "Reconstructions"),
                ("neighbours", "Nearest training images"),
            )
        ),
        _section("Watchdog", _charts(series, "watchdog/", {})),
        _section("Protocol of the scores", _table(_flat(_mapping(latest, "protocol")))),
        _section("Configuration", config),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(name)}</title><link rel="icon" href="data:,">'
    head += f"<style>{_STYLE}</style>"
    body = "".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def read_series(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the columns of a run's metrics as pairs of step and finite value."""
    series: dict[str, list[tuple[int, float]]] = {}
    for row in csv.DictReader(io.StringIO(_read_text(path), newline="")):
        for name, text in row.items():
            if name in (None, "epoch", "step") or not text:
                continue
            try:
                step, value = int(row["step"]), float(text)
            except (KeyError, TypeError, ValueError):
                raise DataError(f"{path} is damaged: {name} is {text!r}.", setting=str(path)) from None
            if math.isfinite(value):
                series.setdefault(name, []).append((step, value))
    return series


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
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def _grouped(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _about(run: RunFolder, latest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how the run was made."""
    rows = [("model", str(latest.get("model", ""))), ("data", str(_mapping(latest, "protocol").get("data", "")))]
    fits = read_json(run.record).get("fits")
    for fit in fits if isinstance(fits, list) else []:
        if not isinstance(fit, dict):
            continue
        rows += [
            ("command", str(fit.get("command", ""))),
            ("generator updates", f"{_grouped(fit.get('from_step', 0))} to {_grouped(fit.get('step', 0))}"),
            ("images seen", _grouped(fit.get("images_seen", 0))),
            ("seconds", _grouped(fit.get("seconds", 0))),
            ("hardware", f"{fit.get('hardware', '')}, {fit.get('processes', 1)} process(es)"),
            ("commit, date", f"{fit.get('commit')}, {fit.get('date')}"),
        ]
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in _flat(_mapping(latest, "versions")))))
    return [(name, value) for name, value in rows if value]


def _floor(latest: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of real images instead of samples."""
    scores = _numbers(_mapping(_mapping(latest, "floor"), "scores"))
    return {f"val/{name}": value for name, value in scores.items()}


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in values.items()]


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows]
    return f"<table>{''.join(lines)}</table>" if lines else ""


def _score_table(latest: Mapping[str, Any]) -> str:
    """Return a table of the last scores and those of real images."""
    floor = _floor(latest)
    rows = []
    for name, value in _numbers(_mapping(latest, "scores")).items():
        real = floor.get(f"val/{name}")
        cells = [f"{value:.4g}", "" if real is None else f"{real:.4g}"]
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        rows.append(f"<tr><th>{html.escape(name)}</th>{numbers}</tr>")
    if not rows:
        return ""
    when = html.escape(f"{latest.get('stage')}, step {latest.get('step')}")
    head = f"<tr><th>{when}</th><th>samples</th><th>real</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _section(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>{content}" if content else ""


def _charts(series: Mapping[str, Sequence[tuple[int, float]]], prefix: str, floor: Mapping[str, float]) -> str:
    """Return a chart of each series of a group."""
    names = [name for name in sorted(series) if name.startswith(prefix) and "fid_class/" not in name]
    figures = [
        f'<figure><img alt="{html.escape(name)}" src="{_chart(name, series[name], floor.get(name))}"></figure>'
        for name in names
    ]
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def _chart(name: str, points: Sequence[tuple[int, float]], floor: float | None) -> str:
    """Draw one series, with the score of real images as a line; return a data URI."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4, 2.3), layout="constrained")
    axes = figure.subplots()
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color="#1f6fb4", linewidth=1.2, marker="o" if len(points) < 30 else None, markersize=3)
    if floor is not None:
        axes.axhline(floor, color="#c44", linewidth=1, linestyle="--", label="real images")
        axes.legend(fontsize=7, frameon=False)
    axes.set_title(name, fontsize=9, loc="left")
    axes.set_xlabel("generator updates", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _uri("svg+xml", buffer.getvalue())


def _pictures(paths: Sequence[Path]) -> str:
    """Return pictures; of many, an even selection with the first and the last."""
    if len(paths) > _MOST_PICTURES:
        places = [round(k * (len(paths) - 1) / (_MOST_PICTURES - 1)) for k in range(_MOST_PICTURES)]
        paths = [paths[place] for place in places]
    figures = [
        f'<figure><img alt="{path.stem}" src="{_uri("png", path.read_bytes())}">'
        f"<figcaption>step {step_of(path):,}</figcaption></figure>"
        for path in paths
    ]
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
