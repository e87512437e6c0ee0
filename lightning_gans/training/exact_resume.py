"""The place in training that a checkpoint names, so that a run goes on from there as if it had never stopped.

Lightning resumes exactly from some of the places where a checkpoint can be written, and not from others: the
last batch of an epoch, a validation, an epoch's end under ``max_steps``. So each checkpoint is made to name one
of two places that it does resume from exactly: after an update, with everything that comes after it still to be
done (a validation that is due, the end of the epoch), or between two epochs.
"""

from __future__ import annotations

import copy
from typing import Any


def settle_place(checkpoint: dict[str, Any], trainer: Any, validated: bool) -> None:
    """Change a checkpoint's loop counters to one of the two places.

    Args:
        checkpoint: As Lightning has made it, within a fit or after one.
        trainer: The trainer.
        validated: Whether the validation that may be due after the last update is done.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    validation = loops["epoch_loop.val_loop.batch_progress"]
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"]
    if epochs["current"]["started"] < epochs["current"]["ready"]:  # an epoch is about to begin: it has not yet
        for counts in (epochs["total"], epochs["current"]):
            counts["ready"] = counts["started"]
    begun, done = epochs["current"]["ready"], batches["current"]["processed"]
    if begun == 0:
        return
    if batches["current"]["ready"] > done:  # an update is under way, which counts as not begun
        batches["is_last_batch"] = False
    # Lightning ends an epoch early at max_steps, or when it is told to stop; a longer run would not have.
    cut_short = not batches["is_last_batch"] and done < trainer.num_training_batches
    if epochs["current"]["processed"] == begun and not cut_short:
        _finish(epochs)
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False
        validation["total"] = dict.fromkeys(validation["total"], 0)
        return
    _finish(epochs, but=1)
    for key in ("total", "current"):
        batches[key] = dict.fromkeys(batches[key], batches[key]["processed"])
        validation[key] = dict.fromkeys(validation[key], 0)
    if not validated and _validation_is_due(trainer, batches, epochs["current"]["ready"]):
        # To Lightning a validation that was interrupted in its first batch: it begins again, if one is due.
        validation["total"].update(ready=1, started=1)


def _validation_is_due(trainer: Any, batches: dict[str, Any], epoch: int) -> bool:
    """Whether Lightning validates after this batch."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every is not None and epoch % every):
        return False
    if trainer.val_check_batch in (None, float("inf")):
        return bool(batches["is_last_batch"])
    done = batches["total" if every is None else "current"]["processed"]
    return bool(done > 0 and done % trainer.val_check_batch == 0)


def allow_validation(trainer: Any, checkpoint: dict[str, Any]) -> int | None:
    """Let a run that has reached ``max_steps`` begin again for the validation that is still due.

    Returns:
        What ``max_steps`` has to be again once the validation has begun; None if nothing was changed.
    """
    validation = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
    due = validation["ready"] == 1 and validation["processed"] == 0
    if not due or trainer.max_steps == -1 or checkpoint["global_step"] < trainer.max_steps:
        return None
    steps: int = trainer.max_steps
    trainer.fit_loop.epoch_loop.max_steps = checkpoint["global_step"] + 1
    return steps


def _finish(progress: dict[str, Any], but: int = 0) -> None:
    """Call everything that was begun finished, but for the last."""
    for counts in (progress["total"], progress["current"]):
        counts.update(processed=counts["ready"] - but, completed=counts["ready"] - but)


class BeforeValidation:
    """What callbacks and loggers held before a validation that a resumed run does again.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Any) -> None:
        states = {callback.state_key: copy.deepcopy(callback.state_dict()) for callback in trainer.callbacks}
        self.callbacks = {key: state for key, state in states.items() if state}
        self.loggers = logger_states(trainer)


def logger_states(trainer: Any) -> list[dict[str, Any]]:
    """Return what a resumed run needs to go on with each logger: its kind, and its own state or the run's id."""
    states = []
    for logger in trainer.loggers:
        about = {"class": type(logger).__name__}
        if hasattr(logger, "state_dict"):
            states.append(about | {"state": logger.state_dict() or {}})
        else:
            states.append(about | {"version": logger.version if isinstance(logger.version, (int, str)) else None})
    return states


def restore_loggers(trainer: Any, states: list[dict[str, Any]], step: int) -> None:
    """Give each logger that can go on where it was the state that its kind had; else the step, to judge by."""
    for logger in trainer.loggers:
        if hasattr(logger, "load_state_dict"):
            state = next((state.get("state") for state in states if state["class"] == type(logger).__name__), None)
            logger.load_state_dict(state or {"step": step})
