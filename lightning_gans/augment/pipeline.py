"""The augmentations of ADA (Karras et al. 2020, https://arxiv.org/abs/2006.06676, appendix B).

Each transformation changes an image with probability p, with random parameters of the image's own. Each function maps
images ``(N, C, H, W)``, uniform numbers in [0, 1), one row per image, and p to images of the same shape. It is
deterministic, treats each image independently, and can be differentiated twice with respect to the images. An image
that is not changed keeps its bits.

Pixels from outside of an image are reflected at its border.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gans import augment

SYM2 = tuple(value / (4 * math.sqrt(2)) for value in (1 - 3**0.5, 3 - 3**0.5, 3 + 3**0.5, 1 + 3**0.5))
"""Taps of the wavelet of :func:`band_filter`."""

SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
"""Taps of the wavelet of :func:`resample`: Daubechies' least asymmetric one with six vanishing moments."""

MARGIN = len(SYM6) // 2 - 1
"""Taps before that of an upsampled pixel."""

DELAY = sum(place * tap for place, tap in enumerate(SYM6)) / sum(SYM6) - MARGIN
"""Pixel k is centered at 2 k + DELAY of the upsampled line: the taps' mean, so that a ramp stays a ramp."""

Draw = Callable[..., Tensor]
"""Draws numbers uniform in [0, 1), ``draw(size, *key)``, a row for each image."""


# --- pixel blitting -----------------------------------------------------------------------------------------------


