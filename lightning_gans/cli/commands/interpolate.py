"""``lightning-gans interpolate``: a strip of pictures on the way between seeds, labels or, in a VAE, pictures."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gans.cli.outputs import (
    add_model_arguments,
    check_picture,
    check_sheet,
    load_model,
    read_pictures,
    require_pictures,
    whole_numbers,
)
from lightning_gans.errors import SettingError, check_positive
from lightning_gans.io.pictures import grid, save_png
from lightning_gans.models import GenerativeModule
from lightning_gans.training.sampling import SAMPLE_BLOCK, slerp


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    add_model_arguments(parser)
    parser.add_argument("--output", required=True, help="FILE.png: one row, or a row for each class")
    parser.add_argument("--seeds", metavar="1,2,3", help="seeds to go between (default: two are drawn, and printed)")
    parser.add_argument(
        "--labels", metavar="3,8", help="one label for all, or one for each stop to go between (default: all classes)"
    )
    parser.add_argument(
        "--pictures", nargs="+", type=Path, metavar="FILE", help="the pictures to go between, which a VAE encodes"
    )
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="pictures from one stop to the next (8)")
    parser.add_argument("--truncation", type=float, metavar="T", help="cut the noise off at ±T")


def run(args: argparse.Namespace) -> None:
    """Write the strip."""
    output = check_picture(args.output)
    if args.steps < 2:
        raise SettingError(f"--steps is {args.steps}: it takes 2 or more to go from one to another.")
    if args.truncation is not None:
        check_positive(truncation=args.truncation)
    if args.pictures and (args.seeds or args.truncation is not None):
        raise SettingError("--pictures are where the way leads: leave out --seeds and --truncation.")
    seeds, labels = whole_numbers("seeds", args.seeds), whole_numbers("labels", args.labels)
    model = load_model(args)
    require_pictures(model)
    known = torch.zeros(0) if model.num_classes == 0 else torch.arange(model.num_classes)
    if set(labels) - set(known.tolist()):
        allowed = f"0 to {model.num_classes - 1}" if model.num_classes else "none, as it is unconditional"
        raise SettingError(f"--labels is {args.labels!r}: the model knows {allowed}.")
    if not args.pictures and not seeds:
        alone = len(labels) > 1  # the label changes, and nothing else
        seeds = torch.randint(2**31, (1 if alone else 2,)).tolist()
    given = len(args.pictures or seeds)
    stops = max(given, len(labels))
    if stops < 2 or {given, len(labels) or 1} - {1, stops}:
        raise SettingError(
            f"there are {given} {'pictures' if args.pictures else 'seeds'} and {len(labels)} labels: "
            "give two or more of the one, and one or as many of the other."
        )
    rows = [labels] if labels or model.num_classes == 0 else [[label] for label in known.tolist()]
    num = (stops - 1) * (args.steps - 1) + 1
    check_sheet(f"--steps is {args.steps}", num * len(rows), num, model.image_shape)
    with torch.no_grad(), model.evaluating():
        if args.pictures:
            images = read_pictures(args.pictures, model)
            points = _encoded(model, images, labels, not args.no_ema)
        else:
            points = torch.cat([model.latents(1, seed=seed, truncation=args.truncation) for seed in seeds])
        way = _way(points.expand(stops, -1) if given == 1 else points, args.steps, straight=bool(args.pictures))
        strips = [_decoded(model, way, _label_way(model, row, stops, args.steps), not args.no_ema) for row in rows]
    names = [str(row[0]) for row in rows] if len(rows) > 1 else None
    save_png(grid(torch.cat(strips), columns=len(way), row_labels=names), output)
    between = "" if args.pictures else f", seeds {','.join(map(str, seeds))}"
    print(f"{len(way)} pictures{' for each class' if names else ''}{between}: {output}")


def _shares(steps: int, last: bool) -> Tensor:
    """Return where the pictures from one stop to the next stand; the next itself only at the end of the way."""
    shares = torch.linspace(0, 1, steps)
    return shares if last else shares[:-1]


def _way(points: Tensor, steps: int, straight: bool) -> Tensor:
    """Return the latents on the way: on arcs between seeds, straight between encoded pictures."""
    parts = []
    for place, (start, end) in enumerate(itertools.pairwise(points)):
        shares = _shares(steps, place == len(points) - 2).to(points)
        parts.append(torch.lerp(start, end, shares[:, None]) if straight else slerp(start, end, shares))
    return torch.cat(parts)


def _label_way(model: GenerativeModule, labels: Sequence[int], stops: int, steps: int) -> Tensor | None:
    """Return the label of each picture: a number where it stays the same, else weights of the classes."""
    if not labels:
        return None
    if len(set(labels)) == 1:
        return torch.full(((stops - 1) * (steps - 1) + 1,), labels[0])
    return _way(F.one_hot(torch.tensor(labels), model.num_classes).float(), steps, straight=True)


def _encoded(model: Any, images: Tensor, labels: Sequence[int], ema: bool) -> Tensor:
    """Return the means of the posteriors of pictures; of one picture under each label, where there are several."""
    if not hasattr(model, "encode"):
        raise SettingError(f"--pictures: a {type(model).__name__} has no encoder; give --seeds.")
    if model.num_classes > 0 and not labels:
        raise SettingError("--pictures: the model is conditional, so give --labels, one for all or one for each.")
    images = images.expand(max(len(images), len(labels)), -1, -1, -1)
    chosen = torch.tensor(labels).expand(len(images)).to(model.device) if labels else None
    mean: Tensor = model.encode(images.to(model.device).to(model.dtype), chosen, ema=ema)[0]
    return mean.float().cpu()


def _decoded(model: GenerativeModule, latents: Tensor, labels: Tensor | None, ema: bool) -> Tensor:
    """Return the pictures of latents, in blocks."""
    parts = []
    for start in range(0, len(latents), SAMPLE_BLOCK):
        some = latents[start : start + SAMPLE_BLOCK].to(model.device).to(model.dtype)
        chosen = None if labels is None else labels[start : start + SAMPLE_BLOCK].to(model.device)
        parts.append(model.decode(some, chosen, ema=ema).float().cpu())
    return torch.cat(parts)
