"""The model description in a checkpoint, and rebuilding the model from it.

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
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from lightning_gans._version import __version__
from lightning_gans.errors import DataError, DivergedError, import_named
from lightning_gans.io.files import read_tensors

Model = TypeVar("Model")

KEY, CLASS_PATH = "lightning_gans", "_class_path"
OF_THE_MACHINE = ("compile_mode", "channels_last", "matmul_precision")
"""Former settings of the models, which checkpoints of 0.1 hold; :class:`Acceleration` has them now."""

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


def constructor_arguments(model: nn.Module) -> dict[str, Any]:
    """Return the arguments of the constructor of a model's class, by name; ``**options`` are merged in.

    To be called from the constructor of a base class: the frames above are those of the subclasses' constructors.
    """
    frame = inspect.currentframe()
    frame = frame.f_back if frame is not None else None
    outermost = None
    while frame is not None and frame.f_code.co_name == "__init__" and any(v is model for v in frame.f_locals.values()):
        outermost, frame = frame, frame.f_back
    if outermost is None:
        return {}
    names, _, keywords, values = inspect.getargvalues(outermost)
    return {name: values[name] for name in names[1:]} | (values[keywords] if keywords else {})


def resolved_arguments(cls: type, given: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return the full set of arguments that rebuilds a model, including defaults, in plain types.

    Left out are objects (networks, regularizers, functions), settings of the machine, and defaults of a base class that
    a subclass fixed to another value: it does not take them.
    """
    own = _own_parameters(cls)
    arguments = {}
    for name, default in _defaults(cls).items():
        if name not in own and name not in given and getattr(model, name, default) != default:
            continue
        arguments[name] = given.get(name, default)
    arguments |= given
    return {n: plain(value) for n, value in arguments.items() if _is_plain(value) and n not in OF_THE_MACHINE}


