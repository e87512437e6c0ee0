"""GAN-train: the accuracy on real digits of a classifier that has seen generated ones only.

Shmelkov et al. 2018 (https://arxiv.org/abs/1807.09499), the classification accuracy score of Ravuri & Vinyals 2019
(https://arxiv.org/abs/1905.10887). A conditional model that draws the digit asked for, but always the same, scores
low here and high in the label accuracy of ``mnist_score.py``, which is GAN-test. Read it beside the ceiling: the same
classifier, trained by as many updates on the real training images (``--ceiling``).

    lightning-gans sample runs/NAME/version_0/checkpoints/last.ckpt --num_samples 60000 --output s.npz
    python benchmarks/gan_train.py s.npz --ceiling --json runs/NAME/version_0/gan_train.json
    python benchmarks/gan_train.py runs/NAME/version_0/checkpoints/last.ckpt --seeds 0 1 2

The settings were chosen, and each run's epoch is chosen, on the 5,000 images that ``MNISTDataModule`` keeps out of
training; the test images are looked at once, by the classifier of that epoch. Prints JSON. Exit codes: 0 scored,
1 a file is not fit for it, 2 wrong options.
"""

import argparse
import copy
import json
import shlex
import statistics
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn
from train_mnist_extractor import distort

from lightning_gans import DataError, LightningGansError, MNISTDataModule, load
from lightning_gans.cli.summary import hardware
from lightning_gans.io.files import check_writable, replacing
from lightning_gans.io.pictures import to_bytes

VERSION = 1  # raise it when the classifier or its training changes: accuracies of two versions do not compare
_FEWEST_UPDATES = 3  # of which the learning rate rises for two
NUM_CLASSES = 10

Digits = tuple[Tensor, Tensor]  # images, uint8 (N, 1, 28, 28), and labels, int64 (N,)


@dataclass(frozen=True)
class Settings:
    """How the classifier is trained, chosen by its validation accuracy.

    Attributes:
        epochs: Each of as many updates as one pass over the samples has.
        batch_size: Images of an update.
        lr: Highest learning rate of the one-cycle schedule.
        weight_decay: Of AdamW.
        distort: Whether each image is moved, turned, sheared and scaled a little each time.
        average: Decay of the moving average of the weights, which is what is validated and tested.
    """

    epochs: int = 5
    batch_size: int = 100
    lr: float = 4e-3
    weight_decay: float = 0.02
    distort: bool = True
    average: float = 0.99


# ---------------------------------------------------------------------------------------------- data


def load_samples(path: Path, num_samples: int, sample_seed: int) -> Digits:
    """Read the first samples of an npz, or draw them from a checkpoint, all classes in turn."""
    images, labels = read_npz(path) if path.suffix == ".npz" else draw(path, num_samples, sample_seed)
    if len(images) < num_samples:
        raise DataError(f"{path} has {len(images)} samples, but --num_samples is {num_samples}.")
    images, labels = images[:num_samples], labels[:num_samples]
    counts = labels.bincount(minlength=NUM_CLASSES) if labels.min() >= 0 else torch.zeros(0)
    if len(counts) != NUM_CLASSES or counts.min() == 0:
        found = ", ".join(map(str, labels.unique().tolist()[:20]))
        raise DataError(f"{path} has the labels {found}, but samples of all ten digits, 0 to 9, are needed.")
    return images, labels


def read_npz(path: Path) -> Digits:
    """Read ``images``, uint8 NHWC, and ``labels`` of a file of ``lightning-gans sample``."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays.get("labels")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except KeyError:
        raise DataError(f"{path} holds no array named images.") from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no readable npz ({error}).") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (28, 28, 1):
        raise DataError(f"{path} has images {images.dtype} {images.shape}, but uint8 (N, 28, 28, 1) is needed.")
    if labels is None:
        raise DataError(f"{path} has no labels: GAN-train needs samples of a conditional model.")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise DataError(f"{path} has labels {labels.dtype} {labels.shape}, but integers ({len(images)},) are needed.")
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64))


def draw(path: Path, num_samples: int, seed: int) -> Digits:
    """Draw samples of a checkpoint's moving average, as ``lightning-gans sample --seed`` does."""
    model = load(path)
    if model.num_classes != NUM_CLASSES or tuple(model.image_shape) != (1, 28, 28):
        raise DataError(
            f"{path} is a model of {model.num_classes} classes and images {tuple(model.image_shape)}, "
            "but GAN-train needs a conditional model of the ten digits, (1, 28, 28)."
        )
    labels = torch.arange(num_samples) % NUM_CLASSES
    parts = [
        to_bytes(model.sample(len(part), part, seed=seed, start=1000 * index))
        for index, part in enumerate(labels.split(1000))
    ]
    return torch.cat(parts), labels


# ---------------------------------------------------------------------------------------- classifier


