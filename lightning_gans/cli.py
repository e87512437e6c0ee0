"""The command line: LightningCLI's commands with recipes by name, our own commands, and one-line errors."""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import os
import re
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytorch_lightning as pl
import torch
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger

import lightning_gans
from lightning_gans.callbacks import Checkpoint, GenerativeMetrics, ProgressBar, Reconstructions, SampleGrid
from lightning_gans.commands import recipes
from lightning_gans.datamodules import ImageDataModule
from lightning_gans.errors import LightningGansError, SettingError, nearest
from lightning_gans.files import replacing
from lightning_gans.models import AdversarialModule, GenerativeModule
from lightning_gans.pictures import grid, save_png, to_uint8

PROGRAM = "lightning-gans"
COMMANDS = {
    "fit": "train a model by a recipe",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "reconstruct the test split (VAE), or sample its labels (conditional models)",
    "sample": "write pictures from a checkpoint",
    "compare": "lay scores of one protocol side by side",
    "recipes": "list the recipes, or print one",
}
_OURS = ("sample", "compare", "recipes")
_CALLBACKS = {
    "metrics": GenerativeMetrics,
    "samples": SampleGrid,
    "reconstructions": Reconstructions,
    "checkpoint": Checkpoint,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: The words after the program's name; by default those that the process was started with.

    Raises:
        SystemExit: With code 2 for a wrong command line and 1 for wrong data or files, after at most three
            lines on standard error; ``--traceback`` shows where the error comes from instead.
    """
    words = list(sys.argv[1:] if args is None else args)
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    if os.getcwd() not in sys.path:  # the user's own modules, also when started by the console script
        sys.path.insert(0, os.getcwd())
    try:
        _run(words)
    except Exception as error:
        ours = _our_error(error)
        if ours is None or traceback:
            raise
        lines = [line for line in str(ours).splitlines() if line.strip()][:3]
        print(f"{PROGRAM}: " + "\n".join(lines), file=sys.stderr)
        raise SystemExit(ours.exit_code) from None


def _run(words: list[str]) -> None:
    """Find the command and run it."""
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {PROGRAM} COMMAND [options]        ({PROGRAM} COMMAND --help tells them)\n")
        for name, what in COMMANDS.items():
            print(f"  {name:10} {what}")
        print(f"\nBegin with:  {PROGRAM} fit -c quickstart")
        return
    command = words[0]
    if command == "--version":
        print(f"lightning_gans {lightning_gans.__version__}")
    elif command in _OURS:
        module = importlib.import_module(f"lightning_gans.commands.{command}")
        parser = _CommandParser(prog=f"{PROGRAM} {command}", description=COMMANDS[command], allow_abbrev=False)
        module.add_arguments(parser)
        module.run(parser.parse_args(words[1:]))
    elif command in COMMANDS:
        _TrainingCLI(words)
    else:
        raise SettingError(f"{command!r} is no command.{nearest(command, COMMANDS)}\nCommands: {', '.join(COMMANDS)}.")


def _our_error(error: BaseException | None) -> LightningGansError | None:
    """Return the error of ours that another one was raised from; parsers wrap what constructors raise."""
    while error is not None:
        if isinstance(error, LightningGansError):
            return error
        error = error.__cause__ or error.__context__
    return None


class _CommandParser(argparse.ArgumentParser):
    """Parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        known = [name for action in self._actions for name in action.option_strings]
        wrong = re.search(r"unrecognized arguments: (--\w+)", message)
        raise SettingError(f"{message}.{nearest(wrong[1], known) if wrong else ''}\nSee {self.prog} --help.")


class _RecipeAction(ActionConfigFile):
    """``-c``: a path, or the name of a recipe that comes with the package."""

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: str) -> None:
        """Read the recipe."""
        path = recipes.find(value)
        try:
            ActionConfigFile.apply_config(parser, cfg, dest, str(path))
        except (TypeError, ValueError) as error:
            raise SettingError(f"{path} is no recipe: {_our_error(error) or _readable(str(error))}") from error


class _TrainingParser(LightningArgumentParser):
    """Lightning's parser, whose errors are ours."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise one readable sentence instead of printing the usage."""
        ours = _our_error(ex)
        raise ours if ours is not None else SettingError(_readable(message)) from ex


def _quiet() -> None:
    """Silence what Lightning says of every run of ours, and what has no meaning for it."""
    for message in (
        ".*does not have many workers.*",  # the images are in memory
        ".*args parameter is intended to run from within Python.*",
        ".*in eval mode at the start of training.*",  # the moving averages
        ".*The dirpath has changed from.*",  # every evaluation of a checkpoint has a folder of its own
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning's own, with torch from 2.13 on
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )


