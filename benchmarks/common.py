"""What several benchmarks share: reading samples, training a small classifier, and writing a report."""

import argparse
import copy
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.datasets import MNIST

import lightning_gans
from lightning_gans import DataError, LightningGansError
from lightning_gans.io.files import check_writable, replacing


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(make_report: Callable[[argparse.Namespace], dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Make a report, print it as JSON and write it to ``options.json``; exit with 1 if a file is invalid."""
    try:
        if options.json is not None:
            check_writable(options.json)
        report = make_report(options) | {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "versions": {module.__name__: module.__version__ for module in (lightning_gans, pl, torch)},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", *sys.argv]),
        }
        text = json.dumps(report, indent=2) + "\n"
        if options.json is not None:
            with replacing(options.json) as file:
                file.write(text.encode())
    except LightningGansError as error:
        log("error: " + " ".join(str(error).splitlines()))
        sys.exit(1)
    print(text, end="")
    return report


# -------------------------------------------------------------------------------------------- samples


def read_npz(path: Path, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the array of this name and, if there is one, ``labels``, of a file written by ``lightning-gans sample``."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name], arrays.get("labels")
    except Exception as error:  # NumPy, zipfile and zlib raise different errors on damaged files
        raise DataError(f"{path} is not an npz with an array {name!r} ({error}).", setting=str(path)) from None


def read_digits(path: Path) -> tuple[Tensor, Tensor | None]:
    """Read digits, uint8 ``(N, 1, 28, 28)``, and their labels, int64 ``(N,)``, if there are any."""
    images, labels = read_npz(path, "images")
    if images.dtype != np.uint8 or images.shape[1:] not in {(28, 28), (28, 28, 1), (1, 28, 28)} or len(images) == 0:
        raise DataError(f"{path}: images are {images.dtype} {images.shape}, not uint8 (N, 28, 28).", setting=str(path))
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        raise DataError(f"{path}: labels are {labels.dtype} {labels.shape}, not integers ({len(images)},).")
    found = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return torch.from_numpy(images.reshape(-1, 1, 28, 28)), found


def load_mnist(folder: Path | str, train: bool) -> tuple[Tensor, Tensor]:
    """Return MNIST's images, uint8 ``(N, 1, 28, 28)``, and labels; download them if the folder has none."""
    try:
        data = MNIST(folder, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"MNIST is not in {folder} and cannot be downloaded ({error}).") from None
    return data.data.unsqueeze(1), data.targets


# ----------------------------------------------------------------------------------------- classifier


def distort(images: Tensor, generator: torch.Generator, shear: float = 0.2, scale: float = 0.12) -> Tensor:
    """Rotate, shear, scale and shift each image ``(N, 1, 28, 28)`` at random; the outside is 0."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle, sheared = uniform(math.radians(12)), uniform(shear) if shear else 0
    scaled = 1 + uniform(scale)
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scaled * angle.cos(), scaled * (sheared - angle.sin())
    theta[:, 1, 0], theta[:, 1, 1] = scaled * angle.sin(), scaled * angle.cos()
    theta[:, 0, 2], theta[:, 1, 2] = uniform(2 / 14), uniform(2 / 14)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def small_classifier() -> nn.Sequential:
    """Return a network for ``(N, 1, 28, 28)``, with 128 features before the last layer."""

    def block(width: int, new_width: int) -> list[nn.Module]:  # pooling before the norm is the same for less work
        conv = nn.Conv2d(width, new_width, 3, padding=1, bias=False)
        return [conv, nn.MaxPool2d(2), nn.BatchNorm2d(new_width), nn.ReLU()]

    return nn.Sequential(
        *(*block(1, 16), *block(16, 32), *block(32, 64), nn.Flatten()),
        *(nn.Linear(64 * 3 * 3, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()),
        nn.Linear(128, 10),
    )


def train_classifier(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    prepare: Callable[[Tensor], Tensor],
    generator: torch.Generator,
    *,
    epochs: int,
    lr: float,
    weight_decay: float,
    batch_size: int = 100,
    warm_up: float = 0.2,
    average: float = 0.0,
    what: str = "classifier",
) -> Iterator[nn.Module]:
    """Train by AdamW with a one-cycle learning rate, and yield the moving average of the network after each epoch.

    The network returns logits, or a tuple whose last entry is the logits. ``prepare`` makes its input of uint8 images.
    The learning rate rises to ``lr`` for the share ``warm_up`` of all updates. ``average`` is the decay of the moving
    average, 0 for none.
    """
    updates = len(images) // batch_size
    network = network.to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    follow = get_ema_multi_avg_fn(average)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * updates, pct_start=warm_up)

    for epoch in range(epochs):
        started, total = time.monotonic(), torch.zeros(())
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: updates * batch_size].split(batch_size):
            logits = network(prepare(images[chosen]).contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits[-1] if isinstance(logits, tuple) else logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                follow(list(averaged.parameters()), list(network.parameters()), None)
                for target, source in zip(averaged.buffers(), network.buffers(), strict=True):
                    target.copy_(source)
            total += loss.detach()
        seconds = time.monotonic() - started
        log(f"{what}, epoch {epoch + 1}/{epochs}: loss {total / updates:.4f}, {seconds:.0f} s")
        yield averaged


@torch.no_grad()
def accuracy(logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose class a function from images to logits finds."""
    named = torch.cat([logits(part).argmax(dim=1) for part in images.split(1000)])
    return float((named == labels).double().mean())
