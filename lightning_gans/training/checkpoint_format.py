"""What a checkpoint says of its model, and the model made again from that alone.

A checkpoint carries ``lightning_gans: {version, class, arguments, missing, run_seed, images_seen}`` in plain
types, so that it loads with ``weights_only=True``. A checkpoint can name the class of its model and of its
networks. Networks are built from an allow-list only: the layers of ``torch.nn``, ``lightning_gans.networks``,
and modules that the user has named with :func:`trust` (``--import`` on the command line).
"""

from __future__ import annotations

import enum
import importlib
import inspect
import numbers
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import nn

from lightning_gans._version import __version__
from lightning_gans.errors import DataError, DivergedError, import_named
from lightning_gans.io.files import read_tensors

if TYPE_CHECKING:
    from lightning_gans.models.base import GenerativeModule

Model = TypeVar("Model", bound="GenerativeModule")

KEY = "lightning_gans"
_OURS = ("lightning_gans", "torch.nn")
_NETWORKS = ("torch.nn.modules", "lightning_gans.networks")
_trusted: set[str] = set()
_Parameters = Mapping[str, inspect.Parameter]


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


def is_below(name: str, modules: Iterable[str]) -> bool:
    """Return whether a dotted name is one of the modules, or lies below one.

    Example:
        >>> is_below("torch.nn.Linear", ["torch.nn"]), is_below("torch.nnx.Linear", ["torch.nn"])
        (True, False)
    """
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def trusted_modules() -> frozenset[str]:
    """Return the modules that were named with :func:`trust`."""
    return frozenset(_trusted)


class NotesArguments:
    """Keeps what the constructor was given.

    A class of its own, as jsonargparse takes the signature of a class that defines ``__new__`` itself from
    there, and would not see the constructor's.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the arguments of the class that is constructed, before any constructor changes them."""
        instance = super().__new__(cls)
        instance.__dict__["_given_arguments"] = given_arguments(cls, args, kwargs)
        return instance


