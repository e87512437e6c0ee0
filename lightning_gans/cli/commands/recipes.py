"""``lightning-gans recipes``: the recipes that come with the package, by name."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from lightning_gans.errors import SettingError, nearest

_PACKAGE = Path(__file__).resolve().parents[2]


def folder() -> Path:
    """Return the folder of the recipes: in the wheel, or beside the package in a source checkout."""
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def names() -> list[str]:
    """Return the names of all recipes and overlays."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def find(name: str) -> Path:
    """Return the file of a recipe, given as a path or as a bare name.

    Raises:
        SettingError: There is neither such a file nor such a recipe.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = folder() / f"{name}.yaml"
    if packaged.is_file():
        return packaged
    known = names()
    raise SettingError(f"{name!r} is neither a file nor a recipe.{nearest(name, known)}\nRecipes: {', '.join(known)}.")


def header(path: Path) -> dict[str, str]:
    """Read the comment at the head of a recipe: its ``title``, and what stands behind ``key:`` in it."""
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this recipe")


def run(args: argparse.Namespace) -> None:
    """Print one recipe, or the table of all."""
    if args.name is not None:
        print(find(args.name).read_text(encoding="utf-8"), end="")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("recipe", "what it trains", "minutes", "memory", "score"):
        table.add_column(column, no_wrap=column == "recipe")
    for name in names():
        fields = header(folder() / f"{name}.yaml")
        # "measured:  1.2 min; 0.9 GB; what was scored, and how"
        measured = [part.strip() for part in fields.get("measured", "").split(";", 2)]
        minutes, memory, score = [*measured, "", "", ""][:3]
        title = fields.get("title", "")
        table.add_row(name, title, minutes.removesuffix(" min"), memory, score)
    Console().print(table)
    print("\nTrain one:  lightning-gans fit -c quickstart      Read one:  lightning-gans recipes quickstart")
