"""``lightning-gans recipes``: the recipes that come with the package, by name."""

from __future__ import annotations

import re
from pathlib import Path

from lightning_gans.errors import SettingError, nearest

_PACKAGE = Path(__file__).resolve().parents[2]


def folder() -> Path:
    """Return the folder of the recipes: inside the installed package, or beside it in a source checkout."""
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def names() -> list[str]:
    """Return the names of all recipes and overlays."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def find(name: str) -> Path:
    """Return the file of a recipe, given as a path or as a bare name.

    Raises:
        SettingError: There is no such file and no such recipe.
    """
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


def run(name: str | None = None) -> None:
    """Print one recipe, or a table of all."""
    if name is not None:
        print(find(name).read_text(encoding="utf-8"), end="")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("recipe", "what it trains", "minutes", "memory", "score"):
        table.add_column(column, no_wrap=column == "recipe")
    for recipe in names():
        fields = header(folder() / f"{recipe}.yaml")
        # "measured:  1.2 min; 0.9 GB; the score and its protocol"
        measured = [part.strip() for part in fields.get("measured", "").split(";", 2)]
        minutes, memory, score = [*measured, "", "", ""][:3]
        title = fields.get("title", "")
        table.add_row(recipe, title, minutes.removesuffix(" min"), memory, score)
    Console().print(table)
    print("\nTrain one:  lightning-gans fit -c quickstart      Read one:  lightning-gans recipes quickstart")