def given_arguments(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a constructor was called with, by name; ``**options`` are spread out."""
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    try:
        bound = signature.bind_partial(None, *args, **kwargs)
    except TypeError:  # the constructor itself is about to say so
        return {}
    given = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    given.pop(next(iter(signature.parameters)))  # self
    return given


def resolved_arguments(model: GenerativeModule) -> dict[str, Any]:
    """Return the full set of arguments that makes the model again, defaults included, in plain types.

    Left out are networks given as instances, and defaults of a base class that a subclass fixed to another
    value: it does not take them.
    """
    given: dict[str, Any] = model.__dict__["_given_arguments"]
    own = _own_parameters(type(model))
    arguments = {}
    for name, default in _defaults(type(model)).items():
        if name not in own and name not in given and getattr(model, name, default) != default:
            continue
        arguments[name] = given.get(name, default)
    arguments |= given
    return {name: plain(value) for name, value in arguments.items() if _is_plain(value)}


def describe(model: GenerativeModule, checkpoint: dict[str, Any]) -> None:
    """Write the model's description into a checkpoint; Lightning's own copy of the arguments goes."""
    given = model.__dict__["_given_arguments"]
    for key in ("hyper_parameters", "hparams_name", "hparams_type"):
        checkpoint.pop(key, None)
    checkpoint[KEY] = {
        "version": __version__,
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "arguments": model.arguments,
        "missing": sorted(name for name, value in given.items() if not _is_plain(value)),
        "run_seed": model.run_seed,
        "images_seen": model.images_seen,
    }


def check_finite(model: nn.Module) -> None:
    """Raise :class:`DivergedError` if a weight, or one of BatchNorm's statistics, is not a finite number."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    weights |= {name: value for name, value in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    if weights and not nn.utils.get_total_norm(weights.values(), torch.inf).isfinite():
        wrong = next(name for name, weight in weights.items() if not weight.isfinite().all())
        raise DivergedError(
            f"the weights are not finite ({wrong}): no checkpoint of them is written; the last one is finite."
        )


def read(path: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running anything of it.

    Raises:
        DataError: There is no such file, or it is no checkpoint of this package.
    """
    checkpoint: dict[str, Any] = read_tensors(path, map_location)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise DataError(f"{path} is no checkpoint: it holds no state_dict.")
    description(checkpoint, path)
    return checkpoint


def description(checkpoint: Mapping[str, Any], path: Any = "the checkpoint") -> dict[str, Any]:
    """Return what the checkpoint says of its model."""
    if KEY not in checkpoint:
        raise DataError(f"{path} was not written by a model of lightning_gans: it has no {KEY!r} entry.")
    found: dict[str, Any] = checkpoint[KEY]
    kinds = {"class": str, "arguments": dict, "missing": list, "run_seed": int, "images_seen": int}
    for name, kind in kinds.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            raise DataError(f"{path} is damaged: its {KEY!r} entry has no {name} of the type {kind.__name__}.")
    return found


def find_model(about: Mapping[str, Any], path: Any) -> type[GenerativeModule]:
    """Return the class of a checkpoint's model, which takes the arguments that are stored with it.

    Raises:
        DataError: The class is not to be had, no model, or another version of the one that was saved.
    """
    from lightning_gans.models.base import GenerativeModule

    cls = find_class(about["class"])
    if not issubclass(cls, GenerativeModule):
        raise DataError(f"{path} holds a {cls.__name__}, not a GenerativeModule.")
    check_classes(about["arguments"])
    unknown = sorted(set(about["arguments"]) - set(_own_parameters(cls)) - set(_defaults(cls)))
    if unknown:
        raise DataError(f"{path} holds the setting {unknown[0]!r}, which {cls.__name__} does not take.")
    return cls


def load(
    path: Any, expected: type[Model], map_location: Any = "cpu", imports: Iterable[str] = (), **overrides: Any
) -> Model:
    """Make the model of a checkpoint again, in evaluation mode.

    Args:
        path: The checkpoint.
        expected: The class asked for; the checkpoint's must be it or a subclass.
        map_location: The device to load to.
        imports: Modules of yours whose networks the checkpoint may name; see :func:`trust`.
        **overrides: Arguments that replace the stored ones, and networks that were given as instances.

    Raises:
        DataError: The file is no checkpoint, its class is not known here, or a network is missing.
    """
    trust(*imports)
    checkpoint = read(path, map_location)
    about = description(checkpoint, path)
    if about["class"] == f"{expected.__module__}.{expected.__qualname__}":
        cls: type[GenerativeModule] = expected
        check_classes(about["arguments"])
    else:
        cls = find_model(about, path)
    if not issubclass(cls, expected):
        raise DataError(f"{path} holds a {cls.__name__}, not a {expected.__name__}.")
    missing = [name for name in about["missing"] if name not in overrides]
    if missing:
        raise DataError(
            f"{path} was made with networks that it does not store: {', '.join(missing)}. Give them, as in "
            f"{cls.__name__}.load_from_checkpoint(path, {missing[0]}=…)."
        )
    model = build(cls, about["arguments"], **overrides)
    check_fit(model, checkpoint["state_dict"], path)
    model.load_state_dict(checkpoint["state_dict"])
    model.run_seed, model.images_seen = about["run_seed"], about["images_seen"]
    model.weights_step = checkpoint.get("global_step", 0)
    if map_location is not None and not callable(map_location) and not isinstance(map_location, dict):
        model.to(map_location)
    return model.eval()


def build(cls: type[Model], arguments: Mapping[str, Any], **overrides: Any) -> Model:
    """Make a model from its stored arguments, with weights of its own, so that it can be stored again.

    Args:
        cls: The model's class.
        arguments: As :func:`resolved_arguments` returns them, with networks as ``{class_path, init_args}``.
        **overrides: Arguments that replace the stored ones.
    """
    stored = {name: _instantiate(value) for name, value in arguments_to_pass(cls, arguments).items()}
    model = cls(**stored | overrides)
    model.note_arguments(**{name: value for name, value in arguments.items() if name not in overrides})
    return model


def load_weights(model: GenerativeModule, path: Any) -> None:
    """Copy a checkpoint's weights into a model; averages that the checkpoint lacks start from the weights.

    Raises:
        DataError: A weight is missing, unknown, or of another shape.
    """
    weights: dict[str, torch.Tensor] = read(path)["state_dict"]
    averages = tuple(f"{name}_ema." for name in model.averaged_networks)
    own = model.state_dict()
    for name in own:
        if name.startswith(averages) and name not in weights:
            weights[name] = weights.get(name.replace("_ema.", ".", 1), own[name])
    weights = {name: value for name, value in weights.items() if name in own or not name.startswith(averages)}
    check_fit(model, weights, path)
    model.load_state_dict(weights)


def check_fit(model: nn.Module, weights: Mapping[str, torch.Tensor], path: Any) -> None:
    """Raise :class:`DataError` for the first weight that is missing, unknown, or of another shape."""
    own = model.state_dict()
    for name in sorted(own.keys() ^ weights.keys()):
        side = "lacks" if name in own else "has, and the model has not,"
        raise DataError(f"{path} does not fit the model: it {side} the weight {name!r}.")
    for name, value in own.items():
        if value.shape != weights[name].shape:
            raise DataError(
                f"{path} does not fit the model: {name!r} is {list(weights[name].shape)} in the checkpoint "
                f"and {list(value.shape)} in the model."
            )


def find_class(name: str) -> type:
    """Return a class by its full name, importing nothing but this package and ``torch.nn``.

    Raises:
        DataError: The name is another package's and not imported, or there is no such class.
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
        raise DataError(f"{name} is not an nn.Module: a checkpoint may name no other class.")
    if not is_below(cls.__module__, (*_NETWORKS, *_trusted)):
        raise DataError(
            f"{name} is not a layer of torch.nn or one of lightning_gans.networks, so a checkpoint cannot have it "
            f"built: add `--import {cls.__module__}` if you trust both (in Python, imports=[{cls.__module__!r}])."
        )
    return cls


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
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value) if type(value) in (list, tuple) else list(value)
    return value


def _is_plain(value: Any) -> bool:
    """Whether a value can be stored; networks and functions cannot."""
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (numbers.Real, str, enum.Enum, Path))


