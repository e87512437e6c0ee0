"""Write images as the frames of an animation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from PIL import Image
from torch import Tensor

from lightning_gans.errors import DataError, SettingError, check_numbers, invalid, missing_extra
from lightning_gans.io.files import replacing
from lightning_gans.io.pictures import to_image, to_uint8

SUFFIXES = (".gif", ".mp4")

_SIDE = 256
"""Smaller frames are enlarged by the largest integer factor that keeps them within this size."""

_MOST_FPS = {".gif": 50, ".mp4": 120}  # many programs slow down faster GIFs
_MOST_NUMBERS = 2**30


def save_animation(images: Tensor, path: str | Path, fps: float = 25) -> None:
    """Write images as a GIF that repeats forever, or as an MP4 file; the file appears only when it is complete.

    Small images are enlarged by an integer factor.

    Args:
        images: Values in [-1, 1], shape ``(N, C, H, W)`` with 1 or 3 channels.
        path: A name that ends in ``.gif``, or in ``.mp4``, which needs ``pip install 'lightning_gans[video]'``.
        fps: Images per second, from 1 to 50 (GIF) or 120 (MP4).

    Raises:
        SettingError: There are no images, or they have neither 1 nor 3 channels; ``path`` has another suffix; or
            ``fps`` is out of range.
        DataError: An MP4 file needs packages that are not installed, or the file cannot be written.
    """
    check_animation_file(path, fps)
    if images.dim() != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        message = f"An animation needs images (N, C, H, W) of 1 or 3 channels, not of the shape {list(images.shape)}."
        raise SettingError(message, setting="images", value=list(images.shape), allowed=(1, 3))
    height, width = images.shape[2:]
    factor = max(1, _SIDE // max(height, width))
    if height * factor % 2 or width * factor % 2:  # MP4 needs even sizes
        factor *= 2
    size = (width * factor, height * factor)
    frames = [to_image(frame).resize(size, Image.Resampling.NEAREST) for frame in to_uint8(images.detach().cpu())]
    with replacing(path) as file:
        (_write_gif if Path(path).suffix == ".gif" else _write_mp4)(file, frames, fps)


def check_animation_file(path: str | Path, fps: float) -> None:
    """Raise the errors of :func:`save_animation` that do not depend on the images."""
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise invalid("path", str(path), f"a name that ends in {' or '.join(SUFFIXES)}")
    most = _MOST_FPS[suffix]
    check_numbers(lambda value: 1 <= value <= most, f"from 1 to {most} for {suffix} files", fps=fps)
    if suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
        raise missing_extra("an MP4 file", "video", setting="path", value=str(path))


def check_animation_length(setting: str, value: int, num: int, shape: Sequence[int]) -> None:
    """Raise :class:`SettingError` if ``num`` images, which a setting's value asks for, are too many for the memory."""
    if num * math.prod(shape) > _MOST_NUMBERS:
        most = _MOST_NUMBERS // math.prod(shape)
        message = f"{setting} is {value}: {num:,} frames do not fit into memory; use fewer, at most {most:,}."
        raise SettingError(message, setting=setting, value=value, allowed=most)


def _write_gif(file: IO[bytes], frames: list[Image.Image], fps: float) -> None:
    # A GIF counts time in hundredths of a second: round the times, not the durations, so that errors do not add up.
    times = [round(100 * place / fps) for place in range(len(frames) + 1)]
    durations = [10 * (end - start) for start, end in itertools.pairwise(times)]
    first, *others = frames
    first.save(file, format="gif", save_all=True, append_images=others, duration=durations, loop=0)


def _write_mp4(file: IO[bytes], frames: list[Image.Image], fps: float) -> None:
    from imageio_ffmpeg import write_frames

    format = ["-f", "mp4", "-movflags", "+faststart"]  # the temporary name has no suffix; players need not seek
    pixels = "gray" if frames[0].mode == "L" else "rgb24"
    options = {"fps": fps, "quality": 8, "macro_block_size": 2, "ffmpeg_log_level": "error", "output_params": format}
    writer = write_frames(file.name, frames[0].size, pixels, **options)
    writer.send(None)
    for frame in frames:
        writer.send(frame.tobytes())
    writer.close()
    if Path(file.name).stat().st_size == 0:  # the writer does not report how ffmpeg ended
        raise DataError("ffmpeg failed to write the MP4 file; see its messages above.", setting="path")
