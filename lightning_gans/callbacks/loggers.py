"""What loggers take beside numbers: pictures and tables, on the axis of generator updates."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def log_picture(trainer: Any, key: str, picture: Image.Image, step: int) -> None:
    """Send a picture to every logger that takes one (Weights & Biases, TensorBoard)."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(key=key, images=[picture], caption=[f"step {step}"], step=step)
        elif callable(add_image := getattr(getattr(logger, "experiment", None), "add_image", None)):
            add_image(key, np.asarray(picture), step, dataformats="HWC")


def log_evaluation(trainer: Any, record: dict[str, Any], step: int) -> None:
    """Send the scores of an evaluation, beside those of real images, to every logger that takes a table.

    Args:
        trainer: Its loggers.
        record: As in ``metrics/step=….json``.
        step: The place on the axis.
    """
    real = (record.get("floor") or {}).get("scores", {})
    rows = [[name, value, real.get(name)] for name, value in record["scores"].items()]
    for logger in trainer.loggers:
        if hasattr(logger, "log_table"):
            key = f"evaluation/{record['stage']}"
            logger.log_table(key=key, columns=["score", "samples", "real images"], data=rows, step=step)
