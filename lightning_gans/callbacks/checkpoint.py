"""``last.ckpt``, and ``best.ckpt`` by a score."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning_gans._lightning import MisconfigurationException, ModelCheckpoint, pl, rank_zero_info, state_key
from lightning_gans.callbacks.base import is_due, is_stale, run_folder
from lightning_gans.callbacks.scores import NAMES, GenerativeMetrics
from lightning_gans.errors import (
    SettingError,
    check_choice,
    check_counts,
    check_positive,
    in_section,
    invalid,
    nearest,
)
from lightning_gans.io.checkpoint_io import loading
from lightning_gans.io.files import make_folder
from lightning_gans.metrics.processes import on_first_process
from lightning_gans.metrics.scores import is_measured


class Checkpoint(ModelCheckpoint):
    """Save ``last.ckpt`` regularly, and ``best.ckpt`` whenever the score improves.

    Args:
        monitor: Key of the score, such as ``val/fid``. None saves only the last checkpoint, and so does a score of
            samples that no callback measures.
        mode: ``min`` if lower is better, ``max`` if higher is better.
        every_n_epochs: How often to save at the end of an epoch; ``last.ckpt`` is also saved after the last epoch.
        every_n_steps: How often to save ``last.ckpt`` within an epoch, in updates; 0 is never.
        dirpath: Folder of the checkpoints; by default ``checkpoints`` in the run's folder.
        every_n_minutes: How often to save ``last.ckpt`` by the clock; None is never.

    Raises:
        SettingError: Nothing logs the score; raised before the first step if the sanity check reveals this, and
            otherwise after ``last.ckpt`` is saved.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        every_n_epochs: int = 1,
        every_n_steps: int = 500,
        dirpath: str | None = None,
        every_n_minutes: float | None = None,
    ) -> None:
        with in_section("checkpoint"):
            check_choice("mode", mode, ("min", "max"))
            if monitor is not None and not (isinstance(monitor, str) and monitor):
                raise invalid("monitor", monitor, "the key of a score, or none")
            if dirpath is not None and not str(dirpath):
                raise invalid("dirpath", dirpath, "a folder, or none")
            check_counts(every_n_epochs=every_n_epochs)
            check_counts(least=0, every_n_steps=every_n_steps)
            if every_n_minutes is not None:
                check_positive(every_n_minutes=every_n_minutes)
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=0 if monitor is None else 1,
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self._in_run_folder = dirpath is None
        self._last_step = 0
        self._saved_at = 0.0

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint: a run resumed with another score looks for a new best checkpoint."""
        return state_key(self, monitor=self.monitor, mode=self.mode)

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:
        """Save only the last checkpoint if no callback measures the score."""
        super().setup(trainer, pl_module, stage)
        scorer = next((c for c in trainer.callbacks if isinstance(c, GenerativeMetrics)), None)
        monitor, names = self.monitor or "", (*NAMES, *(scorer.own if scorer else ()))
        of_scorer = monitor.startswith("val/") and is_measured(monitor.removeprefix("val/"), names)
        if stage == "fit" and of_scorer and not (scorer and scorer.measures(monitor)):
            rank_zero_info(f"{monitor} is not measured: only the last checkpoint is saved, not the best one.")
            self.monitor, self.save_top_k = None, 0

    def on_load_checkpoint(self, trainer: Any, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Find the run's folder before the state is loaded."""
        run = on_first_process(trainer.strategy, lambda: run_folder(trainer))
        if self._in_run_folder:
            self.dirpath = str(run / "checkpoints")

    def on_fit_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Create the folder now, so that an error does not come as late as the first save."""
        self.on_load_checkpoint(trainer, pl_module, {})
        folder = self.dirpath or "."
        if not trainer.fast_dev_run:
            on_first_process(trainer.strategy, lambda: make_folder(folder))

    def on_sanity_check_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Raise :class:`SettingError` if validation does not log the score."""
        monitor, logged = self.monitor, list(trainer.callback_metrics)
        scorers = [callback for callback in trainer.callbacks if hasattr(callback, "measures")]
        if monitor is None or monitor in logged or any(scorer.measures(monitor) for scorer in scorers):
            return
        logged += [f"val/{name}" for name in NAMES if any(scorer.measures(f"val/{name}") for scorer in scorers)]
        if monitor.startswith("val") or any(key.endswith(f"/{monitor}") for key in logged):  # training logs the others
            raise self._unknown(logged)

    def _unknown(self, logged: list[str]) -> SettingError:
        hint = nearest(str(self.monitor), logged)
        choices = f"choose from {', '.join(logged)}" if logged else "nothing is logged or measured"
        message = f"checkpoint.monitor is {self.monitor!r}, which nothing logs: {choices}.{hint}"
        return SettingError(message, setting="checkpoint.monitor", value=self.monitor, allowed=logged)

    @contextmanager
    def _monitoring(self, trainer: Any) -> Iterator[None]:
        """Save ``last.ckpt`` before an unknown score ends the run."""
        try:
            yield
        except MisconfigurationException as error:
            self.write_last(trainer)
            raise self._unknown(list(trainer.callback_metrics)) from error

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Remember the step that a resumed run starts from."""
        super().on_train_start(trainer, pl_module)
        self._last_step, self._saved_at = trainer.global_step, time.monotonic()

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Save ``best.ckpt`` if the score has improved."""
        if not is_stale(trainer, str(self.monitor)):
            with self._monitoring(trainer):
                super().on_validation_end(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save ``last.ckpt`` every ``every_n_steps`` updates and ``every_n_minutes`` minutes."""
        # Save only right after a step: checkpoints do not contain the batches of an unfinished step.
        stepped, self._last_step = trainer.global_step != self._last_step, trainer.global_step
        if not stepped:
            return
        due = bool(self.every_n_steps) and trainer.global_step % self.every_n_steps == 0
        if not due and self.every_n_minutes is not None:
            late = time.monotonic() - self._saved_at >= 60 * self.every_n_minutes
            due = trainer.strategy.broadcast(late)  # the clocks of processes differ
        if due:
            self.write_last(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Save ``last.ckpt`` whatever the score; Lightning would save it only with a new best checkpoint."""
        if not is_stale(trainer, str(self.monitor)):
            with self._monitoring(trainer):
                super().on_train_epoch_end(trainer, pl_module)
        if is_due(trainer, self.every_n_epochs or 1):
            self.write_last(trainer)

    def write_last(self, trainer: Any) -> Path | None:
        """Save ``last.ckpt`` and return its path; None if nothing is saved."""
        if self.dirpath is None or trainer.fast_dev_run:
            return None
        path = Path(self.dirpath) / "last.ckpt"
        self._saved_at = time.monotonic()
        self.last_model_path = str(path)
        trainer.save_checkpoint(path, weights_only=False)  # without the argument, Lightning warns each time
        for logger in trainer.loggers if trainer.is_global_zero else ():  # W&B may keep checkpoints as artifacts
            logger.after_save_checkpoint(weakref.proxy(self))  # as Lightning passes it
        return path

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best and the last checkpoint if their files are in this run's folder, which may have moved."""
        with loading():
            self._restore(state_dict)

    def _restore(self, state_dict: dict[str, Any]) -> None:
        folder = Path(self.dirpath or "")
        if (folder / "last.ckpt").is_file() and state_dict["last_model_path"]:
            self.last_model_path = str(folder / "last.ckpt")
        best = folder / Path(state_dict["best_model_path"]).name
        if not state_dict["best_model_path"] or not best.is_file():
            return  # the file belongs to another run: look for a new best checkpoint
        here = {
            "dirpath": self.dirpath,
            "best_model_path": str(best),
            "kth_best_model_path": str(best),
            "best_k_models": {str(best): score for score in state_dict["best_k_models"].values()},
            "last_model_path": self.last_model_path,
        }
        super().load_state_dict({**state_dict, **here})
        self.current_score = state_dict["current_score"]  # Lightning saves it but does not restore it
