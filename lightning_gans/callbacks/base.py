"""What the callbacks share: when they run, where they write, and what they take from a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lightning_gans._lightning import TrainerFn
from lightning_gans.errors import SettingError


def is_due(trainer: Any, every_n_epochs: int) -> bool:
    """Return whether to act at the end of this epoch: every n-th and the last one, and always outside of a fit."""
    if trainer.sanity_checking or trainer.fast_dev_run:
        return False
    epochs = trainer.current_epoch + 1
    return bool(
        trainer.state.fn != TrainerFn.FITTING
        or epochs % every_n_epochs == 0
        or epochs == trainer.max_epochs
        or trainer.should_stop
        or trainer.global_step == trainer.max_steps
    )


def run_folder(trainer: Any) -> Path:
    """Return the folder of the run; all processes have to call this together."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def check_is_image(shape: Sequence[int], user: str, section: str) -> None:
    """Raise :class:`SettingError` for the shape of sequences; ``section`` is the callback's key in a recipe."""
    if len(shape) != 3:
        found = list(shape)
        message = f"{user} shows images, but image_shape {found} is that of sequences: set {section}.enabled: false."
        raise SettingError(message, setting="image_shape", value=found, allowed="(C, H, W)")


def evaluated(trainer: Any) -> tuple[Any, float]:
    """Return the loader that is evaluated, and how many of its batches this process evaluates."""
    if trainer.testing:
        return trainer.test_dataloaders, float(sum(trainer.num_test_batches))
    return trainer.val_dataloaders, float(sum(trainer.num_val_batches))


def is_ours(loader: Any) -> bool:
    """Return whether a loader is of a data module of this package; the trainer keeps data modules of earlier runs."""
    return hasattr(loader, "source")


def length(loader: Any) -> int | None:
    """Return the number of batches of a loader; None if it is unknown."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):  # a DataLoader of an iterable data set has a __len__ that raises
        return None


def images_and_labels(module: Any, batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return a batch's images in [-1, 1] and its labels, by the module's own ``images_and_labels`` if it has one."""
    if hasattr(module, "images_and_labels"):
        pair: tuple[Tensor, Tensor | None] = module.images_and_labels(batch)
        return pair
    images, labels = (*batch, None, None)[:2] if isinstance(batch, (tuple, list)) else (batch, None)
    low, high = getattr(module, "value_range", (-1, 1))
    return (images if (low, high) == (-1, 1) else (images - low) / (high - low) * 2 - 1), labels


def log_picture(trainer: Any, key: str, picture: Image.Image, step: int) -> None:
    """Log a picture to every logger that takes one (Weights & Biases, TensorBoard)."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(key=key, images=[picture], caption=[f"step {step}"], step=step)
        elif callable(add_image := getattr(getattr(logger, "experiment", None), "add_image", None)):
            add_image(key, np.asarray(picture), step, dataformats="HWC")


def log_evaluation(trainer: Any, record: dict[str, Any], step: int) -> None:
    """Log the scores of an evaluation beside those of real images, to every logger that takes a table.

    Args:
        trainer: Has the loggers.
        record: As in ``metrics/step=….json``.
        step: Position on the loggers' axis.
    """
    real = (record.get("floor") or {}).get("scores", {})
    rows = [[name, value, real.get(name)] for name, value in record["scores"].items()]
    for logger in trainer.loggers:
        if hasattr(logger, "log_table"):
            key = f"evaluation/{record['stage']}"
            logger.log_table(key=key, columns=["score", "samples", "real images"], data=rows, step=step)
