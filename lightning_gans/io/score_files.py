"""Scores and their protocol as JSON files; this module needs neither torch nor Lightning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_gans.errors import DataError, is_number
from lightning_gans.io.files import expanded, reading, replacing

FORMAT = 1


def write_scores(path: str | Path, record: dict[str, Any]) -> None:
    """Write a record of ``scores`` and their ``protocol``; a killed process leaves no partial file."""
    with replacing(path) as file:
        file.write((json.dumps({"format": FORMAT, **record}, indent=2, allow_nan=False) + "\n").encode())


def parsed(content: bytes) -> Any:
    """Return what the content of a file of scores stands for, with today's spelling of the names of version 0.1."""
    return json.loads(content.decode().replace('"neighbour', '"neighbor'))


def read_scores(path: str | Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        DataError: The file is missing, or is not a record of scores.
    """
    try:
        with reading(expanded(path), "a record of scores"):
            content = Path(path).read_bytes()
        record = parsed(content)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not all(isinstance(record.get(key), dict) for key in ("scores", "protocol")):
        message = f"{path} does not contain scores with their protocol: give a metrics/step=….json of a run."
        raise DataError(message, setting=str(path))
    if record.get("format") != FORMAT:
        version = record.get("format")
        message = f"{path} has format {version}, but this version reads format {FORMAT}."
        raise DataError(message, setting=str(path), value=version, allowed=FORMAT)
    for name, value in record["scores"].items():
        if not is_number(value):
            raise DataError(f"{path} is damaged: {name} is {value!r} instead of a number.", setting=str(path))
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
    if not common:
        raise DataError(f"{first} and {second} have no score in common.", setting=str(second))
    scores = [record["scores"] for record in records]
    return {name: (scores[0][name], scores[1][name]) for name in scores[0] if name in scores[1]}
