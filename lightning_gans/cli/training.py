"""LightningCLI with recipes by name, our callbacks as top-level keys, and a folder for each run."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from lightning_gans._lightning import CheckpointIO, CSVLogger, LambdaCallback, SLURMEnvironment, pl
from lightning_gans.callbacks import ProgressBar
from lightning_gans.callbacks.graceful_stop import slurm_job
from lightning_gans.cli import resume
from lightning_gans.cli.lightning_cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning_gans.cli.outputs import open_output
from lightning_gans.cli.parsing import CALLBACKS, RecipeAction, TrainingParser
from lightning_gans.cli.summary import find_commit, folder_of, print_summary, write_record
from lightning_gans.cli.trainer_settings import check_seed, check_trainer
from lightning_gans.errors import DataError, SettingError
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.io.csv_logger import RunLogger
from lightning_gans.io.files import replacing
from lightning_gans.io.pictures import grid, save_png
from lightning_gans.models import GenerativeModule


def _quiet() -> None:
    """Silence what Lightning says of every run of ours, and what has no meaning for it."""
    for message in (
        ".*does not have many workers.*",  # the images are in memory
        ".*args parameter is intended to run from within Python.*",
        ".*in eval mode at the start of training.*",  # the moving averages
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning's own, with torch from 2.13 on
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )


class TrainingCLI(LightningCLI):
    """LightningCLI with recipes by name, our callbacks as top-level keys, and a run's folder.

    The folder is ``runs/<recipe>/version_N``, unless the recipe's first logger is a CSVLogger with a place
    of its own; a run that is resumed goes on in its own. Under SLURM it is ``slurm_<job>``, which every process
    knows without asking, and the job again after it was put back into the queue.

    Args:
        words: The command line.
        run: The folder of the run that is resumed; by default what ``--ckpt_path`` lies in.
    """

    def __init__(self, words: list[str], run: Path | None = None) -> None:
        _quiet()
        self.words = words
        self.run = run
        self.from_step: int | None = None
        self.commit: str | None = None
        super().__init__(
            GenerativeModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=42,
            parser_class=TrainingParser,
            auto_configure_optimizers=False,  # with manual optimization `--optimizer` would only break things
            load_from_checkpoint_support=False,  # checkpoints describe their model themselves
            save_config_callback=_SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            args=words,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning's knows no command line
        """Return the command that was given: each parser takes a fifth of a second to make."""
        return {self.words[0]: super().subcommands()[self.words[0]]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser that knows recipes by name."""
        parser = self.parser_class(allow_abbrev=False, **kwargs)  # an abbreviation is a typo until proven otherwise
        parser.add_argument(
            "-c",
            "--config",
            action=RecipeAction,
            help="a recipe, by name or path; later ones override earlier ones",
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that recipes and overlays set, and the warm start."""
        for key, callback in CALLBACKS.items():
            parser.add_class_arguments(callback, key)
        parser.add_argument("--init_from", type=str | None, help="start from the weights of this checkpoint")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, and refuse a seed that there is not before it is used."""
        super().parse_arguments(parser, args)
        check_seed(self.config[self.config.subcommand].seed_everything)

    def instantiate_classes(self) -> None:
        """Build everything, with a checkpoint's model where one is named, and note how its networks were named."""
        check_trainer(self._get(self.config, "trainer"))
        self._find_checkpoint()
        super().instantiate_classes()
        init_args = self._get(self.config, "model").get("init_args")
        self.model.note_arguments(**(init_args.as_dict() if init_args is not None else {}))

    def _parse_ckpt_path(self) -> None:
        """Do not let Lightning read the checkpoint: it imports the class that stands in there, before any check."""

    def _find_checkpoint(self) -> None:
        """Find what is resumed or evaluated, take over its model, and in a fit its folder and its loggers' runs."""
        config, fitting = self.config[self.subcommand], self.subcommand == "fit"
        if fitting and config.ckpt_path is None and SLURMEnvironment.detect():
            # This job, put back into the queue: it is started with the same words.
            run = Path("runs") / self._recipe() / str(_slurm_version())
            last = resume.last_checkpoint(run, config.checkpoint.dirpath)
            if last.is_file() and (run / resume.CONFIG).is_file():
                config.ckpt_path, self.run = str(last), run
        if config.ckpt_path is None:
            if not fitting:
                raise SettingError(f"{self.subcommand} needs a trained model: name its checkpoint by --ckpt_path.")
            return
        path = config.ckpt_path
        if not Path(path).exists():
            raise DataError(f"ckpt_path is {path}, which does not exist.")
        about = resume.adopt_model(config, path, self.words)
        if fitting:
            self.run = self.run or resume.run_of(path)
            if self.run is not None:
                resume.continue_loggers(config, about)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with our callbacks, our checkpoints, and with a CSV logger before all others."""
        config = self._get(self.config_init, "trainer")
        self.callbacks = {key: self._get(self.config_init, key) for key in CALLBACKS}
        # Ours saves last of all: what it writes then holds what the others have just done.
        checkpoint = self.callbacks["checkpoint"]
        callbacks = [callback for callback in self.callbacks.values() if callback.enabled and callback != checkpoint]
        own = config.callbacks or []
        callbacks += own if isinstance(own, list) else [own]
        if config.enable_progress_bar is not False:
            callbacks.append(ProgressBar())
        callbacks.append(LambdaCallback(on_train_start=self._note_start))
        if checkpoint.enabled:
            callbacks.append(checkpoint)
        else:
            kwargs["enable_checkpointing"] = False
        plugins = config.plugins if isinstance(config.plugins, list) else [config.plugins]
        plugins = [plugin for plugin in plugins if plugin is not None]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        return super().instantiate_trainer(callbacks=callbacks, logger=self._loggers(config.logger), **kwargs)

    def _loggers(self, configured: Any) -> Any:
        """Put a CSV logger first, which gives the run its folder; ``logger: false`` means none at all."""
        if configured is False:
            return False
        loggers = [] if configured in (None, True) else configured
        loggers = loggers if isinstance(loggers, list) else [loggers]
        own = next((logger for logger in loggers if isinstance(logger, CSVLogger)), None)
        if self.run is not None:
            first = RunLogger(self.run.parent.parent, self.run.parent.name, self.run.name)
        elif own is not None:
            first = RunLogger(own.save_dir, own.name, own._version, own._prefix)
        else:
            first = RunLogger("runs", self._recipe(), _slurm_version())
        return [first, *(logger for logger in loggers if logger is not own)]

    def _recipe(self) -> str:
        """Return the name that a run of this configuration goes by."""
        given = self._get(self.config, "config") or []
        return Path(str(given[0])).stem if given else str(self._get(self.config, "model").class_path).lower()

    def before_fit(self) -> None:
        """Start from another checkpoint's weights where asked to; clear away what a killed run has left."""
        self._check_shapes()
        if self.run is not None and self.trainer.is_global_zero:
            for left in self.run.rglob(".*.tmp"):
                left.unlink(missing_ok=True)
        if self._get(self.config, "ckpt_path") is not None:
            return
        self._check_place()
        init_from = self._get(self.config, "init_from")
        if init_from is not None:
            self.model.load_weights(init_from)

    def before_validate(self) -> None:
        """Refuse what cannot work before anything is loaded."""
        self._check_shapes()

    before_test = before_predict = before_validate

    def _check_place(self) -> None:
        """Do not let a new run write over another's checkpoint, where it has no folder of its own for them."""
        checkpoint = self.callbacks["checkpoint"]
        last = resume.last_checkpoint(folder_of(self.trainer), checkpoint.dirpath)
        if checkpoint.enabled and last.is_file() and not self._get(self.config, "trainer").fast_dev_run:
            raise DataError(
                f"{last} is there already: go on from it with --ckpt_path, or give the new run a folder of its own "
                "(checkpoint.dirpath, or its logger's name and version)."
            )

    def _check_shapes(self) -> None:
        """Compare the images of the model and of the data, where the data says what they are."""
        ours, theirs = self.model.image_shape, getattr(self.datamodule, "image_shape", None)
        if theirs is not None and tuple(theirs) != tuple(ours):
            raise SettingError(
                f"model.image_shape is {list(ours)}, but the images of {type(self.datamodule).__name__} are "
                f"{list(theirs)}: set --model.image_shape '{list(theirs)}', or other data."
            )
        classes = getattr(self.datamodule, "num_classes", None)
        if classes == 0 < self.model.num_classes:
            raise SettingError(
                f"model.num_classes is {self.model.num_classes}, but {type(self.datamodule).__name__} has no labels "
                "here: set --model.num_classes 0, or other data."
            )
        if classes is not None and 0 < self.model.num_classes < classes:
            raise SettingError(
                f"model.num_classes is {self.model.num_classes}, but {type(self.datamodule).__name__} has "
                f"{classes} classes: set --model.num_classes {classes}."
            )

    def fit(self, **kwargs: Any) -> None:
        """Train; a run that is told to stop leaves by ``SystemExit``, and then too the user learns what there is."""
        started = time.monotonic()
        try:
            self.trainer.fit(**kwargs)
        except SystemExit:
            self._end(started, finished=False)
            raise
        except Exception:
            with contextlib.suppress(Exception):  # what the user has to learn is why the fit failed
                self._record(time.monotonic() - started)
            raise
        if self.from_step is None:  # it had no room to go on
            self._note_start(self.trainer)
        self._end(started, finished=True)

    def _note_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note where the training starts, once a checkpoint is read, and of which commit."""
        self.from_step = trainer.global_step
        if trainer.is_global_zero:
            self.commit = find_commit()

    def _end(self, started: float, finished: bool) -> None:
        """Write down how the run was made, and say what there is."""
        seconds = time.monotonic() - started
        self._record(seconds)
        if self.trainer.is_global_zero and not self._get(self.config, "trainer").fast_dev_run:
            print_summary(self.trainer, self.callbacks, seconds, finished)

    def _record(self, seconds: float) -> None:
        """Write down how the run was made; what ended before its first batch has made nothing of it."""
        if self.from_step is None or not self.trainer.loggers or self._get(self.config, "trainer").fast_dev_run:
            return
        if self.trainer.global_step == 0:  # it failed in its first update
            return
        if self.trainer.is_global_zero:
            write_record(self.trainer, self.words, seconds, self.from_step, self.commit)

    def predict(self, **kwargs: Any) -> None:
        """Run the predictions and write them into the run's folder."""
        predictions = self.trainer.predict(**kwargs)
        if not predictions:
            return
        made = torch.cat([batch for batch in predictions if isinstance(batch, torch.Tensor)]).cpu()
        rank = f"_rank{self.trainer.global_rank}" if self.trainer.world_size > 1 else ""
        path = Path(self.trainer.log_dir or ".") / f"predictions{rank}.npz"
        with open_output(path, len(made), tuple(made.shape[1:])) as write:
            write(made)
        if made.dim() != 4:
            print(f"{len(made)} sequences: {path}")
            return
        save_png(grid(made[:64], columns=8), path.with_suffix(".png"))
        print(f"{len(made)} pictures: {path}, the first of them in {path.with_suffix('.png')}")


class _SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` whole; that of a fit without the checkpoint that it goes on from.

    That of a run that goes on is replaced after the first update: until then the new one may be refused.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file of a new run."""
        if stage != "fit" or self.config.ckpt_path is None:
            super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the file of a run that goes on."""
        if not self.already_saved and trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")
        self.already_saved = True

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file, on the first process."""
        config = self.config.clone()
        if stage == "fit":
            config.ckpt_path = None
        with replacing(folder_of(trainer) / resume.CONFIG) as file:
            file.write(self.parser.dump(config, skip_none=False).encode())


def _slurm_version() -> str | None:
    """Return the name of this SLURM job's run; None outside of SLURM, where runs are numbered."""
    if not SLURMEnvironment.detect():
        return None
    job = slurm_job()
    return None if job is None else f"slurm_{job}"
