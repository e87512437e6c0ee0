"""Images with their own values: arrays, and pictures with more than 8 bits per channel."""

from __future__ import annotations

import io
import re
import struct
import threading
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from lightning_gans.errors import is_number, missing_extra

ARRAYS = (".npy", ".npz")
"""Extensions of files that hold one array."""

TIFF = (".tif", ".tiff")

RANGES: dict[str, tuple[float, float]] = {"bool": (0, 1), "uint8": (0, 255), "uint16": (0, 65535)}
"""The range of values of types that images usually fill."""

# Some versions of Python 3.11 fail if two threads parse the header of an array at once (CPython, gh-106905).
_one_header = threading.Lock()

_MODES = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L")  # of one channel, without a palette
_IN_TIFF = ("uint8", "uint16", "int32", "float32")
_PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # gray, gray and alpha, RGB, RGBA


_LARGEST = 1e38
"""Largest absolute value whose differences are finite float32."""


def is_range(low: Any, high: Any) -> bool:
    """Return whether these are two ascending numbers between which float32 has room."""
    fit = all(is_number(bound) and abs(bound) <= _LARGEST for bound in (low, high))
    return fit and bool(np.float32(low) < np.float32(high))


def are_finite(values: np.ndarray) -> bool:
    """Return whether values are finite as float32."""
    return values.dtype.kind != "f" or float(np.abs(values).max(initial=0)) <= _LARGEST


@dataclass(frozen=True)
class Scale:
    """The values of images: ``low`` is -1 in an image, and ``high`` is 1.

    Args:
        low: Lowest value; lower ones are clipped.
        high: Highest value; higher ones are clipped.
        dtype: NumPy's name for the type of the values.

    Example:
        >>> depth = Scale(0, 4000, "uint16")
        >>> depth.normalize(torch.tensor([0, 1000, 5000]))
        tensor([-1.0000, -0.5000,  1.0000])
        >>> depth.restore(torch.tensor([-1, -0.5, 1]))
        array([   0, 1000, 4000], dtype=uint16)
    """

    low: float = 0
    high: float = 255
    dtype: str = "uint8"

    @classmethod
    def of_type(cls, dtype: Any) -> Scale:
        """Return the scale of values of which only the type is known: its entry in :data:`RANGES`, or else [-1, 1]."""
        return cls(*RANGES.get(np.dtype(dtype).name, (-1, 1)), np.dtype(dtype).name)

    def for_type(self, dtype: Any) -> Scale:
        """Return this scale if it is that of a type of values, or else the scale of the type."""
        return self if np.dtype(dtype).name == self.dtype else self.of_type(dtype)

    def normalize(self, values: Tensor) -> Tensor:
        """Map values of any type to images in [-1, 1], float32 of the same shape."""
        return values.to(torch.float32, copy=True).sub_(self.low).div_((self.high - self.low) / 2).sub_(1).clamp_(-1, 1)

    def restore(self, images: Tensor) -> np.ndarray:
        """Map images in [-1, 1] to values; the inverse of :meth:`normalize`."""
        values = (images.detach().cpu().float().clamp(-1, 1) + 1) * ((self.high - self.low) / 2) + self.low
        return to_type(values.numpy(), self.dtype)


def check_values(values: np.ndarray) -> None:
    """Raise ``ValueError`` if an array has no values, or none that are real numbers."""
    if values.dtype.kind not in "buif":
        raise ValueError(f"its values are of type {values.dtype}")
    if values.size == 0:
        raise ValueError(f"it is empty: its shape is {list(values.shape)}")


class ArrayPicture:
    """An image as an array, with what this package uses of PIL's images.

    Args:
        values: ``(C, H, W)``.
        axis: The axis of the channels in the file, 0 or 2; None if it has none.

    Raises:
        ValueError: There are no values, or they are not real, finite numbers.
    """

    def __init__(self, values: np.ndarray, axis: int | None = 0) -> None:
        check_values(values)
        if not are_finite(values):
            raise ValueError("some of its values are not finite numbers, or are greater than 1e38")
        self.values = values
        self.axis = axis
        _, self.height, self.width = values.shape

    @classmethod
    def of_array(cls, values: np.ndarray, channels: int) -> ArrayPicture:
        """Return the picture of an array ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` with a known number of channels."""
        axis = channel_axis(values.shape, channels)
        return cls(with_channels_first(values, axis), axis)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    def crop(self, box: tuple[int, int, int, int]) -> ArrayPicture:
        """Return the part from left and top to right and bottom."""
        left, top, right, bottom = box
        return ArrayPicture(self.values[:, top:bottom, left:right], self.axis)