def blit(images: Tensor, uniforms: Tensor, p: float) -> Tensor:
    """Mirror horizontally, rotate by a multiple of 90°, and shift by up to an eighth of the size in whole pixels.

    ``uniforms`` is ``(N, 7)``. The image moves around its center; of a height and a width whose sum is odd, a quarter
    turn is rounded to whole pixels.
    """
    height, width = images.shape[2:]
    mirrors, side, turns, quarter, shifts, right, down = uniforms[:, :, None, None].unbind(1)
    rows, columns = (2 * torch.arange(size, device=images.device) - size + 1 for size in (height, width))
    # Where each pixel comes from, in half pixels from the center: the inverse of each transformation, in reverse order.
    x, y = (
        line - 2 * torch.where(shifts < p, (size * (share - 0.5) / 4).round(), 0).long()
        for line, size, share in ((columns, width, right), (rows[:, None], height, down))
    )
    angle = torch.where(turns < p, (4 * quarter).long(), 0)
    cosine, sine = (torch.tensor(values, device=images.device)[angle] for values in ([1, 0, -1, 0], [0, 1, 0, -1]))
    x, y = cosine * x + sine * y, cosine * y - sine * x
    x = torch.where((mirrors < p) & (side < 0.5), -x, x)
    columns, rows = reflected((x + width - 1) // 2, width), reflected((y + height - 1) // 2, height)
    return _pixels(images, rows, columns)


# --- general geometric transformations ----------------------------------------------------------------------------


def geometry(images: Tensor, uniforms: Tensor, p: float) -> Tensor:
    r"""Scale, rotate, scale width against height, rotate again, and shift by fractions of a pixel.

    ``uniforms`` is ``(N, 11)``. Either rotation has the probability :math:`1 - \sqrt{1 - p}`, so that one of them is
    applied with probability p.
    """
    of_rotation = 1 - math.sqrt(1 - p)
    active = uniforms[:, :10:2] < uniforms.new_tensor([p, of_rotation, p, of_rotation, p])
    scales, turns_before, stretches, turns_after, shifts = active.unbind(1)
    scale, before, stretch, after, *_ = uniforms[:, 1::2].unbind(1)
    size = torch.where(scales, 2 ** (0.2 * normal(scale)), 1)
    ratio = torch.where(stretches, 2 ** (0.2 * normal(stretch)), 1)
    before = rotation(torch.where(turns_before, math.pi * (2 * before - 1), 0))
    after = rotation(torch.where(turns_after, math.pi * (2 * after - 1), 0))
    shift = torch.where(shifts[:, None], 0.125 * normal(uniforms[:, 9:]), 0)
    # The inverse of each transformation, in reverse order; that of a rotation is its transpose.
    inverse = before.mT / size[:, None, None] * torch.stack([1 / ratio, ratio], 1)[:, None]
    inverse = (inverse[..., None] * after.mT[:, None]).sum(2)  # not @, which TF32 would round
    result = resample(images, inverse, shift * shift.new_tensor([images.shape[3], images.shape[2]]))
    return torch.where(active.any(1)[:, None, None, None], result, images)


def resample(images: Tensor, inverse: Tensor, shift: Tensor) -> Tensor:
    """Transform images around their centers, between two filters that keep the result free of aliasing.

    The image is upsampled to twice its size by a wavelet, transformed with bilinear interpolation, and downsampled by
    the same wavelet.

    Args:
        images: Shape ``(N, C, H, W)``.
        inverse: Where the pixel at ``(x, y)`` comes from, relative to the center and without the shift, ``(N, 2, 2)``.
        shift: Shift to the right and down after all else, in pixels, ``(N, 2)``.
    """
    sizes = images.shape[2:]
    filters = [_filters(size, images.device, images.dtype) for size in sizes]
    large = filters[0].up @ images @ filters[1].up.mT
    # The places of the upsampled result, with a margin for the taps.
    fine = (torch.arange(-MARGIN, 2 * size + MARGIN, device=images.device) for size in sizes)
    y, x = ((places.to(images) - DELAY - size + 1) / 2 for places, size in zip(fine, sizes, strict=True))
    right, down = shift.to(images)[:, :, None, None].unbind(1)
    x, y = x - right, y[:, None] - down
    (a, b), (c, d) = (row.unbind(1) for row in inverse.to(images)[:, :, :, None, None].unbind(1))
    rows, columns = (
        2 * reflected(place + (size - 1) / 2, size) + DELAY
        for place, size in zip((c * x + d * y, a * x + b * y), sizes, strict=True)
    )
    return filters[0].down @ interpolated(large, rows, columns) @ filters[1].down.mT


class _Filters(NamedTuple):
    """Matrices that filter a line of pixels.

    Attributes:
        up: From a line and its reflection to twice its length.
        down: From twice the length and a margin to a line; the inverse of ``up`` within the line.
        bands: From a line and its reflection to its part in each of four bands; the sum of the bands is the line.
    """

    up: Tensor
    down: Tensor
    bands: Tensor


@cache
@torch.inference_mode(False)
def _filters(size: int, device: torch.device, dtype: torch.dtype) -> _Filters:
    wavelet, count = torch.tensor(SYM6, dtype=torch.float64), len(SYM6)
    line = torch.arange(-count, size + count)
    fine = (2 * line[:, None] + torch.arange(count) - MARGIN).flatten()  # pixel k has the taps around 2 k
    up = _matrix(fine, line.repeat_interleave(count), wavelet.repeat(len(line)), 2 * size, size)
    down = torch.zeros(size, 2 * (size + MARGIN), dtype=torch.float64)
    for place, taps in enumerate(down):
        taps[2 * place : 2 * place + count] = wavelet
    bands = _band_taps()
    reach = bands.shape[1] // 2
    rows, offsets = torch.arange(size).repeat_interleave(2 * reach + 1), torch.arange(-reach, reach + 1).repeat(size)
    of_bands = [_matrix(rows, rows + offsets, taps.repeat(size), size, size) for taps in bands]
    return _Filters(*(matrix.to(device, dtype) for matrix in (up, down, torch.stack(of_bands))))


def _matrix(rows: Tensor, columns: Tensor, values: Tensor, height: int, width: int) -> Tensor:
    """Add values at places of a matrix; other rows are dropped, and other columns are reflected."""
    inside = (rows >= 0) & (rows < height)
    places = (rows * width + reflected(columns, width))[inside]
    return values.new_zeros(height * width).index_add(0, places, values[inside]).view(height, width)


def interpolated(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the values of images ``(N, C, H, W)`` at places ``(N, h, w)`` within them, interpolated linearly.

    Unlike ``grid_sample``, it can be differentiated twice.
    """
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    top, left = top.long(), left.long()
    upper, lower = (
        torch.lerp(_pixels(images, line, left), _pixels(images, line, left + 1), right) for line in (top, top + 1)
    )
    return torch.lerp(upper, lower, down)


def _pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the pixels of images ``(N, C, H, W)`` in rows and columns ``(N, h, w)``."""
    places = rows * images.shape[3] + columns
    found = images.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, images.shape[1], -1))
    return found.view(*images.shape[:2], *places.shape[1:])


