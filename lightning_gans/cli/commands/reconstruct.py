"""``lightning-gans reconstruct``: pictures through a VAE's encoder and decoder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from lightning_gans.cli.outputs import (
    add_model_arguments,
    check_output,
    check_sheet,
    load_model,
    open_output,
    picture_files,
    progress,
    read_pictures,
    require_pictures,
    whole_numbers,
)
from lightning_gans.errors import SettingError
from lightning_gans.io.pictures import grid, save_png

_AT_ONCE = 250
_COLUMNS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    add_model_arguments(parser)
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURES", help="picture files, or a folder of them")
    parser.add_argument(
        "--output",
        required=True,
        help="FILE.png (pictures above their reconstructions), FILE.npz (images uint8 NHWC), or a folder of PNG",
    )
    parser.add_argument("--labels", metavar="3,1,4", help="labels of the pictures, taken in turn (conditional models)")


def run(args: argparse.Namespace) -> None:
    """Reconstruct the pictures and write them."""
    output = check_output(args.output)
    labels = whole_numbers("labels", args.labels)
    files = picture_files(args.pictures)
    model: Any = load_model(args)
    require_pictures(model)
    if not hasattr(model, "reconstruct"):
        raise SettingError(
            f"a {type(model).__name__} has no encoder and reconstructs nothing: take a VAE's checkpoint."
        )
    if bool(labels) != (model.num_classes > 0) or set(labels) - set(range(model.num_classes)):
        allowed = f"give some of 0 to {model.num_classes - 1}" if model.num_classes else "the model is unconditional"
        raise SettingError(f"--labels is {args.labels}: {allowed}.")
    columns = min(_COLUMNS, len(files))
    if output.suffix == ".png":
        check_sheet(f"there are {len(files):,} pictures", 2 * len(files), columns, model.image_shape)
    chosen = torch.tensor([labels[place % len(labels)] for place in range(len(files))]) if labels else None

    def reconstructed(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = read_pictures(files[start : start + _AT_ONCE], model)
        some = None if chosen is None else chosen[start : start + _AT_ONCE].to(model.device)
        return images, model.reconstruct(images, some, ema=not args.no_ema).cpu()

    starts = progress(range(0, len(files), _AT_ONCE), len(files), "Reconstructions")
    if output.suffix == ".png":
        images, made = (torch.cat(part) for part in zip(*map(reconstructed, starts), strict=True))
        pairs = [part[i : i + columns] for i in range(0, len(files), columns) for part in (images, made)]
        if len(pairs[-1]) < columns:  # white ones fill the last two rows up
            blank = torch.ones(columns - len(pairs[-1]), *images.shape[1:])
            pairs[-2:] = [torch.cat([part, blank]) for part in pairs[-2:]]
        save_png(grid(torch.cat(pairs), columns=columns), output)
    else:
        with open_output(output, len(files), tuple(model.image_shape), chosen) as write:
            for start in starts:
                write(reconstructed(start)[1])
    print(f"{len(files)} pictures: {output}")
