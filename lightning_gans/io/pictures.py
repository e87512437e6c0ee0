"""Images in [-1, 1] as bytes, as labelled grids, and as PNG files; pictures read from files."""

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
"""The ends of the names of files that count as pictures."""

Fit = Literal["crop", "pad", "stretch"]

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What :func:`read_picture` raises for a file that is no picture, or a damaged one."""

_GAP = 2
_TEXT_HEIGHT = 20
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def to_bytes(images: Tensor) -> Tensor:
    """Map images in [-1, 1], ``(N, C, H, W)``, to bytes of the same shape; what lies outside is clamped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_bytes(images: Tensor) -> Tensor:
    """Map bytes to images in [-1, 1], float32 of the same shape; the inverse of :func:`to_bytes`."""
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Map images in [-1, 1], ``(N, C, H, W)``, to bytes, ``(N, H, W, C)``; what lies outside is clamped.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 2.0]).view(1, 1, 1, 3)).flatten()
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return to_bytes(images).permute(0, 2, 3, 1)


def grid(
    images: Tensor, *, columns: int | None = None, title: str | None = None, row_labels: Sequence[str] | None = None
) -> Image.Image:
    """Lay images out in rows from left to right, with a title above and a label before each row.

    A notebook shows what it returns: ``grid(model.sample(16))``.

    Args:
        images: Values in [-1, 1], shape ``(N, C, H, W)`` with 1 or 3 channels. Small ones are enlarged by
            whole pixels.
        columns: Images in a row; by default as many as there are rows.
        title: One line above the grid.
        row_labels: A label for each row.

    Raises:
        SettingError: The images are not grey or RGB.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise SettingError(f"a grid needs images of 1 or 3 channels, not of the shape {list(images.shape[1:])}.")
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
    """Return how many columns a grid has that has as many rows, or one fewer."""
    return max(1, math.ceil(math.sqrt(num)))


def sheet_size(num: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Return the width and the height in pixels of a grid without title and labels."""
    scale, rows = _scale(height, width), max(1, math.ceil(num / columns))
    return columns * (width * scale + _GAP) + _GAP, rows * (height * scale + _GAP) + _GAP


def _scale(height: int, width: int) -> int:
    """Return how many times a grid enlarges images."""
    return max(1, 64 // max(height, width))


def to_image(picture: Tensor) -> Image.Image:
    """Return bytes ``(H, W, C)`` as an image, grey where C is 1."""
    array: np.ndarray = picture.numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write an image whole or not at all."""
    with replacing(path) as file:
        image.save(file, format="png")


def read_picture(path: str | Path, shape: tuple[int, int, int], fit: Fit = "crop", convert: bool = True) -> np.ndarray:
    """Return a picture as uint8 of the shape ``(C, H, W)``, upright if its EXIF data say how it was held.

    Args:
        path: The file.
        shape: ``(C, H, W)``, C being 1 or 3.
        fit: ``crop`` takes the largest part of the shape in the middle, ``pad`` adds black borders to the whole,
            ``stretch`` distorts it.
        convert: Whether to take odd modes too: CMYK becomes RGB, what is transparent is laid on white, more than 8
            bits a channel are scaled down to 8, and of several frames or pages the first is taken.

    Raises:
        OSError: It cannot be read; or another of :data:`UNREADABLE`.
        ValueError: Its mode is odd, where such are not converted, or its values are not finite.
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
    else:  # the largest part of the shape asked for
        wide = min(image.width, image.height * width / height)
        high = min(image.height, image.width * height / width)
        left, top = (image.width - wide) // 2, (image.height - high) // 2
        whole = image.resize((width, height), bicubic, (left, top, left + wide, top + high))
    return np.asarray(whole).reshape(height, width, channels).transpose(2, 0, 1)


def _eight_bits(image: ImageFile.ImageFile, convert: bool) -> Image.Image:
    """Return a picture of 8 bits a channel, upright, with neither ink nor what shines through."""
    deep = _has_16_bits(image)
    # What a camera's JPEG holds besides its picture (MPO) are previews and maps of it.
    several = getattr(image, "is_animated", False) and image.format != "MPO"
    image.load()
    with contextlib.suppress(Exception):  # damaged EXIF data, which say nothing, are no damage to the picture
        ImageOps.exif_transpose(image, in_place=True)
    mode = image.mode
    transparent = image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255)
    if not convert and several:
        raise ValueError("it has several frames or pages (convert=true takes the first)")
    if not convert and (transparent or deep or mode[0] in "IF" or mode == "CMYK"):
        what = "it is transparent" if transparent else "it has 16 bits a channel" if deep else f"its mode is {mode}"
        raise ValueError(f"{what}, and 8 bits of grey or of each colour are needed (convert=true makes them)")
    if mode[0] in "IF":  # PIL would clip these at 255, which leaves them white
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("some of its values are not finite numbers")
        largest = 1.0 if mode == "F" and values.max(initial=0) <= 1 else 65535.0 if mode[0] == "I" else 255.0
        return Image.fromarray((values / largest * 255).round().clip(0, 255).astype(np.uint8))
    if transparent:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours)
    return image


def _has_16_bits(image: ImageFile.ImageFile) -> bool:
    """Whether the file has 16 bits a channel, of which PIL keeps 8 of each colour; known only until it is loaded."""
    for decoder, _, _, args in image.tile:  # args begin with how pixels are stored, as in "RGB;16B"
        if re.search(r";16[BLN]", str(args)) or (
            decoder.startswith("ppm") and isinstance(args, tuple) and int(args[1]) > 255
        ):
            return True
    return False