def _own_parameters(cls: type) -> _Parameters:
    """Return the parameters that a class's own constructor names."""
    parameters = list(inspect.signature(cls.__init__).parameters.items())[1:]  # type: ignore[misc]
    return {name: p for name, p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def _constructors(cls: type) -> Iterator[type]:
    """Walk up the classes as long as each constructor passes ``**options`` on."""
    for ancestor in cls.__mro__:
        if "__init__" not in ancestor.__dict__:
            continue
        yield ancestor
        kinds = {p.kind for p in inspect.signature(ancestor.__init__).parameters.values()}  # type: ignore[misc]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return


def _defaults(cls: type) -> dict[str, Any]:
    """Return the defaults of all parameters that a constructor takes, its bases' included."""
    defaults: dict[str, Any] = {}
    for ancestor in _constructors(cls):
        for name, parameter in _own_parameters(ancestor).items():
            if parameter.default is not parameter.empty:
                defaults.setdefault(name, parameter.default)
    return defaults


def arguments_to_pass(cls: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored arguments that a class takes; a base's argument that is its default still is left out.

    Left out because a subclass may fix it, and then does not take it.
    """
    own, defaults = _own_parameters(cls), _defaults(cls)
    return {
        name: value
        for name, value in stored.items()
        if name in own or name not in defaults or plain(defaults[name]) != value
    }


def check_classes(value: Any) -> None:
    """Raise :class:`DataError` for a class in an argument that is not a network on the allow-list."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            find_network(value["class_path"])
        for item in value.values():
            check_classes(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_classes(item)


def _instantiate(value: Any) -> Any:
    """Make a network that is stored as ``{class_path, init_args}``, and whatever is nested in it."""
    if isinstance(value, Mapping) and "class_path" in value:
        return find_network(value["class_path"])(
            **{name: _instantiate(item) for name, item in (value.get("init_args") or {}).items()}
        )
    if isinstance(value, list):
        return [_instantiate(item) for item in value]
    return value