class _TrainingCLI(LightningCLI):
    """LightningCLI with recipes by name, our callbacks as top-level keys, and a run's folder.

    The folder is ``runs/<recipe>/version_N``, unless the recipe's first logger is a CSVLogger with a place
    of its own.
    """

    def __init__(self, words: list[str]) -> None:
        _quiet()
        self.words = words
        super().__init__(
            GenerativeModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=42,
            parser_class=_TrainingParser,
            auto_configure_optimizers=False,  # with manual optimization `--optimizer` would only break things
            load_from_checkpoint_support=False,  # checkpoints describe their model themselves
            args=words,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser that knows recipes by name."""
        parser = self.parser_class(allow_abbrev=False, **kwargs)  # an abbreviation is a typo until proven otherwise
        parser.add_argument(
            "-c",
            "--config",
            action=_RecipeAction,
            help="a recipe, by name or path; later ones override earlier ones",
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that recipes and overlays set, and the warm start."""
        for key, callback in _CALLBACKS.items():
            parser.add_class_arguments(callback, key)
        parser.add_argument("--init_from", type=str | None, help="start from the weights of this checkpoint")

    def instantiate_classes(self) -> None:
        """Build everything, and note how the model's networks were named."""
        super().instantiate_classes()
        init_args = self._get(self.config, "model").get("init_args")
        self.model.note_arguments(**(init_args.as_dict() if init_args is not None else {}))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with our callbacks, and with a CSV logger before all others."""
        config = self._get(self.config_init, "trainer")
        self.callbacks = {key: self._get(self.config_init, key) for key in _CALLBACKS}
        callbacks = [callback for callback in self.callbacks.values() if callback.enabled]
        own = config.callbacks or []
        callbacks += own if isinstance(own, list) else [own]
        if config.enable_progress_bar is not False:
            callbacks.append(ProgressBar())
        if not self.callbacks["checkpoint"].enabled:
            kwargs["enable_checkpointing"] = False
        return super().instantiate_trainer(callbacks=callbacks, logger=self._loggers(config.logger), **kwargs)

    def _loggers(self, configured: Any) -> Any:
        """Put a CSV logger first, which gives the run its folder; ``logger: false`` means none at all."""
        if configured is False:
            return False
        loggers = [] if configured in (None, True) else configured
        loggers = loggers if isinstance(loggers, list) else [loggers]
        if not any(isinstance(logger, CSVLogger) for logger in loggers):
            given = self._get(self.config, "config") or []
            name = Path(str(given[0])).stem if given else type(self.model).__name__.lower()
            loggers = [CSVLogger("runs", name), *loggers]
        return sorted(loggers, key=lambda logger: not isinstance(logger, CSVLogger))

    def before_fit(self) -> None:
        """Start from another checkpoint's weights where asked to."""
        self._check_shapes()
        init_from = self._get(self.config, "init_from")
        if init_from is not None:
            self.model.load_weights(init_from)

    def before_validate(self) -> None:
        """Refuse what cannot work before anything is loaded."""
        self._check_shapes()

    before_test = before_predict = before_validate

    def _check_shapes(self) -> None:
        """Compare the images of the model and of the data, where the data says what they are."""
        ours, theirs = self.model.image_shape, getattr(self.datamodule, "image_shape", None)
        if theirs is not None and tuple(theirs) != tuple(ours):
            raise SettingError(
                f"model.image_shape is {list(ours)}, but the images of {type(self.datamodule).__name__} are "
                f"{list(theirs)}: set --model.image_shape '{list(theirs)}', or other data."
            )
        classes = getattr(self.datamodule, "num_classes", None)
        if classes is not None and 0 < self.model.num_classes < classes:
            raise SettingError(
                f"model.num_classes is {self.model.num_classes}, but {type(self.datamodule).__name__} has "
                f"{classes} classes: set --model.num_classes {classes}."
            )

    def fit(self, **kwargs: Any) -> None:
        """Train; Lightning leaves by ``sys.exit`` after Ctrl-C, and then too the user learns how to go on."""
        started = time.monotonic()
        try:
            self.trainer.fit(**kwargs)
        except SystemExit:
            self._report(started, more="")
            raise
        self._report(started, more=self._longer())

    def _report(self, started: float, more: str) -> None:
        """Say where everything is, and what to do next."""
        trainer = self.trainer
        if not trainer.is_global_zero or self._get(self.config, "trainer").fast_dev_run:
            return
        minutes = (time.monotonic() - started) / 60
        print(f"\n{trainer.global_step:,} updates, {self.model.images_seen:,} images, {minutes:.1f} minutes")
        folder = Path(self.callbacks["checkpoint"].dirpath or ".")
        places = {
            "last checkpoint": folder / "last.ckpt",
            "best checkpoint": folder / "best.ckpt",
            "samples": self.callbacks["samples"].last_path,
            "reconstructions": self.callbacks["reconstructions"].last_path,
            "scores": self.callbacks["metrics"].last_path,
            "losses": Path(trainer.log_dir or ".") / "metrics.csv",
        }
        found = {what: _shown(path) for what, path in places.items() if path is not None and path.is_file()}
        scores = self._scores_of_checkpoints()
        for what, path in found.items():
            print(f"  {what:16} {path}{scores.get(what, '')}")
        last = found.get("last checkpoint")
        if last is not None:
            print(f"Sample:  {PROGRAM} sample {last} --num_samples 64 --output samples.png")
            print(f"Go on:   {PROGRAM} fit {shlex.join(self.words[1:])} --ckpt_path {last} {more}".rstrip())

    def _scores_of_checkpoints(self) -> dict[str, str]:
        """Return the monitored score of the last and of the best checkpoint, for reading."""
        checkpoint = self.callbacks["checkpoint"]
        last, best = self.trainer.callback_metrics.get(checkpoint.monitor or ""), checkpoint.best_model_score
        values = {"last checkpoint": last, "best checkpoint": best}
        return {
            what: f"   {checkpoint.monitor} {float(value):.4g}" for what, value in values.items() if value is not None
        }

    def _longer(self) -> str:
        """Return the flag that gives a finished run room to go on."""
        if self.trainer.max_steps != -1:
            return f"--trainer.max_steps {2 * self.trainer.max_steps}"
        return f"--trainer.max_epochs {2 * (self.trainer.max_epochs or 1)}"

    def predict(self, **kwargs: Any) -> None:
        """Run the predictions and write them into the run's folder."""
        predictions = self.trainer.predict(**kwargs)
        if not predictions:
            return
        images = torch.cat([batch for batch in predictions if isinstance(batch, torch.Tensor)]).cpu()
        rank = f"_rank{self.trainer.global_rank}" if self.trainer.world_size > 1 else ""
        path = Path(self.trainer.log_dir or ".") / f"predictions{rank}.npz"
        with replacing(path) as file:
            np.savez(file, images=to_uint8(images).numpy())
        save_png(grid(images[:64], columns=8), path.with_suffix(".png"))
        print(f"{len(images)} pictures: {path}, the first of them in {path.with_suffix('.png')}")


def _shown(path: str | Path) -> str:
    """Return a path as short as it can be written."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path)


def _readable(message: str) -> str:
    """Say in a sentence what jsonargparse says in up to sixty lines: the setting, its value, what is allowed."""
    text = " ".join(message.split())
    unknown = re.search(
        r"Option '([\w.]+)' is not accepted|(?:not accept option|unrecognized arguments:) '?-*([\w.]+)", text
    )
    if unknown:
        name = unknown[1] or unknown[2]
        return f"{name} is no setting that is known here.{nearest(name.rsplit('.')[-1], _known_settings())}"
    if "arguments are required" in text:
        return f"a model and data are missing: name a recipe, as in `{PROGRAM} fit -c quickstart`."
    key = re.search(r'Parser key "([\w.]+)"', text)
    value = re.search(r"(?:Got|Given) value: (.*?)(?: Given value type.*)?$", text)
    if key is None or value is None:
        return text
    setting = f"{key[1]} is {value[1]!r}"
    if key[1] in ("model", "data"):
        class_path = re.search(r"'class_path': '([\w.]+)'", value[1])
        name = class_path[1] if class_path else value[1]
        known = _known_classes(GenerativeModule if key[1] == "model" else ImageDataModule)
        return f"{key[1]} is {name!r}: choose from {', '.join(known)}, or a class of yours.{nearest(name, known)}"
    choices = re.findall(r"Literal\[(.*?)\]", text)
    if choices:
        allowed = [choice.strip(" '\"") for choice in choices[-1].split(",")]
        return f"{setting}: choose from {', '.join(allowed)}.{nearest(value[1], allowed)}"
    expected = dict.fromkeys(
        re.findall(r"Expected an? (?:<class ')?([\w. \[\],>=<-]+?)(?:'>)?(?=\.? (?:-|G|D|E)|$|:)", text)
    )
    kinds = [{"NoneType": "null", "collections.abc.Sequence": "a list"}.get(kind, kind) for kind in expected]
    return f"{setting}: expected {' or '.join(kinds)}." if kinds else text


def _known_classes(base: type) -> list[str]:
    """Return the public classes below a base that a recipe can name."""
    public = [getattr(lightning_gans, name) for name in lightning_gans.__all__]
    abstract = (base, AdversarialModule)
    return [cls.__name__ for cls in public if inspect.isclass(cls) and issubclass(cls, base) and cls not in abstract]


def _known_settings() -> list[str]:
    """Return the names of all settings of the classes that recipes name, for the nearest one."""
    classes = [pl.Trainer, *_CALLBACKS.values()]
    classes += [value for name in lightning_gans.__all__ if inspect.isclass(value := getattr(lightning_gans, name))]
    constructors = [vars(base)["__init__"] for cls in classes for base in cls.__mro__ if "__init__" in vars(base)]
    names = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
    return sorted(names | {"model", "data", "trainer", "seed_everything", "ckpt_path", "init_from", *_CALLBACKS})
