"""Scores with the protocol that they were measured under."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
import torchmetrics

from lightning_gans._version import __version__
from lightning_gans.io.score_files import compare, read_scores, write_scores

__all__ = ["compare", "made", "read_scores", "table", "write_scores"]


def made() -> dict[str, Any]:
    """Return the versions that a score may depend on, and the date."""
    libraries = {"torch": torch.__version__, "torchmetrics": torchmetrics.__version__, "numpy": np.__version__}
    return {
        "versions": {"lightning_gans": __version__, **libraries, "python": platform.python_version()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table(record: dict[str, Any]) -> str:
    """Format a record as text: the scores, the scores of real images for comparison, and the protocol."""
    floor = record.get("floor")
    columns = {"value": record["scores"]}
    if "standard_deviations" in record:
        columns[f"std of {record['num_repeats']} sets"] = record["standard_deviations"]
    if floor and "samples" in floor:
        columns[f"of {floor['num_images']:,} samples"] = floor["samples"]
    if floor:
        columns[f"of {floor['num_images']:,} real images"] = floor["scores"]
    rows = [["score", *columns]]
    for name in record["scores"]:
        rows.append([name, *(f"{column[name]:.4f}" if name in column else "" for column in columns.values())])
    lines = aligned(rows)
    protocol, seconds = record["protocol"], record.get("seconds")
    if "extractor" in protocol:
        if "fake" in record:
            fakes = f"{protocol['num_samples']:,} images ({record['fake']})"
        else:
            weights = {True: "EMA weights of ", False: "weights without EMA of ", None: ""}[protocol["ema"]]
            fakes = f"{protocol['num_samples']:,} samples ({weights}step {record['step']:,}, seed {record['seed']})"
        split = "" if protocol["split"] == "whole" else f", {protocol['split']} split"
        lines += [
            f"{fakes} against {protocol['num_real']:,} real images ({protocol['data']}{split})",
            f"extractor {protocol['extractor']}: {protocol['num_features']} features, {protocol['resize']}, "
            f"weights {protocol['weights_sha256'][:16]}",
            f"k = {protocol['precision_recall_k']} (precision, recall), {protocol['density_coverage_k']} (density, "
            f"coverage), on {protocol['neighbor_images_fake']:,} samples and {protocol['neighbor_images_real']:,} "
            "real images",
        ]
        if floor:
            lines.append(
                f"for comparison: {floor['num_images']:,} real images of the {floor['split']} split, scored as samples"
            )
    if "sources" in protocol:
        lines.append(f"the samples are translations of the {protocol['sources']} split's sources")
    if "pairs" in protocol:
        lines.append(
            f"means over {protocol['num_samples']:,} pairs of {record['fake']} and {protocol['data']}, matched by "
            f"{protocol['pairs']}"
        )
        lines += [f"no {name}: {reason}" for name, reason in record["left_out"].items()]
    if "likelihood" in protocol:
        lines.append(
            f"likelihoods in nats per image: {protocol['likelihood']}, binarization {protocol['binarization']}, "
            f"{protocol['likelihood_images']}"
            + (f", {protocol['iw_samples']} importance samples" if protocol["iw_samples"] else "")
        )
    if "mig_images" in protocol:
        lines.append(f"mig of the posterior means of the {protocol['mig_images']}")
    if seconds:
        lines.append("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines, the first column aligned to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths, strict=True)] for row in rows)
    ]
