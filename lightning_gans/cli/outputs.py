"""Where a command's pictures go: a grid, an archive, or a folder of PNG files; whole or not at all."""

from __future__ import annotations

import argparse
import math
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gans.errors import DataError, SettingError
from lightning_gans.io.files import check_free_folder, check_writable, replacing, replacing_folder
from lightning_gans.io.pictures import (
    EXTENSIONS,
    UNREADABLE,
    grid,
    read_picture,
    save_png,
    sheet_size,
    square,
    to_image,
    to_uint8,
)
from lightning_gans.models import GenerativeModule, load

_MOST_PIXELS = 89_478_485  # from there on PIL warns of a decompression bomb, and from twice as many it opens none


def add_model_arguments(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """Define how a model is read from a checkpoint."""
    parser.add_argument("checkpoint", metavar="CKPT", help="a checkpoint")
    parser.add_argument("--no_ema", action="store_true", help="use the weights, not their moving average")
    if device:
        parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: cuda where there is one)")
    else:
        parser.set_defaults(device="cpu")
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module of yours whose networks the checkpoint may name",
    )


def load_model(args: argparse.Namespace) -> GenerativeModule:
    """Read the model that the arguments name."""
    return load(args.checkpoint, _device(args.device), imports=args.imports)


def _device(name: str) -> torch.device:
    """Return the device asked for."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # "meta" has tensors, and nothing in them
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"--device is {name!r}: {str(error).splitlines()[0]}") from None
    return device


def whole_numbers(option: str, text: str | None) -> list[int]:
    """Read ``3,1,4``; nothing gives nothing."""
    if text is None:
        return []
    try:
        numbers = [int(number) for number in text.split(",")]
        torch.tensor(numbers)  # may be too many digits for one
        return numbers
    except (ValueError, RuntimeError):
        raise SettingError(f"--{option} is {text!r}: give whole numbers with commas between, as in 3,1,4.") from None


def require_pictures(model: GenerativeModule) -> None:
    """Raise :class:`SettingError` for a model of sequences, where a command shows pictures."""
    if not model.makes_pictures:
        raise SettingError(f"a {type(model).__name__} of sequences has no pictures: use `sample` with an npz file.")


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """Return files as they are, and in a folder's place the pictures in it, by name.

    Raises:
        DataError: There is no such file, or no picture in a folder.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist.")
        found = [path]
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS)
            if not found:
                raise DataError(f"{path} holds no pictures. Files count that end in {', '.join(EXTENSIONS)}.")
        files += found
    return files


def read_pictures(files: Sequence[Path], model: GenerativeModule) -> Tensor:
    """Return the middles of pictures in the model's size, float32 ``(N, C, H, W)`` in [-1, 1].

    Raises:
        DataError: One cannot be read.
    """
    channels, height, width = model.image_shape
    if channels not in (1, 3):
        raise SettingError(f"the model's images have {channels} channels, and files of pictures have 1 or 3.")
    pictures = []
    for file in files:
        try:
            pictures.append(torch.from_numpy(read_picture(file, (channels, height, width)).copy()))
        except UNREADABLE as error:
            raise DataError(f"{file} cannot be read as a picture: {error}.") from None
    return torch.stack(pictures).float() / 127.5 - 1


def check_picture(name: str) -> Path:
    """Return the path of a PNG file after making sure, before any work, that it can be written."""
    if Path(name).suffix != ".png":
        raise SettingError(f"--output is {name!r}: give a name that ends in .png.")
    return check_writable(name)


def check_output(name: str) -> Path:
    """Return the output's path after making sure, before any work, that it can be written."""
    output = Path(name)
    if output.suffix in (".png", ".npz"):
        return check_writable(output)
    if output.suffix and not output.is_dir():
        raise SettingError(f"--output is {name!r}: give a name that ends in .png or .npz, or a folder.")
    return check_free_folder(output)


def check_sheet(setting: str, num: int, columns: int | None, shape: Sequence[int]) -> None:
    """Raise :class:`SettingError`, which begins with the setting, where a grid of images is too large a picture."""
    if math.prod(sheet_size(num, columns or square(num), *shape[1:])) > _MOST_PIXELS:
        raise SettingError(
            f"{setting}: {num:,} pictures fill more than {_MOST_PIXELS:,} pixels, which programs refuse to open; "
            "take fewer."
        )


@contextmanager
def open_output(
    output: Path, num: int, shape: tuple[int, ...], labels: Tensor | None = None, columns: int | None = None
) -> Iterator[Callable[[Tensor], None]]:
    """Open the output that a name asks for; what is yielded takes the samples, some at a time, in their order.

    An archive and a folder hold no more in memory than what they are given at once.

    Args:
        output: ``.png`` for a grid, ``.npz`` for an archive (``images`` uint8 ``(N, H, W, C)``, or ``sequences``
            float32 ``(N, C, T)``, and ``labels``), else a folder of PNG files.
        num: How many samples there will be.
        shape: ``(C, H, W)`` of images, or ``(C, T)`` of sequences, for which there is only the archive.
        labels: Their labels, in a conditional model.
        columns: Of the grid; by default as many as rows.
    """
    if len(shape) != 3 and output.suffix != ".npz":
        raise SettingError(f"--output is {str(output)!r}: sequences have no picture, so give a name that ends in .npz.")
    if output.suffix == ".npz":
        with _archive(output, num, shape, labels) as write:
            yield write
    elif output.suffix == ".png":
        samples: list[Tensor] = []
        yield lambda images: samples.append(images.cpu())
        save_png(grid(torch.cat(samples), columns=columns), output)
    else:
        with _folder(output, labels) as write:
            yield write


@contextmanager
def _archive(
    output: Path, num: int, shape: tuple[int, ...], labels: Tensor | None
) -> Iterator[Callable[[Tensor], None]]:
    """Write an npz file as it comes: numpy's own function wants all of an array at once."""
    pictures = len(shape) == 3
    name, dtype = ("images", np.uint8) if pictures else ("sequences", np.float32)
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": (num, *shape[1:], shape[0]) if pictures else (num, *shape),
    }
    with replacing(output) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)

            def write(samples: Tensor) -> None:
                array = (to_uint8(samples) if pictures else samples).cpu().numpy()
                member.write(np.ascontiguousarray(array, dtype).tobytes())

            yield write
        if labels is not None:
            with archive.open("labels.npy", "w") as member:
                np.save(member, labels.cpu().numpy())


@contextmanager
def _folder(output: Path, labels: Tensor | None) -> Iterator[Callable[[Tensor], None]]:
    """Write a PNG file for each sample: its number and, where it has one, its label."""
    written = 0
    with replacing_folder(output) as folder:

        def write(samples: Tensor) -> None:
            nonlocal written
            for picture in to_uint8(samples).cpu():
                label = "" if labels is None else f"_{int(labels[written])}"
                to_image(picture).save(folder / f"{written:06d}{label}.png")
                written += 1

        yield write


def progress(starts: Iterable[int], total: int, what: str) -> Iterator[int]:
    """Go through the places at which parts of a long job start, with a bar where someone is looking."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(what, total=total)
        for start in starts:
            bar.update(task, completed=start)
            yield start
