"""LightningCLI with recipes by name, the package's callbacks as top-level keys, and a folder for each run."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from lightning_gans._lightning import (
    NAMESPACE,
    CheckpointIO,
    CSVLogger,
    LambdaCallback,
    SLURMEnvironment,
    csv_logger_settings,
    drop_anonymous,
    pl,
)
from lightning_gans.callbacks import ProgressBar
from lightning_gans.callbacks.base import keep_folder
from lightning_gans.callbacks.graceful_stop import slurm_job
from lightning_gans.cli import resume
from lightning_gans.cli.arguments import is_given
from lightning_gans.cli.lightning_cli import LightningArgumentParser, SafeLightningCLI, SaveConfigCallback
from lightning_gans.cli.outputs import open_output
from lightning_gans.cli.parsing import (
    CALLBACKS,
    OFF,
    RecipeAction,
    TrainingParser,
    check_settings,
    current_options,
    resuming,
)
from lightning_gans.cli.run_folder import RunFolder
from lightning_gans.cli.summary import describe_parameters, find_commit, print_summary, write_record
from lightning_gans.errors import DataError, SettingError, printable
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.io.csv_logger import RunLogger
from lightning_gans.io.files import replacing
from lightning_gans.io.pictures import grid, save_png
from lightning_gans.models import GenerativeModule


class _Stderr(io.TextIOBase):
    """The current standard error: while Rich shows a bar, it replaces the stream to print above the bar."""

    def write(self, text: str) -> int:
        """Write."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush."""
        sys.stderr.flush()


def quiet() -> None:
    """Silence Lightning's messages that every run would print, and keep other messages off the progress bar's line."""
    for message in (
        ".*does not have many workers.*",  # the images are in memory
        ".*args parameter is intended to run from within Python.*",
        ".*in eval mode at the start of training.*",  # the moving averages
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # within Lightning, with torch 2.13
    ):
        warnings.filterwarnings("ignore", message)
    logger = logging.getLogger(f"{NAMESPACE}.utilities.rank_zero")
    logger.addFilter(lambda record: not re.search("Tip:|^TPU available: False", record.getMessage()))
    if sys.stderr.isatty():  # otherwise Rich would redirect messages for a file to the bar's terminal
        for handler in logging.getLogger(NAMESPACE).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(_Stderr())


