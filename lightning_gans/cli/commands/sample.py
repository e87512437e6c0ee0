"""``lightning-gans sample``: pictures, or sequences, from a checkpoint alone."""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch

from lightning_gans.cli.outputs import (
    add_model_arguments,
    check_output,
    check_sheet,
    load_model,
    open_output,
    progress,
    whole_numbers,
)
from lightning_gans.errors import SettingError, check_positive

_AT_ONCE = 250
_MOST = 10**8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    add_model_arguments(parser)
    parser.add_argument("--num_samples", type=int, metavar="N", help="how many (default: 64, or one a label)")
    parser.add_argument(
        "--output",
        required=True,
        help="FILE.png (a grid), FILE.npz (images uint8 NHWC, or sequences float32 NCT; labels), or a folder of PNG",
    )
    parser.add_argument("--labels", metavar="3,1,4", help="labels, taken in turn (default: all classes in turn)")
    parser.add_argument("--seed", type=int, help="seed of the noise (default: drawn, and printed)")
    parser.add_argument(
        "--truncation", type=float, metavar="T", help="cut the noise off at ±T: more typical samples, and more alike"
    )


def run(args: argparse.Namespace) -> None:
    """Generate the samples and write them."""
    output = check_output(args.output)
    if args.num_samples is not None:
        check_positive(num_samples=args.num_samples)
        if args.num_samples > _MOST:
            raise SettingError(f"num_samples is {args.num_samples}: at most {_MOST:,} are written at once.")
    if args.truncation is not None:
        check_positive(truncation=args.truncation)
    asked = whole_numbers("labels", args.labels)
    model = load_model(args)
    num_samples = args.num_samples or (len(asked) if asked else 64)
    columns = model.num_classes if model.num_classes > 0 and not asked else None
    if output.suffix == ".png" and model.makes_pictures:
        check_sheet(f"--num_samples is {num_samples}", num_samples, columns, model.image_shape)
    labels = None
    if asked:
        labels = torch.tensor(asked).repeat(math.ceil(num_samples / len(asked)))[:num_samples]
    elif model.num_classes > 0:
        labels = torch.arange(num_samples) % model.num_classes
    seed = args.seed if args.seed is not None else int(torch.randint(2**31, ()))
    # A model of the user's own may have a sample() that knows nothing of truncation.
    more: dict[str, Any] = {} if args.truncation is None else {"truncation": args.truncation}
    with open_output(output, num_samples, tuple(model.image_shape), labels, columns) as write:
        for start in progress(range(0, num_samples, _AT_ONCE), num_samples, "Samples"):
            count = min(_AT_ONCE, num_samples - start)
            chosen = None if labels is None else labels[start : start + count]
            write(model.sample(count, chosen, seed=seed, start=start, ema=not args.no_ema, **more))
    print(f"{num_samples} samples, seed {seed}: {output}")
