"""``lightning-gans score``: score one set of images against another."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import Progress

from lightning_gans.cli.devices import find_device
from lightning_gans.errors import printable
from lightning_gans.io.files import check_suffix
from lightning_gans.metrics.protocol import table, write_scores
from lightning_gans.scoring import score


def run(
    fake: str, real: str, metrics: str | None = None, device: str = "auto", json: str | None = None, **options: Any
) -> None:
    """Print the scores; the other options are those of :func:`~lightning_gans.scoring.score`."""
    path = None if json is None else check_suffix(json, (".json",), "--json")
    names = None if metrics is None else [name.strip() for name in metrics.split(",")]
    console = Console(stderr=True)
    with Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("Images", total=None)
        options |= {"metrics": names, "device": find_device(device), "progress": partial(bar.advance, task)}
        record = score(fake, real, **options)
    print(printable(table(record)))
    if path is not None:
        write_scores(path, record)
        print(printable(f"scores: {path}"))
