"""``lightning-gans sample``: pictures, or sequences, from a checkpoint alone."""

from __future__ import annotations

import argparse
import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_gans.errors import SettingError
from lightning_gans.files import check_writable, make_folder, replacing
from lightning_gans.models import load
from lightning_gans.pictures import grid, save_png, to_image, to_uint8

_CHUNK = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("checkpoint", metavar="CKPT", help="a checkpoint")
    parser.add_argument("--num_samples", type=int, metavar="N", help="how many (default: 64, or one a label)")
    parser.add_argument(
        "--output",
        required=True,
        help="FILE.png (a grid), FILE.npz (images uint8 NHWC, or sequences float32 NCT; labels), or a folder of PNG",
    )
    parser.add_argument("--labels", metavar="3,1,4", help="labels, taken in turn (default: all classes in turn)")
    parser.add_argument("--seed", type=int, help="seed of the noise (default: drawn, and printed)")
    parser.add_argument("--no_ema", action="store_true", help="use the weights, not their moving average")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: cuda where there is one)")
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import your own classes first",
    )


def run(args: argparse.Namespace) -> None:
    """Generate the samples and write them."""
    output = _checked_output(args.output)
    if args.num_samples is not None and args.num_samples < 1:
        raise SettingError(f"--num_samples is {args.num_samples}: it must be 1 or more.")
    asked = _parse_labels(args.labels)
    for module in args.imports:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise SettingError(f"--import {module}: {error}.") from error
    model = load(args.checkpoint, _device(args.device))
    pictures = model.makes_pictures
    if not pictures and output.suffix != ".npz":
        raise SettingError(f"--output is {args.output!r}: sequences have no picture, so give a name that ends in .npz.")
    num_samples = args.num_samples or (len(asked) if asked else 64)
    labels = None
    if asked:
        labels = torch.tensor(asked).repeat(math.ceil(num_samples / len(asked)))[:num_samples]
    elif model.num_classes > 0:
        labels = torch.arange(num_samples) % model.num_classes
    seed = args.seed if args.seed is not None else int(torch.randint(2**31, ()))
    channels, *sizes = model.image_shape
    shape = (*sizes, channels) if pictures else (channels, *sizes)
    images = np.empty((num_samples, *shape), dtype=np.uint8 if pictures else np.float32)
    for start in range(0, num_samples, _CHUNK):
        count = min(_CHUNK, num_samples - start)
        chosen = None if labels is None else labels[start : start + count]
        samples = model.sample(count, chosen, seed=seed, start=start, ema=not args.no_ema)
        images[start : start + count] = (to_uint8(samples) if pictures else samples).cpu().numpy()
    columns = model.num_classes if labels is not None and not asked else None
    _write(output, "images" if pictures else "sequences", images, labels, columns)
    print(f"{num_samples} samples, seed {seed}: {output}")


def _write(output: Path, name: str, images: np.ndarray, labels: torch.Tensor | None, columns: int | None) -> None:
    """Write the samples in the form that the output's name asks for; in an npz file the array has the given name."""
    if output.suffix == ".npz":
        arrays: dict[str, Any] = {name: images} if labels is None else {name: images, "labels": labels.numpy()}
        with replacing(output) as file:
            np.savez(file, **arrays)
    elif output.suffix == ".png":
        floats = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        save_png(grid(floats, columns=columns or math.ceil(len(images) ** 0.5)), output)
    else:
        for index, picture in enumerate(images):
            label = "" if labels is None else f"_{int(labels[index])}"
            save_png(to_image(torch.from_numpy(picture)), output / f"{index:06d}{label}.png")


def _checked_output(name: str) -> Path:
    """Return the output's path after making sure, before any work, that it can be written."""
    output = Path(name)
    if output.suffix in (".png", ".npz"):
        return check_writable(output)
    if output.suffix and not output.is_dir():
        raise SettingError(f"--output is {name!r}: give a name that ends in .png or .npz, or a folder.")
    return make_folder(output)


def _parse_labels(text: str | None) -> list[int]:
    """Read ``3,1,4``."""
    if text is None:
        return []
    try:
        return [int(label) for label in text.split(",")]
    except ValueError:
        raise SettingError(f"--labels is {text!r}: give whole numbers with commas between, as in 3,1,4.") from None


def _device(name: str) -> torch.device:
    """Return the device asked for."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"--device is {name!r}: {str(error).splitlines()[0]}") from None
    return device
