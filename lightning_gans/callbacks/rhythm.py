"""When, within a fit, something that comes every so many epochs is due."""

from __future__ import annotations

from typing import Any


def is_due(trainer: Any, every_n_epochs: int) -> bool:
    """Whether the epoch that ends is one to act on: every n-th, and the last."""
    epochs = trainer.current_epoch + 1
    return bool(
        epochs % every_n_epochs == 0
        or epochs == trainer.max_epochs
        or trainer.should_stop
        or trainer.global_step == trainer.max_steps
    )
