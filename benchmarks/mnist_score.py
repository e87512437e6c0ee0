"""Score generated MNIST digits: Fréchet distance, precision, recall and label accuracy.

The features are those of a small MNIST classifier (the scorer), which is trained once and cached (4 minutes on 2
cores). It has its own scale, so a distance is read as a ratio to that of a plain reference GAN, which is trained too (1
minute per seed) and cached beside it. On a busy machine, OMP_NUM_THREADS=1 is faster.

    lightning-gans sample runs/NAME/version_0/checkpoints/last.ckpt --num_samples 10000 --output s.npz
    python benchmarks/mnist_score.py s.npz --json score.json
    python benchmarks/mnist_score.py s.npz --scorer other.pt --scorer_seed 1 --reference_seeds 0 1 2 --floor

Prints JSON. Exit codes: 0 scored, 1 invalid file or scorer, 2 invalid options.
"""

import argparse
import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import distort, load_mnist, log, read_digits, run, small_classifier, train_classifier
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gans import DataError
from lightning_gans.io.files import read_tensors, replacing
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics import FrechetDistance, PrecisionRecall

MINIMUM_ACCURACY = 0.994  # of the scorer, on the 10,000 test digits
NEIGHBORS = 5  # k of precision and recall
NUM_SAMPLES = 10_000  # of each reference GAN
RECIPE = 1  # increase it when the scorer or the reference GAN changes: caches of other recipes are not used


def to_input(images: Tensor) -> Tensor:
    return images.float().div(127.5).sub(1)


class Scorer(nn.Module):
    """MNIST classifier with 128 penultimate features (about 100,000 parameters) for images in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        layers = small_classifier()
        self.features, self.classifier = layers[:-1], layers[-1]

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def train_scorer(images: Tensor, labels: Tensor, seed: int, **options: Any) -> nn.Module:
    """Train on digits that are rotated, scaled and shifted at random."""

    def prepare(batch: Tensor) -> Tensor:
        return distort(to_input(batch) + 1, torch.default_generator, shear=0, scale=0.1) - 1  # black is -1

    settings = {"epochs": 18, "lr": 8e-3, "weight_decay": 0.05, "warm_up": 0.3, "what": "scorer"} | options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        *_, scorer = train_classifier(Scorer(), images, labels, prepare, torch.default_generator, **settings)
    return scorer


@torch.no_grad()
def extract(scorer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return features, float32 (N, 128), and predicted classes, (N,), of uint8 digits."""
    features = torch.cat([scorer.features(to_input(block)) for block in images.split(1000)])
    return features, scorer.classifier(features).argmax(dim=1)


