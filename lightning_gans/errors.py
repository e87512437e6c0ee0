"""The errors that a user can cause, each with the exit code the command line gives it."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from types import ModuleType
from typing import Any


class LightningGansError(Exception):
    """Something the user can mend; the command line prints its message and nothing else."""

    exit_code = 1


class SettingError(LightningGansError, ValueError):
    """A setting is wrong: the message names the setting, its value and what is allowed."""

    exit_code = 2


class DataError(LightningGansError, RuntimeError):
    """A file, a folder or its content is wrong: the message names the path and the remedy."""


class UnwritableError(DataError, OSError):
    """A file or a folder cannot be written; an ``OSError`` as well, for those who can do without it.

    Args:
        path: What cannot be written.
        error: What the system says.
    """

    def __init__(self, path: object, error: OSError) -> None:
        super().__init__(f"{path} cannot be written: {error.strerror or error}.")
        self.strerror = error.strerror
        self._made_of = path, error

    def __reduce__(self) -> Any:
        """Say how it is made again, as in another process."""
        return type(self), self._made_of


class DivergedError(LightningGansError, ArithmeticError):
    """Training has left the finite numbers: the message names the step, what is not finite, and what to try."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the name most like the given one, or an empty string.

    Example:
        >>> nearest("dcgan_mnst", ["gan_mnist", "dcgan_mnist"])
        " Did you mean 'dcgan_mnist'?"
    """
    found = difflib.get_close_matches(name, list(allowed), n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def import_named(setting: str, module: str) -> ModuleType:
    """Import a module that a setting names; raise :class:`SettingError` with what stops it, which may be anything."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise SettingError(f"{setting}: importing {module!r} fails with {type(error).__name__}: {error}.") from error


def is_number(value: Any) -> bool:
    """Return whether a setting is a finite number, NumPy's included."""
    return isinstance(value, Real) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Return whether a setting is a whole number by its type, NumPy's included: 2.0 is none."""
    return isinstance(value, Integral)


def check_numbers(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is no finite number."""
    for name, value in settings.items():
        if not is_number(value):
            raise SettingError(f"{name} is {value!r}: it must be a finite number.")


def check_positive(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not greater than zero, or no finite number."""
    check_numbers(**settings)
    for name, value in settings.items():
        if value <= 0:
            raise SettingError(f"{name} is {value}: it must be greater than 0.")


def check_not_negative(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is below zero, or no finite number."""
    check_numbers(**settings)
    for name, value in settings.items():
        if value < 0:
            raise SettingError(f"{name} is {value}: it must not be negative.")


def check_counts(*, zero: bool = False, **settings: int) -> None:
    """Raise :class:`SettingError` for the first setting that is no whole number from 1 on, or with ``zero`` from 0."""
    for name, value in settings.items():
        if not is_whole(value):
            raise SettingError(f"{name} is {value!r}: it must be a whole number.")
    (check_not_negative if zero else check_positive)(**settings)


def check_share(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not between 0 and 1."""
    check_numbers(**settings)
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise SettingError(f"{name} is {value}: it is a share, between 0 and 1.")


def are_counts(values: Any, least: int = 1) -> bool:
    """Return whether a setting is a list of whole numbers, none below the least."""
    return isinstance(values, Sequence) and all(is_whole(value) and value >= least for value in values)


def shown(values: Any) -> Any:
    """Return a setting as a message shows it: tuples as the lists that they are in a recipe."""
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else repr(values)


def check_widths(*, empty: bool = False, **settings: Sequence[int]) -> None:
    """Raise :class:`SettingError` for the first setting that is no list of layers' widths, or has no layer at all."""
    for name, widths in settings.items():
        if not are_counts(widths) or (len(widths) == 0 and not empty):
            least = "a list of layers' widths" if empty else "the width of at least one layer"
            raise SettingError(f"{name} is {shown(widths)}: give {least}, each a whole number, 1 or more.")


def check_adam(betas: Sequence[float], weight_decay: float, beta2_end: float | None = None) -> None:
    """Raise :class:`SettingError` for settings with which Adam cannot go on: at a decay rate of 1 it stands still."""
    rates = list(betas) if isinstance(betas, Sequence) else []
    if len(rates) != 2 or not all(is_number(beta) and 0 <= beta < 1 for beta in rates):
        raise SettingError(f"betas is {shown(betas)}: give Adam's two decay rates, each from 0 to below 1.")
    if beta2_end is not None and not (is_number(beta2_end) and 0 <= beta2_end < 1):
        raise SettingError(f"beta2_end is {beta2_end!r}: it is a decay rate of Adam, from 0 to below 1.")
    check_not_negative(weight_decay=weight_decay)


def check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise :class:`SettingError` if ``value`` is not one of ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        raise SettingError(f"{name} is {value!r}: choose from {', '.join(allowed)}.{nearest(str(value), allowed)}")
