"""Files with the values of attributes for each image of a folder."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_gans.errors import DataError, SettingError, is_number, nearest
from lightning_gans.io.files import reading

FILE = "file"
"""The column of a CSV file with the paths of the images."""


@dataclass(frozen=True)
class Labels:
    """The values of attributes for each image of a folder.

    Attributes:
        path: The file that they are from.
        names: Names of the attributes.
        values: One number for each attribute, by the path of the image within the folder.
    """

    path: Path
    names: tuple[str, ...]
    values: Mapping[str, list[float]]

    def __str__(self) -> str:
        return f"Attributes: {', '.join(self.names[:10])}{', …' * (len(self.names) > 10)}."

    def of(self, image: str) -> list[float]:
        """Return the numbers of an image; raise :class:`DataError` if the file does not have it."""
        if image not in self.values:
            message = f"{self.path} has no entry for {image!r}.{nearest(image, self.values)}"
            raise DataError(f"{message} Paths are relative to data_dir, with /.", setting=str(self.path), value=image)
        return self.values[image]


def read_labels(path: Path, columns: Sequence[str] | None = None) -> Labels:
    """Read the attributes of images: whole numbers 0 and 1, or any other numbers.

    The file is one of:

    - CSV, with a header: a column ``file`` with the paths, and one column for each attribute;
    - JSON, ``{path: {attribute: number, …}, …}`` or ``{path: [number, …], …}``, whose attributes are called 0, 1, …;
    - the ``dataset.json`` of StyleGAN, ``{"labels": [[path, [number, …]], …]}``.

    Args:
        path: A file that ends in ``.csv`` or ``.json``. Paths in it are relative to the folder, with ``/``.
        columns: The attributes to return, in this order; None is all.

    Raises:
        DataError: The file is missing or not of this form, or a value is not a finite number.
        SettingError: A column is unknown.
    """
    readers = {".csv": _of_csv, ".json": _of_json}
    if path.suffix not in readers:
        message = f"{path} must end in {' or '.join(readers)}."
        raise DataError(message, setting=str(path), allowed=tuple(readers))
    if not path.is_file():
        raise DataError(f"{path} does not exist: labels is a CSV or JSON file in data_dir.", setting=str(path))
    names: tuple[str, ...] | None = None
    values: dict[str, list[float]] = {}
    for place, image, found in readers[path.suffix](path):
        if names is None:
            names = tuple(found)
        if not names or found.keys() != set(names):
            attributes = ", ".join(names) or "at least one attribute"
            message = f"{place}: {image!r} has the attributes {', '.join(found) or '(none)'}, but should have"
            raise DataError(f"{message} {attributes}.", setting=str(path), value=tuple(found), allowed=names)
        if image in values:
            raise DataError(f"{place}: {image!r} has an entry already.", setting=str(path), value=image)
        values[image] = [_number(found[name], f"{place}, {name}", path) for name in names]
    if names is None:
        raise DataError(f"{path} has no entries.", setting=str(path))
    chosen = tuple(names if columns is None else columns)
    for name in chosen:
        if name not in names:
            message = f"label_columns has {name!r}, but {path} has {', '.join(names)}.{nearest(name, names)}"
            raise SettingError(message, setting="label_columns", value=name, allowed=names)
    if columns is not None:
        places = [names.index(name) for name in chosen]
        values = {image: [numbers[place] for place in places] for image, numbers in values.items()}
    return Labels(path, chosen, values)


_Entries = Iterator[tuple[str, str, dict[str, Any]]]


def _of_csv(path: Path) -> _Entries:
    """Yield where an entry is, the path of its image, and the values of its attributes, by their names."""
    with reading(path, "a CSV file"), open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        if header.count(FILE) != 1 or len(set(header)) < len(header):
            message = f"{path}, line 1: the header is {','.join(header)!r}, but should name each column, one of them"
            raise DataError(f"{message} {FILE!r}.", setting=str(path), value=header)
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            if row and len(row) != len(header):
                message = f"{place} has {len(row)} values, but the header has {len(header)} columns."
                raise DataError(message, setting=str(path), value=len(row), allowed=len(header))
            if row:
                found: dict[str, Any] = dict(zip(header, map(str.strip, row), strict=True))
                yield place, found.pop(FILE), found


def _of_json(path: Path) -> _Entries:
    with reading(path, "a JSON file"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and isinstance(content.get("labels"), list):  # StyleGAN's
        content = content["labels"]
    elif isinstance(content, dict):
        content = list(content.items())
    for number, entry in enumerate(content if isinstance(content, list) else [content]):
        place = f"{path}, entry {number}"
        image, found = entry if isinstance(entry, list | tuple) and len(entry) == 2 else (None, None)
        if isinstance(found, list):
            found = {str(index): value for index, value in enumerate(found)}
        if not isinstance(image, str) or not isinstance(found, dict):
            allowed = "a path with a list of numbers, or with numbers by attribute"
            raise DataError(f"{place} is {str(entry)[:80]}: it must be {allowed}.", setting=str(path), allowed=allowed)
        yield place, image, found


def _number(value: Any, place: str, path: Path) -> float:
    """Return a number, which a CSV file has as text."""
    try:
        number = float(value) if isinstance(value, str) or is_number(value) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        message = f"{place}: {str(value)[:40]!r} is not a finite number."
        raise DataError(message, setting=str(path), value=value, allowed="finite numbers")
    return number
