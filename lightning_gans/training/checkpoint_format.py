"""The model description in a checkpoint, and rebuilding the model from it.

A checkpoint carries ``lightning_gans: {version, class, arguments, missing, run_seed, images_seen, scales, attributes,
states}``, and in a fit ``loggers``, in plain types, so that it loads with ``weights_only=True``. A checkpoint can name
the class of its model and of its networks. Networks are built from an allow-list only: the layers of ``torch.nn``,
``lightning_gans.networks``, and modules that the user has named with :func:`trust` (``--import`` on the command line).
"""

from __future__ import annotations

import enum
import importlib
import inspect
import numbers
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import yaml
from torch import nn

from lightning_gans._version import __version__
from lightning_gans.errors import DataError, DivergedError, LightningGansError, first_line, import_named
from lightning_gans.io.arrays import Scale, is_range
from lightning_gans.io.attributes import Attributes
from lightning_gans.io.checkpoint_io import read_checkpoint
from lightning_gans.io.hub import is_pushed, read_pushed

Model = TypeVar("Model")

KEY, CLASS_PATH = "lightning_gans", "_class_path"
OF_THE_MACHINE = ("compile_mode", "channels_last", "matmul_precision")
"""Former settings of the models, which checkpoints of 0.1 hold; :class:`Acceleration` has them now."""

