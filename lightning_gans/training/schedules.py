"""Schedules: training progress and the values that depend on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from lightning_gans import _lightning
from lightning_gans._lightning import Callback, rank_zero_warn
from lightning_gans.errors import SettingError, invalid

Schedule = Literal["constant", "linear", "cosine"]


def cosine(start: float, end: float, progress: float) -> float:
    """Interpolate along half a cosine; ``progress`` is between 0 and 1.

    Example:
        >>> [round(cosine(1.0, 0.0, progress / 4), 3) for progress in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def linear(start: float, end: float, progress: float) -> float:
    """Interpolate along a line; ``progress`` is between 0 and 1."""
    return start + (end - start) * progress


CURVES: dict[str, Callable[[float, float, float], float]] = {
    "constant": lambda start, end, progress: start,
    "linear": linear,
    "cosine": cosine,
}


def steps_planned(trainer: Any, batches_per_step: int) -> float:
    """Return how many training steps are planned.

    Raises:
        SettingError: The run has no end, or the length of an epoch is unknown.
    """
    max_steps, max_epochs = trainer.max_steps, trainer.max_epochs
    if max_steps == -1 and max_epochs in (-1, None):
        raise SettingError(
            "a schedule needs an end: set --trainer.max_epochs, --trainer.max_steps or --model.schedule_images.",
            setting="trainer.max_epochs",
            value=max_epochs,
        )
    if max_epochs in (-1, None):
        return float(max_steps)
    batches = trainer.num_training_batches
    planned = max(1, batches // batches_per_step) * max_epochs if batches < math.inf else math.inf  # inf // 1 is NaN
    if max_steps != -1:
        planned = min(planned, max_steps)
    if not 0 < planned < math.inf:
        raise SettingError(
            "a schedule needs an end, and the loader has no length: set --trainer.max_steps, "
            "--trainer.limit_train_batches or --model.schedule_images.",
            setting="trainer.max_steps",
            value=max_steps,
        )
    return float(planned)


def scale_learning_rates(optimizers: list[Any], factor: float) -> None:
    """Set each learning rate to a factor times its initial value, which the optimizer's state keeps."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def move_beta2(optimizers: list[Any], start: float, end: float, progress: float) -> None:
    """Set Adam's second decay rate along a cosine; raise :class:`SettingError` for an optimizer without ``betas``."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        if "betas" not in group:
            raise invalid("beta2_end", end, "None with an optimizer that has no betas")
        group["betas"] = (group["betas"][0], cosine(start, end, progress))


class Schedulers(Callback):
    """Steps the schedulers of a custom ``configure_optimizers`` as Lightning does under automatic optimization."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Store the scheduler configurations that ``configure_optimizers`` returns."""
        self._configs = _lightning.scheduler_configs_of(pl_module) if stage == "fit" else []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Give the trainer the schedulers with all their keys."""
        trainer.strategy.lr_scheduler_configs = self._configs

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Step the schedulers that monitor a metric at the end of an epoch, unless ``max_steps`` cut it short."""
        if trainer.is_last_batch:
            step_schedulers(pl_module, "epoch", trainer.current_epoch + 1, (True,))


def step_schedulers(module: Any, interval: str, count: int, plateau: tuple[bool, ...] = (False, True)) -> None:
    """Step the schedulers that are due.

    Args:
        module: The model.
        interval: What has ended, a ``step`` or an ``epoch``.
        count: Number of steps or epochs that have ended.
        plateau: Which schedulers to step: those that monitor a metric (True), the others (False), or both.

    Raises:
        SettingError: A scheduler's metric does not exist.
    """
    for config in module.trainer.lr_scheduler_configs:
        if config.interval != interval or count % config.frequency or config.reduce_on_plateau not in plateau:
            continue
        metrics = module.trainer.callback_metrics if config.reduce_on_plateau else {}
        if config.reduce_on_plateau and config.monitor not in metrics:
            message = f"a scheduler monitors {config.monitor!r}, which is not logged: choose from {list(metrics)}."
            if config.strict:
                raise SettingError(message, setting="monitor", value=config.monitor, allowed=list(metrics))
            rank_zero_warn(message)
            continue
        module.lr_scheduler_step(config.scheduler, metrics.get(config.monitor))
