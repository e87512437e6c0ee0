"""Convert images in [-1, 1] to bytes, grids and PNG files; read image files."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFile, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from lightning_gans.errors import DataError, SettingError, check_counts
from lightning_gans.io.arrays import (
    ARRAYS,
    TIFF,
    ArrayPicture,
    deep_picture,
    has_16_bits,
    image_of,
    load_array,
    load_tiff,
    to_type,
)
from lightning_gans.io.files import reading, replacing

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Extensions of image files."""

CACHE_PREFIX = "lightning_gans-"
"""Prefix of the names of caches of decoded images; they are not listed as pictures."""

Fit = Literal["crop", "pad", "stretch"]

FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # PIL would run Ghostscript for EPS

# One large picture is decoded at a time: of 16 bits and 13,000 x 13,000 pixels, it takes a gigabyte.
_LARGE_PIXELS, _one_large_picture = 2**25, threading.Lock()

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

_MOST_PIXELS = 89_478_485  # PIL warns of a decompression bomb above this
_GAP = 2
_TEXT_HEIGHT = 20
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def list_pictures(
    folder: str | Path,
    *,
    deep: bool = True,
    others: list[str] | None = None,
    extensions: tuple[str, ...] = EXTENSIONS,
) -> list[str]:
    """Return the image files in a folder, in an order that does not depend on the file system.

    Hidden files and folders, and those that archivers leave behind, are left out. Links are followed, but no folder is
    read twice.

    Args:
        folder: The folder.
        deep: Whether to list its subfolders, too.
        others: Receives the other files, and folders that cannot be read.
        extensions: Extensions of image files.
    """
    return sorted(_pictures(folder, deep, others, extensions), key=lambda path: path.split(os.sep))


def has_pictures(folder: str | Path, extensions: tuple[str, ...] = EXTENSIONS) -> bool:
    """Return whether there are image files in a folder, at any depth."""
    return next(_pictures(folder, extensions=extensions), None) is not None


def extensions_in(folder: str | Path) -> tuple[str, ...]:
    """Return the extensions of a folder's images: those of pictures, or of arrays if there are no pictures."""
    return EXTENSIONS if has_pictures(folder) or not has_pictures(folder, ARRAYS) else ARRAYS


def is_litter(name: str) -> bool:
    """Return whether a file or a folder is hidden, or left by an archiver or a file server."""
    return name.startswith((".", "__MACOSX", "@eaDir"))


def _pictures(
    folder: str | Path, deep: bool = True, others: list[str] | None = None, extensions: tuple[str, ...] = EXTENSIONS
) -> Iterator[str]:
    others = [] if others is None else others
    folder = Path(folder)
    seen = {_identity(parent) for parent in (*folder.absolute().parents, *folder.resolve().parents)}
    walk = os.walk(folder, followlinks=True, onerror=lambda error: others.append(str(error.filename)))
    for parent, folders, names in walk:
        if _identity(parent) in seen:  # a link to a parent, or to what was already listed
            folders.clear()
            continue
        seen.add(_identity(parent))
        folders[:] = sorted(name for name in folders if deep and not is_litter(name))
        for name in names:
            if is_litter(name) or name.startswith(CACHE_PREFIX):
                continue
            if name.lower().endswith(extensions):
                yield os.path.join(parent, name)
            else:
                others.append(os.path.join(parent, name))


