"""Score generated digits of scikit-learn's embedded set: are all classes there, and are they digits?

The 1,797 digits have 8x8 pixels; the data module enlarges them to 28x28. Samples are compared with them in both sizes.
Each sample takes the class of its nearest real digit. It is close if its distance to that digit is below the 99th
percentile of the distances of real digits to their own nearest neighbors.

    lightning-gans sample runs/NAME/version_0/checkpoints/last.ckpt --num_samples 1000 --output s.npz
    python benchmarks/digits_score.py s.npz --json score.json

Prints JSON. Exit codes: 0 if in both sizes every class has at least 3 % of the samples and at least 80 % are close,
3 if not, 1 for an invalid file, 2 for invalid options.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import read_digits, run
from torch import Tensor
from torch.nn import functional as F

from lightning_gans import DigitsDataModule

MINIMUM_CLASS_SHARE = 0.03
MINIMUM_CLOSE_SHARE = 0.80
QUANTILE = 0.99  # of the distances between real digits


def to_points(images: Tensor, size: int) -> Tensor:
    """Flatten uint8 (N, 1, 28, 28) to float64 (N, size * size) in [0, 1]; areas are averaged where it shrinks."""
    return F.adaptive_avg_pool2d(images.double() / 255, size).flatten(1)


def score(images: Tensor, real_images: Tensor, real_labels: Tensor, size: int) -> dict[str, Any]:
    """Score uint8 samples (N, 1, 28, 28) at one size."""
    points, real = to_points(images, size), to_points(real_images, size)
    threshold = torch.cdist(real, real).fill_diagonal_(torch.inf).min(dim=1).values.quantile(QUANTILE)
    blocks = [torch.cdist(block, real).min(dim=1) for block in points.split(1000)]
    distances, nearest = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    class_shares = real_labels[nearest].bincount(minlength=10).double() / len(points)
    close_share = float((distances < threshold).double().mean())
    return {
        "class_shares": class_shares.tolist(),
        "close_share": close_share,
        "threshold": float(threshold),
        "passed": bool(class_shares.min() >= MINIMUM_CLASS_SHARE and close_share >= MINIMUM_CLOSE_SHARE),
    }


def make_report(options: argparse.Namespace) -> dict[str, Any]:
    images, real = read_digits(options.file)[0], DigitsDataModule(28).load_images("train")
    sizes = {str(size): score(images, *real, size) for size in (28, 8)}
    passed = all(result["passed"] for result in sizes.values())
    return {"file": str(options.file), "num_samples": len(images), "sizes": sizes, "passed": passed}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, metavar="NPZ", help="a file of lightning-gans sample")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    sys.exit(0 if run(make_report, parser.parse_args(arguments))["passed"] else 3)


if __name__ == "__main__":
    main()