FOR_TRAINING = ("regularizers", "augment", "_optimizer", "content")
"""Endings of the names of objects that only training needs: a model can be rebuilt without them."""

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
    own = _own_parameters(cls)
    arguments = {
        name: default
        for name, default in _defaults(cls).items()
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
    return {n: plain(value) for n, value in arguments.items() if _is_plain(value) and n not in OF_THE_MACHINE}


def describe(model: Any, checkpoint: dict[str, Any]) -> None:
    """Write the model's description into a checkpoint; Lightning's own hyperparameters are removed.

    ``missing`` names the arguments that could not be stored, except for those that samples do not depend on.
    """
    required = [name for name, p in _own_parameters(type(model)).items() if p.default is p.empty]
    missing = [
        name
        for name, value in model.given_arguments.items()
        if not _is_plain(value) and (name in required or not name.endswith(FOR_TRAINING))
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
        "scales": [asdict(scale) for scale in (model.source_scale, model.image_scale)],
        "attributes": None if model.attributes is None else asdict(model.attributes),
        "states": {name: dict(part.state) for name, part in _parts_with_state(model) if part.state},
    }


def public_name(cls: type) -> str:
    """Return the name by which a checkpoint refers to a class; for this package's classes, the public name."""
    if cls.__module__.startswith("lightning_gans."):
        return f"lightning_gans.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def check_finite(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()) -> None:
    """Raise :class:`DivergedError` if a weight, BatchNorm's statistics or an optimizer's state is not finite.

    Nor may another buffer be NaN; a mask may be infinite.
    """
    wrong = _not_finite(model, optimizers)
    if wrong is not None:
        raise DivergedError(f"training has diverged: {wrong} is not finite. The last checkpoint is finite.")


def _not_finite(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()) -> str | None:
    """Return the name of the first of these values that is not finite; None if all are."""
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    values |= {name: value for name, value in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            moments = {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
            values |= {f"{key} of {names.get(parameter, 'a parameter')}": moment for key, moment in moments.items()}
    if values and not nn.utils.get_total_norm(values.values(), torch.inf).isfinite():
        return next(name for name, value in values.items() if not value.isfinite().all())
    return next((name for name, buffer in model.named_buffers() if buffer.isnan().any()), None)


@contextmanager
def reading(path: Any) -> Iterator[None]:
    """Turn any error that the content of a checkpoint raises inside the block into a :class:`DataError`."""
    try:
        yield
    except LightningGansError:
        raise
    except Exception as error:
        message = f"{path} cannot be loaded and may be damaged: {type(error).__name__}: {first_line(error)}."
        raise DataError(message, setting=str(path)) from error


def read(path: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint or a pushed model without running code from it.

    Its entry :data:`KEY` is its checked :func:`description`.

    Raises:
        DataError: There is no such file, or it is not a checkpoint of this package.
    """
    checkpoint: dict[str, Any] = read_pushed(path) if is_pushed(path) else read_checkpoint(path, map_location)
    return {**checkpoint, KEY: description(checkpoint, path)}


def description(checkpoint: Mapping[str, Any], path: Any = "the checkpoint") -> dict[str, Any]:
    """Return the checkpoint's description of its model, validated.

    Raises:
        DataError: There is no description, or an entry has the wrong type.
    """
    stored = checkpoint.get("hyper_parameters")
    if KEY not in checkpoint and isinstance(stored, dict) and isinstance(stored.get(CLASS_PATH), str):
        arguments = {name: value for name, value in stored.items() if name != CLASS_PATH}
        counters = {"missing": [], "run_seed": 0, "images_seen": 0}
        return description({KEY: {"class": stored[CLASS_PATH], "arguments": arguments, **counters}}, path)
    found: Any = checkpoint.get(KEY)
    if found is None or (isinstance(found, dict) and "class" not in found):
        raise DataError(f"{path} was not written by a model of lightning_gans: it has no {KEY!r} entry.")
    kinds = {"class": str, "arguments": dict, "missing": list, "run_seed": int, "images_seen": int}
    for name, kind in kinds.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            raise DataError(f"{path} is damaged: its {KEY!r} entry has no {name} of type {kind.__name__}.")
    if not all(isinstance(name, str) for name in (*found["arguments"], *found["missing"])):
        raise DataError(f"{path} is damaged: the name of an argument is not a string.")
    loggers_of(found)
    scales_of(found)
    Attributes.stored(found.get("attributes"))
    arguments = {name: value for name, value in found["arguments"].items() if name not in OF_THE_MACHINE}
    # 0.1 wrote the file that a class was defined in.
    name = re.sub(r"^lightning_gans\.models\.\w+\.", "lightning_gans.", found["class"])
    return {**found, "class": name, "arguments": arguments}


def scales_of(about: dict[str, Any]) -> list[Scale]:
    """Return the scales of the sources and of the images in a description; those of bytes, if there are none.

    Raises:
        DataError: They are invalid.
    """
    try:
        scales = [Scale(**scale) for scale in about.get("scales", [{}, {}])]
        if len(scales) == 2 and all(is_range(s.low, s.high) and np.dtype(s.dtype).kind in "buif" for s in scales):
            return scales
    except TypeError:  # for example text, or an unknown type of values
        pass
    raise DataError("the checkpoint is damaged: its entry for the values of images is invalid.", setting="scales")


def loggers_of(about: Any) -> list[dict[str, Any]]:
    """Return the states of loggers in a description; a version may become part of a path, so it is a single name.

    Raises:
        DataError: They are invalid.
    """
    states: Any = about.get("loggers", []) if isinstance(about, dict) else None
    valid = isinstance(states, list) and all(
        isinstance(state, dict)
        and isinstance(state.get("class"), str)
        and isinstance(state.get("state", {}), dict)
        and isinstance(version := state.get("version"), (int, str, type(None)))
        and not re.search(r"[/\\\0]|^\.*$", str(version))
        for state in states
    )
    if not valid:
        raise DataError("the checkpoint is damaged: its entry for the loggers is invalid.", setting="loggers")
    found: list[dict[str, Any]] = states
    return found


def restore_states(model: Any, about: Mapping[str, Any]) -> None:
    """Give a model's regularizers and its augmentation their states in a description; others start anew.

    Raises:
        DataError: They are invalid.
    """
    found: Any = about.get("states", {})
    if not isinstance(found, dict) or not all(isinstance(state, dict) for state in found.values()):
        raise DataError("the checkpoint is damaged: an entry of its states is invalid.", setting="states")
    for name, part in _parts_with_state(model):
        with reading("the checkpoint"):
            part.restore(found.get(name, {}))


def _parts_with_state(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield what keeps a state from update to update, with its name in a checkpoint."""
    for place, part in enumerate(getattr(model, "regularizers", ())):
        if isinstance(getattr(part, "state", None), dict):
            yield f"{place}.{part.name}", part
    if isinstance(getattr(getattr(model, "augment", None), "state", None), dict):
        yield "augment", model.augment


def check_like(found: Any, own: Any, place: str) -> None:
    """Raise :class:`DataError` if types in a part of a checkpoint differ from those in this run's state."""
    for kind in (Mapping, (list, tuple), numbers.Real):
        if isinstance(own, kind) and not isinstance(found, kind):
            message = f"the checkpoint is damaged: {place} is a {type(found).__name__}, not a {type(own).__name__}."
            raise DataError(message, setting=place, value=found)
    if isinstance(own, Mapping):
        for key in own.keys() & found.keys():
            check_like(found[key], own[key], f"{place}.{key}")


def check_optimizers(optimizers: Sequence[torch.optim.Optimizer], states: Sequence[Any]) -> None:
    """Raise :class:`DataError` if a checkpoint's optimizers differ in their weights or the types of their options."""
    own = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in optimizers]
    with reading("the checkpoint"):
        found = [[len(group["params"]) for group in state["param_groups"]] for state in states]
        damaged = not all(isinstance(state["state"], Mapping) for state in states)
    if own != found or damaged:
        message = f"the checkpoint's optimizers have {found} weights by group, but the model's have {own}."
        raise DataError(message, setting="optimizer_states", value=found, allowed=own)
    for optimizer, state in zip(optimizers, states, strict=True):
        for group, stored in zip(optimizer.state_dict()["param_groups"], state["param_groups"], strict=True):
            options = {name: value for name, value in group.items() if not isinstance(value, bool)}  # as of the device
            check_like(stored, options, "optimizer_states")
        if isinstance(optimizer, torch.optim.Adam):
            _check_moments(optimizer, state)


def _check_moments(optimizer: torch.optim.Adam, state: Any) -> None:
    """Raise :class:`DataError` if the moments in a state of Adam have other shapes than the weights."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    indices = (index for group in state["param_groups"] for index in group["params"])
    for parameter, index in zip(parameters, indices, strict=True):
        moments = state["state"].get(index)
        if moments is not None and not _are_moments(moments, parameter):
            message = "the checkpoint is damaged: the moments of a weight do not fit it."
            raise DataError(message, setting="optimizer_states", value=index)


def _are_moments(state: Any, parameter: torch.Tensor) -> bool:
    """Return whether a state is that of a parameter under Adam."""
    if not isinstance(state, Mapping):
        return False
    moments, step = [state.get(name) for name in ("exp_avg", "exp_avg_sq")], state.get("step")
    fits = all(isinstance(moment, torch.Tensor) and moment.shape == parameter.shape for moment in moments)
    return fits and isinstance(step, (torch.Tensor, numbers.Real))


def find_model(about: Mapping[str, Any], path: Any, base: type[Any]) -> type[Any]:
    """Return the class of a checkpoint's model, after checking that it accepts the stored arguments.

    Args:
        about: The checkpoint's :func:`description`.
        path: The checkpoint, for messages.
        base: The class that it must be, or inherit from.

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
    path: Any,
    expected: type[Model],
    map_location: Any = "cpu",
    hparams_file: Any = None,
    strict: bool | None = None,
    imports: Iterable[str] = (),
    **overrides: Any,
) -> Model:
    """Rebuild the model of a checkpoint, in evaluation mode.

    Args:
        path: The checkpoint, the folder of a pushed model, or ``hf:USER/NAME``.
        expected: The class asked for; the checkpoint's must be it or a subclass.
        map_location: The device to load to.
        hparams_file: A YAML file of arguments that replace the stored ones.
        strict: Whether checkpoint and model must have the same weights; by default ``strict_loading`` of the model.
        imports: Your modules whose networks the checkpoint may name; see :func:`trust`.
        **overrides: Arguments that replace the stored ones, and networks that were given as instances.

    Raises:
        DataError: The file is not a checkpoint, its class is not known here, or an argument is missing.
    """
    trust(*imports)
    checkpoint = read(path, map_location)
    about = checkpoint[KEY]
    if hparams_file is not None:
        about["arguments"] |= _arguments_in(hparams_file)
    # A class that is defined in a function cannot be found by its name.
    cls = expected if about["class"] == public_name(expected) else find_model(about, path, expected)
    missing = [name for name in about["missing"] if name not in overrides]
    if missing:
        raise DataError(
            f"{path} was created with objects that it does not store: {', '.join(missing)}. Pass them, as in "
            f"{cls.__name__}.load_from_checkpoint(path, {missing[0]}=…)."
        )
    for name in overrides.keys() - inspect.signature(cls).parameters.keys():
        raise TypeError(f"{cls.__name__} got an unexpected keyword argument {name!r}")
    with reading(path):
        model: Any = build(cls, about["arguments"], **overrides)
        _load_state(model, checkpoint["state_dict"], path, model.strict_loading if strict is None else strict)
    if (wrong := _not_finite(model)) is not None:
        raise DataError(f"{path} is damaged: {wrong} is not finite.", setting=str(path), value=wrong)
    model.run_seed, model.images_seen = about["run_seed"], about["images_seen"]
    model.weights_step = checkpoint.get("global_step", 0)
    model.source_scale, model.image_scale = scales_of(about)
    model.attributes = Attributes.stored(about.get("attributes"))
    if map_location is not None and not callable(map_location) and not isinstance(map_location, dict):
        model.to(map_location)
    loaded: Model = model.eval()
    return loaded


def _arguments_in(path: Any) -> dict[str, Any]:
    """Return the arguments in a YAML file."""
    with reading(path):
        found = yaml.full_load(Path(path).read_text())  # tuples have a tag
        return {name: value for name, value in found.items() if name not in (CLASS_PATH, *OF_THE_MACHINE)}


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


class Transfer(NamedTuple):
    """What a model has taken from a checkpoint's weights, and what not; averages follow the weights that they are of.

    Attributes:
        taken: Names of the weights that were taken.
        kept: Names of the model's weights that were not, each with the reason.
        unused: Names of the checkpoint's weights that the model does not have.
    """

    taken: list[str]
    kept: dict[str, str]
    unused: list[str]

    def __str__(self) -> str:
        num = len(self.taken) + len(self.kept)
        lines = [f"{name}: {reason}" for name, reason in self.kept.items()]
        lines += [f"{name}: not in the model" for name in self.unused]
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        taken = f"{len(self.taken)} of {num} weights are taken from the checkpoint"
        return "\n  ".join([taken + (", but not" if lines else ""), *lines[:_SHOWN], *more])


_SHOWN = 12


def load_weights(model: Any, path: Any, strict: bool = True) -> Transfer:
    """Copy a checkpoint's weights into a model; moving averages that the checkpoint lacks start from the weights.

    Args:
        model: The model.
        path: The checkpoint, a folder of a pushed model, or ``hf:USER/NAME``.
        strict: Whether all weights have to fit; otherwise those that fit are taken.

    Raises:
        DataError: A weight is missing, unknown, or of another shape (``strict``), or none fits.
    """
    weights, own = rename_averages(read(path)["state_dict"]), model.state_dict()
    for name in own:
        if name.startswith("ema.") and name not in weights:
            weights[name] = weights.get(name.removeprefix("ema."), own[name])
    weights = {name: value for name, value in weights.items() if name in own or not name.startswith("ema.")}
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    with reading(path):
        _load_state(model, weights if strict else {**own, **fitting}, path)
    transfer = Transfer([], {}, sorted(weights.keys() - own.keys()))
    for name in (name for name in own if not name.startswith("ema.")):
        if name in fitting:
            transfer.taken.append(name)
        elif name in weights:
            shapes = [list(of[name].shape) for of in (weights, own)]
            transfer.kept[name] = "{} in the checkpoint, {} in the model".format(*shapes)
        else:
            transfer.kept[name] = "not in the checkpoint"
    if not transfer.taken:
        raise DataError(f"{path}: no weight fits the model.", setting=str(path))
    return transfer


def rename_averages(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights by their current names: 0.1 called the moving average of the generator ``generator_ema``.

    Example:
        >>> list(rename_averages({"generator_ema.output.weight": torch.ones(1)}))
        ['ema.generator.output.weight']
    """
    return {re.sub(r"^(\w+)_ema\.", r"ema.\1.", name): value for name, value in weights.items()}


def _load_state(model: nn.Module, weights: Mapping[str, torch.Tensor], path: Any, strict: bool = True) -> None:
    try:
        model.load_state_dict(weights, strict=strict)
    except DataError as error:
        raise DataError(f"{path}: {error}", setting=str(path)) from None


def check_fit(model: nn.Module, weights: Mapping[str, torch.Tensor], strict: bool = True) -> None:
    """Raise :class:`DataError` for the first weight that is of another shape, or missing or unknown (``strict``)."""
    own = model.state_dict()
    for name in sorted(own.keys() ^ weights.keys()) if strict else ():
        side = "lacks the weight" if name in own else "contains the unknown weight"
        raise DataError(f"the checkpoint does not fit the model: it {side} {name!r}.", setting=name)
    for name, value in own.items():
        if name in weights and value.shape != weights[name].shape:
            raise DataError(
                f"the checkpoint does not fit the model: {name!r} is {list(weights[name].shape)} in the checkpoint "
                f"and {list(value.shape)} in the model.",
                setting=name,
            )


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


def _is_plain(value: Any) -> bool:
    """Return whether a value can be stored; networks and functions cannot."""
    if isinstance(value, enum.Enum):
        return _is_plain(value.value)
    if value is None or isinstance(value, (numbers.Real, str, Path)):
        return True
    items = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, (Mapping, Sequence)) and not isinstance(value, bytes) and all(map(_is_plain, items))


def _own_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters that a class's own constructor names."""
    parameters = list(inspect.signature(cls.__init__).parameters.items())[1:]  # type: ignore[misc]
    return {name: p for name, p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def _defaults(cls: type) -> dict[str, Any]:
    """Return the defaults of all parameters that a constructor takes, including those of its bases."""
    parameters = whole_signature(cls).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def whole_signature(cls: type) -> inspect.Signature:
    """Return the signature of a class with the keyword arguments of its bases that ``**options`` passes on."""
    parameters: dict[str, inspect.Parameter] = {}
    for ancestor in (base for base in cls.__mro__ if "__init__" in vars(base)):
        for name, parameter in _own_parameters(ancestor).items():
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
    own, defaults = _own_parameters(cls), _defaults(cls)
    return {
        name: value
        for name, value in stored.items()
        if name in own or name not in defaults or _listed(plain(defaults[name])) != _listed(value)
    }


def _listed(value: Any) -> Any:
    """Return a value with lists instead of tuples, as JSON has it."""
    return [*map(_listed, value)] if isinstance(value, (list, tuple)) else value


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


def _instantiate(value: Any) -> Any:
    """Build a network that is stored as ``{class_path, init_args}``, and whatever is nested in it."""
    if isinstance(value, Mapping) and "class_path" in value:
        return find_network(value["class_path"])(
            **{name: _instantiate(item) for name, item in (value.get("init_args") or {}).items()}
        )
    if isinstance(value, list):
        return [_instantiate(item) for item in value]
    return value
