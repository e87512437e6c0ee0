"""Check the classes and functions that settings name, before anything is imported.

Parsing a configuration imports what it names and calls it, and a run's folder may come from somebody else.
"""

from __future__ import annotations

import pydoc
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_gans.cli.arguments import PROGRAM
from lightning_gans.cli.working_folder import is_importable
from lightning_gans.errors import DataError
from lightning_gans.training import allowed_classes

_LIGHTNING = ("callbacks", "loggers", "strategies", "profilers", "plugins", "accelerators")
_ALLOWED = (
    "lightning_gans",
    "torch.nn",
    "torch.optim",
    *(f"{package}.{part}" for package in ("pytorch_lightning", "lightning.pytorch") for part in _LIGHTNING),
)
"""Names that a configuration may use without ``--import``: nothing here loads a pickle or takes a function."""


def check_config(path: str | Path, settings: Any) -> None:
    """Raise :class:`DataError` if a file's settings name code that is neither allowed nor trusted by ``--import``.

    Every string that could be the dotted name of something importable is checked, whatever its key.
    """
    trusted = allowed_classes.trusted_modules()
    names = [n for n in dotted_names(settings) if not (allowed_classes.is_below(n, trusted) or _is_allowed(n))]
    if names:
        options = " ".join(f"--import {module}" for module in sorted({name.rpartition(".")[0] for name in names}))
        raise DataError(
            f"{path} names {', '.join(dict.fromkeys(names))}. {PROGRAM} imports only code that you trust: if you do, "
            f"add `{options}`.",
            setting=str(path),
            value=names[0],
        )


def imports_needed(settings: Mapping[str, Any]) -> list[str]:
    """Return the modules that settings name and that need ``--import``."""
    return sorted({name.rpartition(".")[0] for name in dotted_names(settings) if not _is_allowed(name)})


def _is_allowed(name: str) -> bool:
    """Return whether a name is a class of the allow-list, or not an object at all."""
    if not allowed_classes.is_below(name, _ALLOWED):
        return False
    # locate() also finds what a module has merely imported, such as lightning_gans.cli.main.os.system.
    found: Any = pydoc.locate(name)
    return found is None or (isinstance(found, type) and allowed_classes.is_below(found.__module__, _ALLOWED))


def dotted_names(value: Any) -> Iterator[str]:
    """Yield each string that begins with the name of a module that can be imported."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple, set)):
        for item in value:
            yield from dotted_names(item)
    elif isinstance(value, str) and re.fullmatch(r"\w+(\.\w+)+", value) and is_importable(value.partition(".")[0]):
        yield value
