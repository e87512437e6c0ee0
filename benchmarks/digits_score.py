"""Score generated digits of scikit-learn's embedded set: is every class there, and are they digits?

The 1,797 digits are 8x8; the data module shows them at 28x28. Samples are compared with them in both sizes.
Each sample takes the class of its nearest real digit. It is close if its distance to that one is below the
99th percentile of the distances of real digits to their own nearest neighbours.

    lightning-gans sample runs/NAME/version_0/checkpoints/last.ckpt --num_samples 1000 --output s.npz
    python benchmarks/digits_score.py s.npz --json score.json

The npz holds ``images``, uint8 ``(N, 28, 28)``, ``(N, 28, 28, 1)`` or ``(N, 1, 28, 28)``. Exit codes: 0 if in
both sizes every class has at least 3 % of the samples and at least 80 % are close, 3 if not, 1 if the file is
not fit for it, 2 wrong options.
"""

import argparse
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

MINIMUM_CLASS_SHARE = 0.03
MINIMUM_CLOSE_SHARE = 0.80
QUANTILE = 0.99  # of the distances between real digits


class ScoreError(Exception):
    """What is wrong with a file, in one sentence."""


def load_npz(path: Path) -> Tensor:
    """Read ``images`` as uint8 (N, 28, 28)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["images"]
    except FileNotFoundError:
        raise ScoreError(f"{path}: no such file") from None
    except KeyError:
        raise ScoreError(f"{path}: holds no array named images") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ScoreError(f"{path}: not a readable npz ({error})") from None
    if images.dtype != np.uint8 or images.shape[1:] not in {(28, 28), (28, 28, 1), (1, 28, 28)}:
        raise ScoreError(
            f"{path}: images are {images.dtype} {images.shape}, "
            "but uint8 (N, 28, 28), (N, 28, 28, 1) or (N, 1, 28, 28) is needed"
        )
    if len(images) == 0:
        raise ScoreError(f"{path}: holds no images")
    return torch.from_numpy(images.reshape(-1, 28, 28))


def resize_digits(digits: Tensor) -> Tensor:
    """Resize digits in [0, 1], (N, 8, 8), to uint8 (N, 28, 28); the data module does the same."""
    resized = F.interpolate(digits.unsqueeze(1), size=(28, 28), mode="bicubic", align_corners=False, antialias=False)
    return resized.squeeze(1).clamp(0, 1).mul(255).round().to(torch.uint8)


def real_digits() -> tuple[Tensor, Tensor]:
    """Return the 1,797 digits, uint8 (N, 28, 28), and their labels."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float() / 16
    return resize_digits(images), torch.from_numpy(digits.target)


def to_points(images: Tensor, size: int) -> Tensor:
    """Flatten uint8 (N, 28, 28) to float64 (N, size * size) in [0, 1], averaging areas where it shrinks."""
    return F.adaptive_avg_pool2d(images.double() / 255, size).flatten(1)


def nearest(points: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Return each point's distance to its nearest real digit, and which one that is."""
    blocks = [torch.cdist(block, real).min(dim=1) for block in points.split(1000)]
    return torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks])


def nearest_other(real: Tensor) -> Tensor:
    """Return each real digit's distance to the nearest of the others."""
    return torch.cdist(real, real).fill_diagonal_(torch.inf).min(dim=1).values


def score(images: Tensor, real_images: Tensor, real_labels: Tensor, size: int) -> dict[str, Any]:
    """Score uint8 samples, (N, 28, 28), at one size; real digits take the same way to it as the samples."""
    points, real = to_points(images, size), to_points(real_images, size)
    threshold = nearest_other(real).quantile(QUANTILE)
    distances, indices = nearest(points, real)
    classes = real_labels[indices]
    class_shares = classes.bincount(minlength=10).double() / len(classes)
    close_share = (distances < threshold).double().mean().item()
    return {
        "class_shares": class_shares.tolist(),
        "close_share": close_share,
        "threshold": threshold.item(),
        "passed": bool(class_shares.min() >= MINIMUM_CLASS_SHARE and close_share >= MINIMUM_CLOSE_SHARE),
    }


def format_table(report: dict[str, Any]) -> str:
    lines = [f"{report['file']}: {report['num_samples']} samples; shares in %"]
    lines.append("  size  " + "".join(f"{digit:>6}" for digit in range(10)) + "   close")
    for size, result in report["sizes"].items():
        shares = "".join(f"{share:6.1%}".replace("%", " ") for share in result["class_shares"])
        verdict = "passed" if result["passed"] else "not passed"
        lines.append(f"{size:>2}x{size:<3}  {shares}{result['close_share']:8.1%}  {verdict}")
    lines.append(f"asked: every class at least {MINIMUM_CLASS_SHARE:.0%}, close at least {MINIMUM_CLOSE_SHARE:.0%}")
    return "\n".join(lines)


def write_json(path: Path, report: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise ScoreError(f"{path}: cannot be written ({error})") from None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Score generated digits of scikit-learn's embedded set.")
    parser.add_argument("file", type=Path, metavar="NPZ", help="a file of lightning-gans sample")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    options = parser.parse_args(arguments)
    try:
        images = load_npz(options.file)
        real_images, real_labels = real_digits()
        sizes = {str(size): score(images, real_images, real_labels, size) for size in (28, 8)}
        report = {
            "file": str(options.file),
            "num_samples": len(images),
            "sizes": sizes,
            "passed": all(result["passed"] for result in sizes.values()),
            "torch": torch.__version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if options.json is not None:
            write_json(options.json, report)
    except ScoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_table(report))
    return 0 if report["passed"] else 3


if __name__ == "__main__":
    sys.exit(main())
