"""``last.ckpt``, and ``best.ckpt`` where there is a score to go by."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any, Literal

from lightning_gans._lightning import ModelCheckpoint, pl, rank_zero_info
from lightning_gans.callbacks.rhythm import is_due
from lightning_gans.callbacks.scores import GenerativeMetrics
from lightning_gans.errors import check_choice, check_not_negative, check_positive
from lightning_gans.io.files import make_folder
from lightning_gans.metrics.processes import on_first_process
from lightning_gans.metrics.scores import METRICS, ON_REQUEST

_OF_SAMPLES = tuple(f"val/{name}" for name in (*METRICS, *ON_REQUEST))


class Checkpoint(ModelCheckpoint):
    """Save ``last.ckpt`` as training goes on, and ``best.ckpt`` whenever the score improves.

    Args:
        enabled: The command line leaves the callback out where this is False.
        monitor: Key of the score, such as ``val/fid``; None saves the last checkpoint only, as does a score
            of samples where these are not scored.
        mode: ``min`` if lower is better, ``max`` if higher is.
        every_n_epochs: How often to save at the end of an epoch; ``last.ckpt`` is always saved at the end.
        every_n_steps: How often to save ``last.ckpt`` within an epoch, in updates; 0 is never.
        dirpath: The folder; by default ``checkpoints`` in the run's folder.
    """

    def __init__(
        self,
        enabled: bool = True,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        every_n_epochs: int = 1,
        every_n_steps: int = 500,
        dirpath: str | None = None,
    ) -> None:
        check_choice("checkpoint.mode", mode, ("min", "max"))
        check_positive(**{"checkpoint.every_n_epochs": every_n_epochs})
        check_not_negative(**{"checkpoint.every_n_steps": every_n_steps})
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=0 if monitor is None else 1,
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )
        self.enabled = enabled
        self.every_n_steps = every_n_steps
        self._scorer: GenerativeMetrics | None = None
        self._last_step = 0

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint: another rhythm goes on with the best of before, another score does not."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:
        """Go without the score if nothing here will measure it."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and not trainer.fast_dev_run:
            on_first_process(trainer, lambda: make_folder(self.dirpath or "."))  # an error now, not at the first save
        self._scorer = next((c for c in trainer.callbacks if isinstance(c, GenerativeMetrics)), None)
        scored = self._scorer is not None and self._scorer.measures(self.monitor or "")
        own = [f"val/{name}" for name in (self._scorer.own if self._scorer is not None else ())]
        if stage == "fit" and not scored and (self.monitor or "").startswith((*_OF_SAMPLES, *own)):
            rank_zero_info(f"{self.monitor} is not measured: only the last checkpoint is saved, not the best.")
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
        """Whether there is a score to go by; those of samples come with some validations only."""
        scorer = self._scorer
        if scorer is None or self.monitor is None or not scorer.measures(self.monitor):
            return True
        return bool(scorer.last_scored_step == trainer.global_step)

    def on_train_batch_end(
        self, trainer: Any, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save ``last.ckpt`` every so many updates."""
        # Only right after a step: the batches of an unfinished one do not enter checkpoints.
        stepped, self._last_step = trainer.global_step != self._last_step, trainer.global_step
        if stepped and self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self.write_last(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Save ``last.ckpt`` whatever the score: Lightning's own follows it only when the best one changes."""
        if self._is_scored(trainer):
            super().on_train_epoch_end(trainer, pl_module)
        if is_due(trainer, self.every_n_epochs or 1):
            self.write_last(trainer)

    def write_last(self, trainer: Any) -> Path | None:
        """Save ``last.ckpt`` and return its path; None where nothing is to be saved."""
        if self.dirpath is None or trainer.fast_dev_run:
            return None
        path = Path(self.dirpath) / "last.ckpt"
        self.last_model_path = str(path)
        trainer.save_checkpoint(path, weights_only=False)  # left open, Lightning says so each time
        for logger in trainer.loggers if trainer.is_global_zero else ():  # W&B may keep checkpoints as artifacts
            logger.after_save_checkpoint(weakref.proxy(self))  # as Lightning gives it
        return path

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Carry the best and the last over where their files are in this run's folder, by whatever path it goes."""
        folder = Path(self.dirpath or "")
        if (folder / "last.ckpt").is_file() and state_dict["last_model_path"]:
            self.last_model_path = str(folder / "last.ckpt")
        best = folder / Path(state_dict["best_model_path"]).name
        if not state_dict["best_model_path"] or not best.is_file():
            return  # another run's checkpoint: this one looks for a best of its own
        here = {
            "dirpath": self.dirpath,
            "best_model_path": str(best),
            "kth_best_model_path": str(best),
            "best_k_models": {str(best): score for score in state_dict["best_k_models"].values()},
            "last_model_path": self.last_model_path,
        }
        super().load_state_dict({**state_dict, **here})
        self.current_score = state_dict["current_score"]  # which Lightning saves and does not restore
