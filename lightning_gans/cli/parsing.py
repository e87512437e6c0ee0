"""Parse command lines and recipes, and report each error in one short message."""

from __future__ import annotations

import inspect
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, Namespace, get_loader, set_loader  # type: ignore[attr-defined]

import lightning_gans
from lightning_gans import callbacks
from lightning_gans._lightning import pl
from lightning_gans.cli.arguments import PROGRAM
from lightning_gans.cli.commands import recipes
from lightning_gans.cli.config_check import check_config, dotted_names
from lightning_gans.cli.known_errors import own_error
from lightning_gans.cli.lightning_cli import LightningArgumentParser
from lightning_gans.cli.recipe_yaml import load_yaml
from lightning_gans.cli.working_folder import add_working_folder
from lightning_gans.datamodules import ImageDataModule
from lightning_gans.errors import LightningGansError, SettingError, check_positive, invalid, missing_extra, nearest
from lightning_gans.models import GenerativeModule
from lightning_gans.training.processes import check_strategy_name
from lightning_gans.training.regularizers import Regularizer

CALLBACKS: dict[str, type[pl.Callback]] = {
    "metrics": callbacks.GenerativeMetrics,
    "samples": callbacks.SampleGrid,
    "reconstructions": callbacks.Reconstructions,
    "neighbors": callbacks.NearestNeighbors,
    "watchdog": callbacks.CollapseWatchdog,
    "acceleration": callbacks.Acceleration,
    "checkpoint": callbacks.Checkpoint,
    "stop": callbacks.GracefulStop,
}
"""The callbacks that have a key of their own in recipes, with a switch ``KEY.enabled``."""

OFF = ("neighbors",)
"""The callbacks that are off by default."""

_RENAMED = {"neighbours": "neighbors"}
"""Keys of earlier versions that are still accepted."""

_LEAST = {"log_every_n_steps": 0, "min_epochs": 0, "min_steps": 0, "num_sanity_val_steps": -1}
"""Minimum values of settings that Lightning does not check."""

_SECTIONS = ("model", "data", "trainer", "seed_everything", "ckpt_path", "init_from", *CALLBACKS)


_loaded_yaml: Callable[[str], Any] = get_loader("yaml")
_resumed: ContextVar[Path | None] = ContextVar("_resumed", default=None)


@contextmanager
def resuming(config: Path) -> Iterator[None]:
    """Import only what :func:`check_config` allows while the settings of a run are parsed from its file.

    A setting may be YAML in a string or the name of another file, which the parser loads as well.
    """
    token = _resumed.set(config)
    try:
        yield
    finally:
        _resumed.reset(token)


def _load_yaml(text: str) -> Any:
    loaded, resumed = load_yaml(text, _loaded_yaml), _resumed.get()
    if isinstance(loaded, dict):
        loaded = {_current_name(key): value for key, value in loaded.items()}
    if resumed is None:
        add_working_folder(dotted_names(loaded))
    else:
        check_config(resumed, loaded)
    return loaded


set_loader("yaml", _load_yaml, exceptions=(yaml.YAMLError,))  # for recipes and for options
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, item: dumper.represent_data(item.value))  # Timer has some


def current_options(words: Iterable[str]) -> list[str]:
    """Return a command line with today's names of the keys that earlier versions had."""
    options = "|".join(map(re.escape, _RENAMED))
    return [re.sub(rf"^--({options})(?=[.=]|$)", lambda found: f"--{_current_name(found[1])}", word) for word in words]


def _current_name(key: Any) -> Any:
    """Return a key, or its new name if it has been renamed."""
    if key in _RENAMED:
        warnings.warn(f"{key} is deprecated: use {_RENAMED[key]}.", FutureWarning, stacklevel=2)
    return _RENAMED.get(key, key)


class RecipeAction(ActionConfigFile):
    """``-c``: a path, or the name of a recipe of the package."""

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: str) -> None:
        """Read the recipe."""
        path = recipes.find(value)
        try:
            ActionConfigFile.apply_config(parser, cfg, dest, str(path))
        except (TypeError, ValueError) as error:
            reason = own_error(error) or readable(str(error))
            message = f"{path} is not a valid recipe: {reason}"
            raise SettingError(message, setting=getattr(reason, "setting", ""), value=str(path)) from error


class TrainingParser(LightningArgumentParser):
    """Lightning's parser, with errors of this package."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage."""
        raise (own_error(ex) or readable(message)) from ex


