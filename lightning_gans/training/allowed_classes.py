"""The classes that a checkpoint or the configuration of a run may name.

Networks are built from an allow-list only: the layers of ``torch.nn``, ``lightning_gans.networks``, and modules that
the user has named with :func:`trust` (``--import`` on the command line).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from lightning_gans.errors import DataError, import_named

_OURS = ("lightning_gans", "torch.nn")
_NETWORKS = ("torch.nn.modules", "lightning_gans.networks")
_trusted: set[str] = set()


def trust(*modules: str) -> None:
    """Import modules and allow checkpoints to name the networks that are defined in them.

    A network's constructor runs with arguments from the checkpoint, so name only modules whose classes are safe
    to build from a file that somebody else may have written.

    Raises:
        SettingError: A module cannot be imported.
    """
    for module in modules:
        import_named(f"--import is {module!r}", module)
        _trusted.add(module)


def trusted_modules() -> frozenset[str]:
    """Return the modules that were named with :func:`trust`."""
    return frozenset(_trusted)


def is_below(name: str, modules: Iterable[str]) -> bool:
    """Return whether a dotted name is one of the modules, or lies below one.

    Example:
        >>> is_below("torch.nn.Linear", ["torch.nn"]), is_below("torch.nnx.Linear", ["torch.nn"])
        (True, False)
    """
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def find_class(name: str) -> type:
    """Return a class by its full name, importing only this package and ``torch.nn``.

    Raises:
        DataError: The class belongs to another package that is not imported, or does not exist.
    """
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        if module_name not in sys.modules:
            if "__main__" in parts or not any(name.startswith(f"{ours}.") for ours in _OURS):
                continue
            try:
                importlib.import_module(module_name)
            except ImportError:
                continue
        found: Any = sys.modules[module_name]
        for part in parts[cut:]:
            found = getattr(found, part, None)
        if isinstance(found, type):
            return found
    if any(name.startswith(f"{ours}.") for ours in _OURS):
        raise DataError(f"{name} does not exist in this version.")
    raise DataError(f"{name} is your own class: add `--import {parts[0]}` (in Python, import it first).")


def find_network(name: Any) -> type[nn.Module]:
    """Return the class of a network that a checkpoint names.

    Raises:
        DataError: It does not exist, is not an ``nn.Module``, or is not on the allow-list.
    """
    cls = find_class(str(name))
    if not issubclass(cls, nn.Module):
        raise DataError(f"{name} is not an nn.Module: a checkpoint may not name any other class.")
    if not is_below(cls.__module__, (*_NETWORKS, *_trusted)):
        raise DataError(
            f"{name} is not a layer of torch.nn or lightning_gans.networks, so it is not built from a checkpoint: add "
            f"`--import {cls.__module__}` if you trust both (in Python, imports=[{cls.__module__!r}])."
        )
    return cls


def check_classes(value: Any) -> None:
    """Raise :class:`DataError` if an argument names a class that is not a network on the allow-list."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            cls = find_network(value["class_path"])
            if not isinstance(value.get("init_args") or {}, Mapping):
                raise DataError(f"the checkpoint is damaged: the arguments of its {cls.__name__} are not a mapping.")
        for item in value.values():
            check_classes(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_classes(item)


def instantiate(value: Any) -> Any:
    """Build a network that is stored as ``{class_path, init_args}``, and whatever is nested in it."""
    if isinstance(value, Mapping) and "class_path" in value:
        return find_network(value["class_path"])(
            **{name: instantiate(item) for name, item in (value.get("init_args") or {}).items()}
        )
    if isinstance(value, list):
        return [instantiate(item) for item in value]
    return value
