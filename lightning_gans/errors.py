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
    """An error that the user can fix; the command line prints its message without a traceback.

    Args:
        message: What is wrong, where, and what to do.
        setting: The setting that is wrong, by its dotted name, or the path of a file; empty where there is none.
        value: Its value.
        allowed: What is allowed instead: the choices, a class, or a description.
    """

    exit_code = 1

    def __init__(self, message: str, *, setting: str = "", value: Any = None, allowed: Any = None) -> None:
        super().__init__(message)
        self.setting, self.value, self.allowed = setting, value, allowed

    def __reduce__(self) -> Any:
        """Pickle the fields too, for errors that cross processes."""
        return type(self), self.args, self.__dict__


class SettingError(LightningGansError, ValueError):
    """A setting is invalid; the message names the setting, its value and what is allowed."""

    exit_code = 2


class DataError(LightningGansError, RuntimeError):
    """A file, a folder or its content is invalid; the message names the path and what to do."""


class UnwritableError(DataError, OSError):
    """A file or a folder cannot be written; an ``OSError`` as well, for callers that can do without it.

    Args:
        path: What cannot be written.
        error: What the system says.
    """

    def __init__(self, path: object, error: OSError) -> None:
        super().__init__(f"{path} cannot be written: {error.strerror or error}.", setting=str(path))
        self.strerror = error.strerror
        self._made_of = path, error

    def __reduce__(self) -> Any:
        """Pickle the arguments that the error was made from."""
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
    """Import a module that a setting names; raise :class:`SettingError` for any error that stops it."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise SettingError(f"{setting}: importing {module!r} fails with {type(error).__name__}: {error}.") from error


def is_number(value: Any) -> bool:
    """Return whether a setting is a finite number, NumPy's included."""
    return isinstance(value, Real) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Return whether a setting is a whole number by its type, NumPy's included: 2.0 is not one."""
    return isinstance(value, Integral)


def invalid(setting: str, value: Any, allowed: str, hint: str = "") -> SettingError:
    """Return the error for a setting: ``setting is value: it must be allowed.``, and a hint.

    Example:
        >>> invalid("lr", -1, "greater than 0")
        SettingError('lr is -1: it must be greater than 0.')
    """
    text = f"{setting} is {shown(value)}: it must be {allowed}.{hint}"
    return SettingError(text, setting=setting, value=value, allowed=allowed)


def check_numbers(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not a finite number."""
    for name, value in settings.items():
        if not is_number(value):
            raise invalid(name, value, "a finite number")


def check_positive(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not a finite number greater than 0."""
    check_numbers(**settings)
    for name, value in settings.items():
        if value <= 0:
            raise invalid(name, value, "greater than 0")


def check_not_negative(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not a finite number, 0 or more."""
    check_numbers(**settings)
    for name, value in settings.items():
        if value < 0:
            raise invalid(name, value, "0 or more")


def check_counts(*, zero: bool = False, **settings: int) -> None:
    """Raise :class:`SettingError` for the first setting that is not a whole number, at least 1 (``zero``: 0)."""
    least = 0 if zero else 1
    for name, value in settings.items():
        if not is_whole(value) or value < least:
            raise invalid(name, value, f"a whole number, {least} or more")


def check_share(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not between 0 and 1."""
    check_numbers(**settings)
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise invalid(name, value, "between 0 and 1")


def are_counts(values: Any, least: int = 1) -> bool:
    """Return whether a setting is a list of whole numbers, none below the least."""
    return isinstance(values, Sequence) and all(is_whole(value) and value >= least for value in values)


def shown(values: Any) -> Any:
    """Return a setting as a message shows it: sequences as the lists that they are in a recipe."""
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else repr(values)


def check_widths(*, empty: bool = False, **settings: Sequence[int]) -> None:
    """Raise :class:`SettingError` for the first setting that is not a list of layer widths."""
    for name, widths in settings.items():
        if not are_counts(widths) or (len(widths) == 0 and not empty):
            least = "layer widths" if empty else "at least one layer width"
            raise invalid(name, widths, f"a list of {least}, each 1 or more")


def check_adam(betas: Sequence[float], weight_decay: float, beta2_end: float | None = None) -> None:
    """Raise :class:`SettingError` for invalid settings of Adam; with a decay rate of 1 it would not move."""
    rates = list(betas) if isinstance(betas, Sequence) else []
    if len(rates) != 2 or not all(is_number(beta) and 0 <= beta < 1 for beta in rates):
        raise invalid("betas", betas, "two decay rates, each at least 0 and below 1")
    if beta2_end is not None and not (is_number(beta2_end) and 0 <= beta2_end < 1):
        raise invalid("beta2_end", beta2_end, "a decay rate, at least 0 and below 1")
    check_not_negative(weight_decay=weight_decay)


def check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise :class:`SettingError` if ``value`` is not one of ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        hint = nearest(str(value), allowed)
        message = f"{name} is {value!r}: choose from {', '.join(allowed)}.{hint}"
        raise SettingError(message, setting=name, value=value, allowed=allowed)
