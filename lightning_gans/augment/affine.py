"""Small affine transformations of images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gans.augment.pipeline import interpolated, reflected, rotation

NUM_UNIFORMS = 7
"""Number of uniform numbers per image."""


def affine(
    images: Tensor, uniforms: Tensor, p: float, *, degrees: float, shear: float, scale: float, shift: float
) -> Tensor:
    """Rotate, shear, scale and shift images around their centers by random amounts, each image with probability p.

    The amounts are uniform in a range around 0, and those of one image are independent. Pixels from outside of an image
    are reflected at its border. The result can be differentiated twice with respect to the images, and an image that is
    not changed keeps its bits.

    Args:
        images: Shape ``(N, C, H, W)``.
        uniforms: Numbers in [0, 1), ``(N, 7)``.
        p: Probability of a change.
        degrees: Largest angle of rotation.
        shear: Largest horizontal shift of a row, as a share of its distance from the center.
        scale: Largest logarithm of the factor of the size, and of that of the width against the height.
        shift: Largest shift, as a share of the height and of the width.

    Returns:
        Images of the same shape, dtype and device.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> changed = affine(images, torch.rand(2, 7), 1.0, degrees=10, shear=0.3, scale=0.1, shift=0.1)
        >>> changed.shape, bool(changed.equal(images))
        (torch.Size([2, 3, 8, 8]), False)
    """
    height, width = images.shape[2:]
    angle, slant, size, ratio, right, down = (2 * uniforms[:, 1:] - 1).unbind(1)
    size, ratio = (scale * size).exp(), (scale * ratio).exp()
    # Where a pixel comes from: the inverse of all, whose ranges are symmetric, so that the signs do not matter.
    x, y = (
        (torch.arange(side, device=images.device) - (side - 1) / 2 - (shift * side * part)[:, None])
        for side, part in ((width, right), (height, down))
    )
    x = (size * ratio)[:, None, None] * (x[:, None, :] + (shear * slant)[:, None, None] * y[:, :, None])
    y = ((size / ratio)[:, None] * y)[:, :, None]
    (a, b), (c, d) = (row.unbind(1) for row in rotation(math.radians(degrees) * angle)[..., None, None].unbind(1))
    columns = reflected(a * x + b * y + (width - 1) / 2, width)
    rows = reflected(c * x + d * y + (height - 1) / 2, height)
    exact = images if images.dtype == torch.float64 else images.float()
    padded = F.pad(exact, (0, 1, 0, 1), mode="replicate")  # the last pixel has a neighbor to interpolate with
    changed = interpolated(padded, rows.to(exact), columns.to(exact)).to(images.dtype)
    return torch.where((uniforms[:, 0] < p)[:, None, None, None], changed, images)
