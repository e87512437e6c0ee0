"""GAN-train: the accuracy on real digits of a classifier that was trained on generated digits only.

Shmelkov et al. 2018 (https://arxiv.org/abs/1807.09499); the classification accuracy score of Ravuri & Vinyals 2019
(https://arxiv.org/abs/1905.10887). A conditional model that always draws the same image of the digit asked for scores
low here and high in the label accuracy of ``mnist_score.py``, which is GAN-test. Compare with the ceiling: the same
classifier after as many updates on the real training images (``--ceiling``).

    lightning-gans sample runs/NAME/version_0/checkpoints/last.ckpt --num_samples 60000 --output s.npz
    python benchmarks/gan_train.py s.npz --ceiling --json runs/NAME/version_0/gan_train.json
    python benchmarks/gan_train.py runs/NAME/version_0/checkpoints/last.ckpt --seeds 0 1 2

The settings were chosen, and the epoch of each run is chosen, on the 5,000 images that ``MNISTDataModule`` holds out of
training; the test images are used once, by the classifier of that epoch. Prints JSON. Exit codes: 0 scored, 1 invalid
file, 2 invalid options.
"""

import argparse
import copy
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import accuracy, distort, read_digits, run, small_classifier, train_classifier
from torch import Tensor, nn

from lightning_gans import DataError, MNISTDataModule, load
from lightning_gans.io.pictures import to_bytes

VERSION = 1  # increase it when the classifier or its training changes: accuracies of two versions do not compare
FEWEST_UPDATES = 3  # the learning rate rises for two of them

Digits = tuple[Tensor, Tensor]  # images, uint8 (N, 1, 28, 28), and labels, int64 (N,)


SETTINGS = {"batch_size": 100, "lr": 4e-3, "weight_decay": 0.02, "distort": True, "average": 0.99}
"""Of the classifier, chosen by validation accuracy; ``average`` is the decay of the moving average of its weights."""


def load_samples(path: Path, num_samples: int, sample_seed: int) -> Digits:
    """Read the first samples of an npz, or draw them from a checkpoint."""
    images, labels = read_digits(path, True) if path.suffix == ".npz" else draw(path, num_samples, sample_seed)
    if len(images) < num_samples:
        raise DataError(f"{path} has {len(images)} samples, but --num_samples is {num_samples}.", setting=str(path))
    images, labels = images[:num_samples], labels[:num_samples]
    if labels.unique().tolist() != list(range(10)):
        raise DataError(f"{path} has the labels {labels.unique().tolist()[:20]}, not 0 to 9.", setting=str(path))
    return images, labels


def draw(path: Path, num_samples: int, seed: int) -> Digits:
    """Draw samples, all classes in turn, as ``lightning-gans sample --seed`` does."""
    model = load(path)
    if model.num_classes != 10 or tuple(model.image_shape) != (1, 28, 28):
        raise DataError(
            f"{path} is a model of {model.num_classes} classes and images {model.image_shape}, not of digits."
        )
    labels = torch.arange(num_samples) % 10
    parts = [model.sample(len(part), part, seed=seed, start=1000 * i) for i, part in enumerate(labels.split(1000))]
    return torch.cat([to_bytes(part) for part in parts]), labels


def train(
    digits: Digits, validation: Digits, seed: int, epochs: int, updates: int, what: str = "classifier", **changes: Any
) -> tuple[nn.Module, list[float]]:
    """Train a classifier; return the one of the best epoch, and the validation accuracy of each epoch."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = nn.Conv2d(1, 16, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        network = small_classifier(*first)

    def prepare(batch: Tensor) -> Tensor:
        return distort(batch / 255, generator) if distorts else batch / 255

    options = SETTINGS | {"epochs": epochs, "updates": updates, "warm_up": max(0.2, 2 / (epochs * updates))} | changes
    distorts = options.pop("distort")
    best, history = network, [0.0]
    for classifier in train_classifier(network, *digits, prepare, generator, what=what, **options):
        history.append(score(classifier, validation))
        if history[-1] > max(history[:-1]):
            best = copy.deepcopy(classifier)
    return best.eval(), history[1:]


def score(network: nn.Module, digits: Digits) -> float:
    return accuracy(lambda images: network(images / 255), *digits)


def evaluate(
    digits: Digits, data: MNISTDataModule, options: argparse.Namespace, updates: int, what: str
) -> dict[str, Any]:
    """Train a classifier with each seed; return the mean of their test accuracies, and each of them."""
    rows = []
    for seed in options.seeds:
        network, history = train(digits, data.images("val"), seed, options.epochs, updates, f"{what}, seed {seed}")
        row = {"seed": seed, "accuracy": score(network, data.images("test"))}
        rows.append(row | {"best_epoch": history.index(max(history)) + 1, "validation": history})
    values = [row["accuracy"] for row in rows]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"accuracy": statistics.fmean(values), "standard_deviation": deviation, "seeds": rows}


def make_report(options: argparse.Namespace) -> dict[str, Any]:
    samples = load_samples(options.file, options.num_samples, options.sample_seed)
    data = MNISTDataModule(data_dir=options.data_dir)
    updates = len(samples[0]) // SETTINGS["batch_size"]
    result = evaluate(samples, data, options, updates, "samples")
    ceiling = None
    if options.ceiling:
        real = data.images("train")
        ceiling = {"num_images": len(real[0])} | evaluate(real, data, options, updates, "ceiling")
    protocol = {
        "metric": "gan_train",
        "version": VERSION,
        "data": type(data).__name__,
        "num_samples": len(samples[0]),
        "num_validation": len(data.images("val")[0]),
        "num_test": len(data.images("test")[0]),
        "split_seed": data.split_seed,
        "epochs": options.epochs,
        **SETTINGS,
        "updates": options.epochs * updates,
        "selection": "the epoch with the best validation accuracy; the test images once, after it",
    }
    seed = None if options.file.suffix == ".npz" else options.sample_seed
    return {"file": str(options.file), "sample_seed": seed, **result, "ceiling": ceiling, "protocol": protocol}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, metavar="FILE", help="an npz of lightning-gans sample, or a checkpoint")
    parser.add_argument("--num_samples", type=int, default=60_000, help="(default: 60000)")
    parser.add_argument("--sample_seed", type=int, default=0, help="of a checkpoint's samples (default: 0)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED", help="one classifier each")
    parser.add_argument("--epochs", type=int, default=5, help="(default: 5)")
    parser.add_argument("--ceiling", action="store_true", help="train on the real images, too")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="the folder of MNIST")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    options = parser.parse_args(arguments)
    if options.epochs < 1 or options.epochs * (options.num_samples // SETTINGS["batch_size"]) < FEWEST_UPDATES:
        parser.error(f"--epochs and --num_samples must give at least {FEWEST_UPDATES} updates")
    run(make_report, options)


if __name__ == "__main__":
    main()
