"""Errors that a user can cause, each with its exit code on the command line."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from numbers import Integral, Real
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import TypeIs


_LARGEST = 2**31 - 1
"""Largest count, as for sizes that fit into 32 bits."""


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
        for given in (setting, value):
            if isinstance(given, str) and "\n" in given:  # a path, whose lines would look like the message's
                message = message.replace(given, given.replace("\n", "\\n"))
        super().__init__(printable(message))
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
    """A file or a folder cannot be written; also an ``OSError``, for callers that can continue without the file.

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
    """Training has diverged to NaN or infinity; the message names the step, what is not finite, and what to try."""


def printable(text: str) -> str:
    r"""Escape what a terminal would interpret, such as escape codes in the name of a file, but keep line breaks.

    Example:
        >>> printable("red\x1b[31m.png")
        'red\\x1b[31m.png'
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's message without its last period, or the error's type if it has none.

    Example:
        >>> first_line(ValueError("It is damaged.\nTry again."))
        'It is damaged'
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the name most like the given one, or an empty string.

    Example:
        >>> nearest("dcgan_mnst", ["gan_mnist", "dcgan_mnist"])
        " Did you mean 'dcgan_mnist'?"
    """
    found = difflib.get_close_matches(name, list(allowed), n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


@contextlib.contextmanager
def in_section(section: str) -> Iterator[None]:
    """Add the section of a recipe to the errors of settings, as in ``metrics.extractor``.

    Example:
        >>> with in_section("metrics"):
        ...     raise invalid("extractor", "vgg", "a network")
        Traceback (most recent call last):
        lightning_gans.errors.SettingError: metrics.extractor is 'vgg': it must be a network.
    """
    try:
        yield
    except (SettingError, DataError) as error:
        named = error.setting.isidentifier()  # not the path of a file
        separator = "." if named and str(error).startswith(error.setting) else ": "
        error.args = (f"{section}{separator}{error}",)
        if named:
            error.setting = f"{section}.{error.setting}"
        raise


def import_named(setting: str, module: str) -> ModuleType:
    """Import a module that a setting names; raise :class:`SettingError` if the import fails for any reason."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise SettingError(f"{setting}: importing {module!r} fails with {type(error).__name__}: {error}.") from error


def is_number(value: Any) -> bool:
    """Return whether a setting is a finite number, including NumPy's scalars; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, Real) and bool(abs(value) <= sys.float_info.max)  # type: ignore[operator]


def is_whole(value: Any) -> TypeIs[int]:
    """Return whether a setting is an integer by its type, including NumPy's integers; 2.0 and true are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def invalid(setting: str, value: Any, allowed: str, hint: str = "") -> SettingError:
    """Return the error for a setting: ``setting is value: it must be allowed.``, and a hint.

    Example:
        >>> invalid("lr", -1, "greater than 0")
        SettingError('lr is -1: it must be greater than 0.')
    """
    text = f"{setting} is {shown(value)}: it must be {allowed}.{hint}"
    return SettingError(text, setting=setting, value=value, allowed=allowed)


def missing_extra(what: str, extra: str, *, setting: str = "", value: Any = None) -> DataError:
    """Return the error for something that needs the packages of an extra.

    Example:
        >>> missing_extra("an ONNX file", "onnx")
        DataError("an ONNX file needs more packages: pip install 'lightning_gans[onnx]'.")
    """
    message = f"{what} needs more packages: pip install 'lightning_gans[{extra}]'."
    return DataError(message, setting=setting, value=value)


def check_numbers(holds: Callable[[float], bool] = lambda value: True, allowed: str = "", /, **settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not a finite number, or that ``holds`` rejects."""
    for name, value in settings.items():
        if not is_number(value):
            raise invalid(name, value, "a finite number")
        if not holds(value):
            raise invalid(name, value, allowed)


def check_positive(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not a finite number greater than 0."""
    check_numbers(lambda value: value > 0, "greater than 0", **settings)


def check_not_negative(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not a finite number, 0 or more."""
    check_numbers(lambda value: value >= 0, "0 or more", **settings)


def check_counts(*, least: int = 1, most: int = _LARGEST, **settings: int) -> None:
    """Raise :class:`SettingError` for the first setting that is not a whole number from ``least`` to ``most``.

    The default of ``most`` is 2³¹ - 1.
    """
    for name, value in settings.items():
        if not is_whole(value) or value < least:
            raise invalid(name, value, f"a whole number, {least} or more")
        if value > most:
            raise invalid(name, value, f"{most:,} or less")


def check_repeats(*, least: int = 1, **settings: int) -> None:
    """Raise :class:`SettingError` for the first setting that is not a whole number from ``least`` to 1,000.

    These are numbers of layers and of updates, each of which takes time and memory.
    """
    check_counts(least=least, most=1000, **settings)


def check_whole(**settings: int) -> None:
    """Raise :class:`SettingError` for the first setting that is not a whole number."""
    for name, value in settings.items():
        if not is_whole(value):
            raise invalid(name, value, "a whole number")


def check_share(**settings: float) -> None:
    """Raise :class:`SettingError` for the first setting that is not between 0 and 1."""
    check_numbers(lambda value: 0 <= value <= 1, "between 0 and 1", **settings)


def are_counts(values: Any, least: int = 1) -> bool:
    """Return whether a setting is a list of whole numbers, none below the least."""
    return isinstance(values, Sequence) and all(is_whole(value) and least <= value <= _LARGEST for value in values)


def shown(values: Any) -> Any:
    """Return a setting as messages show it: sequences as lists, as in a recipe."""
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else repr(values)


def check_widths(*, empty: bool = False, **settings: Sequence[int]) -> None:
    """Raise :class:`SettingError` for the first setting that is not a list of layer widths."""
    for name, widths in settings.items():
        if not are_counts(widths) or (len(widths) == 0 and not empty):
            least = "layer widths" if empty else "at least one layer width"
            raise invalid(name, widths, f"a list of {least}, each 1 or more")


def check_adam(betas: Sequence[float], weight_decay: float, beta2_end: float | None = None) -> None:
    """Raise :class:`SettingError` for invalid settings of Adam; a decay rate of 1 would keep the weights constant."""
    rates = list(betas) if isinstance(betas, Sequence) else []
    if len(rates) != 2 or not all(is_number(beta) and 0 <= beta < 1 for beta in rates):
        raise invalid("betas", betas, "two decay rates, each at least 0 and below 1")
    if beta2_end is not None and not (is_number(beta2_end) and 0 <= beta2_end < 1):
        raise invalid("beta2_end", beta2_end, "a decay rate, at least 0 and below 1")
    check_not_negative(weight_decay=weight_decay)


def check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise :class:`SettingError` if ``value`` is not one of ``allowed``."""
    allowed = list(allowed)
    if not (isinstance(value, str) and value in allowed):
        hint = nearest(str(value), allowed)
        message = f"{name} is {value!r}: choose from {', '.join(allowed)}.{hint}"
        raise SettingError(message, setting=name, value=value, allowed=allowed)


def check_choices(name: str, values: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise :class:`SettingError` unless ``values`` is a list of some of ``allowed``; a string is no list."""
    allowed = list(allowed)
    if isinstance(values, str) or not isinstance(values, (Sequence, Set)):
        raise invalid(name, values, f"a list, of {', '.join(allowed)}")
    for value in values:
        check_choice(name, value, allowed)
