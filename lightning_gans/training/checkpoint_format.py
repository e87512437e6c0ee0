"""The model description in a checkpoint, and rebuilding the model from it.

A checkpoint carries ``lightning_gans: {version, class, arguments, missing, run_seed, images_seen, scales, attributes,
terms, states}``, and in a fit ``loggers``, in plain types, so that it loads with ``weights_only=True``. A checkpoint
can name the class of its model and of its networks, within limits (:mod:`lightning_gans.training.allowed_classes`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import yaml
from torch import nn

from lightning_gans._version import __version__
from lightning_gans.errors import DataError
from lightning_gans.io.arrays import Scale, is_range
from lightning_gans.io.attributes import Attributes
from lightning_gans.io.checkpoint_io import loading, read_checkpoint
from lightning_gans.io.hub import is_pushed, read_pushed
from lightning_gans.training.allowed_classes import check_classes, find_class, instantiate, trust
from lightning_gans.training.arguments import (
    CLASS_PATH,
    OF_THE_MACHINE,
    arguments_to_pass,
    defaults_of,
    is_plain,
    own_parameters,
    public_name,
)
from lightning_gans.training.finite import not_finite

Model = TypeVar("Model")

KEY = "lightning_gans"
FOR_TRAINING = ("regularizers", "augment", "_optimizer", "content")
"""Endings of the names of objects that only training needs: a model can be rebuilt without them."""


def describe(model: Any, checkpoint: dict[str, Any]) -> None:
    """Write the model's description into a checkpoint; Lightning's own hyperparameters are removed.

    ``missing`` names the arguments that could not be stored, except for those that samples do not depend on.
    """
    required = [name for name, p in own_parameters(type(model)).items() if p.default is p.empty]
    missing = [
        name
        for name, value in model.given_arguments.items()
        if not is_plain(value) and (name in required or not name.endswith(FOR_TRAINING))
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
        "terms": sorted(_terms(model)),
        "states": {name: dict(part.state) for name, part in _with_state(model).items() if part.state},
    }


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
        if kind is int and found[name] < 0:
            raise DataError(f"{path} is damaged: its {name} is {found[name]}.", setting=str(path), value=found[name])
    if not all(isinstance(name, str) for name in (*found["arguments"], *found["missing"])):
        raise DataError(f"{path} is damaged: the name of an argument is not a string.")
    terms: Any = found.get("terms", [])
    if not isinstance(terms, list) or not all(isinstance(name, str) for name in terms):
        raise DataError(f"{path} is damaged: its terms are not a list of names.", setting="terms")
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
    for name, part in _with_state(model).items():
        with loading():
            part.restore(found.get(name, {}))


def changed_terms(model: Any, about: Mapping[str, Any]) -> str:
    """Return how a model's regularizers differ from those of a description, as text; empty if they do not."""
    before, now = set(about.get("terms", _terms(model))), set(_terms(model))
    lost, added = (", ".join(sorted(names)) for names in (before - now, now - before))
    found = [f"without {lost}"] * bool(lost) + [f"with {added}"] * bool(added)
    return " and ".join(found)


def _terms(model: Any) -> dict[str, Any]:
    """Return the active regularizers by name; equal names have a number, in their order."""
    terms: dict[str, Any] = {}
    for part in getattr(model, "regularizers", ()):
        # A module may use this attribute for something else.
        if isinstance(getattr(part, "state", None), dict) and part.weight > 0:
            repeats = sum(known.name == part.name for known in terms.values())
            terms[part.name + f".{repeats + 1}" * (repeats > 0)] = part
    return terms


def _with_state(model: Any) -> dict[str, Any]:
    """Return what may keep a state from update to update: the regularizers and the augmentation, by name."""
    augment = getattr(model, "augment", None)
    return _terms(model) | ({"augment": augment} if isinstance(getattr(augment, "state", None), dict) else {})


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
    unknown = sorted(set(about["arguments"]) - set(own_parameters(cls)) - set(defaults_of(cls)))
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
    """Rebuild the model of a checkpoint, which must be of the class ``expected`` or of a subclass.

    See :meth:`lightning_gans.GenerativeModule.load_from_checkpoint` for the other arguments.
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
    with loading(path):
        model: Any = build(cls, about["arguments"], **overrides)
        _load_state(model, checkpoint["state_dict"], path, model.strict_loading if strict is None else strict)
    if (wrong := not_finite(model)) is not None:
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
    with loading(path):
        found = yaml.full_load(Path(path).read_text())  # tuples have a tag
        return {name: value for name, value in found.items() if name not in (CLASS_PATH, *OF_THE_MACHINE)}


def build(cls: type[Model], arguments: Mapping[str, Any], **overrides: Any) -> Model:
    """Build a model from its stored arguments, with new weights, so that it can be stored again.

    Args:
        cls: The model's class.
        arguments: As :func:`resolved_arguments` returns them, with networks as ``{class_path, init_args}``.
        **overrides: Arguments that replace the stored ones.
    """
    stored = {name: instantiate(value) for name, value in arguments_to_pass(cls, arguments).items()}
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

    See :meth:`lightning_gans.GenerativeModule.load_weights`.
    """
    weights, own = rename_averages(read(path)["state_dict"]), model.state_dict()
    for name in own:
        if name.startswith("ema.") and name not in weights:
            weights[name] = weights.get(name.removeprefix("ema."), own[name])
    weights = {name: value for name, value in weights.items() if name in own or not name.startswith("ema.")}
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    with loading(path):
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
