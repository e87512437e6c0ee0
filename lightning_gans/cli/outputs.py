"""Outputs of commands: a grid, an archive or a folder of PNG files, written whole or not at all."""

from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_gans.errors import DataError, SettingError, invalid
from lightning_gans.io.files import check_free_folder, check_writable, replacing, replacing_folder
from lightning_gans.io.pictures import (
    EXTENSIONS,
    UNREADABLE,
    from_bytes,
    grid,
    read_picture,
    save_png,
    sheet_size,
    square,
    to_image,
    to_uint8,
)
from lightning_gans.models import GenerativeModule, load

_MOST_PIXELS = 89_478_485  # PIL warns of a decompression bomb above this


def load_model(checkpoint: str, device: str, imports: Sequence[str]) -> GenerativeModule:
    """Read the model of a checkpoint onto a device; ``auto`` is CUDA if available."""
    return load(checkpoint, _device(device), imports=imports)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # fails for "meta", whose tensors have no data
    except (RuntimeError, AssertionError) as error:
        message = f"--device is {name!r}: {str(error).splitlines()[0]}"
        raise SettingError(message, setting="--device", value=name) from None
    return device


def parse_integers(option: str, text: str | None) -> list[int]:
    """Parse ``3,1,4``; None gives an empty list."""
    if text is None:
        return []
    try:
        numbers = [int(number) for number in text.split(",")]
        torch.tensor(numbers)  # fails for numbers that do not fit
        return numbers
    except (ValueError, RuntimeError):
        raise invalid(f"--{option}", text.strip(), "integers separated by commas, as in 3,1,4") from None


def check_pictures(model: GenerativeModule) -> None:
    """Raise :class:`SettingError` if the samples of a model are sequences."""
    if not model.makes_pictures:
        message = f"the samples of this {type(model).__name__} are sequences: use `sample` with an npz file."
        raise SettingError(message, setting="checkpoint")


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files, with each folder replaced by the pictures in it, by name.

    Raises:
        DataError: A file does not exist, or a folder has no pictures.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist.", setting=str(path))
        found = [path]
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS)
            if not found:
                raise DataError(f"{path} has no pictures ({', '.join(EXTENSIONS)}).", setting=str(path))
        files += found
    return files


def read_pictures(files: Sequence[Path], model: GenerativeModule) -> Tensor:
    """Return pictures, cropped and resized to the model's size, float32 ``(N, C, H, W)`` in [-1, 1].

    Raises:
        SettingError: The model's images have a number of channels that files of pictures do not have.
        DataError: A picture cannot be read.
    """
    channels, height, width = model.image_shape
    if channels not in (1, 3):
        message = f"the model's images have {channels} channels, but pictures in files have 1 or 3."
        raise SettingError(message, setting="checkpoint", value=channels, allowed=(1, 3))
    pictures = []
    for file in files:
        try:
            pictures.append(torch.from_numpy(read_picture(file, (channels, height, width)).copy()))
        except UNREADABLE as error:
            raise DataError(f"{file} cannot be read as a picture: {error}.", setting=str(file)) from None
    return from_bytes(torch.stack(pictures))


def check_picture(name: str) -> Path:
    """Return the path of a PNG file; raise before any work if it cannot be written."""
    if Path(name).suffix != ".png":
        raise invalid("--output", name, "a name that ends in .png")
    return check_writable(name)


def check_output(name: str) -> Path:
    """Return the output's path; raise before any work if it cannot be written."""
    output = Path(name)
    if output.suffix in (".png", ".npz"):
        return check_writable(output)
    if output.suffix and not output.is_dir():
        raise invalid("--output", name, "a folder or a name that ends in .png or .npz")
    return check_free_folder(output)


def check_sheet(setting: str, value: int, num: int, columns: int | None, shape: Sequence[int]) -> None:
    """Raise :class:`SettingError` if a grid of ``num`` images, which a setting's value asks for, is too large."""
    if math.prod(sheet_size(num, columns or square(num), *shape[1:])) > _MOST_PIXELS:
        raise SettingError(
            f"{setting} is {value}: a grid of {num:,} pictures has more than {_MOST_PIXELS:,} pixels, which many "
            "programs cannot open; use fewer.",
            setting=setting,
            value=value,
        )


@contextmanager
def open_output(
    output: Path, num: int, shape: tuple[int, ...], labels: Tensor | None = None, columns: int | None = None
) -> Iterator[Callable[[Tensor], None]]:
    """Open an output and yield a function that writes the next samples, ``(n, *shape)`` in [-1, 1].

    An archive and a folder keep nothing in memory between two calls.

    Args:
        output: ``.png`` for a grid, ``.npz`` for an archive (``images`` uint8 ``(N, H, W, C)``, or ``sequences``
            float32 ``(N, C, T)``, and ``labels``), else a folder of PNG files.
        num: The total number of samples.
        shape: ``(C, H, W)`` of images, or ``(C, T)`` of sequences, which need an archive.
        labels: The labels ``(num,)`` of a conditional model's samples.
        columns: The columns of the grid; by default it is square.

    Raises:
        SettingError: The samples are sequences and the output is not an archive.
    """
    if len(shape) != 3 and output.suffix != ".npz":
        raise invalid("--output", str(output), "a name that ends in .npz, as the samples are sequences")
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
    """Write an npz file in parts; ``numpy.savez`` needs the whole array at once."""
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
    """Write each sample as a PNG file, named by its number and its label, if any."""
    written = 0
    with replacing_folder(output) as folder:

        def write(samples: Tensor) -> None:
            nonlocal written
            for picture in to_uint8(samples).cpu():
                label = "" if labels is None else f"_{int(labels[written])}"
                to_image(picture).save(folder / f"{written:06d}{label}.png")
                written += 1

        yield write


def progress(starts: Sequence[int], what: str) -> Iterable[int]:
    """Iterate over the starts of a job's blocks, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    return track(starts, what, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
