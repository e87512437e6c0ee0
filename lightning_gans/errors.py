"""The errors that a user can cause, each with the exit code the command line gives it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class LightningGansError(Exception):
    """Something the user can mend; the command line prints its message and nothing else."""

    exit_code = 1


class SettingError(LightningGansError, ValueError):
    """A setting is wrong: the message names the setting, its value and what is allowed."""

    exit_code = 2


class DataError(LightningGansError, RuntimeError):
    """A file, a folder or its content is wrong: the message names the path and the remedy."""


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


def check_positive(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not greater than zero."""
    for name, value in settings.items():
        if not value > 0:
            raise SettingError(f"{name} is {value}: it must be greater than 0.")


def check_not_negative(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is below zero, or no number."""
    for name, value in settings.items():
        if not value >= 0:
            raise SettingError(f"{name} is {value}: it must not be negative.")


def check_share(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not between 0 and 1."""
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise SettingError(f"{name} is {value}: it is a share, between 0 and 1.")


def check_widths(*, empty: bool = False, **settings: Sequence[int]) -> None:
    """Raise :class:`SettingError` for the first setting that is no list of layers' widths, or has no layer at all."""
    for name, widths in settings.items():
        if (len(widths) == 0 and not empty) or min(widths, default=1) < 1:
            least = "a list of layers' widths" if empty else "the width of at least one layer"
            raise SettingError(f"{name} is {list(widths)}: give {least}, each 1 or more.")


def check_adam(betas: Sequence[float], weight_decay: float, beta2_end: float | None = None) -> None:
    """Raise :class:`SettingError` for settings with which Adam cannot go on: at a decay rate of 1 it stands still."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise SettingError(f"betas is {list(betas)}: give Adam's two decay rates, each from 0 to below 1.")
    if beta2_end is not None and not 0 <= beta2_end < 1:
        raise SettingError(f"beta2_end is {beta2_end}: it is a decay rate of Adam, from 0 to below 1.")
    check_not_negative(weight_decay=weight_decay)


def check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise :class:`SettingError` if ``value`` is not one of ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        raise SettingError(f"{name} is {value!r}: choose from {', '.join(allowed)}.{nearest(str(value), allowed)}")
