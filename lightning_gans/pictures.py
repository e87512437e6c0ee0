"""Images in [-1, 1] as bytes, as labelled grids, and as PNG files; pictures read from files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_gans.errors import SettingError
from lightning_gans.files import replacing

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""The ends of the names of files that count as pictures."""

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What :func:`read_picture` raises for a file that is no picture, or a damaged one."""

_GAP = 2
_TEXT_HEIGHT = 20
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def to_bytes(images: Tensor) -> Tensor:
    """Map images in [-1, 1], ``(N, C, H, W)``, to bytes of the same shape; what lies outside is clamped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


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
    columns = columns or max(1, math.ceil(len(tiles) ** 0.5))
    _, height, width, _ = tiles.shape
    scale = max(1, 64 // max(height, width))
    height, width = height * scale, width * scale
    rows = max(1, math.ceil(len(tiles) / columns))
    font = ImageFont.load_default(size=13)
    left = max((int(font.getlength(label)) + 8 for label in row_labels or ()), default=0)
    top = _TEXT_HEIGHT if title else 0
    size = (left + columns * (width + _GAP) + _GAP, top + rows * (height + _GAP) + _GAP)
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


def to_image(picture: Tensor) -> Image.Image:
    """Return bytes ``(H, W, C)`` as an image, grey where C is 1."""
    array: np.ndarray = picture.numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write an image whole or not at all."""
    with replacing(path) as file:
        image.save(file, format="png")


def read_picture(path: str | Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the middle of a picture as uint8 of the shape ``(C, H, W)``, as large as its sides allow.

    Raises:
        OSError: It cannot be read; or another of :data:`UNREADABLE`.
        ValueError: It has more than 8 bits a channel.
    """
    channels, height, width = shape
    with Image.open(path) as opened:
        if opened.mode[0] in "IF":  # PIL would clip these at 255, which leaves them white
            raise ValueError(f"its mode is {opened.mode}, but 8 bits a channel are needed")
        image = opened.convert("RGB" if channels == 3 else "L")
    # The largest part of the shape asked for.
    wide, high = min(image.width, image.height * width / height), min(image.height, image.width * height / width)
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    box = (left, top, left + wide, top + high)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box))
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)
