"""``lightning-gans augment-trial``: train classifiers with and without a model's samples."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import Progress

from lightning_gans.cli.devices import find_device
from lightning_gans.cli.outputs import check_pictures, load_model, parse_integers
from lightning_gans.errors import SettingError, printable
from lightning_gans.io.files import check_suffix
from lightning_gans.metrics.augment_trial import ARMS, augment_trial, table
from lightning_gans.metrics.protocol import write_scores
from lightning_gans.scoring import open_labeled


def run(
    checkpoint: str,
    data: str,
    test: str | None = None,
    seeds: str = "0,1,2",
    updates: int = 1000,
    data_dir: str = "data",
    device: str = "auto",
    json: str | None = None,
    imports: Sequence[str] = (),
    **options: Any,
) -> None:
    """Print accuracies; the other options are those of :func:`~lightning_gans.metrics.augment_trial.augment_trial`."""
    path = None if json is None else check_suffix(json, (".json",), "--json")
    numbers = parse_integers("seeds", seeds)
    model = load_model(checkpoint, device, imports)
    check_pictures(model)
    shape = model.image_shape
    train = open_labeled("--data", data, "train", shape, data_dir=data_dir)
    held_out = open_labeled("--test", test or data, "test", shape, data_dir=data_dir)
    if held_out.name == train.name:
        message = f"{train.name} would be both training and test images: set --test to other images."
        raise SettingError(message, setting="--test", value=test)
    console = Console(stderr=True)
    with Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("Updates", total=updates * len(ARMS) * len(numbers))
        options |= {"seeds": numbers, "updates": updates, "device": find_device(device)}
        record = augment_trial(model, train, held_out, progress=partial(bar.advance, task), **options)
    print(printable(table(record)))
    if path is not None:
        write_scores(path, record)
        print(printable(f"results: {path}"))
