"""Measure how well the categorical code of an InfoGAN on MNIST agrees with the digits, which it has never been told.

Each value of the code stands for one digit, by the assignment with the highest accuracy (Hungarian method).
`recognized` is the accuracy of the recognition head on the 10,000 real test digits. `generated` is the accuracy of
10,000 samples, 1,000 for each value of the code, as the package's classifier of MNIST reads them. Each has its own
assignment.

    lightning-gans fit -c infogan_mnist
    python benchmarks/infogan_codes.py runs/infogan_mnist/version_0/checkpoints/last.ckpt --json codes.json

Prints JSON. Exit codes: 0 measured, 1 invalid file or data, 2 invalid options.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import load_mnist, run
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lightning_gans import DataError, InfoGAN, load
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics.extractors.mnist import MNISTExtractor

NUM_SAMPLES = 10_000
DIGITS = 10


def assigned(codes: Tensor, digits: Tensor, num_codes: int) -> dict[str, Any]:
    """Return the accuracy of the best assignment of codes to digits, and the digit of each code.

    Codes and digits are int64 ``(N,)``. A code that remains without a digit is -1.
    """
    counts = (codes * DIGITS + digits).bincount(minlength=num_codes * DIGITS).view(num_codes, DIGITS)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    digit_of = torch.full((num_codes,), -1)
    digit_of[rows] = torch.from_numpy(columns)
    return {"accuracy": float(counts[rows, columns].sum()) / len(codes), "digit_of_code": digit_of.tolist()}


def make_report(options: argparse.Namespace) -> dict[str, Any]:
    model = load(options.checkpoint)
    if not isinstance(model, InfoGAN) or model.num_classes == 0 or model.image_shape != (1, 28, 28):
        raise DataError(f"{options.checkpoint} is not an InfoGAN of digits with a categorical code.")
    images, digits = load_mnist(options.data_dir, train=False)
    blocks = images.float().div(127.5).sub(1).split(1000)
    recognized = torch.cat([model.recognize(block).class_logits.argmax(1) for block in blocks])
    codes = torch.arange(NUM_SAMPLES) % model.num_classes
    samples = to_bytes(model.sample(labels=codes, seed=options.seed)).cpu()
    classifier = MNISTExtractor().eval()
    with torch.no_grad():
        read = torch.cat([classifier(block)[1].argmax(1) for block in samples.split(1000)])
    return {
        "file": str(options.checkpoint),
        "recognized": assigned(recognized, digits, model.num_classes),
        "generated": assigned(codes, read, model.num_classes),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="a checkpoint of an InfoGAN")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="the folder of MNIST")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    run(make_report, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