def weights_hash(scorer: nn.Module) -> str:
    """Return the sha256 of all weights and buffers, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(scorer.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_scorer(path: Path, seed: int | None) -> tuple[Scorer, int]:
    """Read a scorer and its seed; a seed other than the one asked for is an error."""
    scorer, record = Scorer(), read_tensors(path)
    if not isinstance(record, dict) or record.get("recipe") != RECIPE:
        raise DataError(f"{path} is not a scorer of this version: remove it.")
    if seed not in (None, record["seed"]):
        raise DataError(f"{path} has seed {record['seed']}: use another --scorer.")
    scorer.load_state_dict(record["state_dict"])
    return scorer.eval(), record["seed"]


def scorer_file(seed: int | None) -> Path:
    """Return where the scorer of a seed is kept."""
    return Path.home() / ".cache" / "lightning_gans" / f"mnist-scorer-v{RECIPE}-seed{seed or 0}.pt"


def prepare_scorer(options: argparse.Namespace, test: tuple[Tensor, Tensor]) -> tuple[nn.Module, int, float]:
    """Load the scorer, or train it on the 60,000 training digits; return it, its seed and its accuracy."""
    if is_new := not options.scorer.exists():
        seed = options.scorer_seed or 0
        scorer = train_scorer(*load_mnist(options.data_dir, train=True), seed)
    else:
        scorer, seed = load_scorer(options.scorer, options.scorer_seed)
    accuracy = float((extract(scorer, test[0])[1] == test[1]).double().mean())
    if accuracy < MINIMUM_ACCURACY:
        raise DataError(
            f"The scorer's accuracy is {accuracy:.2%}, below {MINIMUM_ACCURACY:.1%}: use another --scorer_seed."
        )
    if is_new:
        state = {name: value.contiguous() for name, value in scorer.state_dict().items()}
        with replacing(options.scorer) as file:
            torch.save({"recipe": RECIPE, "seed": seed, "state_dict": state}, file)
    return scorer, seed, accuracy


def train_reference(images: Tensor, seed: int, epochs: int = 5, num_samples: int = NUM_SAMPLES) -> Tensor:
    """Train a fully connected GAN with the non-saturating loss; return samples of its moving average, uint8."""
    batch_size = 64
    num_batches = len(images) // batch_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = nn.Sequential(
            *(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU()),
            *(nn.Linear(256, 512), nn.BatchNorm1d(512), nn.ReLU()),
            *(nn.Linear(512, 784), nn.Tanh()),
        )
        discriminator = nn.Sequential(
            *(nn.Linear(784, 512), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
            *(nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
            nn.Linear(256, 1),
        )
        average = copy.deepcopy(generator).eval().requires_grad_(False)
        g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for epoch in range(epochs):
            for index in torch.randperm(len(images))[: num_batches * batch_size].view(-1, batch_size):
                real = to_input(images[index]).flatten(1)
                fake = generator(torch.randn(batch_size, 64))

                real_logits, fake_logits = discriminator(torch.cat([real, fake.detach()])).chunk(2)
                d_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
                d_optimizer.zero_grad()
                d_loss.backward()
                d_optimizer.step()

                discriminator.requires_grad_(False)
                g_loss = F.softplus(-discriminator(fake)).mean()
                g_optimizer.zero_grad()
                g_loss.backward()
                g_optimizer.step()
                discriminator.requires_grad_(True)
                with torch.no_grad():  # 0.999 is too slow for 5 epochs
                    torch._foreach_lerp_(list(average.parameters()), list(generator.parameters()), 1 - 0.99)
                    for target, source in zip(average.buffers(), generator.buffers(), strict=True):
                        target.copy_(source)
            log(f"reference {seed}: epoch {epoch + 1}/{epochs}")
        with torch.no_grad():
            samples = average(torch.randn(num_samples, 64))
    return to_bytes(samples.view(-1, 1, 28, 28))


def prepare_reference(folder: Path, seed: int, data_dir: Path) -> Tensor:
    """Load the samples of the reference GAN of this seed, or train it."""
    path = folder / f"reference-v{RECIPE}-seed{seed}.npz"
    if not path.exists():
        samples = train_reference(load_mnist(data_dir, train=True)[0], seed)
        with replacing(path) as file:
            np.savez_compressed(file, images=samples.numpy())
    return read_digits(path)[0]


def score(scorer: nn.Module, real: Tensor, images: Tensor, labels: Tensor | None) -> dict[str, Any]:
    """Score uint8 digits against the features of real ones."""
    features, classes = extract(scorer, images)
    frechet, neighbors = FrechetDistance(real.shape[1]), PrecisionRecall(real.shape[1], k=NEIGHBORS)
    for metric in (frechet, neighbors):
        metric.update(real, real=True)
        metric.update(features, real=False)
    precision, recall = neighbors.compute()
    return {
        "num_samples": len(images),
        "distance": float(frechet.compute()),
        "precision": float(precision),
        "recall": float(recall),
        "label_accuracy": None if labels is None else float((classes == labels).double().mean()),
    }


def make_report(options: argparse.Namespace) -> dict[str, Any]:
    samples = [(path, *read_digits(path)) for path in options.files]  # before anything is trained
    test = load_mnist(options.data_dir, train=False)
    scorer, seed, accuracy = prepare_scorer(options, test)
    real = extract(scorer, test[0])[0]
    references = []
    for number in options.reference_seeds:
        images = prepare_reference(options.scorer.parent, number, options.data_dir)
        references.append({"seed": number, **score(scorer, real, images, None)})
    mean = sum(row["distance"] for row in references) / len(references) if references else None
    files = [{"file": str(path), **score(scorer, real, images, labels)} for path, images, labels in samples]
    if options.floor:  # as many training digits as a reference has samples
        digits = load_mnist(options.data_dir, train=True)[0]
        chosen = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))[:NUM_SAMPLES]
        floor = score(scorer, real, digits[chosen], None)
    for row in [*references, *files]:
        row["ratio"] = row["distance"] / mean if mean else None
    return {
        "scorer": {"file": str(options.scorer), "seed": seed, "accuracy": accuracy, "sha256": weights_hash(scorer)},
        "reference": {"seeds": references, "mean": mean},
        "floor": floor if options.floor else None,
        "files": files,
        "neighbors": NEIGHBORS,
        "recipe": RECIPE,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="NPZ", help="files of lightning-gans sample")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="the folder of MNIST")
    parser.add_argument("--scorer", type=Path, help="its file (default: in ~/.cache/lightning_gans)")
    parser.add_argument("--scorer_seed", type=int, help="(default: that of the file, 0 for a new scorer)")
    parser.add_argument("--reference_seeds", type=int, nargs="*", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--floor", action="store_true", help="also score real digits, for the scale")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    options = parser.parse_args(arguments)
    options.scorer = options.scorer or scorer_file(options.scorer_seed)
    run(make_report, options)


if __name__ == "__main__":
    main()
