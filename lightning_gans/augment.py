"""Differentiable augmentation of what a discriminator judges (Zhao et al. 2020, https://arxiv.org/abs/2006.10738).

Real and generated images go through random changes of one distribution in every update, the generator's too, so that
the discriminator cannot learn few images by heart and the generator does not learn the changes; each image has draws of
its own. Each function maps images ``(N, C, H, W)`` and numbers uniform in [0, 1), one row an image, to images of the
same shape. Nothing else is random, and no image depends on another.

What leaves the image or is cut out is 0, as in the paper: mid-grey for values in [-1, 1], also where the background
is black. As both sides get it, it tells nothing of which is real.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gans.errors import SettingError, check_choice

SHIFT_SHARE = 1 / 8
"""The furthest translation, as a share of the image's size."""

CUTOUT_SHARE = 1 / 2
"""The side of the square that is cut out, as a share of the image's size."""


def color(images: Tensor, uniforms: Tensor) -> Tensor:
    """Change brightness by -0.5 to 0.5, then saturation by a factor of 0 to 2, then contrast by one of 0.5 to 1.5.

    Saturation is the distance of the channels from their mean in each pixel, contrast that of the whole image from
    its mean; grey images have no saturation. ``uniforms`` is ``(N, 3)``; at 0.5 nothing changes.
    """
    brightness, saturation, contrast = uniforms.to(images.dtype)[:, :, None, None, None].unbind(1)
    brightness, saturation, contrast = brightness - 0.5, 2 * saturation, contrast + 0.5
    of_pixel, of_image = images.mean(1, keepdim=True), images.mean((1, 2, 3), keepdim=True)
    # The three written out: s (x + b - m) + m + b, with m the pixel's mean, and then the same with the image's.
    offset = contrast * (1 - saturation) * of_pixel + (1 - contrast) * of_image + brightness
    return torch.addcmul(offset, images, contrast * saturation)


def translation(images: Tensor, uniforms: Tensor) -> Tensor:
    """Shift down and to the right by whole pixels, up to an eighth of the size either way; zeros come in.

    ``uniforms`` is ``(N, 2)``: down and right; at 0.5 nothing moves.
    """
    _, channels, height, width = images.shape
    down, right = (_rounded(SHIFT_SHARE * size) for size in (height, width))
    padded = F.pad(images, (right, right, down, down))
    # Where the shifted image begins within the padded one.
    top, left = 2 * down - _below(2 * down + 1, uniforms[:, :1]), 2 * right - _below(2 * right + 1, uniforms[:, 1:])
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    # One gather over flat pixels: on a CPU a fifth of the time of one for the rows and one for the columns.
    places = (rows * padded.shape[3])[:, :, None] + columns[:, None, :]
    return padded.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, channels, -1)).view_as(images)


def cutout(images: Tensor, uniforms: Tensor) -> Tensor:
    """Set a square of half the size to zero, whose centre may lie anywhere in the image: what sticks out is lost.

    ``uniforms`` is ``(N, 2)``: the centre's row and column.
    """
    inside = []
    for uniform, size in zip(uniforms.unbind(1), images.shape[2:], strict=True):
        side = _rounded(CUTOUT_SHARE * size)
        # A square of even side is centred between pixels, of which the image's two edges are one more than pixels.
        first = _below(size + 1 - side % 2, uniform)[:, None] - side // 2
        place = torch.arange(size, device=images.device)
        inside.append((place >= first) & (place < first + side))
    rows, columns = inside
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _below(count: int, uniforms: Tensor) -> Tensor:
    """Turn numbers uniform in [0, 1) into integers uniform in [0, count)."""
    return (uniforms * count).long().clamp(max=count - 1)


def _rounded(size: float) -> int:
    return int(size + 0.5)


_POLICIES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], slice]] = {
    "color": (color, slice(0, 3)),
    "translation": (translation, slice(3, 5)),
    "cutout": (cutout, slice(5, 7)),
}
POLICIES = tuple(_POLICIES)
"""The names of the changes, in the paper's order."""

NUM_UNIFORMS = 7
"""How many random numbers an image takes, whichever changes are made."""


def check_policies(policies: Sequence[str], image_shape: Sequence[int] = (1, 1, 1)) -> None:
    """Raise :class:`SettingError` for anything but a list of names out of :data:`POLICIES`, and for sequences."""
    if isinstance(policies, str) or not isinstance(policies, Sequence):
        message = f"augment is {policies!r}: give a list, of {', '.join(POLICIES)}."
        raise SettingError(message, setting="augment", value=policies, allowed=POLICIES)
    for name in policies:
        check_choice("augment", name, POLICIES)
    if policies and len(image_shape) != 3:
        message = f"augment is {list(policies)}: it is for images, not for image_shape {list(image_shape)}."
        raise SettingError(message, setting="augment", value=policies, allowed=[])


def diff_augment(images: Tensor, policies: Sequence[str], uniforms: Tensor) -> Tensor:
    """Change images at random, differentiably.

    Args:
        images: In [-1, 1], shape ``(N, C, H, W)``. Colours may leave that range.
        policies: Names out of :data:`POLICIES`, in the order in which they are applied.
        uniforms: In [0, 1), shape ``(N, NUM_UNIFORMS)``; row k belongs to image k, and column j to the same change
            whatever the policies.

    Returns:
        Images of the same shape, type and device.

    Raises:
        SettingError: A name is unknown, or the numbers do not fit the images.

    Example:
        >>> images = torch.ones(1, 1, 4, 4)
        >>> diff_augment(images, ["translation"], torch.full((1, NUM_UNIFORMS), 0.5)).equal(images)
        True
    """
    check_policies(policies)
    if uniforms.shape != (len(images), NUM_UNIFORMS):
        wanted = [len(images), NUM_UNIFORMS]
        raise SettingError(f"uniforms has the shape {list(uniforms.shape)}: {len(images)} images need {wanted}.")
    for name in policies:
        change, columns = _POLICIES[name]
        images = change(images, uniforms[:, columns])
    return images
