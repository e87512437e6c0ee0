"""Outputs of commands: a grid, an archive or a folder of PNG files, written whole or not at all."""

from __future__ import annotations

import inspect
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

from lightning_gans.cli.devices import find_device
from lightning_gans.cli.working_folder import add_working_folder
from lightning_gans.errors import DataError, SettingError, invalid
from lightning_gans.io.arrays import RANGES, Scale, suffix_for, write_values
from lightning_gans.io.files import check_free_folder, check_writable, replacing, replacing_folder
from lightning_gans.io.pictures import EXTENSIONS, extensions_in, grid, list_pictures, read_picture, save_png
from lightning_gans.models import GenerativeModule, load
from lightning_gans.training.batches import ROUNDING
from lightning_gans.training.sampling import check_latents


def load_model(checkpoint: str, device: str, imports: Sequence[str]) -> GenerativeModule:
    """Read the model of a checkpoint onto a device; ``auto`` is CUDA if available."""
    add_working_folder(imports)
    return load(checkpoint, find_device(device), imports=imports)


def translation_options(model: Any, to: str | None) -> dict[str, str]:
    """Return the options of ``translate`` for ``--to``; raise :class:`SettingError` if the model has no choice."""
    if to is None:
        return {}
    if "to" not in inspect.signature(getattr(model, "translate", model.sample)).parameters:
        problem = "translates to targets only" if hasattr(model, "translate") else "does not translate images"
        raise invalid("--to", to, f"omitted: a {type(model).__name__} {problem}")
    return {"to": to}


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


def check_labels(model: GenerativeModule, given: str | None, labels: Sequence[int]) -> None:
    """Raise :class:`SettingError` if ``--labels`` has labels that are not classes of the model."""
    if set(labels) - set(range(model.num_classes)):
        last = model.num_classes - 1
        raise invalid("--labels", given, f"from 0 to {last}" if last >= 0 else "omitted: the model is unconditional")


def labels_of_pictures(model: GenerativeModule, given: str | None, labels: Sequence[int], num: int) -> list[int] | None:
    """Return a label for each of ``num`` pictures, by repeating those of ``--labels``; None for an unconditional model.

    Raises:
        SettingError: They are not classes of the model, or a conditional model has none.
    """
    if model.num_classes > 0 and not labels:
        message = f"--labels is missing: give a class for each picture, from 0 to {model.num_classes - 1}."
        raise SettingError(message, setting="--labels", value=given)
    check_labels(model, given, labels)
    return [labels[place % len(labels)] for place in range(num)] if labels else None


def labels_of_conditions(model: GenerativeModule, conditions: Sequence[str], num: int) -> Tensor:
    """Return the labels of ``num`` samples for the values of ``--condition``, float32 ``(num, num_classes)``.

    Raises:
        SettingError: The labels of the model are not vectors, or a condition is invalid.
    """
    if model.attributes is None:
        without = "is unconditional" if model.num_classes == 0 else "has classes: use --labels"
        raise invalid("--condition", conditions[0], f"omitted: the model {without}")
    return model.attributes.conditions(conditions, num)


def check_pictures(model: GenerativeModule) -> None:
    """Raise :class:`SettingError` if a model has no samples, or its samples are sequences."""
    check_latents(model)
    if not model.makes_pictures:
        message = f"the samples of this {type(model).__name__} are sequences: use `sample` with an npz file."
        raise SettingError(message, setting="checkpoint")