def channel_axis(shape: tuple[int, ...], channels: int) -> int | None:
    """Return the axis of the channels of an image, 0 or 2; None if its array has none.

    Raises:
        ValueError: No axis has that many channels.
    """
    if len(shape) == 2 and channels == 1:
        return None
    for axis in (0, 2):
        if len(shape) == 3 and shape[axis] == channels:
            return axis
    raise ValueError(f"its shape is {list(shape)}, which is not that of an image with {channels} channels")


def with_channels_first(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Return an image, or a batch of images, with the channels before height and width."""
    return np.expand_dims(values, -3) if axis is None else np.moveaxis(values, axis - 3, -3)


def like_the_file(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Undo :func:`with_channels_first`; where the file has no axis for several channels, they become the last one."""
    if axis is None and values.shape[-3] == 1:
        return values.squeeze(-3)
    return np.moveaxis(values, -3, -1 if axis is None else axis - 3)


def to_type(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Return floats as values of a type: whole numbers are rounded, and clipped to what the type holds."""
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        lowest, highest = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        values = np.rint(values).astype(np.float64).clip(lowest, highest)
    return values.astype(dtype)


# --- types in memory ----------------------------------------------------------------------------------------------


def stored_type(*types: str) -> np.dtype[Any]:
    """Return the type in which values of some types are kept in memory together: bytes, 16 bits, or float32."""
    smallest = {"bool": np.uint8, "uint8": np.uint8, "uint16": np.uint16}
    return np.result_type(*(smallest.get(name, np.float32) for name in types))


def to_stored(values: np.ndarray) -> Tensor:
    """Return values as a tensor of their stored type; those of 16 bits as int16, which all devices can index."""
    values = values.astype(stored_type(values.dtype.name), copy=False)
    return torch.from_numpy(values.view(np.int16) if values.dtype == np.uint16 else values)


def from_stored(stored: Tensor) -> Tensor:
    """Return the values of a stored tensor."""
    return stored.int().bitwise_and_(0xFFFF) if stored.dtype == torch.int16 else stored


# --- files --------------------------------------------------------------------------------------------------------


def load_array(path: str | Path) -> np.ndarray:
    """Return the array of an ``.npy`` file, or the only one of an ``.npz`` file."""
    with _one_header:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if len(loaded.files) != 1:
                raise ValueError(f"it has {len(loaded.files)} arrays instead of one")
            found: np.ndarray = loaded[loaded.files[0]]
            return found


def load_tiff(path: str | Path) -> np.ndarray:
    """Return the array of a TIFF file that PIL cannot read.

    Raises:
        DataError: tifffile is not installed.
    """
    try:
        import tifffile
    except ImportError:
        raise missing_extra(f"{path}, a TIFF file that PIL cannot read,", "tiff", setting=str(path)) from None
    with tifffile.TiffFile(path) as file:
        places = set()
        for page in file.pages:
            if page.offset in places:  # tifffile would read it for ever
                raise ValueError("its pages form a circle")
            places.add(page.offset)
        found: np.ndarray = file.asarray()
    return found


def deep_picture(image: ImageFile.ImageFile, channels: int, convert: bool) -> ArrayPicture | None:
    """Return an open picture with more than 8 bits per channel, or with a page per channel; None for other pictures.

    Args:
        image: The picture, before it is loaded.
        channels: Number of channels that are wanted.
        convert: Whether a picture with another number of channels, or one that only tifffile reads, is left to PIL.
    """
    deep, one_channel = has_16_bits(image), image.mode in _MODES
    found = None
    if deep and not one_channel and image.format == "PNG":
        found = ArrayPicture(_decode_png(str(image.filename)))
    elif deep and not one_channel and image.format == "TIFF" and not (convert and find_spec("tifffile") is None):
        found = ArrayPicture.of_array(load_tiff(str(image.filename)), channels)
    elif one_channel:
        found = _pages(image, deep)
    return None if found is None or (convert and len(found.values) != channels) else found


def _pages(image: ImageFile.ImageFile, deep: bool) -> ArrayPicture | None:
    """Return the pages of a gray picture as channels; None for a single one of 8 bits."""
    num_pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if num_pages == 1 and image.mode[0] not in "IF":
        return None
    pages = []
    for page in range(num_pages):
        image.seek(page)
        pages.append(np.asarray(image))
    image.seek(0)
    values = np.stack(pages)
    return ArrayPicture(values.astype(np.uint16) if deep else values, None if num_pages == 1 else 0)


def has_16_bits(image: ImageFile.ImageFile) -> bool:
    """Return whether the file has 16 bits per channel, of which PIL may keep 8; call it before the image is loaded."""
    for decoder, _, _, args in image.tile:  # args start with the raw mode, such as "RGB;16B"
        if re.search(r";16[BLN]", str(args)) or (
            decoder.startswith("ppm") and isinstance(args, tuple) and int(args[1]) > 255
        ):
            return True
    return False


def _decode_png(path: str | Path) -> np.ndarray:
    """Return a PNG file of 16 bits per channel, uint16 ``(C, H, W)``; PIL would keep 8 bits of colors."""
    from torchvision.io import ImageReadMode, decode_png

    with Image.open(path, formats=["PNG"]) as image:  # torchvision's decoder crashes on a damaged file; PIL raises
        image.verify()
    with Image.open(path, formats=["PNG"]) as image:
        image.load()
    content = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8)
    found: np.ndarray = decode_png(content, ImageReadMode.UNCHANGED).numpy()
    return found


def suffix_for(values: np.ndarray, like: str = "") -> str:
    """Return the extension of a file for an image ``(C, H, W)``: PNG where it is exact, or an array.

    Args:
        values: The image.
        like: The extension of a file that it was made from, whose kind is kept where it is exact.
    """
    in_png = values.dtype.name in ("uint8", "uint16") and len(values) in _PNG_COLOR_TYPES
    if like in ARRAYS or not in_png:
        return like if like in TIFF and values.dtype.name in _IN_TIFF else ".npy"
    return like if like in TIFF and values.dtype.name == "uint16" else ".png"


def write_values(values: np.ndarray, file: IO[bytes], suffix: str, axis: int | None = None) -> None:
    """Write an image ``(C, H, W)`` into an open file.

    Args:
        values: The image.
        file: The file.
        suffix: Its extension. ``.png`` is for 8 or 16 bits and up to 4 channels. A TIFF file has a page per channel,
            unless it is RGB with 8 bits.
        axis: As in :class:`ArrayPicture`, for arrays.

    Raises:
        ValueError: The kind of file cannot hold the values exactly.
    """
    last = np.ascontiguousarray(values.transpose(1, 2, 0))
    if suffix in ARRAYS:
        array = np.ascontiguousarray(like_the_file(values, axis))
        np.save(file, array) if suffix == ".npy" else np.savez(file, images=last[None])
    elif suffix == ".png" and suffix_for(values) == ".png":
        file.write(_png16(last)) if values.dtype == np.uint16 else image_of(last).save(file, format="png")
    elif suffix in TIFF and values.dtype.name in _IN_TIFF:
        in_color = values.dtype == np.uint8 and len(values) == 3
        first, *others = [image_of(last)] if in_color else map(Image.fromarray, np.ascontiguousarray(values))
        content = io.BytesIO()  # PIL reads what it writes
        first.save(content, format="tiff", save_all=True, append_images=others, compression="tiff_deflate")
        file.write(content.getvalue())
    else:
        kind = f"{values.dtype.name} with {len(values)} channel{'s' * (len(values) > 1)}"
        raise ValueError(f"a file that ends in {suffix} cannot hold {kind}")


def image_of(pixels: np.ndarray) -> Image.Image:
    """Return uint8 ``(H, W, C)`` as an image, gray if C is 1."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _png16(pixels: np.ndarray) -> bytes:
    """Return uint16 ``(H, W, C)`` as a PNG file with 16 bits per channel, which PIL writes only in gray."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOR_TYPES[channels], 0, 0, 0)
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    unfiltered = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())  # each row begins with its filter, none
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", unfiltered) + chunk(b"IEND", b"")
