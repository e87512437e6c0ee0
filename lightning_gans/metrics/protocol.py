"""Scores with the protocol that they were measured under, as JSON files."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchmetrics

from lightning_gans._version import __version__
from lightning_gans.errors import DataError
from lightning_gans.io.files import replacing

FORMAT = 1


def made() -> dict[str, Any]:
    """Return the versions that a score may depend on, and the date."""
    libraries = {"torch": torch.__version__, "torchmetrics": torchmetrics.__version__, "numpy": np.__version__}
    return {
        "versions": {"lightning_gans": __version__, **libraries, "python": platform.python_version()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_scores(path: str | Path, record: dict[str, Any]) -> None:
    """Write a record of ``scores`` and their ``protocol``; a killed process leaves no partial file."""
    with replacing(path) as file:
        file.write((json.dumps({"format": FORMAT, **record}, indent=2, allow_nan=False) + "\n").encode())


def read_scores(path: str | Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        DataError: The file is missing, or is not a record of scores.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", setting=str(path)) from None
    except ValueError:
        record = None
    if not isinstance(record, dict) or not all(isinstance(record.get(key), dict) for key in ("scores", "protocol")):
        message = f"{path} does not contain scores with their protocol: give a metrics/step=….json of a run."
        raise DataError(message, setting=str(path))
    if record.get("format") != FORMAT:
        version = record.get("format")
        message = f"{path} has format {version}, but this version reads format {FORMAT}."
        raise DataError(message, setting=str(path), value=version, allowed=FORMAT)
    return record


def compare(first: str | Path, second: str | Path) -> dict[str, tuple[float, float]]:
    """Return the scores that two files have in common, side by side.

    Raises:
        DataError: A file is not a record of scores, or the protocols differ.
    """
    records = [read_scores(path) for path in (first, second)]
    protocols = [record["protocol"] for record in records]
    common = set(records[0]["scores"]) & set(records[1]["scores"])
    # The settings of a custom metric matter only if both files have it.
    names = [
        name
        for name in sorted(set(protocols[0]) | set(protocols[1]))
        if not name.startswith("own.") or name.removeprefix("own.") in common
    ]
    absent = "(not given)"
    unlike = [
        f"{name}: {protocols[0].get(name, absent)} / {protocols[1].get(name, absent)}"
        for name in names
        if protocols[0].get(name, absent) != protocols[1].get(name, absent)
    ]
    if unlike:
        message = f"{first} and {second} have different protocols and are not comparable.\n{'; '.join(unlike)}"
        raise DataError(message, setting=str(second), value=unlike)
    scores = [record["scores"] for record in records]
    return {name: (scores[0][name], scores[1][name]) for name in scores[0] if name in scores[1]}


def table(record: dict[str, Any]) -> str:
    """Format a record as text: the scores, those of a perfect model, and the protocol."""
    floor = record.get("floor")
    deviations = record.get("standard_deviations", {})
    heads = ["score", record["stage"], *([f"std of {record['num_repeats']}"] if deviations else [])]
    if floor:
        heads.append(f"real {floor['split']} images")
    rows = [heads]
    for name, value in record["scores"].items():
        row = [name, f"{value:.4f}"]
        if deviations:
            row.append(f"{deviations[name]:.4f}" if name in deviations else "")
        if floor:
            row.append(f"{floor['scores'][name]:.4f}" if name in floor["scores"] else "")
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths, strict=True)] for row in rows)
    ]
    protocol, seconds = record["protocol"], record.get("seconds")
    if "extractor" in protocol:
        weights = "EMA weights" if protocol["ema"] else "weights without EMA"
        lines += [
            f"{protocol['num_samples']:,} samples ({weights} of step {record['step']:,}, seed {record['seed']}) "
            f"against {protocol['num_real']:,} real images ({protocol['data']}, {protocol['split']} split)",
            f"extractor {protocol['extractor']}: {protocol['num_features']} features, {protocol['resize']}, "
            f"weights {protocol['weights_sha256'][:16]}",
            f"k = {protocol['precision_recall_k']} (precision, recall), {protocol['density_coverage_k']} (density, "
            f"coverage), on {protocol['neighbour_images_fake']:,} samples and {protocol['neighbour_images_real']:,} "
            "real images",
        ]
        if floor:
            lines.append(
                f"for comparison: {floor['num_images']:,} real images of the {floor['split']} split, scored as samples"
            )
        if protocol["num_samples"] < protocol["num_features"]:
            lines.append(
                "fewer samples than features: the FID is biased upward, and comparable only at this number of samples"
            )
    if "likelihood" in protocol:
        lines.append(
            f"likelihoods in nats per image: {protocol['likelihood']}, binarization {protocol['binarization']}, "
            f"{protocol['likelihood_images']}"
            + (f", {protocol['iw_samples']} importance samples" if protocol["iw_samples"] else "")
        )
    if seconds:
        lines.append("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    return "\n".join(lines)