def _identity(folder: str | Path) -> tuple[int, int]:
    """Return what identifies a folder under all its names."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


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
        images: Values in [-1, 1], shape ``(N, C, H, W)``. With other than 1 or 3 channels, the first three are shown as
            RGB, or the first one. Small images are enlarged by an integer factor.
        columns: Images per row; by default the grid is roughly square.
        title: One line above the grid.
        row_labels: A label for each row.

    Raises:
        SettingError: They are not images, or ``columns`` is not 1 or more.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or 0 in images.shape[1:]:
        found = f"the shape {list(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        message = f"A grid needs images (N, C, H, W), a tensor, not {found}."
        raise SettingError(message, setting="images", value=found, allowed="(N, C, H, W)")
    if columns is not None:
        check_counts(columns=columns)
    tiles = to_uint8(in_view(images.detach().cpu()))
    columns = columns or square(len(tiles))
    across, down = sheet_size(len(tiles), columns, *tiles.shape[1:3])
    height, width = (side * _scale(*tiles.shape[1:3]) for side in tiles.shape[1:3])
    font = ImageFont.load_default(size=13)
    left = max((int(font.getlength(label)) + 8 for label in row_labels or ()), default=0)
    top, title_width = (_TEXT_HEIGHT, int(font.getlength(title)) + 8) if title else (0, 0)
    sheet = Image.new("RGB", (max(left + across, title_width), top + down), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((4, 2), title or "", fill=_INK, font=font)
    for row, label in enumerate(row_labels or ()):
        pen.text((4, top + _GAP + row * (height + _GAP) + height // 2), label, fill=_INK, font=font, anchor="lm")
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        picture = to_image(tile).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(picture, (left + _GAP + column * (width + _GAP), top + _GAP + row * (height + _GAP)))
    return sheet


def in_view(images: Tensor) -> Tensor:
    """Return the channels that a picture shows: the first three of images ``(N, C, H, W)`` as RGB, or the first one."""
    return images[:, : 3 if images.shape[1] > 2 else 1]


def square(num: int) -> int:
    """Return the number of columns of a roughly square grid, which has as many rows or one fewer."""
    return max(1, math.ceil(math.sqrt(num)))


def sheet_size(num: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Return width and height, in pixels, of a grid without title and labels."""
    scale, rows = _scale(height, width), max(1, math.ceil(num / columns))
    return columns * (width * scale + _GAP) + _GAP, rows * (height * scale + _GAP) + _GAP


def check_sheet(setting: str, value: int, num: int, columns: int | None, shape: Sequence[int]) -> None:
    """Raise :class:`SettingError` if a grid of ``num`` images, which a setting's value asks for, is too large."""
    if math.prod(sheet_size(num, columns or square(num), *shape[1:])) > _MOST_PIXELS:
        raise SettingError(
            f"{setting} is {value}: a grid of {num:,} pictures has more than {_MOST_PIXELS:,} pixels, which many "
            "programs cannot open; use fewer.",
            setting=setting,
            value=value,
        )


