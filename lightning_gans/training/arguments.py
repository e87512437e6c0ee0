"""The arguments of a model's constructor: noted when it is built, and stored in plain types."""

from __future__ import annotations

import enum
import inspect
import numbers
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

CLASS_PATH = "_class_path"
OF_THE_MACHINE = ("compile_mode", "channels_last", "matmul_precision")
"""Former settings of the models, which checkpoints of 0.1 hold; :class:`Acceleration` has them now."""


def constructor_arguments(model: nn.Module) -> dict[str, Any]:
    """Return the arguments of the constructor of a model's class, by name; ``**options`` are merged in.

    Call it from the constructor of a base class: the frames above it are those of the subclasses' constructors.
    """
    frame, outermost = sys._getframe(1), None
    while frame.f_code.co_name == "__init__" and any(value is model for value in frame.f_locals.values()):
        frame, outermost = frame.f_back, frame  # type: ignore[assignment]
    if outermost is None:
        return {}
    names, _, keywords, values = inspect.getargvalues(outermost)
    return {name: values[name] for name in names[1:]} | (values[keywords] if keywords else {})


def resolved_arguments(cls: type, given: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return the full set of arguments that rebuilds a model, including defaults, in plain types.

    This leaves out objects (networks, regularizers, functions), settings of the machine, and defaults of a base class
    that a subclass has fixed to another value, because the subclass does not accept them.
    """
    own = own_parameters(cls)
    arguments = {
        name: default
        for name, default in defaults_of(cls).items()
        if name in own or name in given or getattr(model, name, default) == default
    }
    return _stored({**arguments, **given})


def hyperparameters(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return Lightning's hyperparameters of a model, from which a checkpoint without a description is loaded.

    Lightning stores them in every checkpoint, including those with weights only and those written outside a fit;
    ``_class_path`` is the key under which it looks up the class.
    """
    return {CLASS_PATH: public_name(cls), **_stored(given)}


def _stored(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {n: plain(value) for n, value in arguments.items() if is_plain(value) and n not in OF_THE_MACHINE}


def public_name(cls: type) -> str:
    """Return the name by which a checkpoint refers to a class; for this package's classes, the public name."""
    if cls.__module__.startswith("lightning_gans."):
        return f"lightning_gans.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def plain(value: Any) -> Any:
    """Return a value in types that ``weights_only=True`` can read."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Real):  # NumPy's scalars too
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return (tuple if type(value) is tuple else list)(plain(item) for item in value)
    return value


def is_plain(value: Any) -> bool:
    """Return whether a value can be stored; networks and functions cannot."""
    if isinstance(value, enum.Enum):
        return is_plain(value.value)
    if value is None or isinstance(value, (numbers.Real, str, Path)):
        return True
    items = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, (Mapping, Sequence)) and not isinstance(value, bytes) and all(map(is_plain, items))


def own_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters that a class's own constructor names."""
    parameters = list(inspect.signature(cls.__init__).parameters.items())[1:]  # type: ignore[misc]
    return {name: p for name, p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def defaults_of(cls: type) -> dict[str, Any]:
    """Return the defaults of all parameters that a constructor takes, including those of its bases."""
    parameters = whole_signature(cls).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def whole_signature(cls: type) -> inspect.Signature:
    """Return the signature of a class with the keyword arguments of its bases that ``**options`` passes on."""
    parameters: dict[str, inspect.Parameter] = {}
    for ancestor in (base for base in cls.__mro__ if "__init__" in vars(base)):
        for name, parameter in own_parameters(ancestor).items():
            kind = parameter.KEYWORD_ONLY if ancestor is not cls else parameter.kind
            parameters.setdefault(name, parameter.replace(kind=kind))
        kinds = {p.kind for p in inspect.signature(ancestor.__init__).parameters.values()}  # type: ignore[misc]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return inspect.Signature(sorted(parameters.values(), key=lambda parameter: parameter.kind))


def arguments_to_pass(cls: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored arguments that a class takes; omit arguments of a base that still have their defaults.

    They are omitted because a subclass that fixes them does not accept them.
    """
    own, defaults = own_parameters(cls), defaults_of(cls)
    return {
        name: value
        for name, value in stored.items()
        if name in own or name not in defaults or _with_lists(plain(defaults[name])) != _with_lists(value)
    }


def _with_lists(value: Any) -> Any:
    """Return a value with lists instead of tuples, as JSON has it."""
    return [*map(_with_lists, value)] if isinstance(value, (list, tuple)) else value
