"""Train the digit classifier that comes with the package, and write its weights and their hash.

    python benchmarks/train_mnist_extractor.py --data_dir data --output mnist.safetensors

Ten epochs of AdamW on the 60,000 training digits, each picture moved, turned, sheared and scaled a little each
time; the weights kept are a moving average over the last part. The test digits are only counted at the end.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.datasets import MNIST

from lightning_gans.io.files import replacing
from lightning_gans.metrics.extractors.mnist import DigitNetwork


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each picture ``(N, 1, 28, 28)`` by an affine map of its own, black outside."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle, shear, scale = uniform(math.radians(12)), uniform(0.2), 1 + uniform(0.12)
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos(), scale * (shear - angle.sin())
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    theta[:, 0, 2], theta[:, 1, 2] = uniform(2 / 14), uniform(2 / 14)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def load_digits(data_dir: str, train: bool) -> tuple[Tensor, Tensor]:
    """Read a split: float ``(N, 1, 28, 28)`` in [0, 1] and int64 ``(N,)``."""
    split = MNIST(data_dir, train=train, download=True)
    return split.data.unsqueeze(1).float().div_(255), split.targets


def fit(images: Tensor, labels: Tensor, epochs: int, batch_size: int, seed: int) -> DigitNetwork:
    """Train a classifier and return the moving average of its weights."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = DigitNetwork().to(memory_format=torch.channels_last)
    average = copy.deepcopy(network)
    steps = epochs * (len(images) // batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.2)
    follow = get_ema_multi_avg_fn(0.995)  # type: ignore[no-untyped-call]
    for epoch in range(epochs):
        started, total = time.monotonic(), 0.0
        order = torch.randperm(len(images), generator=generator)
        for rows in torch.split(order[: steps // epochs * batch_size], batch_size):
            _, logits = network(distort(images[rows], generator))
            loss = F.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                follow(list(average.parameters()), list(network.parameters()), None)
                for target, source in zip(average.buffers(), network.buffers(), strict=True):
                    target.copy_(source)
            total += loss.item()
        seconds = time.monotonic() - started
        print(f"epoch {epoch + 1}/{epochs}: loss {total * epochs / steps:.4f}, {seconds:.0f} s", flush=True)
    return average.eval()


@torch.no_grad()
def standardize(network: DigitNetwork, images: Tensor) -> None:
    """Give the features of these images a variance of 1 on average; the logits stay as they are."""
    features = torch.cat([network(part)[0] for part in torch.split(images, 1000)]).double()
    scale = features.var(0).mean().sqrt().float()
    network.features.weight.div_(scale)
    network.features.bias.div_(scale)
    network.classifier.weight.mul_(scale)  # the ReLU between them passes a factor through


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of the pictures that the network names rightly."""
    with torch.no_grad():
        named = torch.cat([network(part)[1].argmax(1) for part in torch.split(images, 1000)])
    return float((named == labels).double().mean())


def main() -> None:
    """Train, count and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data", help="the folder that holds MNIST/raw")
    parser.add_argument("--output", type=Path, default=Path("mnist.safetensors"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    images, labels = load_digits(args.data_dir, train=True)
    network = fit(images, labels, args.epochs, args.batch_size, args.seed)
    standardize(network, images)
    share = accuracy(network, *load_digits(args.data_dir, train=False))
    content = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    with replacing(args.output) as file:
        file.write(content)
    digest = hashlib.sha256(content).hexdigest()
    print(f"{share:.2%} of the test digits; {args.output}: {len(content):,} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
