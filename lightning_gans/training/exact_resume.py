"""Exact resume: a resumed run ends with the same bits as one that was never stopped.

The promise holds for the checkpoints of ``Checkpoint`` and ``GracefulStop``: those written after an update, or between
epochs. A checkpoint written anywhere else loads, and training resumes from the last such place.
"""

from __future__ import annotations

import copy
from typing import Any

from lightning_gans import _lightning
from lightning_gans._lightning import Callback, TrainerFn, pl, rank_zero_warn
from lightning_gans.errors import DataError, SettingError
from lightning_gans.training import checkpoint_format
from lightning_gans.training.processes import check_strategy


class ExactResume(Callback):
    """Stores in each checkpoint all that is needed to rebuild the model and to resume exactly.

    :class:`~lightning_gans.GenerativeModule` returns it from ``configure_callbacks``.
    """

    def __init__(self) -> None:
        self._validated_step = -1
        self._max_steps: int | None = None
        self._before_validation: _BeforeValidation | None = None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Raise an error for what this trainer cannot do, and hand the model's arguments to the loggers.

        Raises:
            SettingError: Names the trainer's setting.
        """
        pl_module.forget_batches()
        pl_module.save_hyperparameters(pl_module.arguments)
        if stage == "fit" and _lightning.validates_by_time(trainer):
            raise SettingError(
                "trainer.val_check_interval is a time, which cannot be resumed exactly: set a number of batches.",
                setting="trainer.val_check_interval",
                allowed="a number of batches",
            )
        check_strategy(trainer.strategy)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Share the first process's seed, and put networks that ``load`` left in eval mode back in training mode.

        Raises:
            DataError: The checkpoint holds weights only.
        """
        # Lightning does not call on_load_checkpoint for one that has no states of callbacks.
        checkpoint = _lightning.loaded_checkpoint(trainer)
        if checkpoint and ("optimizer_states" not in checkpoint or "loops" not in checkpoint):
            raise DataError("the checkpoint holds weights only: start from them with --init_from (load_weights).")
        for network in pl_module.networks(pl_module.trained_networks).values():
            if not network.training:
                network.train()
        pl_module.run_seed = trainer.strategy.broadcast(pl_module.run_seed)
        pl_module.stop_vote.zero_()
        pl_module.within_step = False
        self._validated_step, self._before_validation = -1, None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Tell the loader where the checkpoint was within the epoch."""
        _lightning.restore_loader_place(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Count a validation as done; a checkpoint saved at its end still repeats it."""
        self._count_validation(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Count a validation as done, also if ``max_steps`` ends the epoch."""
        self._count_validation(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """End an unfinished step with the epoch, which drops its batches."""
        if trainer.is_last_batch:
            pl_module.within_step = False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Snapshot the state for checkpoints written before validation ends."""
        if _is_fitting(trainer):
            if self._max_steps is not None:
                _lightning.set_max_steps(trainer, self._max_steps)
                self._max_steps = None
            self._before_validation = _BeforeValidation(trainer)

    def _count_validation(self, trainer: pl.Trainer) -> None:
        # Not in on_validation_end: a run resumed from there would lack the metrics that EarlyStopping needs afterwards.
        if self._before_validation is not None:
            self._validated_step, self._before_validation = trainer.global_step, None

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the model's description and the place in training.

        Raises:
            DivergedError: The weights are not finite; nothing is written then.
        """
        checkpoint_format.check_finite(pl_module)
        if pl_module.within_step:
            rank_zero_warn("This checkpoint is written within a training step: a run resumed from it is not exact.")
        before = self._before_validation
        checkpoint_format.describe(pl_module, checkpoint)
        checkpoint[checkpoint_format.KEY]["loggers"] = logger_states(trainer) if before is None else before.loggers
        if before is not None and "callbacks" in checkpoint:
            checkpoint["callbacks"] = before.callbacks
        validated = before is None and self._validated_step == trainer.global_step
        _lightning.settle_place(checkpoint, trainer, validated)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take the seed and the counters from the checkpoint, and continue the loggers' runs."""
        about = checkpoint_format.description(checkpoint)
        pl_module.run_seed, pl_module.images_seen = about["run_seed"], about["images_seen"]
        pl_module.weights_step = checkpoint["global_step"]
        if not _is_fitting(trainer):
            return
        restore_loggers(trainer, about.get("loggers", []), checkpoint["global_step"])
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "use_seed") and type(data).__qualname__ not in checkpoint:
            data.use_seed(about["run_seed"])  # checkpoints of 0.1, where the order of the images had the model's seed
        steps = trainer.max_steps
        if _lightning.validation_is_pending(checkpoint) and -1 < steps <= checkpoint["global_step"]:
            self._max_steps = steps  # until the validation has begun
            _lightning.set_max_steps(trainer, checkpoint["global_step"] + 1)


class _BeforeValidation:
    """What callbacks and loggers held before a validation that a resumed run repeats."""

    def __init__(self, trainer: Any) -> None:
        states = {callback.state_key: copy.deepcopy(callback.state_dict()) for callback in trainer.callbacks}
        self.callbacks = {key: state for key, state in states.items() if state}
        self.loggers = logger_states(trainer)


def _is_fitting(trainer: pl.Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def logger_states(trainer: Any) -> list[dict[str, Any]]:
    """Return what is needed to continue each logger's run: its kind, and its own state or the run's id."""
    states = []
    for logger in trainer.loggers:
        about = {"class": type(logger).__name__}
        if hasattr(logger, "state_dict"):
            states.append(about | {"state": logger.state_dict() or {}})
        else:
            states.append(about | {"version": logger.version if isinstance(logger.version, (int, str)) else None})
    return states


def restore_loggers(trainer: Any, states: list[dict[str, Any]], step: int) -> None:
    """Give each logger that can continue a run the state of its kind, or else the step to continue from."""
    for logger in trainer.loggers:
        if hasattr(logger, "load_state_dict"):
            state = next((state.get("state") for state in states if state["class"] == type(logger).__name__), None)
            logger.load_state_dict(state or {"step": step})
