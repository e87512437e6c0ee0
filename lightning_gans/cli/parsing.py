"""Parse command lines and recipes, and report each error in one short message."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterable
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

import lightning_gans
from lightning_gans import callbacks
from lightning_gans._lightning import MisconfigurationException, pl
from lightning_gans.cli.arguments import PROGRAM
from lightning_gans.cli.commands import recipes
from lightning_gans.cli.lightning_cli import LightningArgumentParser
from lightning_gans.datamodules import ImageDataModule
from lightning_gans.errors import LightningGansError, SettingError, check_positive, invalid, nearest
from lightning_gans.models import GenerativeModule
from lightning_gans.training.processes import check_strategy_name

CALLBACKS: dict[str, type[pl.Callback]] = {
    "metrics": callbacks.GenerativeMetrics,
    "samples": callbacks.SampleGrid,
    "reconstructions": callbacks.Reconstructions,
    "neighbours": callbacks.NearestNeighbors,
    "watchdog": callbacks.CollapseWatchdog,
    "acceleration": callbacks.Acceleration,
    "checkpoint": callbacks.Checkpoint,
    "stop": callbacks.GracefulStop,
}
"""The callbacks that have a key of their own in recipes, with a switch ``KEY.enabled``."""

OFF = ("neighbours",)
"""The callbacks that are off by default."""

_SECTIONS = ("model", "data", "trainer", "seed_everything", "ckpt_path", "init_from", *CALLBACKS)
_LIGHTNING = ("pytorch_lightning.", "lightning_fabric.", "lightning.")


def known_error(error: BaseException) -> LightningGansError | None:
    """Return the error to show without a traceback, or None.

    These are the package's own errors, also as the cause of others, and what Lightning raises about a setting while
    no code of a model, of data or of a callback is running.
    """
    own = _own_error(error)
    if own is not None:
        return own
    message = str(error).strip()
    if type(error).__module__.startswith("wandb.") and re.search("api.key", message, re.IGNORECASE):
        return SettingError("Weights & Biases has no API key: run `wandb login`, or set WANDB_MODE=offline.")
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    refused = isinstance(error, (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError))
    alone = all(module.startswith((*_LIGHTNING, "lightning_gans.cli.")) for module in modules)
    if message and refused and alone and modules[-1].startswith(_LIGHTNING):
        return SettingError(f"Lightning rejects a setting: {message.splitlines()[0]}")
    return None


def _own_error(error: BaseException | None) -> LightningGansError | None:
    """Return the first of the package's errors in a chain of causes."""
    while error is not None and not isinstance(error, LightningGansError):
        error = error.__cause__ or error.__context__
    return error


class RecipeAction(ActionConfigFile):
    """``-c``: a path, or the name of a recipe of the package."""

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: str) -> None:
        """Read the recipe."""
        path = recipes.find(value)
        try:
            ActionConfigFile.apply_config(parser, cfg, dest, str(path))
        except (TypeError, ValueError) as error:
            reason = _own_error(error) or _readable(str(error))
            message = f"{path} is not a valid recipe: {reason}"
            raise SettingError(message, setting=getattr(reason, "setting", ""), value=str(path)) from error


class TrainingParser(LightningArgumentParser):
    """Lightning's parser, with errors of this package."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage."""
        raise (_own_error(ex) or _readable(message)) from ex