class TrainingCLI(SafeLightningCLI):
    """LightningCLI with recipes by name, the package's callbacks as top-level keys, and a folder for each run.

    The folder is ``runs/<recipe>/version_N``, ``slurm_<job>`` under SLURM, or that of a configured CSVLogger. A resumed
    run keeps its folder. A callback in ``trainer.callbacks`` replaces the package's default of its kind.

    Args:
        words: The command line.
        run: The run to resume; by default that of ``--ckpt_path``.
    """

    def __init__(self, words: list[str], run: RunFolder | None = None) -> None:
        quiet()
        self.words = current_options(words)
        self.run = run
        self.from_step: int | None = None
        self.began = False
        self.commit: str | None = None
        with contextlib.ExitStack() as self.held:
            if run is not None:
                self.held.enter_context(resuming(run.config))
            super().__init__(
                GenerativeModule,
                pl.LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                seed_everything_default=42,
                parser_class=TrainingParser,
                auto_configure_optimizers=False,  # `--optimizer` does not work with manual optimization
                load_from_checkpoint_support=False,  # checkpoints describe their model themselves
                save_config_callback=_SaveConfig,
                save_config_kwargs={"save_to_log_dir": False},
                args=self.words,
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static in Lightning
        """Return only the given command: building the parser of a command takes 0.2 s."""
        return {self.words[0]: super().subcommands()[self.words[0]]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser that finds recipes by name."""
        parser = self.parser_class(allow_abbrev=False, **kwargs)
        help = "a recipe, by name or path; later ones override earlier ones"
        parser.add_argument("-c", "--config", action=RecipeAction, help=help)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks and the warm start."""
        for key, callback in CALLBACKS.items():
            parser.add_class_arguments(callback, key, instantiate=False)
            parser.add_argument(f"--{key}.enabled", type=bool, default=key not in OFF, help="use this callback")
        parser.add_argument("--init_from", type=str | None, help="start from the weights of this checkpoint that fit")

    @property
    def settings(self) -> Any:
        """The parsed settings of the command."""
        return self.config[self.config.subcommand]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, and check settings that Lightning uses before it checks them."""
        super().parse_arguments(parser, args)
        check_settings(self.settings)
        asked = is_given("--verbose", self.words)
        if "verbose" in self.settings and self.settings.metrics.enabled and not asked:
            self.settings.verbose = False  # the callback prints the scores

    def instantiate_classes(self) -> None:
        """Create the model, the data and the trainer, with the model of a checkpoint if there is one."""
        self._find_checkpoint()
        super().instantiate_classes()
        init_args = self.settings.model.get("init_args")
        self.model.note_arguments(**(init_args.as_dict() if init_args is not None else {}))  # networks by class path

    def _find_checkpoint(self) -> None:
        """Find the checkpoint to resume or evaluate, and adopt its model; in a fit also its folder and loggers."""
        config, fitting = self.settings, self.subcommand == "fit"
        asked = is_given("--init_from", self.words)
        if asked and None not in (config.init_from, config.ckpt_path):
            message = f"--init_from is {config.init_from}, but the weights come from {config.ckpt_path}: remove one."
            raise SettingError(message, setting="init_from", value=config.init_from)
        if fitting and config.ckpt_path is None and SLURMEnvironment.detect():
            # A requeued job runs the same command again.
            run = RunFolder(self._runs() / self._recipe() / str(_slurm_version()), config.checkpoint.dirpath)
            if run.last.is_file() and run.config.is_file():
                config.ckpt_path, self.run = str(run.last), run
        path = config.ckpt_path
        if path is None:
            if not fitting:
                message = f"{self.subcommand} needs a trained model: give its checkpoint with --ckpt_path."
                raise SettingError(message, setting="ckpt_path")
            return
        if not Path(path).exists():
            raise DataError(f"ckpt_path is {path}, which does not exist.", setting="ckpt_path", value=path)
        about = resume.adopt_model(config, path, self.words, resumed=self.run is not None)
        if fitting:
            self.run = self.run or RunFolder.of_checkpoint(path)
            if self.run is not None:
                resume.continue_loggers(config, about)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Create the trainer with the package's callbacks and checkpoint I/O, and with a CSV logger first.

        ``trainer.barebones`` gets none of them.
        """
        made = self.config_init[self.subcommand]
        if made.trainer.barebones:
            made.trainer.log_every_n_steps = 0  # recipes set it
        plugins = [plugin for plugin in _listed(made.trainer.plugins) if plugin is not None]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        self.callbacks = self._callbacks(made)
        logger = made.trainer.logger if made.trainer.barebones else self._loggers(made.trainer.logger)
        if not any(isinstance(callback, pl.callbacks.Checkpoint) for callback in self.callbacks):
            kwargs["enable_checkpointing"] = False
        if made.trainer.enable_model_summary is None:
            kwargs["enable_model_summary"] = False  # its FLOPs are 0; fit prints the parameters
        trainer: pl.Trainer = super().instantiate_trainer(callbacks=self.callbacks, logger=logger, **kwargs)
        if self.run is not None:
            keep_folder(trainer)
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        return trainer

    def _callbacks(self, made: Any) -> list[pl.Callback]:
        """Return the configured callbacks, and the package's callbacks of all kinds that are not configured."""
        own = _listed(made.trainer.callbacks or [])
        off = [pl.callbacks.Checkpoint] if made.trainer.enable_checkpointing is False else []
        defaults: list[tuple[type, pl.Callback]] = []
        for key, callback in CALLBACKS.items():
            options = made[key].as_dict()
            kind = pl.callbacks.Checkpoint if issubclass(callback, pl.callbacks.Checkpoint) else callback
            if options.pop("enabled") and kind not in off:
                defaults.append((kind, callback(**options)))
        if made.trainer.enable_progress_bar is not False:
            defaults.append((pl.callbacks.ProgressBar, ProgressBar()))
        ours = [default for kind, default in defaults if not any(isinstance(callback, kind) for callback in own)]
        note_start = LambdaCallback(on_train_start=self._note_start, on_train_batch_end=self._note_batch)
        # Lightning runs checkpoint callbacks last, after the other callbacks' changes.
        return [*([] if made.trainer.barebones else ours), *own, note_start]

    def _loggers(self, configured: Any) -> Any:
        """Put the CSV logger of the run's folder first; ``logger: false`` disables all."""
        if configured is False:
            return False
        loggers = [] if configured in (None, True) else _listed(configured)
        for logger in loggers:
            drop_anonymous(logger)
        own = next((logger for logger in loggers if isinstance(logger, CSVLogger)), None)
        if self.run is not None:
            path = self.run.path
            first = RunLogger(path.parent.parent, path.parent.name, path.name)
        elif own is not None:
            first = RunLogger(**csv_logger_settings(own))
        else:
            first = RunLogger(self._runs(), self._recipe(), _slurm_version())
        return [first, *(logger for logger in loggers if logger is not own)]

    def _runs(self) -> Path:
        """Return the folder of all runs."""
        return Path(self.settings.trainer.default_root_dir or "", "runs")

    def _recipe(self) -> str:
        """Return the name of the folder for runs of this configuration."""
        given = self.settings.get("config") or []
        if not given:
            return str(self.settings.model.class_path).lower()
        path = Path(str(given[0]))
        run = RunFolder(path.absolute().parent)
        return run.path.parent.name if path.name == run.config.name and run.hparams.is_file() else path.stem

    def before_fit(self) -> None:
        """Check what can be checked before training, take the run's folder, and load the weights of ``init_from``."""
        self.before_validate()
        if self.settings.ckpt_path is not None:
            return
        last = RunFolder.of_trainer(self.trainer, self.settings.checkpoint.dirpath).last
        if self.settings.checkpoint.enabled and last.is_file() and not self.settings.trainer.fast_dev_run:
            raise DataError(
                f"{last} already exists: resume it with --ckpt_path, or use another folder for the new run "
                "(checkpoint.dirpath, or the name and version of its logger).",
                setting=str(last),
            )
        if self.settings.init_from is not None:
            transfer = self.model.load_weights(self.settings.init_from, strict=False)
            if self.trainer.is_global_zero:
                print(printable(f"{self.settings.init_from}: {transfer}"))

    def before_validate(self) -> None:
        """Check what can be checked before anything is loaded, and take the run's folder."""
        self._check_shapes()
        if not self.trainer.is_global_zero or self.settings.trainer.fast_dev_run:
            return
        run = RunFolder.of_trainer(self.trainer, self.settings.checkpoint.dirpath)
        missing = run.missing()

        def clean_up(kind: type[BaseException] | None, *_: Any) -> None:
            nothing_lost = Exception if self.from_step is None else (SettingError, DataError)
            if kind is not None and issubclass(kind, nothing_lost) and not self.began:
                run.remove(missing)

        self.held.push(clean_up)
        if self.subcommand == "fit" and (self.trainer.loggers or self.trainer.checkpoint_callbacks):
            self.held.enter_context(run.locked())

    before_test = before_predict = before_validate

    def _check_shapes(self) -> None:
        """Compare the shapes and the classes of the model with those of the data module."""
        data, model = type(self.datamodule).__name__, self.model
        for name, what in (("image_shape", "images"), ("source_shape", "sources")):
            shape, ours = getattr(self.datamodule, name, None), getattr(model, name)
            if shape is not None and tuple(shape) != tuple(ours):
                raise _mismatch(name, list(ours), f"the {what} of {data} are", list(shape))
        classes = getattr(self.datamodule, "num_classes", None)
        if classes == 0 < model.num_classes or (classes is not None and 0 < model.num_classes < classes):
            raise _mismatch("num_classes", model.num_classes, f"the number of classes of {data} is", classes)

    def fit(self, **kwargs: Any) -> None:
        """Train, and write the record and the summary, even if a signal stops the run with ``SystemExit``."""
        if self.trainer.is_global_zero and self.settings.trainer.enable_model_summary is None:
            print(describe_parameters(self.model))
        started = time.monotonic()
        try:
            self.trainer.fit(**kwargs)
        except SystemExit:
            self._end(started, finished=False)
            raise
        except Exception:
            with contextlib.suppress(Exception):  # do not hide why the fit failed
                self._record(time.monotonic() - started)
            raise
        if self.from_step is None:  # the run had already reached its limit
            self._note_start(self.trainer)
        self._end(started, finished=True)

    def _note_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Store the first update, once a checkpoint is loaded, and the commit of the code."""
        self.from_step = trainer.global_step
        if trainer.is_global_zero:
            self.commit = find_commit()

    def _note_batch(self, *_: Any) -> None:
        """Keep the run's folder from now on; invalid settings and data that the first batch shows still remove it."""
        self.began = True

    def _end(self, started: float, finished: bool) -> None:
        """Write the record and print the summary."""
        seconds = time.monotonic() - started
        self._record(seconds)
        if self.trainer.is_global_zero and not self.settings.trainer.fast_dev_run:
            print_summary(self.trainer, seconds, finished, trained=self.trainer.global_step != self.from_step)

    def _record(self, seconds: float) -> None:
        """Write the record, unless the fit ended before its first update or has no folder."""
        if self.from_step is None or not self.trainer.loggers or self.settings.trainer.fast_dev_run:
            return
        if self.trainer.is_global_zero and self.trainer.global_step > 0:
            write_record(self.trainer, self.words, seconds, self.from_step, self.commit)

    def predict(self, **kwargs: Any) -> None:
        """Run the predictions and write them into the run's folder."""
        predictions = self.trainer.predict(**kwargs)
        if not predictions:
            return
        made = torch.cat([batch for batch in predictions if isinstance(batch, torch.Tensor)]).cpu()
        run = RunFolder(self.trainer.log_dir or ".")
        path = run.predictions(self.trainer.global_rank if self.trainer.world_size > 1 else None)
        with open_output(path, len(made), tuple(made.shape[1:]), scale=self.model.image_scale) as write:
            write(made)
        if made.dim() != 4:
            print(printable(f"{len(made)} sequences: {path}"))
            return
        save_png(grid(made[:64], columns=8), path.with_suffix(".png"))
        print(printable(f"{len(made)} pictures: {path}, the first of them in {path.with_suffix('.png')}"))


class _SaveConfig(SaveConfigCallback):
    """Write ``config.yaml`` atomically; that of a fit does not name the checkpoint that it resumes from.

    In a resumed run, the file is replaced only after the first update, because the new settings may be rejected before.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file of a new run."""
        if stage != "fit" or self.config.ckpt_path is None:
            super().setup(trainer, pl_module, stage)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Write the file of a resumed run, once."""
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file, on the first process."""
        config = self.config.clone()
        if stage == "fit":
            config.ckpt_path = None
        with replacing(RunFolder.of_trainer(trainer).config) as file:
            file.write(self.parser.dump(config, skip_unset=False).encode())


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _mismatch(name: str, ours: Any, what: str, theirs: Any) -> SettingError:
    message = f"model.{name} is {ours}, but {what} {theirs}: set --model.{name} '{theirs}', or use other data."
    return SettingError(message, setting=f"model.{name}", value=ours, allowed=theirs)


def _slurm_version() -> str | None:
    """Return the name of this SLURM job's run; None outside SLURM, where runs are numbered."""
    job = slurm_job() if SLURMEnvironment.detect() else None
    return None if job is None else f"slurm_{job}"
