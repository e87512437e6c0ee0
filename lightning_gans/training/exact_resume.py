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
from lightning_gans.io.attributes import Attributes
from lightning_gans.io.checkpoint_io import loading
from lightning_gans.training import checkpoint_format, finite, optimizer_states
from lightning_gans.training.processes import check_strategy


class ExactResume(Callback):
    """Stores in each checkpoint all that is needed to resume exactly, and to rebuild a model of this package.

    :class:`~lightning_gans.GenerativeModule` returns it from ``configure_callbacks``. For any other module it
    keeps the place in training and the loggers' rows; random numbers are the module's own concern.
    """

    def __init__(self) -> None:
        self._validated_step = -1
        self._max_steps: int | None = None
        self._before_validation: _BeforeValidation | None = None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Reject a trainer that cannot resume exactly, and pass the model's arguments to the loggers.

        Raises:
            SettingError: Names the trainer's setting.
        """
        if stage == "fit" and _lightning.validates_by_time(trainer):
            raise SettingError(
                "trainer.val_check_interval is a time, which cannot be resumed exactly: set a number of batches.",
                setting="trainer.val_check_interval",
                allowed="a number of batches",
            )
        if stage == "fit" and any(map(_lightning.saves_by_time, trainer.checkpoint_callbacks)):
            rank_zero_warn(  # ModelCheckpoint.on_train_batch_end returns before it looks at the clock
                "ModelCheckpoint(train_time_interval=…) saves nothing under manual optimization: "
                "use lightning_gans.Checkpoint(every_n_minutes=…)."
            )
        if trainer.precision == "64-true":
            pl_module.double()  # Lightning loads a checkpoint before it converts the module, which rounds the weights
        if _is_ours(pl_module):
            pl_module.forget_batches()
            _lightning.set_hyperparameters(pl_module, pl_module.arguments)
            check_strategy(trainer.strategy)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Share the first process's seed, and put networks that ``load`` left in eval mode back in training mode.

        The model also takes the scales and the attributes of the data, if they are known.

        Raises:
            DataError: The checkpoint holds weights only.
        """
        # Lightning does not call on_load_checkpoint for one that has no states of callbacks.
        checkpoint = _lightning.loaded_checkpoint(trainer)
        if checkpoint and not {"optimizer_states", "loops", "callbacks"} <= checkpoint.keys():
            raise DataError("the checkpoint holds weights only: start from them with --init_from (load_weights).")
        if checkpoint:
            optimizer_states.check_optimizers(trainer.optimizers, checkpoint["optimizer_states"])
            if (wrong := finite.not_finite(pl_module, trainer.optimizers)) is not None:
                raise DataError(f"the checkpoint is damaged: {wrong} is not finite.", setting="ckpt_path", value=wrong)
        self._validated_step, self._before_validation = -1, None
        if not _is_ours(pl_module):
            return
        for name, network in pl_module.networks(pl_module.trained_networks).items():
            if not network.training:
                network.train()
            trained = [parameter.requires_grad for parameter in network.parameters()]
            if trained and not any(trained):
                rank_zero_warn(f"The {name} is frozen (requires_grad_(False)): its updates are skipped.")
        networks = pl_module.networks(pl_module.trained_networks).values()
        if all(module.training for network in networks for module in network.modules()):
            _lightning.silence_eval_warning(trainer)
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "image_scale"):  # one of ours
            pl_module.source_scale, pl_module.image_scale = data.source_scale, data.image_scale
            if pl_module.num_classes > 0 and pl_module.labels_of_data:
                pl_module.attributes = data.attributes
        pl_module.run_seed = trainer.strategy.broadcast(pl_module.run_seed)
        pl_module.stop_vote.zero_()
        pl_module.within_step = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Restore the loader's position within the epoch."""
        _lightning.restore_loader_place(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Count a validation as done; a checkpoint saved at its end still repeats it."""
        self._count_validation(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Count a validation as done, even if ``max_steps`` ends the epoch."""
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

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Raise :class:`DivergedError` if the final weights are not finite, even if nothing was saved or logged."""
        finite.check_finite(pl_module, trainer.optimizers)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the model's description and the place in training.

        Raises:
            DivergedError: The weights are not finite; nothing is written then.
        """
        finite.check_finite(pl_module, trainer.optimizers)
        if getattr(pl_module, "within_step", False):
            rank_zero_warn("This checkpoint is written within a training step: a run resumed from it is not exact.")
        before = self._before_validation
        if _is_ours(pl_module):
            checkpoint_format.describe(pl_module, checkpoint)
        checkpoint.setdefault(checkpoint_format.KEY, {})
        checkpoint[checkpoint_format.KEY]["loggers"] = logger_states(trainer) if before is None else before.loggers
        if before is not None and "callbacks" in checkpoint:
            checkpoint["callbacks"] = before.callbacks
        validated = before is None and self._validated_step == trainer.global_step
        _lightning.settle_place(checkpoint, trainer, validated)
        if _is_ours(pl_module):
            _lightning.set_logger_step_of(checkpoint)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take the seed, the counters and the scales from the checkpoint, and continue the loggers' runs."""
        with loading():
            self._load(trainer, pl_module, checkpoint)

    def _load(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        about = checkpoint.get(checkpoint_format.KEY, {})
        if _is_ours(pl_module):
            about = checkpoint_format.description(checkpoint)
            pl_module.run_seed, pl_module.images_seen = about["run_seed"], about["images_seen"]
            pl_module.weights_step = checkpoint["global_step"]
            pl_module.source_scale, pl_module.image_scale = checkpoint_format.scales_of(about)
            pl_module.attributes = Attributes.stored(about.get("attributes"))
            checkpoint_format.restore_states(pl_module, about)
        if not _is_fitting(trainer):
            return
        if _is_ours(pl_module) and (changes := checkpoint_format.changed_terms(pl_module, about)):
            hint = "Checkpoints do not store regularizers: pass the same ones."
            rank_zero_warn(f"The run continues {changes}, unlike before. {hint}")
        optimizer_states.check_like(checkpoint["loops"]["fit_loop"], trainer.fit_loop.state_dict(), "loops.fit_loop")
        restore_loggers(trainer, checkpoint_format.loggers_of(about), checkpoint["global_step"])
        data: Any = getattr(trainer, "datamodule", None)
        if "run_seed" in about and hasattr(data, "use_seed") and type(data).__qualname__ not in checkpoint:
            data.use_seed(about["run_seed"])  # a checkpoint of 0.1, where the model's seed also ordered the images
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


def _is_ours(module: Any) -> bool:
    return hasattr(module, "given_arguments")


def _is_fitting(trainer: pl.Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def logger_states(trainer: Any) -> list[dict[str, Any]]:
    """Return what each logger needs to continue its run: its class, and its own state or the run's id."""
    states = []
    for logger in trainer.loggers:
        about = {"class": type(logger).__name__}
        if hasattr(logger, "state_dict"):
            states.append(about | {"state": logger.state_dict() or {}})
        else:
            states.append(about | {"version": logger.version if isinstance(logger.version, (int, str)) else None})
    return states


def restore_loggers(trainer: Any, states: list[dict[str, Any]], step: int) -> None:
    """Give each logger that can continue a run the state of its class, or else the step to continue from."""
    for logger in trainer.loggers:
        if hasattr(logger, "load_state_dict"):
            state = next((state.get("state") for state in states if state["class"] == type(logger).__name__), None)
            logger.load_state_dict(state or {"step": step})
