"""Score checkpoints on a folder of pictures: Fréchet distance under a classifier that is trained on its classes.

For data that no published classifier fits, and for machines without one. The classifier (the scorer) is trained once
on the training pictures and kept in a file. Distances are in its units alone, so they stand beside that of the same
model with untrained weights, and beside a floor, the training pictures in the samples' place; they compare with
nothing else, FID included.

    python benchmarks/folder_score.py --data_dir pictures --image_size 32 runs/NAME/version_0/checkpoints/*.ckpt

Samples are scored against the test pictures (the validation ones, where there is no folder ``test``). Prints JSON.
Exit codes: 0 scored, 1 a file is not fit for it, 2 wrong options.
"""

import argparse
import json
import pickle
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gans import DataError, GenerativeModule, ImageFolderDataModule, LightningGansError, load
from lightning_gans.cli.summary import hardware
from lightning_gans.io.files import check_writable, replacing
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics.cache import fingerprint
from lightning_gans.metrics.extractors.base import hash_module
from lightning_gans.metrics.frechet import frechet_distance
from lightning_gans.training.checkpoint_format import build

VERSION = 1  # raise it when the scorer or its training changes: distances of two versions do not compare

Pictures = tuple[Tensor, Tensor]  # images, uint8 (N, C, H, W), and labels, int64 (N,)


# -------------------------------------------------------------------------------------------- scorer


class Scorer(nn.Module):
    """Classifier of square pictures, with 128 features behind the last pooling."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()

        def block(width: int, new_width: int) -> list[nn.Module]:
            conv = nn.Conv2d(width, new_width, 3, padding=1, bias=False)
            return [conv, nn.MaxPool2d(2), nn.BatchNorm2d(new_width), nn.ReLU()]

        self.features = nn.Sequential(
            *block(channels, 32),
            *block(32, 64),
            *block(64, 128),
            *(nn.Conv2d(128, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits of uint8 images."""
        logits: Tensor = self.classifier(self.features(images.float() / 127.5 - 1))
        return logits


