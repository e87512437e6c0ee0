"""``lightning-gans recipes``: the recipes that come with the package, by name."""

from __future__ import annotations

import math
import re
from json import dumps
from pathlib import Path
from typing import Any

from lightning_gans.cli.arguments import PROGRAM
from lightning_gans.errors import DataError, SettingError, invalid, nearest

_LINE = "{:24}  {:31}{:>7}  {}"
"""A row of the table, in 80 columns."""

_PACKAGE = Path(__file__).resolve().parents[2]


def folder() -> Path:
    """Return the folder of the recipes: inside the installed package, or next to it in a source checkout."""
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def names() -> list[str]:
    """Return the names of all recipes and overlays."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def find(name: str) -> Path:
    """Return the file of a recipe, given as a path or as a bare name; raise :class:`SettingError` for others."""
    path = Path(name)
    if path.is_file():
        return path
    packaged = folder() / f"{name}.yaml"
    if packaged.is_file():
        return packaged
    known = names()
    message = f"{name!r} is not a file or a recipe.{nearest(name, known)}\nRecipes: {', '.join(known)}."
    raise SettingError(message, setting="config", value=name, allowed=known)


def header(path: Path) -> dict[str, str]:
    """Read the comment at the top of a recipe: its ``title``, and the text after each ``key:``."""
    fields: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").rstrip()
        match = re.match(r"(overlay|run|override|measured):\s+(.*)", text)
        if match:
            fields[match[1]] = match[2]
        else:
            fields.setdefault("title", text)
    return fields


def describe(name: str) -> dict[str, Any]:
    """Return a row of the table; an overlay has no data, minutes, memory and score."""
    path = folder() / f"{name}.yaml"
    fields = header(path)
    what = fields["title"].removeprefix("Overlay: ").rstrip(".")
    row: dict[str, Any] = {"name": name, "what": what, "data": None, "minutes": None, "memory_gb": None, "score": None}
    if "measured" in fields:
        data, *_ = re.findall(r"^  class_path: (\w+)DataModule$", path.read_text(encoding="utf-8"), re.MULTILINE)
        # "measured:  1.2 min; 0.9 GB; the score, and how it was measured"
        minutes, memory, score = (part.strip() for part in fields["measured"].split(";", 2))
        row |= {"data": data, "score": score.partition(", ")[0]}
        row |= {"minutes": float(minutes.removesuffix(" min")), "memory_gb": float(memory.removesuffix(" GB"))}
    return row


def run(name: str | None = None, search: str | None = None, json: bool = False) -> None:
    """Print one recipe, or a table of all recipes by data set, the quickest first."""
    if name is not None:
        if search is not None or json:
            raise SettingError("NAME prints a whole recipe: remove --search and --json.", setting="NAME", value=name)
        try:
            print(find(name).read_text(encoding="utf-8"), end="")
        except UnicodeDecodeError as error:
            raise DataError(f"{name} is not a recipe: {error}.", setting=name) from None
        return
    rows = sorted(map(describe, names()), key=lambda row: row["minutes"] or math.inf)
    if search is not None:
        rows = [row for row in rows if search.lower() in f"{row['name']} {row['data']} {row['what']}".lower()]
        if not rows:
            raise invalid("--search", search, "part of a recipe's name, data or title")
    if json:
        print(dumps(rows, indent=2))
        return
    print(_LINE.format("recipe", "what it trains", "minutes", "score"))
    for data in dict.fromkeys(row["data"] for row in rows):
        print(f"\n{data or 'Overlays, added to a recipe'}")
        for row in rows:
            if row["data"] == data:
                minutes = "" if data is None else f"{row['minutes']:g}"
                print(_LINE.format(row["name"], row["what"], minutes, row["score"] or "").rstrip())
    print("\nMinutes on two CPU cores. Scores differ in kind: a recipe's file explains it.")
    print(f"\nTrain one:  {PROGRAM} fit -c quickstart\nRead one:   {PROGRAM} recipes quickstart")
