"""DiffAugment: differentiable augmentation for GANs (Zhao et al. 2020, https://arxiv.org/abs/2006.10738).

Real and generated images are augmented in the same way in the updates of both networks, so that the discriminator
cannot memorize a small data set and the generator does not learn the augmentation. Each function maps images
``(N, C, H, W)`` and uniform numbers in [0, 1), one row per image, to images of the same shape. It is deterministic and
treats each image independently.

Pixels that are shifted in or cut out are 0, as in the paper: mid-gray for values in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gans.errors import SettingError, check_choice

SHIFT_SHARE = 1 / 8
"""Largest translation, as a fraction of the image size."""

CUTOUT_SHARE = 1 / 2
"""Side of the square that is cut out, as a fraction of the image size."""


def color(images: Tensor, uniforms: Tensor) -> Tensor:
    """Add a brightness in [-0.5, 0.5], then scale saturation by [0, 2] and contrast by [0.5, 1.5].

    Saturation is the deviation of each pixel from its mean over the channels; contrast is the deviation from the mean
    of the image. ``uniforms`` is ``(N, 3)``; at 0.5 nothing changes.
    """
    brightness, saturation, contrast = uniforms.to(images.dtype)[:, :, None, None, None].unbind(1)
    brightness, saturation, contrast = brightness - 0.5, 2 * saturation, contrast + 0.5
    of_pixel, of_image = images.mean(1, keepdim=True), images.mean((1, 2, 3), keepdim=True)
    # All three in one pass: s (x + b - m) + m + b with the pixel's mean m, then the same with the image's mean.
    offset = contrast * (1 - saturation) * of_pixel + (1 - contrast) * of_image + brightness
    return torch.addcmul(offset, images, contrast * saturation)


def translation(images: Tensor, uniforms: Tensor) -> Tensor:
    """Shift vertically and horizontally by whole pixels, up to an eighth of the size; pad with zeros.

    ``uniforms`` is ``(N, 2)``: down and right; at 0.5 nothing moves.
    """
    _, channels, height, width = images.shape
    down, right = (_rounded(SHIFT_SHARE * size) for size in (height, width))
    padded = F.pad(images, (right, right, down, down))
    # Origin of the shifted image within the padded one.
    top, left = 2 * down - _below(2 * down + 1, uniforms[:, :1]), 2 * right - _below(2 * right + 1, uniforms[:, 1:])
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    # A single gather over flattened pixels is five times as fast on a CPU as one for rows and one for columns.
    places = (rows * padded.shape[3])[:, :, None] + columns[:, None, :]
    return padded.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, channels, -1)).view_as(images)


def flip(images: Tensor, uniforms: Tensor) -> Tensor:
    """Mirror images horizontally where the number in ``uniforms``, ``(N, 1)``, is below 1/2."""
    return torch.where((uniforms < 0.5)[:, :, None, None], images.flip(3), images)


def cutout(images: Tensor, uniforms: Tensor) -> Tensor:
    """Set a square of half the size to zero; its center may be anywhere, so it may extend beyond the border.

    ``uniforms`` is ``(N, 2)``: row and column of the center.
    """
    inside = []
    for uniform, size in zip(uniforms.unbind(1), images.shape[2:], strict=True):
        side = _rounded(CUTOUT_SHARE * size)
        # A square with an even side is centered between pixels, at one of size + 1 places.
        first = _below(size + 1 - side % 2, uniform)[:, None] - side // 2
        place = torch.arange(size, device=images.device)
        inside.append((place >= first) & (place < first + side))
    rows, columns = inside
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _below(count: int, uniforms: Tensor) -> Tensor:
    """Map uniform numbers in [0, 1) to uniform integers in [0, count)."""
    return (uniforms * count).long().clamp(max=count - 1)


def _rounded(size: float) -> int:
    return int(size + 0.5)


_POLICIES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], slice]] = {
    "color": (color, slice(0, 3)),
    "translation": (translation, slice(3, 5)),
    "cutout": (cutout, slice(5, 7)),
}
POLICIES = tuple(_POLICIES)
"""Names of the augmentations, in the paper's order."""

NUM_UNIFORMS = 7
"""Number of uniform numbers per image, independent of the policies."""


def check_policies(policies: Sequence[str], image_shape: Sequence[int] = (1, 1, 1)) -> None:
    """Raise :class:`SettingError` unless ``policies`` lists names in :data:`POLICIES`, and for sequences."""
    if isinstance(policies, str) or not isinstance(policies, Sequence):
        message = f"augment is {policies!r}: give a list, of {', '.join(POLICIES)}, or an augmentation such as ADA()."
        raise SettingError(message, setting="augment", value=policies, allowed=POLICIES)
    for name in policies:
        check_choice("augment", name, POLICIES)
    if policies and len(image_shape) != 3:
        message = f"augment is {list(policies)}: it is for images, not for image_shape {list(image_shape)}."
        raise SettingError(message, setting="augment", value=policies, allowed=[])


def diff_augment(images: Tensor, policies: Sequence[str], uniforms: Tensor) -> Tensor:
    """Augment images differentiably.

    Args:
        images: Values in [-1, 1], shape ``(N, C, H, W)``; ``color`` may leave that range.
        policies: Names in :data:`POLICIES`, in the order of application; see :func:`check_policies`.
        uniforms: Values in [0, 1), shape ``(N, NUM_UNIFORMS)``. Row k belongs to image k; each policy has its own
            columns.

    Returns:
        Images of the same shape, dtype and device.

    Raises:
        SettingError: The shape of ``uniforms`` does not match the images.

    Example:
        >>> images = torch.ones(1, 1, 4, 4)
        >>> diff_augment(images, ["translation"], torch.full((1, NUM_UNIFORMS), 0.5)).equal(images)
        True
    """
    if uniforms.shape != (len(images), NUM_UNIFORMS):
        wanted = [len(images), NUM_UNIFORMS]
        message = f"uniforms has the shape {list(uniforms.shape)}: {len(images)} images need {wanted}."
        raise SettingError(message, setting="uniforms", value=list(uniforms.shape), allowed=wanted)
    for name in policies:
        change, columns = _POLICIES[name]
        images = change(images, uniforms[:, columns])
    return images