def readable(message: str) -> LightningGansError:
    """Condense jsonargparse's message, of up to sixty lines, to one sentence."""
    if "Neither `tensorboard`" in message:
        return missing_extra("TensorBoardLogger", "tensorboard", setting="trainer.logger")
    unknown = re.search(r"(?:Option|not accept option|unrecognized arguments:) '?-*([\w.]+)", message)
    if unknown:
        return _unknown_setting(unknown[1])
    missing = re.search(r"arguments are required: (.*)", message)
    if missing:
        names = sorted(name.rpartition(".")[2] for name in missing[1].split(", "))
        how = f"name a recipe, as in `{PROGRAM} fit -c quickstart`"
        if not {"model", "data"} & set(names):
            how = "add them to the init_args of their class"
            if names == ["data_dir"]:
                how += ", or set them as in --data.data_dir FOLDER"
        return SettingError(f"required settings are missing: {', '.join(names)}. To fix this, {how}.", setting=names[0])
    found = re.search(r'Parser key "([\w.]+)"', message)
    value = re.search(r"(?:(?:Got|Given) value|Expected a dot import path string): (.*)$", message)
    if value is None:
        broken = re.search(r"Problem with given class_path '([\w.]+)':\s+(.+)", message)
        if found and broken:
            return SettingError(f"{found[1]} is {broken[1]!r}: {broken[2]}.", setting=found[1], value=broken[1])
        details = [line.strip(" -") for line in message.splitlines()[1:] if "Expected a path but" not in line]
        if found and any(details):
            return SettingError(f"{found[1]}: {next(filter(None, details))}.", setting=found[1])
        return SettingError(textwrap.shorten(message, 300))
    nested = re.search(r"NestedArg\(key='(?!class_path)([\w.]+)'", value[1])
    if nested and found:
        return _unknown_setting(f"{found[1]}.{nested[1]}")
    class_path = re.search(r"class_path(?:': |=|', val=)'([\w.]+)'", value[1])
    appended = re.search(r"NestedArg\(key='([\w.]+)\+', val='(.*)'\)", value[1])
    given = appended[2] if appended else class_path[1] if class_path else value[1]
    key = found[1] if found else given  # a class whose constructor raises has no key here
    if appended:
        key = f"{key}.{appended[1]}"
    choices = [choice for literal in re.findall(r"Literal\[(.*?)\]", message) for choice in _choices(literal)]
    base = {"model": GenerativeModule, "data": ImageDataModule}.get(key)
    classes = [name for name in _public_classes(base) if name != base.__name__] if base is not None else []
    reason = _readable_reasons(message)
    if base is not None and "." not in given and given not in classes:
        choices, reason = classes, f"expected {', '.join(classes)}, or a custom class"
    what = key if key == given else f"{key} is {given if given.startswith(('{', '[')) else repr(given)}"
    text = f"{what}: {reason.rstrip('.')}.{nearest(given, choices)}"
    return SettingError(text, setting=key, value=given, allowed=choices or None)


_PREAMBLE = r"Problem with|Given value|Does not validate|Subtypes:|Errors:|Subclass types|a (dict|class path) |frame #"
"""Beginnings of jsonargparse's lines that do not say what is wrong."""


def _readable_reasons(message: str) -> str:
    """Return what jsonargparse expected, in the terms of a recipe, or what failed while it imported a class."""
    lines = re.findall(r"^ +(?:- )?(.+?)(?:\. Got value.*)?$", message.partition("Errors:")[2] or message, re.MULTILINE)
    expected, failed = [], []
    for line in lines:
        if line.startswith("Expected a path but"):
            continue  # a value may name a file that has it, which nobody meant
        if line.startswith("Expected a"):
            kind = re.sub(r"Expected an? (?:<class ')?(?:collections\.abc\.)?(.*?)(?:'>)?$", r"\1", line)
            kind = re.sub(r"^typing\.Literal\[(.*)\]", lambda literal: ", ".join(_choices(literal[1])), kind)
            kind = re.sub(r"^dot import path string.*", "the import path of a class", kind)
            expected.append({"NoneType": "null", "Sequence": "a list"}.get(kind, kind))
        elif not re.match(_PREAMBLE, line):
            failed.append(line)
    failed = [line for line in failed if not line.startswith("Not a valid subclass")] or failed
    return "; ".join(failed) or f"expected {' or '.join(expected)}"


def _choices(literal: str) -> list[str]:
    return [choice.strip(" '\"") for choice in literal.split(",")]