def hyperparameters(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return Lightning's hyperparameters of a model, from which a checkpoint without a description is loaded.

    Lightning stores them in every checkpoint, also of weights alone or outside of a fit; ``_class_path`` is the key by
    which it finds a class.
    """
    stored = {n: plain(value) for n, value in given.items() if _is_plain(value) and n not in OF_THE_MACHINE}
    return {CLASS_PATH: public_name(cls), **stored}


def describe(model: Any, checkpoint: dict[str, Any]) -> None:
    """Write the model's description into a checkpoint; Lightning's own hyperparameters are removed."""
    required = [name for name, p in _own_parameters(type(model)).items() if p.default is p.empty]
    missing = [
        name
        for name, value in model.given_arguments.items()
        if not _is_plain(value) and (isinstance(value, nn.Module) or name in required)
    ]
    for key in ("hyper_parameters", "hparams_name", "hparams_type"):
        checkpoint.pop(key, None)
    checkpoint[KEY] = {
        "version": __version__,
        "class": public_name(type(model)),
        "arguments": model.arguments,
        "missing": sorted(missing),
        "run_seed": model.run_seed,
        "images_seen": model.images_seen,
    }


def public_name(cls: type) -> str:
    """Return the name by which a checkpoint names a class: of this package the public one, not the file's."""
    if cls.__module__.startswith("lightning_gans."):
        return f"lightning_gans.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


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
    """Read a checkpoint without running code from it.

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
    stored = checkpoint.get("hyper_parameters")
    if KEY not in checkpoint and isinstance(stored, dict) and isinstance(stored.get(CLASS_PATH), str):
        arguments = {name: value for name, value in stored.items() if name != CLASS_PATH}
        counters = {"missing": [], "run_seed": 0, "images_seen": 0}
        return description({KEY: {"class": stored[CLASS_PATH], "arguments": arguments, **counters}}, path)
    if KEY not in checkpoint:
        raise DataError(f"{path} was not written by a model of lightning_gans: it has no {KEY!r} entry.")
    found: dict[str, Any] = checkpoint[KEY]
    kinds = {"class": str, "arguments": dict, "missing": list, "run_seed": int, "images_seen": int}
    for name, kind in kinds.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            raise DataError(f"{path} is damaged: its {KEY!r} entry has no {name} of the type {kind.__name__}.")
    arguments = {name: value for name, value in found["arguments"].items() if name not in OF_THE_MACHINE}
    # 0.1 wrote the file that a class was defined in.
    name = re.sub(r"^lightning_gans\.models\.\w+\.", "lightning_gans.", found["class"])
    return {**found, "class": name, "arguments": arguments}


def find_model(about: Mapping[str, Any], path: Any, base: type[Any]) -> type[Any]:
    """Return the class of a checkpoint's model, which takes the arguments that are stored with it.

    Args:
        about: The checkpoint's :func:`description`.
        path: The checkpoint, for messages.
        base: A class of which it has to be a subclass.

    Raises:
        DataError: The class cannot be found, is not a model, or has changed since it was saved.
    """
    cls: type[Any] = find_class(about["class"])
    if not issubclass(cls, base):
        raise DataError(f"{path} holds a {cls.__name__}, not a {base.__name__}.")
    check_classes(about["arguments"])
    unknown = sorted(set(about["arguments"]) - set(_own_parameters(cls)) - set(_defaults(cls)))
    if unknown:
        raise DataError(f"{path} holds the setting {unknown[0]!r}, which {cls.__name__} does not take.")
    return cls


def load(
    path: Any, expected: type[Model], map_location: Any = "cpu", imports: Iterable[str] = (), **overrides: Any
) -> Model:
    """Rebuild the model of a checkpoint, in evaluation mode.

    Args:
        path: The checkpoint.
        expected: The class asked for; the checkpoint's must be it or a subclass.
        map_location: The device to load to.
        imports: Your modules whose networks the checkpoint may name; see :func:`trust`.
        **overrides: Arguments that replace the stored ones, and networks that were given as instances.

    Raises:
        DataError: The file is no checkpoint, its class is not known here, or a network is missing.
    """
    trust(*imports)
    checkpoint = read(path, map_location)
    about = description(checkpoint, path)
    if about["class"] == public_name(expected):  # which may be defined in a function, where no name leads to it
        cls = expected
        check_classes(about["arguments"])
    else:
        cls = find_model(about, path, expected)
    missing = [name for name in about["missing"] if name not in overrides]
    if missing:
        raise DataError(
            f"{path} was made with networks that it does not store: {', '.join(missing)}. Give them, as in "
            f"{cls.__name__}.load_from_checkpoint(path, {missing[0]}=…)."
        )
    model: Any = build(cls, about["arguments"], **overrides)
    _load_state(model, checkpoint["state_dict"], path)
    model.run_seed, model.images_seen = about["run_seed"], about["images_seen"]
    model.weights_step = checkpoint.get("global_step", 0)
    if map_location is not None and not callable(map_location) and not isinstance(map_location, dict):
        model.to(map_location)
    loaded: Model = model.eval()
    return loaded


def build(cls: type[Model], arguments: Mapping[str, Any], **overrides: Any) -> Model:
    """Build a model from its stored arguments, with new weights, so that it can be stored again.

    Args:
        cls: The model's class.
        arguments: As :func:`resolved_arguments` returns them, with networks as ``{class_path, init_args}``.
        **overrides: Arguments that replace the stored ones.
    """
    stored = {name: _instantiate(value) for name, value in arguments_to_pass(cls, arguments).items()}
    model: Any = cls(**stored | overrides)
    model.note_arguments(**{name: value for name, value in arguments.items() if name not in overrides})
    built: Model = model
    return built


def load_weights(model: Any, path: Any) -> None:
    """Copy a checkpoint's weights into a model; averages that the checkpoint lacks start from the weights.

    Raises:
        DataError: A weight is missing, unknown, or of another shape.
    """
    weights = rename_averages(read(path)["state_dict"])
    own = model.state_dict()
    for name in own:
        if name.startswith("ema.") and name not in weights:
            weights[name] = weights.get(name.removeprefix("ema."), own[name])
    _load_state(model, {k: value for k, value in weights.items() if k in own or not k.startswith("ema.")}, path)


def rename_averages(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights by their current names: 0.1 called the moving average of the generator ``generator_ema``.

    Example:
        >>> list(rename_averages({"generator_ema.output.weight": torch.ones(1)}))
        ['ema.generator.output.weight']
    """
    return {re.sub(r"^(\w+)_ema\.", r"ema.\1.", name): value for name, value in weights.items()}


def prepare_state(module: nn.Module, state_dict: Any, prefix: str, metadata: Any, strict: bool, *_: Any) -> None:
    """Rename and check weights before they are loaded (a ``load_state_dict`` pre-hook).

    Raises:
        DataError: A weight is missing, unknown, or of another shape.
    """
    if prefix:
        return
    renamed = rename_averages(state_dict)
    state_dict.clear()
    state_dict.update(renamed)
    if strict:
        check_fit(module, state_dict)


def _load_state(model: nn.Module, weights: Mapping[str, torch.Tensor], path: Any) -> None:
    try:
        model.load_state_dict(weights)
    except DataError as error:
        raise DataError(f"{path}: {error}", setting=str(path)) from None


def check_fit(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise :class:`DataError` for the first weight that is missing, unknown, or of another shape."""
    own = model.state_dict()
    for name in sorted(own.keys() ^ weights.keys()):
        side = "lacks the weight" if name in own else "contains the unknown weight"
        raise DataError(f"the checkpoint does not fit the model: it {side} {name!r}.", setting=name)
    for name, value in own.items():
        if value.shape != weights[name].shape:
            raise DataError(
                f"the checkpoint does not fit the model: {name!r} is {list(weights[name].shape)} in the checkpoint "
                f"and {list(value.shape)} in the model.",
                setting=name,
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
    """Return the defaults of all parameters that a constructor takes, including those of its bases."""
    defaults: dict[str, Any] = {}
    for ancestor in _constructors(cls):
        for name, parameter in _own_parameters(ancestor).items():
            if parameter.default is not parameter.empty:
                defaults.setdefault(name, parameter.default)
    return defaults


def whole_signature(cls: type) -> inspect.Signature:
    """Return the signature of a class with the keyword arguments of its bases that ``**options`` passes on."""
    parameters: dict[str, inspect.Parameter] = {}
    for ancestor in _constructors(cls):
        for name, parameter in _own_parameters(ancestor).items():
            kind = parameter.KEYWORD_ONLY if ancestor is not cls else parameter.kind
            parameters.setdefault(name, parameter.replace(kind=kind))
    ordered = sorted(parameters.values(), key=lambda parameter: parameter.kind)
    return inspect.Signature(ordered)


def arguments_to_pass(cls: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored arguments that a class takes; omit arguments of a base that still have their defaults.

    They are omitted because a subclass may fix them, and then does not take them.
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
    """Build a network that is stored as ``{class_path, init_args}``, and whatever is nested in it."""
    if isinstance(value, Mapping) and "class_path" in value:
        return find_network(value["class_path"])(
            **{name: _instantiate(item) for name, item in (value.get("init_args") or {}).items()}
        )
    if isinstance(value, list):
        return [_instantiate(item) for item in value]
    return value