def _readable(message: str) -> SettingError:
    """Condense jsonargparse's message, of up to sixty lines, to one sentence."""
    unknown = re.search(r"(?:Option|not accept option|unrecognized arguments:) '?-*([\w.]+)", message)
    if unknown:
        return _unknown_setting(unknown[1])
    missing = re.search(r"arguments are required: (.*)", message)
    if missing:
        names = sorted(name.rpartition(".")[2] for name in missing[1].split(", "))
        how = f"name a recipe, as in `{PROGRAM} fit -c quickstart`"
        if not {"model", "data"} & set(names):
            how = f"add them to the init_args of their class, or set them as in --data.{names[0]} VALUE"
        return SettingError(f"required settings are missing: {', '.join(names)}. To fix this, {how}.", setting=names[0])
    key = re.search(r'Parser key "([\w.]+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)$", message)
    if key is None or value is None:
        return SettingError(" ".join(message.split()))
    class_path = re.search(r"class_path(?:': |=|', val=)'([\w.]+)'", value[1])
    given = class_path[1] if class_path else value[1]
    choices = [choice for literal in re.findall(r"Literal\[(.*?)\]", message) for choice in _choices(literal)]
    base = {"model": GenerativeModule, "data": ImageDataModule}.get(key[1])
    if base is not None and "." not in given:
        choices = [name for name in _public_classes(base) if name != base.__name__]
        reason = f"expected {', '.join(choices)}, or a custom class"
    else:
        reason = _readable_reasons(message)
    text = f"{key[1]} is {given if given[0] in '{[' else repr(given)}: {reason}.{nearest(given, choices)}"
    return SettingError(text, setting=key[1], value=given, allowed=choices or None)


def _readable_reasons(message: str) -> str:
    """Return what jsonargparse expected, in the words of a recipe, or what failed while it imported a class."""
    lines = re.findall(r"^ +(?:- )?(.+?)(?:\. Got value.*)?$", message.partition("Errors:")[2] or message, re.MULTILINE)
    expected, failed = [], []
    for line in lines:
        if line.startswith("Expected a"):
            kind = re.sub(r"Expected an? (?:<class ')?(?:collections\.abc\.)?(.*?)(?:'>)?$", r"\1", line)
            kind = re.sub(r"^typing\.Literal\[(.*)\]", lambda literal: ", ".join(_choices(literal[1])), kind)
            kind = re.sub(r"^dot import path string.*", "a class", kind)
            expected.append({"NoneType": "null"}.get(kind, kind))
        elif not line.startswith(("Problem with", "Given value")):
            failed.append(line)
    return "; ".join(failed) or f"expected {' or '.join(expected)}"


def _choices(literal: str) -> list[str]:
    return [choice.strip(" '\"") for choice in literal.split(",")]


def _unknown_setting(name: str) -> SettingError:
    """Return the error for a setting that no class, or only another class than the chosen one, has."""
    known = [*_known_settings(), "class_path", "init_args"]
    wrong = next((part for part in name.split(".") if part not in known), None)
    if wrong is None:
        own = name.rpartition(".")[2]
        text = (
            f"{name} is not a setting of the chosen class: name its class first, as in --data CLASS --data.{own} VALUE."
        )
        return SettingError(text, setting=name)
    hint = nearest(wrong, _SECTIONS) if name.startswith(f"{wrong}.") else ""
    return SettingError(f"unknown setting {name!r}.{hint or nearest(wrong, known)}", setting=name)


def _public_classes(base: type = object) -> list[str]:
    """Return the names of the package's public classes below a base."""
    public = {name: getattr(lightning_gans, name) for name in lightning_gans.__all__}
    return [name for name, value in public.items() if inspect.isclass(value) and issubclass(value, base)]


def _known_settings() -> Iterable[str]:
    """Return the names of all settings of the trainer, the callbacks and the package's classes."""
    classes = [pl.Trainer, *CALLBACKS.values(), *(getattr(lightning_gans, name) for name in _public_classes())]
    constructors = [vars(base)["__init__"] for cls in classes for base in cls.__mro__ if "__init__" in vars(base)]
    return {*_SECTIONS, "enabled", *(name for init in constructors for name in inspect.signature(init).parameters)}


def check_settings(config: Any) -> None:
    """Check the settings that Lightning rejects too late, or without the alternative.

    Args:
        config: The parsed configuration of a command.

    Raises:
        SettingError: A setting is invalid.
    """
    seed, trainer = config.seed_everything, config.trainer
    if not 0 <= seed < 2**32:
        raise invalid("seed_everything", seed, f"from 0 to {2**32 - 1}")
    if isinstance(trainer.strategy, str):
        check_strategy_name(trainer.strategy)
    for name in ("check_val_every_n_epoch", "val_check_interval"):  # Lightning divides by them
        if isinstance(trainer.get(name), (int, float)):
            check_positive(**{f"trainer.{name}": trainer[name]})
    for flag, none, instead in (
        ("gradient_clip_val", 0, "--model.gradient_clip_val"),
        ("accumulate_grad_batches", 1, "--model.accumulate_batches"),
    ):
        if trainer.get(flag) not in (None, none):
            message = f"trainer.{flag} is {trainer[flag]}: with two optimizers, use {instead} instead."
            raise SettingError(message, setting=f"trainer.{flag}", value=trainer[flag], allowed=instead)
