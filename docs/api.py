"""Print the page of all public names, each with the first line of its docstring.

python docs/api.py > docs/api.md
"""

import importlib
import inspect
import re
from types import ModuleType

MODULES = (
    "lightning_gans",
    "lightning_gans.losses",
    "lightning_gans.penalties",
    "lightning_gans.augment",
    "lightning_gans.networks",
    "lightning_gans.metrics",
    "lightning_gans.io.pictures",
    "lightning_gans.randomness",
)


def public_names(module: ModuleType) -> list[str]:
    """Return what a module offers: its ``__all__``, else the classes and functions that it defines itself."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("__")]
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return [name for name in own if not name.startswith("_")]


def in_markdown(docstring: str) -> str:
    """Return the first line of a docstring as it stands in a table of Markdown."""
    first = docstring.splitlines()[0].replace("``", "`").replace(r"\|", r"\Vert ").replace("|", r"\vert ")
    first = re.sub(r":math:`([^`]*)`", r"$\1$", first)
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", first)


def page() -> str:
    """Return the page in Markdown."""
    lines = [
        "# Public names",
        "",
        "Made by `docs/api.py` from the docstrings, which `help(lightning_gans.GAN)` shows whole.",
    ]
    for name in MODULES:
        module = importlib.import_module(name)
        lines += [
            "",
            f"## `{name}`",
            "",
            in_markdown(inspect.getdoc(module) or ""),
            "",
            "| name | what |",
            "| --- | --- |",
        ]
        for public in sorted(public_names(module), key=str.lower):
            lines.append(f"| `{public}` | {in_markdown(inspect.getdoc(getattr(module, public)) or '')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
