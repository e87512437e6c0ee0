"""Unpack and check batches."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lightning_gans.errors import DataError, SettingError

Part = tuple[Tensor, Any]
"""Images, and what comes with them: labels, vectors, paired images, or None."""

ROUNDING = 0.01
"""How far images may lie outside [-1, 1]: resizing and low precision round."""


def unpacked(batch: Any, labelled: bool) -> Part:
    """Return a batch's images, and its labels if they are wanted and present.

    Raises:
        DataError: It is neither a tensor of images nor a tuple of images and labels.
    """
    images, labels = (*batch, None, None)[:2] if isinstance(batch, (tuple, list)) else (batch, None)
    labels = labels if labelled else None
    if isinstance(images, Tensor) and isinstance(labels, (Tensor, type(None))):
        return images, labels
    parts = [type(part).__name__ for part in batch] if isinstance(batch, (tuple, list)) else []
    raise DataError(
        f"a batch is a {type(batch).__name__}{' of ' * bool(parts)}{', '.join(parts)}: it must be a tensor of "
        "images, or a tuple of images and labels.",
        setting="batch",
        value=type(batch).__name__,
        allowed="images, or images and labels",
    )


def unpacked_pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the two tensors of a batch, one row of each for every example.

    Raises:
        DataError: It is not a tuple of two tensors with equally many rows.
    """
    pair = tuple(batch) if isinstance(batch, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair) or len(pair[0]) != len(pair[1]):
        raise DataError(
            f"a batch is a {type(batch).__name__} of {len(pair)}: it must be a tuple of two tensors with equally many "
            "rows.",
            setting="batch",
            value=type(batch).__name__,
            allowed="two tensors with equally many rows",
        )
    return pair


def checked_vectors(vectors: Tensor, num: int) -> Tensor:
    """Return the conditions of ``num`` images, floats ``(N, D)``.

    Raises:
        DataError: They have another shape or are not floats.
    """
    if vectors.dim() != 2 or len(vectors) != num or not vectors.is_floating_point():
        raise DataError(
            f"the data's conditions are {vectors.dtype} of the shape {list(vectors.shape)}: give floats, "
            f"[{num}, length].",
            setting="batch",
            value=list(vectors.shape),
            allowed=f"floats, ({num}, length)",
        )
    return vectors


def check_images(images: Tensor, image_shape: tuple[int, ...]) -> None:
    """Raise :class:`SettingError` for images of another shape than the model's, or of whole numbers."""
    found = tuple(images.shape[1:])
    if found != image_shape:
        raise SettingError(
            f"image_shape is {list(image_shape)}, but the data's images are {list(found)}: "
            + _remedy(found, image_shape),
            setting="image_shape",
            value=image_shape,
            allowed=found,
        )
    if not images.is_floating_point():
        message = f"the data's images are {images.dtype}: they must be floats in [-1, 1]."
        raise SettingError(message, setting="batch", value=images.dtype, allowed="floats in [-1, 1]")


def _remedy(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Say what to do about images of another shape than the model's, both without the batch."""
    if len(wanted) == 3 and len(found) == 2 and (found == wanted[1:] or found[0] == found[1]):
        return "their channel dimension is missing: give (N, channels, height, width), as images.unsqueeze(1) does."
    if len(found) == 3 and found[2] <= 4 < found[0]:
        return (
            "they look like (N, height, width, channels): give (N, channels, height, width), as "
            "images.permute(0, 3, 1, 2) does."
        )
    if len(found) not in (2, 3):
        return "give (N, channels, height, width), or (N, channels, steps) of sequences."
    return f"set --model.image_shape '{list(found)}', or other data."


def check_range(images: Tensor) -> None:
    """Raise :class:`DataError` for images outside of [-1, 1], by more than rounding; forces a GPU synchronization."""
    low, high = (bound.item() for bound in images.aminmax())
    if not math.isfinite(low + high):
        raise DataError("the data's images are not all finite numbers.", setting="batch", allowed="[-1, 1]")
    if not -1 - ROUNDING <= low <= high <= 1 + ROUNDING:
        message = f"the data's images go from {low:.4g} to {high:.4g}: scale them to -1 to 1."
        raise DataError(message, setting="batch", value=(low, high), allowed="[-1, 1]")


def checked_labels(labels: Tensor | None, num: int, num_classes: int, look: bool) -> Tensor:
    """Return the labels of ``num`` images as int64.

    Args:
        labels: What the batch has.
        num: How many images there are.
        num_classes: Labels are 0 to one less.
        look: Whether to check their values on a GPU too, which forces a GPU synchronization.

    Raises:
        SettingError: There are none, or one is out of range.
        DataError: There is not one for each image.
    """
    if labels is None:
        message = f"num_classes is {num_classes}, but the data has no labels: set it to 0."
        raise SettingError(message, setting="num_classes", value=num_classes, allowed=0)
    if labels.shape != (num,):
        raise DataError(
            f"the data's labels have the shape {list(labels.shape)} for {num} images: give one whole number for each, "
            "as labels.argmax(1) makes of one-hot ones.",
            setting="batch",
            value=list(labels.shape),
            allowed=[num],
        )
    labels = labels.long()  # small unsigned types have no aminmax
    if num > 0 and (look or labels.device.type == "cpu"):
        for label in (bound.item() for bound in labels.aminmax()):
            if not 0 <= label < num_classes:
                raise SettingError(
                    f"num_classes is {num_classes}, but the data has the label {label}: labels are 0 to "
                    f"{num_classes - 1}.",
                    setting="num_classes",
                    value=num_classes,
                    allowed=f"more than {label}",
                )
    return labels
