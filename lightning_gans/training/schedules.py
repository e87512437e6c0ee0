"""Schedules: training progress and the values that depend on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from lightning_gans.errors import SettingError

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
