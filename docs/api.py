"""Print the page of all public names, each with the first line of its docstring: ``python docs/api.py > docs/api.md``."""

import importlib
import inspect
from types import ModuleType

MODULES = (
    "lightning_gans",
    "lightning_gans.losses",
    "lightning_gans.penalties",
    "lightning_gans.augment",
    "lightning_gans.networks",
    "lightning_gans.metrics",
    "lightning_gans.pictures",
    "lightning_gans.randomness",
)


def public_names(module: ModuleType) -> list[str]:
    """Return what a module offers: its ``__all__``, else the classes and functions that it defines itself."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("__")]
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return [name for name in own if not name.startswith("_")]


def page() -> str:
    """Return the page in Markdown."""
    lines = ["# Public names", "", "Made by `docs/api.py` from the docstrings, which say more: `help(lightning_gans.GAN)`."]
    for name in MODULES:
        module = importlib.import_module(name)
        lines += ["", f"## `{name}`", "", (inspect.getdoc(module) or "").splitlines()[0], "", "| name | what |", "| --- | --- |"]
        for public in sorted(public_names(module), key=str.lower):
            first = (inspect.getdoc(getattr(module, public)) or "").splitlines()[0]
            lines.append(f"| `{public}` | {first.replace('``', '`').replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