def _scale(height: int, width: int) -> int:
    """Return the factor by which a grid enlarges images."""
    return max(1, 64 // max(height, width))


def to_image(picture: Tensor) -> Image.Image:
    """Return uint8 ``(H, W, C)`` as an image, gray if C is 1."""
    return image_of(picture.numpy())


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write an image atomically."""
    with replacing(path) as file:
        image.save(file, format="png")


def read_picture(
    path: str | Path,
    shape: tuple[int, int, int],
    fit: Fit = "crop",
    convert: bool = True,
    *,
    own_values: bool = False,
) -> np.ndarray:
    """Read an image file as uint8 of a shape ``(C, H, W)``, rotated according to its EXIF orientation.

    Args:
        path: The file.
        shape: ``(C, H, W)``; 8-bit pictures have 1 to 4 channels: gray, gray and opacity, RGB, or RGB and opacity.
        fit: ``crop`` takes the largest centered part with the aspect ratio of ``shape``, ``pad`` adds black borders,
            ``stretch`` distorts the image.
        convert: Whether to convert other modes: CMYK to RGB, transparency to a white background, 16 bits per channel
            to 8, and several frames or pages to the first.
        own_values: Whether to read files with more than 8 bits per channel, TIFF files with a page per channel, and
            arrays with their own values; ``convert`` then applies to pictures with other numbers of channels.

    Raises:
        DataError: The file cannot be read, its mode needs ``convert``, or its values are not finite.
    """
    with opened_picture(path, convert, shape[0], own_values=own_values) as image:
        return to_array(image, shape, fit)


Picture = Image.Image | ArrayPicture


@contextlib.contextmanager
def opened_picture(
    path: str | Path, convert: bool = True, channels: int = 3, *, own_values: bool = False
) -> Iterator[Picture]:
    """Open an image file, upright and with 8 bits per channel; errors inside the block name the file.

    Args:
        path: The file.
        convert: As in :func:`read_picture`.
        channels: Channels that :func:`to_array` will be asked for.
        own_values: As in :func:`read_picture`; such files are an :class:`~lightning_gans.io.arrays.ArrayPicture`.
    """
    suffix = os.path.splitext(path)[1].lower()
    with reading(path, "a picture"), contextlib.ExitStack() as stack:
        if own_values and suffix in ARRAYS:
            yield ArrayPicture.of_array(load_array(path), channels)
            return
        try:
            opened = stack.enter_context(Image.open(path, formats=FORMATS))
        except UnidentifiedImageError:
            if not (own_values and suffix in TIFF):
                raise
            yield ArrayPicture.of_array(load_tiff(path), channels)
            return
        if opened.width * opened.height > _LARGE_PIXELS:
            stack.enter_context(_one_large_picture)
        deep = deep_picture(opened, channels, convert) if own_values else None
        yield _eight_bits(opened, path, convert, channels) if deep is None else deep


def to_array(image: Picture, shape: tuple[int, int, int], fit: Fit = "crop") -> np.ndarray:
    """Return an image as an array of a shape ``(C, H, W)``, uint8 or of its own type; see :func:`read_picture`."""
    channels, height, width = shape
    if isinstance(image, ArrayPicture):
        return _fitted_array(image.values, shape, fit)
    if channels not in _MODES:
        raise ValueError(f"it has {len(image.getbands())} channels instead of {channels}")
    image = image.convert(_MODES[channels])
    return np.asarray(_fitted(image, height, width, fit)).reshape(height, width, channels).transpose(2, 0, 1)


def _fitted_array(values: np.ndarray, shape: tuple[int, int, int], fit: Fit) -> np.ndarray:
    """Return an array ``(C, H, W)`` in a height and width, with its own type; it is padded with zeros."""
    if len(values) != shape[0]:
        raise ValueError(f"it has {len(values)} channels instead of {shape[0]}")
    if values.shape == shape:
        return values
    images = (Image.fromarray(np.ascontiguousarray(channel, np.float32)) for channel in values)
    return to_type(np.stack([np.asarray(_fitted(image, *shape[1:], fit)) for image in images]), values.dtype)


def _fitted(image: Image.Image, height: int, width: int, fit: Fit) -> Image.Image:
    """Return an image resized to a height and width; see :func:`read_picture` for ``fit``."""
    if image.size == (width, height):
        return image
    bicubic = Image.Resampling.BICUBIC
    if fit == "pad":
        scale = min(width / image.width, height / image.height)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        whole = Image.new(image.mode, (width, height))
        whole.paste(image.resize(size, bicubic), ((width - size[0]) // 2, (height - size[1]) // 2))
        return whole
    if fit == "stretch":
        return image.resize((width, height), bicubic)
    wide = min(image.width, image.height * width / height)  # the largest part of this aspect ratio
    high = min(image.height, image.width * height / width)
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return image.resize((width, height), bicubic, (left, top, left + wide, top + high))


def _is_transparent(image: Image.Image) -> bool:
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255)


def _eight_bits(image: ImageFile.ImageFile, path: str | Path, convert: bool, channels: int = 3) -> Image.Image:
    """Return an image with 8 bits per channel, upright, and opaque unless its channels include the opacity."""
    deep = has_16_bits(image)
    # The other frames of a camera's JPEG (MPO) are previews and maps.
    several = getattr(image, "is_animated", False) and image.format != "MPO"
    image.load()
    with contextlib.suppress(Exception):  # damaged EXIF data do not matter
        ImageOps.exif_transpose(image, in_place=True)
    mode = image.mode
    transparent = channels not in (2, 4) and _is_transparent(image)
    hint = "set convert (--data.convert true; of score, --convert)"
    if not convert and several:
        raise DataError(f"{path} has several frames or pages: to take the first, {hint}.", setting=str(path))
    if not convert and (transparent or deep or mode[0] in "IF" or mode == "CMYK"):
        what = "is transparent" if transparent else "has 16 bits per channel" if deep else f"has the mode {mode}"
        message = f"{path} {what}, but 8 bits of gray or RGB are needed: to convert it, {hint}."
        raise DataError(message, setting=str(path))
    if mode[0] == "I":  # 16 bits, which PIL's own conversion clips at 255
        return image.convert("I").point([round(value / 257) for value in range(65536)], "L")
    if mode == "F":
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("some of its values are not finite numbers")
        largest = 1.0 if values.max(initial=0) <= 1 else 255.0
        return Image.fromarray((values / largest * 255).round().clip(0, 255).astype(np.uint8))
    if transparent:
        opaque = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return opaque.convert(Image.getmodebase(image.mode))
    return image
