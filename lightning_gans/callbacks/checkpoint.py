"""``last.ckpt``, and ``best.ckpt`` by a score."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any, Literal

from lightning_gans._lightning import ModelCheckpoint, pl, rank_zero_info, state_key
from lightning_gans.callbacks.base import is_due
from lightning_gans.callbacks.scores import GenerativeMetrics
from lightning_gans.errors import check_choice, check_counts
from lightning_gans.io.files import make_folder
from lightning_gans.metrics.processes import on_first_process
from lightning_gans.metrics.scores import METRICS, ON_REQUEST, is_measured


class Checkpoint(ModelCheckpoint):
    """Save ``last.ckpt`` regularly, and ``best.ckpt`` whenever the score improves.

    Args:
        monitor: Key of the score, such as ``val/fid``; None saves only the last checkpoint, as does a score of samples
            that is not measured.
        mode: ``min`` if lower is better, ``max`` if higher is better.
        every_n_epochs: How often to save at the end of an epoch; ``last.ckpt`` is also saved after the last epoch.
        every_n_steps: How often to save ``last.ckpt`` within an epoch, in updates; 0 is never.
        dirpath: Folder of the checkpoints; by default ``checkpoints`` in the run's folder.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        every_n_epochs: int = 1,
        every_n_steps: int = 500,
        dirpath: str | None = None,
    ) -> None:
        check_choice("checkpoint.mode", mode, ("min", "max"))
        check_counts(**{"checkpoint.every_n_epochs": every_n_epochs})  # type: ignore[arg-type]
        check_counts(zero=True, **{"checkpoint.every_n_steps": every_n_steps})
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
        self._scorer: GenerativeMetrics | None = None
        self._last_step = 0

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint: a run resumed with another score looks for a new best checkpoint."""
        return state_key(self, monitor=self.monitor, mode=self.mode)

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:
        """Save only the last checkpoint if no callback measures the score."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and not trainer.fast_dev_run:
            folder = self.dirpath or "."
            on_first_process(trainer.strategy, lambda: make_folder(folder))  # an error now, not at the first save
        self._scorer = next((c for c in trainer.callbacks if isinstance(c, GenerativeMetrics)), None)
        monitor, names = self.monitor or "", (*METRICS, *ON_REQUEST, *(self._scorer.own if self._scorer else ()))
        scored = self._scorer is not None and self._scorer.measures(monitor)
        of_samples = monitor.startswith("val/") and is_measured(monitor.removeprefix("val/"), names)
        if stage == "fit" and of_samples and not scored:
            rank_zero_info(f"{monitor} is not measured: only the last checkpoint is saved, not the best one.")
            self.monitor, self.save_top_k = None, 0

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Remember the step that a resumed run starts from."""
        super().on_train_start(trainer, pl_module)
        self._last_step = trainer.global_step

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Save ``best.ckpt`` if the score has improved."""
        if self._is_scored(trainer):
            super().on_validation_end(trainer, pl_module)

    def _is_scored(self, trainer: Any) -> bool:
        """Return whether this validation measured the score; not all validations score samples."""
        scorer = self._scorer
        if scorer is None or self.monitor is None or not scorer.measures(self.monitor):
            return True
        return bool(scorer.last_scored_step == trainer.global_step)

    def on_train_batch_end(
        self, trainer: Any, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save ``last.ckpt`` every ``every_n_steps`` updates."""
        # Only right after a step: the batches of an unfinished one do not enter checkpoints.
        stepped, self._last_step = trainer.global_step != self._last_step, trainer.global_step
        if stepped and self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self.write_last(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Save ``last.ckpt`` whatever the score; Lightning would save it only with a new best checkpoint."""
        if self._is_scored(trainer):
            super().on_train_epoch_end(trainer, pl_module)
        if is_due(trainer, self.every_n_epochs or 1):
            self.write_last(trainer)

    def write_last(self, trainer: Any) -> Path | None:
        """Save ``last.ckpt`` and return its path; None if nothing is saved."""
        if self.dirpath is None or trainer.fast_dev_run:
            return None
        path = Path(self.dirpath) / "last.ckpt"
        self.last_model_path = str(path)
        trainer.save_checkpoint(path, weights_only=False)  # without the argument, Lightning warns each time
        for logger in trainer.loggers if trainer.is_global_zero else ():  # W&B may keep checkpoints as artifacts
            logger.after_save_checkpoint(weakref.proxy(self))  # as Lightning passes it
        return path

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best and the last checkpoint if their files are in this run's folder, which may have moved."""
        folder = Path(self.dirpath or "")
        if (folder / "last.ckpt").is_file() and state_dict["last_model_path"]:
            self.last_model_path = str(folder / "last.ckpt")
        best = folder / Path(state_dict["best_model_path"]).name
        if not state_dict["best_model_path"] or not best.is_file():
            return  # of another run: look for a new best checkpoint
        here = {
            "dirpath": self.dirpath,
            "best_model_path": str(best),
            "kth_best_model_path": str(best),
            "best_k_models": {str(best): score for score in state_dict["best_k_models"].values()},
            "last_model_path": self.last_model_path,
        }
        super().load_state_dict({**state_dict, **here})
        self.current_score = state_dict["current_score"]  # Lightning saves it but does not restore it