def reflected(places: Tensor, size: int) -> Tensor:
    """Reflect places at the centers of the first and the last pixel until they are in [0, size - 1]."""
    if size == 1:
        return torch.zeros_like(places)
    period = 2 * (size - 1)
    within = places.remainder(period)
    return torch.minimum(within, period - within)


def rotation(angle: Tensor) -> Tensor:
    """Return rotation matrices, ``(N, 2, 2)``."""
    sine, cosine = angle.sin(), angle.cos()
    return torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)


# --- color --------------------------------------------------------------------------------------------------------


def color(images: Tensor, uniforms: Tensor, p: float) -> Tensor:
    """Change brightness and contrast, negate the luma, rotate the hue, and change the saturation.

    ``uniforms`` is ``(N, 10)``. The luma is the mean of the channels; only three channels have a hue.
    """
    columns = uniforms[:, :, None, None, None]
    brightness, contrast, side, angle, saturation = columns[:, 1::2].unbind(1)
    brightens, contrasts, negates, rotates, saturates = (columns[:, ::2] < p).unbind(1)
    negates = negates & (side < 0.5)
    changed = brightens | contrasts | negates | rotates | saturates
    added = torch.where(brightens, 0.2 * normal(brightness), 0)
    factor = torch.where(contrasts, 2 ** (0.5 * normal(contrast)), 1)
    of_luma = torch.where(negates, -factor, factor)
    hue = torch.where(rotates, math.pi * (2 * angle - 1), 0)
    of_chroma = factor * torch.where(saturates, 2 ** normal(saturation), 1)
    luma = images.mean(1, keepdim=True)
    chroma = images - luma
    if images.shape[1] == 3:  # the rotation around the gray axis; its cross product with the chroma is in the rolls
        across = (chroma.roll(1, 1) - chroma.roll(-1, 1)) / math.sqrt(3)
        chroma = hue.cos() * chroma + hue.sin() * across
    return torch.where(changed, of_luma * (luma + added) + of_chroma * chroma, images)


# --- image-space filtering, noise and cutout ----------------------------------------------------------------------


def band_filter(images: Tensor, uniforms: Tensor, p: float) -> Tensor:
    """Amplify or weaken each of four frequency bands, at the expected power of natural images.

    ``uniforms`` is ``(N, 8)``. The bands are octaves, up to 1/8, 1/4, 1/2 and all of the highest frequency.
    """
    power = uniforms.new_tensor([10, 1, 1, 1]) / 13
    active = uniforms[:, ::2] < p
    gain = torch.where(active, 2 ** normal(uniforms[:, 1::2]), 1)
    # The gain of a band, and what all bands are divided by for it.
    gains = gain / (1 + power * (gain.square() - 1)).sqrt().prod(1, keepdim=True)
    gains = gains.to(images)
    rows, columns = (
        torch.einsum("nb,bij->nij", gains, _filters(size, images.device, images.dtype).bands)
        for size in images.shape[2:]
    )
    filtered = rows[:, None] @ images @ columns[:, None].mT
    return torch.where(active.any(1)[:, None, None, None], filtered, images)