def _unknown_setting(name: str) -> SettingError:
    """Return the error for a setting that does not exist, or that only classes other than the chosen one have."""
    known = [*_known_settings(), "class_path", "init_args"]
    wrong = next((part for part in name.split(".") if part not in known), None)
    if wrong is None:
        above, _, setting = name.rpartition(".")
        section = above.removesuffix(".init_args") or _section_of(name)
        text = f"{name} is not a setting of the chosen class: name its class first, as in --{section} CLASS "
        if section not in ("model", "data") and not above:
            text = f"{name} belongs to {section}: "
        return SettingError(f"{text}--{section}.{setting} VALUE.", setting=name)
    hint = nearest(wrong, _SECTIONS) if name.startswith(f"{wrong}.") else ""
    return SettingError(f"unknown setting {name!r}.{hint or nearest(wrong, known)}", setting=name)


def _section_of(name: str) -> str:
    """Return the section of a recipe whose classes have a setting."""
    sections: dict[str, list[Any]] = {}
    for section, base in (("data", ImageDataModule), ("model", GenerativeModule)):
        sections[section] = [getattr(lightning_gans, public) for public in _public_classes(base)]
    sections |= {"trainer": [pl.Trainer]} | {key: [cls] for key, cls in CALLBACKS.items()}
    found = [key for key, classes in sections.items() if any(name in inspect.signature(c).parameters for c in classes)]
    return found[0] if found else "data"


def _public_classes(base: type = object) -> list[str]:
    """Return the names of the package's public classes below a base."""
    public = {name: getattr(lightning_gans, name) for name in lightning_gans.__all__}
    return [name for name, value in public.items() if inspect.isclass(value) and issubclass(value, base)]


def _subclasses(base: type) -> Iterator[type]:
    """Yield all imported subclasses of a class."""
    subclasses: list[type] = base.__subclasses__()
    for cls in subclasses:
        yield from (cls, *_subclasses(cls))


def _known_settings() -> Iterable[str]:
    """Return the names of all settings of the trainer, the callbacks, the package's classes and custom ones."""
    public = [getattr(lightning_gans, name) for name in _public_classes()]
    custom = [cls for base in (GenerativeModule, ImageDataModule, Regularizer) for cls in _subclasses(base)]
    classes = [pl.Trainer, *CALLBACKS.values(), *public, *custom]
    constructors = [vars(base)["__init__"] for cls in classes for base in cls.__mro__ if "__init__" in vars(base)]
    return {*_SECTIONS, "enabled", *(name for init in constructors for name in inspect.signature(init).parameters)}


def check_settings(config: Any) -> None:
    """Check parsed settings that Lightning rejects too late, or without naming the alternative."""
    for key in CALLBACKS:
        if key in config and not isinstance(config[key], Namespace):
            raise invalid(key, config[key], f"a mapping of settings, such as {{enabled: false}} to switch {key} off")
    seed, trainer = config.seed_everything, config.trainer
    if isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise invalid("seed_everything", seed, f"a whole number from 0 to {2**32 - 1}")
    for name, least in _LEAST.items():
        if isinstance(trainer.get(name), int) and trainer[name] < least:
            raise invalid(f"trainer.{name}", trainer[name], f"{least} or more")
    for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
        for name in ("name", "version"):
            place = Path(str((getattr(logger, "init_args", None) or {}).get(name) or "."))
            if place.is_absolute() or ".." in place.parts:
                raise invalid(f"trainer.logger.{name}", str(place), "the name of a folder in its save_dir")
    if isinstance(trainer.strategy, str):
        check_strategy_name(trainer.strategy)
        if trainer.strategy.startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
            message = (
                f"trainer.strategy is {trainer.strategy}, which trains where the command line cannot follow: use ddp."
            )
            raise SettingError(message, setting="trainer.strategy", value=trainer.strategy, allowed="ddp")
    for name in ("check_val_every_n_epoch", "val_check_interval"):  # Lightning divides by them
        if isinstance(trainer.get(name), (int, float)):
            check_positive(**{f"trainer.{name}": trainer[name]})
    for flag, none, instead in (
        ("gradient_clip_val", 0, "--model.gradient_clip_val"),
        ("accumulate_grad_batches", 1, "--model.accumulate_batches"),
    ):
        if trainer.get(flag) not in (None, none):
            message = f"trainer.{flag} is {trainer[flag]}: with two optimizers, set {instead} {trainer[flag]} instead."
            raise SettingError(message, setting=f"trainer.{flag}", value=trainer[flag], allowed=instead)
