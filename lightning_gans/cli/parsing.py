"""Command lines and recipes read, with one sentence for what is wrong in them."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

import lightning_gans
from lightning_gans._lightning import pl
from lightning_gans.callbacks import (
    Checkpoint,
    CollapseWatchdog,
    GenerativeMetrics,
    GracefulStop,
    NearestNeighbors,
    Reconstructions,
    SampleGrid,
)
from lightning_gans.cli.commands import recipes
from lightning_gans.cli.lightning_cli import LightningArgumentParser
from lightning_gans.datamodules import ImageDataModule
from lightning_gans.errors import LightningGansError, SettingError, import_named, nearest
from lightning_gans.models import AdversarialModule, GenerativeModule

PROGRAM = "lightning-gans"
CALLBACKS = {
    "metrics": GenerativeMetrics,
    "samples": SampleGrid,
    "reconstructions": Reconstructions,
    "neighbours": NearestNeighbors,
    "watchdog": CollapseWatchdog,
    "checkpoint": Checkpoint,
    "stop": GracefulStop,
}
"""The callbacks that recipes and overlays set by a key of their own."""

_SECTIONS = ("model", "data", "trainer", "seed_everything", "ckpt_path", "init_from", *CALLBACKS)


def our_error(error: BaseException | None) -> LightningGansError | None:
    """Return the error of ours that another one was raised from; parsers wrap what constructors raise."""
    while error is not None:
        if isinstance(error, LightningGansError):
            return error
        error = error.__cause__ or error.__context__
    return None


class CommandParser(argparse.ArgumentParser):
    """Parser whose errors are ours, and which takes ``--seeds -5,7``."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Take numbers with commas for a value, and for no option, if they begin with a minus."""
        words: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            option = bool(words) and re.fullmatch(r"--\w+", words[-1])
            if option and re.fullmatch(r"-\d+(,-?\d+)+", word):
                words[-1] += f"={word}"
            else:
                words.append(word)
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        known = [name for action in self._actions for name in action.option_strings]
        wrong = re.search(r"unrecognized arguments: (--\w+)", message)
        raise SettingError(f"{message}.{nearest(wrong[1], known) if wrong else ''}\nSee {self.prog} --help.")


class RecipeAction(ActionConfigFile):
    """``-c``: a path, or the name of a recipe that comes with the package."""

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: str) -> None:
        """Read the recipe."""
        path = recipes.find(value)
        try:
            ActionConfigFile.apply_config(parser, cfg, dest, str(path))
        except (TypeError, ValueError) as error:
            raise SettingError(f"{path} is no recipe: {our_error(error) or _readable(str(error))}") from error


class TrainingParser(LightningArgumentParser):
    """Lightning's parser, whose errors are ours."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise one readable sentence instead of printing the usage."""
        ours = our_error(ex)
        raise ours if ours is not None else SettingError(_readable(message)) from ex


def _readable(message: str) -> str:
    """Say in a sentence what jsonargparse says in up to sixty lines: the setting, its value, what is allowed."""
    text = " ".join(message.split())
    unknown = re.search(
        r"Option '([\w.]+)' is not accepted|(?:not accept option|unrecognized arguments:) '?-*([\w.]+)", text
    )
    if unknown:
        name = unknown[1] or unknown[2]
        known = [*_known_settings(), "class_path", "init_args"]
        wrong = next((part for part in name.split(".") if part not in known), None)
        if wrong is None:
            return f"{name} is a setting, but not of the class that is chosen: name the class that has it before it."
        hint = nearest(wrong, _SECTIONS) if name.startswith(f"{wrong}.") else ""
        return f"{name} is no setting that is known here.{hint or nearest(wrong, known)}"
    missing = re.search(r"arguments are required: (.*)", text)
    if missing:
        names = missing[1].split(", ")
        sections = [section for section in ("model", "data") if any(name.endswith(f".{section}") for name in names)]
        if sections:
            return f"{' and '.join(sections)} missing: name a recipe, as in `{PROGRAM} fit -c quickstart`."
        return f"no value is given for {missing[1]}: set it{_option(names[0])}."
    key = re.search(r'Parser key "([\w.]+)"', text)
    value = re.search(r"(?:Got|Given) value: (.*?)(?: - Expected .*| Given value type.*)?$", text)
    if key is None or value is None:
        return text
    class_path = re.search(r"class_path(?:': |=|', val=)'([\w.]+)'", value[1])
    name = class_path[1] if class_path else value[1]
    setting = f"{key[1]} is {name!r}"
    if class_path or "class_path" in text or "Expected a path but" in text:
        _check_class(setting, name)
    base = re.search(r"does not correspond to a subclass of (\w+)", text)
    if base:
        return f"{setting}, which is no subclass of {base[1]}."
    if key[1] in ("model", "data"):
        known = _known_classes(GenerativeModule if key[1] == "model" else ImageDataModule)
        return f"{setting}: choose from {', '.join(known)}, or a class of yours.{nearest(name, known)}"
    choices = re.findall(r"Literal\[(.*?)\]", text)
    if choices:
        allowed = list(dict.fromkeys(one.strip(" '\"") for choice in choices for one in choice.split(",")))
        return f"{setting}: choose from {', '.join(allowed)}.{nearest(value[1], allowed)}"
    expected = dict.fromkeys(
        re.findall(r"Expected an? (?:<class ')?([\w. \[\],>=<-]+?)(?:'>)?(?=\.? (?:-|G|D|E)|$|:)", text)
    )
    kinds = [{"NoneType": "null", "collections.abc.Sequence": "a list"}.get(kind, kind) for kind in expected]
    return f"{setting}: expected {' or '.join(kinds)}." if kinds else text


def _check_class(setting: str, class_path: str) -> None:
    """Raise :class:`SettingError` for a class that cannot be imported, with the reason why."""
    module, _, name = class_path.rpartition(".")
    if re.fullmatch(r"\w+(\.\w+)*", module) and name not in (found := dir(import_named(setting, module))):
        raise SettingError(f"{setting}: {module} has no {name!r}.{nearest(name, found)}")


def _option(name: str) -> str:
    """Return how an argument of the model's or of the data's class is set, where it is one of ours."""
    for section, base in (("data", ImageDataModule), ("model", GenerativeModule)):
        classes = [getattr(lightning_gans, known) for known in _known_classes(base)]
        if any(name in inspect.signature(cls).parameters for cls in classes):
            return f", as in --{section}.{name} VALUE"
    return ", on the command line or among the init_args of its class"


def _known_classes(base: type) -> list[str]:
    """Return the public classes below a base that a recipe can name."""
    public = [getattr(lightning_gans, name) for name in lightning_gans.__all__]
    abstract = (base, AdversarialModule)
    return [cls.__name__ for cls in public if inspect.isclass(cls) and issubclass(cls, base) and cls not in abstract]


def _known_settings() -> list[str]:
    """Return the names of all settings of the classes that recipes name, for the nearest one."""
    classes = [pl.Trainer, *CALLBACKS.values()]
    classes += [value for name in lightning_gans.__all__ if inspect.isclass(value := getattr(lightning_gans, name))]
    constructors = [vars(base)["__init__"] for cls in classes for base in cls.__mro__ if "__init__" in vars(base)]
    names = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
    return sorted(names | set(_SECTIONS))
