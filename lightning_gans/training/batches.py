"""Unpack and check batches."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lightning_gans._lightning import rank_zero_warn
from lightning_gans.errors import DataError, SettingError

Batch = tuple[Tensor, Any]
"""Images, and what comes with them: labels, vectors, paired images, or None."""

ROUNDING = 0.01
"""Tolerance for values outside [-1, 1], because resizing and low precision round."""


def unpacked(batch: Any, labelled: bool) -> Batch:
    """Return a batch's images, and its labels if they are wanted and present.

    Raises:
        DataError: It is neither a tensor of images nor a tuple of images and labels, or it is a pair of images.
    """
    images, labels = (*batch, None, None)[:2] if isinstance(batch, (tuple, list)) else (batch, None)
    if all(isinstance(part, Tensor) and part.dim() == 4 and part.is_floating_point() for part in (images, labels)):
        raise DataError(
            "a batch is a pair of images, which only translators take: leave out data.task, or use other data.",
            setting="batch",
            value=[list(part.shape) for part in (images, labels)],
            allowed="images, or images and labels",
        )
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
    """Return the two tensors of a batch, each with one row per example.

    Raises:
        DataError: It is not a tuple of two tensors with the same number of rows.
    """
    pair = tuple(batch) if isinstance(batch, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair) or len(pair[0]) != len(pair[1]):
        raise DataError(
            f"a batch is a {type(batch).__name__} of {len(pair)}: it must be a tuple of two tensors with the same "
            "number of rows.",
            setting="batch",
            value=type(batch).__name__,
            allowed="two tensors with the same number of rows",
        )
    return pair


def checked_vectors(vectors: Tensor, num: int) -> Tensor:
    """Return the conditions of ``num`` images, floats ``(N, D)``.

    Raises:
        DataError: They have another shape or are not floats.
    """
    if vectors.dim() != 2 or len(vectors) != num or not vectors.is_floating_point():
        raise DataError(
            f"the data's conditions are {vectors.dtype} of shape {list(vectors.shape)}: give floats of shape "
            f"[{num}, length].",
            setting="batch",
            value=list(vectors.shape),
            allowed=f"floats, ({num}, length)",
        )
    return vectors


def check_images(images: Tensor, image_shape: tuple[int, ...], setting: str = "image_shape") -> None:
    """Raise :class:`SettingError` if images do not have the model's shape or are not floats.

    Args:
        images: The images, ``(N, *image_shape)``.
        image_shape: The shape that one image must have.
        setting: Name of the model's setting for this shape.
    """
    found = tuple(images.shape[1:])
    if found != image_shape:
        raise SettingError(
            f"{setting} is {list(image_shape)}, but the data's images are {list(found)}: "
            + _remedy(found, image_shape, setting),
            setting=setting,
            value=image_shape,
            allowed=found,
        )
    if not images.is_floating_point():
        message = f"the data's images are {images.dtype}: they must be floats in [-1, 1]."
        raise SettingError(message, setting="batch", value=images.dtype, allowed="floats in [-1, 1]")


def _remedy(found: tuple[int, ...], wanted: tuple[int, ...], setting: str) -> str:
    """Return advice for images whose shape is not the model's; neither shape includes the batch."""
    if len(wanted) == 3 and len(found) == 2 and (found == wanted[1:] or found[0] == found[1]):
        return "their channel dimension is missing: give (N, channels, height, width), as images.unsqueeze(1) does."
    if len(found) == 3 and found[2] <= 4 < found[0]:
        return (
            "they look like (N, height, width, channels): give (N, channels, height, width), as "
            "images.permute(0, 3, 1, 2) does."
        )
    if len(found) not in (2, 3):
        return "give (N, channels, height, width), or (N, channels, steps) for sequences."
    return f"set --model.{setting} '{list(found)}', or use other data."


def check_range(images: Tensor) -> None:
    """Warn about images that look like [0, 1] instead of [-1, 1]; this forces a GPU synchronization.

    Raises:
        DataError: They lie outside [-1, 1] by more than rounding, or are not finite.
    """
    low, high = (bound.item() for bound in images.aminmax())
    if not math.isfinite(low + high):
        raise DataError("the data's images are not all finite numbers.", setting="batch", allowed="[-1, 1]")
    if not -1 - ROUNDING <= low <= high <= 1 + ROUNDING:
        remedy = "they look like 0 to 255: use images / 127.5 - 1."
        if low < 0 or high <= 2:
            remedy = "normalize with a mean of 0.5 and a standard deviation of 0.5, not with those of the data."
        message = f"the data's images range from {low:.4g} to {high:.4g}, but must be in [-1, 1]: {remedy}"
        raise DataError(message, setting="batch", value=(low, high), allowed="[-1, 1]")
    if low >= 0 and high > low:
        rank_zero_warn(
            f"The first batch has images from {low:.4g} to {high:.4g}, nothing below 0. If the data is in [0, 1], "
            "scale it to [-1, 1]: images * 2 - 1."
        )


def checked_labels(labels: Tensor | None, num: int, num_classes: int, look: bool) -> Tensor:
    """Return the labels of ``num`` images: class numbers as int64, or vectors of floats as they are.

    Args:
        labels: The labels of the batch, or None if it has none.
        num: Number of images.
        num_classes: Number of classes, which labels are below, or length of the vectors.
        look: Whether to check the values on a GPU too, which forces a GPU synchronization.

    Raises:
        SettingError: There are no labels, one is out of range, or the vectors have another length.
        DataError: There is not one label for each image, or a vector is not finite.
    """
    if labels is None:
        message = f"num_classes is {num_classes}, but the data has no labels: set num_classes to 0."
        raise SettingError(message, setting="num_classes", value=num_classes, allowed=0)
    if labels.is_floating_point() and labels.dim() == 2 and len(labels) == num:
        return _checked_conditions(labels, num_classes, look)
    if labels.shape != (num,):
        raise DataError(
            f"the data's labels have the shape {list(labels.shape)} for {num} images: give one whole number for each, "
            f"or floats of the shape [{num}, {num_classes}]; labels.argmax(1) converts one-hot labels.",
            setting="batch",
            value=list(labels.shape),
            allowed=[num],
        )
    if labels.is_floating_point():
        message = f"the data's labels are {labels.dtype}: class numbers must be of a type of whole numbers."
        raise DataError(message, setting="batch", value=labels.dtype, allowed="whole numbers")
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


def _checked_conditions(labels: Tensor, num_classes: int, look: bool) -> Tensor:
    """Return labels that are vectors, float ``(N, num_classes)``."""
    length = labels.shape[1]
    if length != num_classes:
        message = f"num_classes is {num_classes}, but the data's labels are vectors of length {length}: set it to that."
        raise SettingError(message, setting="num_classes", value=num_classes, allowed=length)
    if (look or labels.device.type == "cpu") and not labels.isfinite().all():
        raise DataError("the data's labels are not all finite numbers.", setting="batch", allowed="finite numbers")
    return labels
