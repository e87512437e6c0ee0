"""Custom modules in the working folder, which is not searched for anything else.

Libraries try to import optional modules, and a working folder that was downloaded could have files of these names.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from importlib.util import find_spec


def remove_working_folder() -> None:
    """Remove the first place of ``sys.path`` if it is the working folder, as with ``python -m lightning_gans``."""
    if sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]


def add_working_folder(names: Iterable[str]) -> None:
    """Append the working folder to ``sys.path`` if a dotted name that the user has given is of a module in it."""
    here = os.getcwd()
    if here not in sys.path and any(_is_here(name.partition(".")[0]) for name in names):
        sys.path.append(here)


def is_importable(root: str) -> bool:
    """Return whether there is a module of this name, installed or in the working folder."""
    return _is_installed(root) or _is_here(root)


def _is_installed(root: str) -> bool:
    return root in sys.modules or find_spec(root) is not None


def _is_here(root: str) -> bool:
    return root.isidentifier() and not _is_installed(root) and PathFinder.find_spec(root, [os.getcwd()]) is not None
