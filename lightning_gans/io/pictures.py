"""Conversion of images in [-1, 1] to bytes, grids and PNG files; reading of image files."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFile, ImageFont, ImageOps
from torch import Tensor

from lightning_gans.errors import SettingError
from lightning_gans.io.files import replacing

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Extensions of image files."""

Fit = Literal["crop", "pad", "stretch"]

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""Errors that :func:`read_picture` raises for files that are damaged or are not images."""

_GAP = 2
_TEXT_HEIGHT = 20
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def to_bytes(images: Tensor) -> Tensor:
    """Map images in [-1, 1], ``(N, C, H, W)``, to uint8 of the same shape; clamp other values."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_bytes(images: Tensor) -> Tensor:
    """Map bytes to images in [-1, 1], float32 of the same shape; the inverse of :func:`to_bytes`."""
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Map images in [-1, 1], ``(N, C, H, W)``, to uint8, ``(N, H, W, C)``; clamp other values.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 2.0]).view(1, 1, 1, 3)).flatten()
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return to_bytes(images).permute(0, 2, 3, 1)


def grid(
    images: Tensor, *, columns: int | None = None, title: str | None = None, row_labels: Sequence[str] | None = None
) -> Image.Image:
    """Arrange images in a grid, row by row, with an optional title and row labels.

    A notebook displays the result: ``grid(model.sample(16))``.

    Args:
        images: Values in [-1, 1], shape ``(N, C, H, W)`` with 1 or 3 channels. Small images are enlarged by an integer
            factor.
        columns: Images per row; by default the grid is about square.
        title: One line above the grid.
        row_labels: A label for each row.

    Raises:
        SettingError: The images have neither 1 nor 3 channels.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        message = f"A grid needs images (N, C, H, W) of 1 or 3 channels, not of the shape {list(images.shape)}."
        raise SettingError(message, setting="images", value=list(images.shape), allowed=(1, 3))
    tiles = to_uint8(images.detach().cpu())
    columns = columns or square(len(tiles))
    _, height, width, _ = tiles.shape
    size = sheet_size(len(tiles), columns, height, width)
    scale = _scale(height, width)
    height, width = height * scale, width * scale
    font = ImageFont.load_default(size=13)
    left = max((int(font.getlength(label)) + 8 for label in row_labels or ()), default=0)
    top = _TEXT_HEIGHT if title else 0
    size = (left + size[0], top + size[1])
    if title:
        size = (max(size[0], int(font.getlength(title)) + 8), size[1])
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((4, 2), title, fill=_INK, font=font)
    for row, label in enumerate(row_labels or ()):
        pen.text((4, top + _GAP + row * (height + _GAP) + height // 2), label, fill=_INK, font=font, anchor="lm")
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        picture = to_image(tile).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(picture, (left + _GAP + column * (width + _GAP), top + _GAP + row * (height + _GAP)))
    return sheet


def square(num: int) -> int:
    """Return the number of columns of an about square grid, which has as many rows or one fewer."""
    return max(1, math.ceil(math.sqrt(num)))


def sheet_size(num: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Return width and height, in pixels, of a grid without title and labels."""
    scale, rows = _scale(height, width), max(1, math.ceil(num / columns))
    return columns * (width * scale + _GAP) + _GAP, rows * (height * scale + _GAP) + _GAP


def _scale(height: int, width: int) -> int:
    """Return the factor by which a grid enlarges images."""
    return max(1, 64 // max(height, width))


def to_image(picture: Tensor) -> Image.Image:
    """Return uint8 ``(H, W, C)`` as an image, gray if C is 1."""
    array: np.ndarray = picture.numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write an image atomically."""
    with replacing(path) as file:
        image.save(file, format="png")


def read_picture(path: str | Path, shape: tuple[int, int, int], fit: Fit = "crop", convert: bool = True) -> np.ndarray:
    """Read an image file as uint8 of a shape ``(C, H, W)``, rotated according to its EXIF orientation.

    Args:
        path: The file.
        shape: ``(C, H, W)`` with 1 or 3 channels.
        fit: ``crop`` takes the largest centered part of the aspect ratio, ``pad`` adds black borders, ``stretch``
            distorts the image.
        convert: Whether to convert other modes: CMYK to RGB, transparency to a white background, 16 bits per channel
            to 8, and several frames or pages to the first.

    Raises:
        OSError: The file cannot be read; or another error of :data:`UNREADABLE`.
        ValueError: The mode needs ``convert``, or values are not finite.
    """
    channels, height, width = shape
    with Image.open(path) as opened:
        image = _eight_bits(opened, convert).convert("RGB" if channels == 3 else "L")
    bicubic = Image.Resampling.BICUBIC
    if fit == "pad":
        scale = min(width / image.width, height / image.height)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        whole = Image.new(image.mode, (width, height))
        whole.paste(image.resize(size, bicubic), ((width - size[0]) // 2, (height - size[1]) // 2))
    elif fit == "stretch":
        whole = image.resize((width, height), bicubic)
    else:  # the largest part of this aspect ratio
        wide = min(image.width, image.height * width / height)
        high = min(image.height, image.width * height / width)
        left, top = (image.width - wide) // 2, (image.height - high) // 2
        whole = image.resize((width, height), bicubic, (left, top, left + wide, top + high))
    return np.asarray(whole).reshape(height, width, channels).transpose(2, 0, 1)


def _eight_bits(image: ImageFile.ImageFile, convert: bool) -> Image.Image:
    """Return an image with 8 bits per channel, upright and opaque, in gray or RGB."""
    deep = _has_16_bits(image)
    # The other frames of a camera's JPEG (MPO) are previews and maps.
    several = getattr(image, "is_animated", False) and image.format != "MPO"
    image.load()
    with contextlib.suppress(Exception):  # damaged EXIF data do not matter
        ImageOps.exif_transpose(image, in_place=True)
    mode = image.mode
    transparent = image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255)
    if not convert and several:
        raise ValueError("it has several frames or pages (convert=true takes the first)")
    if not convert and (transparent or deep or mode[0] in "IF" or mode == "CMYK"):
        what = "it is transparent" if transparent else "it has 16 bits a channel" if deep else f"its mode is {mode}"
        raise ValueError(f"{what}, but 8 bits of gray or RGB are needed (convert=true makes them)")
    if mode[0] in "IF":  # PIL would clip these at 255
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("some of its values are not finite numbers")
        largest = 1.0 if mode == "F" and values.max(initial=0) <= 1 else 65535.0 if mode[0] == "I" else 255.0
        return Image.fromarray((values / largest * 255).round().clip(0, 255).astype(np.uint8))
    if transparent:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image


def _has_16_bits(image: ImageFile.ImageFile) -> bool:
    """Return whether the file has 16 bits per channel, of which PIL keeps 8; call it before the image is loaded."""
    for decoder, _, _, args in image.tile:  # args start with the raw mode, such as "RGB;16B"
        if re.search(r";16[BLN]", str(args)) or (
            decoder.startswith("ppm") and isinstance(args, tuple) and int(args[1]) > 255
        ):
            return True
    return False