def make_classifier() -> nn.Sequential:
    """Return a small network, from images (N, 1, 28, 28) in [0, 1] to the logits of the ten digits."""

    def conv(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Conv2d:
        return nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)

    return nn.Sequential(
        *(conv(1, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()),  # 14 x 14
        *(conv(16, 32, 3), nn.MaxPool2d(2), nn.BatchNorm2d(32), nn.ReLU()),  # pooling first is the same for less work
        *(conv(32, 64, 3), nn.MaxPool2d(2), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64 * 3 * 3, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()),
        nn.Linear(128, NUM_CLASSES),
    )


def batches(num_images: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield rows of full batches without end; no image comes again before the others have."""
    while True:
        order = torch.randperm(num_images, generator=generator)
        yield from order[: num_images // batch_size * batch_size].split(batch_size)


def train(
    digits: Digits, validation: Digits, settings: Settings, seed: int, updates: int, what: str = "classifier"
) -> tuple[nn.Module, list[float]]:
    """Train a classifier on digits, in epochs of so many updates.

    Returns:
        The classifier of the epoch that is best on the validation digits, and the validation accuracy of each epoch.
    """
    images, labels = digits
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_classifier().to(memory_format=torch.channels_last)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    best, history = average, [0.0]
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=settings.weight_decay, fused=True)
    total = settings.epochs * updates
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total, pct_start=max(0.2, 2 / total))
    follow = get_ema_multi_avg_fn(settings.average)
    rows = batches(len(images), settings.batch_size, generator)
    for epoch in range(settings.epochs):
        started, total = time.monotonic(), torch.zeros(())
        for _ in range(updates):
            chosen = next(rows)
            inputs = images[chosen].float() / 255
            if settings.distort:
                inputs = distort(inputs, generator)
            loss = F.cross_entropy(network(inputs.contiguous(memory_format=torch.channels_last)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                follow(list(average.parameters()), list(network.parameters()), None)
                for target, source in zip(average.buffers(), network.buffers(), strict=True):
                    target.copy_(source)
            total += loss.detach()
        history.append(accuracy(average, *validation))
        if history[-1] > max(history[:-1]):
            best = copy.deepcopy(average)
        seconds = time.monotonic() - started
        log(f"{what}, epoch {epoch + 1}: loss {total / updates:.4f}, validation {history[-1]:.2%}, {seconds:.0f} s")
    return best, history[1:]


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of the images that the network names rightly."""
    named = torch.cat([network(part.float() / 255).argmax(dim=1) for part in images.split(1000)])
    return float((named == labels).double().mean())


# -------------------------------------------------------------------------------------------- report


def evaluate(
    digits: Digits, data: MNISTDataModule, settings: Settings, seeds: Sequence[int], updates: int, what: str
) -> dict[str, Any]:
    """Train a classifier by each seed; the mean of their test accuracies, and each one's."""
    rows = []
    for seed in seeds:
        network, history = train(digits, data.images("val"), settings, seed, updates, f"{what}, seed {seed}")
        best = max(range(len(history)), key=history.__getitem__)
        row = {"seed": seed, "accuracy": accuracy(network, *data.images("test")), "best_epoch": best + 1}
        rows.append(row | {"validation": history})
    values = [row["accuracy"] for row in rows]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"accuracy": statistics.fmean(values), "standard_deviation": deviation, "seeds": rows}


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def make_report(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    started = time.monotonic()
    if options.json is not None:
        check_writable(options.json)
    settings = Settings(epochs=options.epochs)
    samples = load_samples(options.file, options.num_samples, options.sample_seed)
    data = MNISTDataModule(data_dir=options.data_dir)
    num_val, num_test = len(data.images("val")[0]), len(data.images("test")[0])
    updates = len(samples[0]) // settings.batch_size
    result = evaluate(samples, data, settings, options.seeds, updates, "samples")
    ceiling = None
    if options.ceiling:
        real = data.images("train")
        ceiling = {"num_images": len(real[0])} | evaluate(real, data, settings, options.seeds, updates, "ceiling")
    protocol = {
        "metric": "gan_train",
        "version": VERSION,
        "data": type(data).__name__,
        "num_samples": len(samples[0]),
        "num_validation": num_val,
        "num_test": num_test,
        "split_seed": data.split_seed,
        **asdict(settings),
        "updates": settings.epochs * updates,
        "selection": "the epoch with the best validation accuracy; the test images once, after it",
    }
    return {
        "file": str(options.file),
        "sample_seed": None if options.file.suffix == ".npz" else options.sample_seed,
        **result,
        "ceiling": ceiling,
        "protocol": protocol,
        "hardware": hardware(torch.device("cpu")),
        "seconds": round(time.monotonic() - started, 1),
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/gan_train.py", *words]),
    }


def parse_options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, metavar="FILE", help="an npz of lightning-gans sample, or a checkpoint")
    parser.add_argument("--num_samples", type=int, default=60_000, help="how many of them (default: 60000)")
    parser.add_argument("--sample_seed", type=int, default=0, help="of a checkpoint's samples (default: 0)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED", help="one classifier each")
    parser.add_argument("--epochs", type=int, default=Settings.epochs, help=f"(default: {Settings.epochs})")
    parser.add_argument("--ceiling", action="store_true", help="train on the real images, too")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="where MNIST is, or is put")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    options = parser.parse_args(words)
    if options.epochs < 1:
        parser.error(f"--epochs is {options.epochs}: it must be 1 or more")
    least = Settings(epochs=options.epochs).batch_size * -(-_FEWEST_UPDATES // options.epochs)
    if options.num_samples < least:
        parser.error(f"--num_samples is {options.num_samples}: with {options.epochs} epochs it must be {least} or more")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parse_options(words)
    try:
        text = json.dumps(make_report(options, words), indent=2) + "\n"
        if options.json is not None:
            with replacing(options.json) as file:
                file.write(text.encode())
    except LightningGansError as error:
        log("error: " + " ".join(str(error).splitlines()))
        return 1
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