def train_scorer(pictures: Pictures, num_classes: int, seed: int, epochs: int, device: torch.device) -> Scorer:
    """Train by AdamW with a one-cycle learning rate, on pictures mirrored at random."""
    images, labels = pictures
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = Scorer(images.shape[1], num_classes).to(device, memory_format=torch.channels_last)
    batch_size = min(128, len(images))
    steps = len(images) // batch_size
    optimizer = torch.optim.AdamW(scorer.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        started, total = time.monotonic(), torch.zeros((), device=device)
        for rows in torch.randperm(len(images), generator=generator)[: steps * batch_size].split(batch_size):
            mirrored = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
            batch = torch.where(mirrored, images[rows].flip(3), images[rows]).to(device)
            loss = F.cross_entropy(scorer(batch.contiguous(memory_format=torch.channels_last)), labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        log(f"scorer: epoch {epoch + 1}/{epochs}, loss {total / steps:.3f}, {time.monotonic() - started:.0f} s")
    return scorer.eval()


def prepare_scorer(options: argparse.Namespace, pictures: Pictures, num_classes: int, device: torch.device) -> Scorer:
    """Load the scorer, or train and keep it.

    Raises:
        DataError: The file is none of this script's, or was made for other pictures or settings.
    """
    about = {
        "version": VERSION,
        "seed": options.scorer_seed,
        "epochs": options.scorer_epochs,
        "image_shape": list(pictures[0].shape[1:]),
        "num_classes": num_classes,
        "num_images": len(pictures[0]),
        "data_sha256": fingerprint(*pictures),
    }
    if options.scorer.exists():
        scorer = Scorer(pictures[0].shape[1], num_classes)
        try:
            record = torch.load(options.scorer, weights_only=True)
            found = record["about"]
            if found == about:
                scorer.load_state_dict(record["weights"])
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError):
            raise DataError(f"{options.scorer} is no scorer of this script: name another --scorer.") from None
        if found != about:
            raise DataError(f"{options.scorer} was made for {found}, not for {about}: name another --scorer.")
        return scorer.to(device, memory_format=torch.channels_last).eval()
    check_writable(options.scorer)
    scorer = train_scorer(pictures, num_classes, options.scorer_seed, options.scorer_epochs, device)
    weights = {name: value.cpu().contiguous() for name, value in scorer.state_dict().items()}
    with replacing(options.scorer) as file:
        torch.save({"about": about, "weights": weights}, file)
    return scorer


@torch.no_grad()
def extract(scorer: Scorer, images: Tensor, device: torch.device) -> Tensor:
    """Return the features of uint8 images, float64 (N, 128)."""
    parts = images.split(500)
    return torch.cat([scorer.features(part.to(device).float() / 127.5 - 1).double().cpu() for part in parts])


@torch.no_grad()
def accuracy(scorer: Scorer, pictures: Pictures, device: torch.device) -> float:
    """Return the share of the pictures that the scorer names rightly."""
    named = torch.cat([scorer(part.to(device)).argmax(1).cpu() for part in pictures[0].split(500)])
    return float((named == pictures[1]).double().mean())


# -------------------------------------------------------------------------------------------- samples


def draw(model: GenerativeModule, num_samples: int, seed: int) -> Tensor:
    """Draw samples of the moving average, uint8, all classes in turn where there are any."""
    parts = []
    for start in range(0, num_samples, 500):
        count = min(500, num_samples - start)
        labels = torch.arange(start, start + count) % model.num_classes if model.num_classes else None
        parts.append(to_bytes(model.sample(count, labels, seed=seed, start=start)).cpu())
    return torch.cat(parts)


def untrained(model: GenerativeModule, seed: int) -> GenerativeModule:
    """Make a model with the same arguments, its weights drawn anew."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(type(model), model.arguments).to(model.device).eval()


def distance(features: Tensor, real: Tensor) -> float:
    """Return the Fréchet distance of two sets of features."""
    return float(frechet_distance(features.mean(0), features.T.cov(), real.mean(0), real.T.cov()))


# -------------------------------------------------------------------------------------------- report


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def make_report(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    device = torch.device(options.device)
    models = [load(path).to(device) for path in options.files]
    data = ImageFolderDataModule(options.data_dir, options.image_size, options.channels, cache_dir=options.cache_dir)
    if data.num_classes < 2:
        raise DataError(f"{options.data_dir} has no folders of classes: the scorer learns to tell them apart.")
    for path, model in zip(options.files, models, strict=True):
        if tuple(model.image_shape) != data.image_shape:
            raise DataError(f"{path} makes images {tuple(model.image_shape)}, but the pictures are {data.image_shape}.")
    train, test = data.images("train"), data.images("test")
    scorer = prepare_scorer(options, train, data.num_classes, device)
    real = extract(scorer, test[0], device)
    number = options.num_samples
    chosen = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(0))[:number]
    rows = []
    for path, model in zip(options.files, models, strict=True):
        value = distance(extract(scorer, draw(model, number, options.seed), device), real)
        start = distance(extract(scorer, draw(untrained(model, options.seed), number, options.seed), device), real)
        row = {"file": str(path), "step": model.weights_step, "distance": value, "untrained": start}
        rows.append(row | {"ratio": value / start})
    return {
        "files": rows,
        "floor": distance(extract(scorer, train[0][chosen], device), real),
        "scorer": {
            "version": VERSION,
            "seed": options.scorer_seed,
            "epochs": options.scorer_epochs,
            "accuracy": accuracy(scorer, test, device),
            "sha256": hash_module(scorer.cpu()),
        },
        "num_samples": number,
        "num_real": len(real),
        "seed": options.seed,
        "hardware": hardware(device),
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/folder_score.py", *words]),
    }


def parse_options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--data_dir", type=Path, required=True, help="a folder as ImageFolderDataModule takes it")
    parser.add_argument("--image_size", type=int, default=32, help="(default: 32)")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="(default: 3)")
    parser.add_argument("--cache_dir", type=Path, help="for the decoded pictures (default: --data_dir)")
    parser.add_argument("--scorer", type=Path, default=Path("folder_scorer.pt"), metavar="FILE", help="made if missing")
    parser.add_argument("--scorer_seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--scorer_epochs", type=int, default=8, help="(default: 8)")
    parser.add_argument("--num_samples", type=int, default=10_000, help="of each checkpoint (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    options = parser.parse_args(words)
    for name, least in (("image_size", 8), ("scorer_epochs", 1), ("num_samples", 2)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}: it must be {least} or more")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device is {options.device!r}: {str(error).splitlines()[0]}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parse_options(words)
    try:
        if options.json is not None:
            check_writable(options.json)
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