def picture_files(paths: Sequence[Path], deep: bool = False) -> list[Path]:
    """Return the files, with each folder replaced by the images in it, sorted by name; ``deep`` adds subfolders."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist.", setting=str(path))
        found = [path]
        if path.is_dir():
            found = [Path(file) for file in list_pictures(path, deep=deep, extensions=extensions_in(path))]
            if not found:
                raise DataError(f"{path} has no pictures ({', '.join(EXTENSIONS)}).", setting=str(path))
        files += found
    return files


def read_pictures(files: Sequence[Path], model: GenerativeModule) -> Tensor:
    """Return pictures, cropped and resized to the model's size, float32 ``(N, C, H, W)`` in [-1, 1].

    Raises:
        DataError: A picture cannot be read, or does not have the model's channels.
    """
    channels, height, width = model.image_shape
    shape = channels, height, width
    pictures = ((read_picture(file, shape, own_values=True), str(file)) for file in files)
    return torch.stack([as_images(values, model.image_scale, name) for values, name in pictures])


def as_images(values: np.ndarray, known: Scale, name: str) -> Tensor:
    """Map the values of a file to [-1, 1]: as in training if they are of the same type, or else by their type.

    Args:
        values: Values of any shape.
        known: The scale of the training images.
        name: The file.

    Raises:
        DataError: The values are not finite, or their type has no usual range and they are not in [-1, 1].
    """
    scale = known.for_type(values.dtype)
    numbers = torch.from_numpy(values.astype(np.float32))
    low, high = (float(bound) for bound in numbers.aminmax())
    if not math.isfinite(low + high):
        raise DataError(f"{name}: some values are not finite numbers.", setting=name)
    if scale != known and values.dtype.name not in RANGES and max(-low, high) > 1 + ROUNDING:
        message = (
            f"{name} has values of type {values.dtype} from {low:.4g} to {high:.4g}, but the model was trained on "
            f"{known.dtype}: give these, or floats in [-1, 1]."
        )
        raise DataError(message, setting=name, value=(low, high), allowed=(-1, 1))
    return scale.normalize(numbers)


def check_output(name: str, suffixes: Sequence[str] = (".png", ".npz")) -> Path:
    """Return the path of an output, a folder or a file; raise before any work if it cannot be written."""
    output = Path(name)
    if output.suffix in suffixes:
        return check_writable(output)
    if (output.suffix or output.name in suffixes) and not output.is_dir():
        raise invalid("--output", name, f"a folder or a name that ends in {', '.join(suffixes)}")
    return check_free_folder(output)


def check_not_read(output: Path, inputs: Iterable[str | Path], option: str = "--output") -> None:
    """Raise :class:`SettingError` if an output would replace one of the files that it is made from."""
    if output.exists() and any(Path(path).exists() and output.samefile(path) for path in inputs):
        raise invalid(option, str(output), "another file than the inputs")


@contextmanager
def open_output(
    output: Path,
    num: int,
    shape: Sequence[int],
    labels: Tensor | None = None,
    columns: int | None = None,
    layout: str = "plain",
    scale: Scale | None = None,
) -> Iterator[Callable[[Tensor], None]]:
    """Open an output and yield a function that writes the next samples, ``(n, *shape)`` in [-1, 1].

    For an archive or a folder, nothing stays in memory between two calls.

    Args:
        output: ``.png`` for a grid, ``.npz`` for an archive (``images`` ``(N, H, W, C)``, or ``sequences`` float32
            ``(N, C, T)``, and ``labels``), else a folder of PNG files, or of ``.npy`` files ``(H, W, C)`` of values
            that are not of 8 or 16 bits or have more than 4 channels.
        num: The total number of samples.
        shape: ``(C, H, W)`` of images, or ``(C, T)`` of sequences, which need an archive.
        labels: The labels of a conditional model's samples, ``(num,)``, or values of attributes, ``(num, K)``.
        columns: The columns of the grid; by default it is square.
        layout: ``adm`` names an archive's arrays ``arr_0``, uint8 in RGB, and ``arr_1``, as guided-diffusion's
            evaluation reads them.
        scale: The values of the images in archives and folders; None is 8 bits.

    Raises:
        SettingError: The samples are sequences and the output is not an archive.
    """
    if len(shape) != 3 and output.suffix != ".npz":
        raise invalid("--output", str(output), "a name that ends in .npz, as the samples are sequences")
    scale = scale or Scale()
    if output.suffix == ".npz":
        with _archive(output, num, shape, labels, layout == "adm", scale) as write:
            yield write
    elif output.suffix == ".png":
        samples: list[Tensor] = []
        yield lambda images: samples.append(images.cpu())
        save_png(grid(torch.cat(samples), columns=columns), output)
    else:
        with _folder(output, labels, scale) as write:
            yield write


@contextmanager
def _archive(
    output: Path, num: int, shape: Sequence[int], labels: Tensor | None, adm: bool, scale: Scale
) -> Iterator[Callable[[Tensor], None]]:
    """Write an npz file in parts; ``numpy.savez`` needs the whole array at once."""
    names: tuple[str, str] = ("sequences", "labels")
    dtype: np.dtype[Any] = np.dtype(np.float32)
    if len(shape) == 3:
        scale = Scale() if adm else scale
        names, dtype = ("arr_0", "arr_1") if adm else ("images", "labels"), np.dtype(scale.dtype)
        shape = (*shape[1:], 3 if adm else shape[0])
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (num, *shape)}
    with replacing(output) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(f"{names[0]}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)

            def write(samples: Tensor) -> None:
                if samples.dim() == 4:
                    values = np.broadcast_to(scale.restore(samples).transpose(0, 2, 3, 1), (len(samples), *shape))
                else:
                    values = samples.cpu().numpy().astype(dtype)
                member.write(values.tobytes())

            yield write
        if labels is not None:
            with archive.open(f"{names[1]}.npy", "w") as member:
                np.save(member, labels.cpu().numpy())


@contextmanager
def _folder(output: Path, labels: Tensor | None, scale: Scale) -> Iterator[Callable[[Tensor], None]]:
    """Write each sample as a file, named by its number and its class, if any."""
    written = 0
    with replacing_folder(output) as folder:

        def write(samples: Tensor) -> None:
            nonlocal written
            for values in scale.restore(samples):
                label = "" if labels is None or labels.dim() > 1 else f"_{int(labels[written])}"
                suffix = suffix_for(values)
                with open(folder / f"{written:06d}{label}{suffix}", "wb") as file:
                    write_values(values, file, suffix)
                written += 1

        yield write


def progress(starts: Sequence[int], what: str) -> Iterable[int]:
    """Iterate over the start indices of blocks, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    return track(starts, what, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