def _band_taps() -> Tensor:
    """Return the taps of the filters of the four bands, from low to high, ``(4, 43)``."""
    wavelet = torch.tensor(SYM2, dtype=torch.float64)
    low = _convolved(wavelet, wavelet.flip(0)) / 2
    passed, bands = torch.ones(1, dtype=torch.float64), []
    for step in (1, 2, 4):
        coarse = low.new_zeros((len(low) - 1) * step + 1)
        coarse[::step] = low
        passing = _convolved(passed, coarse)
        bands.append(_centered(passed, len(passing)) - passing)
        passed = passing
    return torch.stack([passed, *(_centered(band, len(passed)) for band in reversed(bands))])


def _convolved(first: Tensor, second: Tensor) -> Tensor:
    return F.conv1d(first.view(1, 1, -1), second.flip(0).view(1, 1, -1), padding=len(second) - 1).flatten()


def _centered(taps: Tensor, length: int) -> Tensor:
    return F.pad(taps, ((length - len(taps)) // 2,) * 2)


def noise(images: Tensor, uniforms: Tensor, p: float, numbers: Tensor) -> Tensor:
    """Add normal noise, whose standard deviation is itself half-normal with the scale 0.1.

    ``uniforms`` is ``(N, 2)``; ``numbers`` are standard normal, ``(N, C, H, W)``.
    """
    active, sigma = uniforms[:, :1] < p, 0.1 * normal(uniforms[:, 1:]).abs()
    changed = images + sigma[:, :, None, None].to(images) * numbers.to(images)
    return torch.where(active[:, :, None, None], changed, images)


def cutout(images: Tensor, uniforms: Tensor, p: float) -> Tensor:
    """Set a square of half the size to zero, as :func:`lightning_gans.augment.cutout`; ``uniforms`` is ``(N, 3)``."""
    return torch.where((uniforms[:, :1] < p)[:, :, None, None], augment.cutout(images, uniforms[:, 1:]), images)


# --- all together -------------------------------------------------------------------------------------------------

_COLUMNS = {"blit": 7, "geometry": 11, "color": 10, "filter": 8, "noise": 2, "cutout": 3}
_FUNCTIONS = {"blit": blit, "geometry": geometry, "color": color, "filter": band_filter, "cutout": cutout}

TRANSFORMS = tuple(_COLUMNS)
"""Names of the kinds of transformations, in the paper's order."""

NUM_UNIFORMS = sum(_COLUMNS.values())
"""Number of uniform numbers per image, independent of the kinds."""


def transformed(images: Tensor, transforms: Sequence[str], p: float, draw: Draw) -> Tensor:
    """Apply kinds of transformations, in the paper's order, whatever the order of their names.

    Args:
        images: Values in [-1, 1], shape ``(N, C, H, W)``; the result may leave that range.
        transforms: Names in :data:`TRANSFORMS`.
        p: Probability of each transformation, between 0 and 1; with 0 the images keep their bits.
        draw: Draws uniform numbers, ``draw(size, *key)``, shape ``(N, size)``.

    Returns:
        Images of the same shape, dtype and device.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> transformed(images, TRANSFORMS, 0.0, lambda size, *key: torch.rand(2, size)).equal(images)
        True
    """
    of_all = dict(zip(TRANSFORMS, torch.split(draw(NUM_UNIFORMS), list(_COLUMNS.values()), 1), strict=True))
    with torch.autocast(images.device.type, enabled=False):
        changed = images if images.dtype == torch.float64 else images.float()
        for name in (name for name in TRANSFORMS if name in transforms):
            if name == "noise":
                numbers = normal(draw(images[0].numel(), 1)).view(images.shape)
                changed = noise(changed, of_all[name], p, numbers)
            else:
                changed = _FUNCTIONS[name](changed, of_all[name], p)
    return changed.to(images.dtype)


def normal(uniforms: Tensor) -> Tensor:
    """Map numbers uniform in [0, 1) to standard normal ones; those that torch draws are multiples of 2⁻²⁴."""
    numbers: Tensor = torch.special.ndtri(uniforms.clamp(2**-25, 1 - 2**-24))
    return numbers
