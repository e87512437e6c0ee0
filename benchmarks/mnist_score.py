"""Score generated MNIST digits: Fréchet distance, precision, recall and label accuracy.

The features are those of a small MNIST classifier (the scorer), which is trained once and cached (4 minutes
on 2 cores). Its scale is its own, so a distance is read as a ratio to that of a plain reference GAN, which is
trained here too (1 minute a seed) and cached beside it. On a busy machine, OMP_NUM_THREADS=1 is faster.

    lightning-gans sample runs/NAME/version_0/checkpoints/last.ckpt --num_samples 10000 --output s.npz
    python benchmarks/mnist_score.py s.npz --json score.json
    python benchmarks/mnist_score.py s.npz --scorer other.pt --scorer_seed 1 --reference_seeds 0 1 2 --floor

An npz holds ``images``, uint8 ``(N, 28, 28)``, ``(N, 28, 28, 1)`` or ``(N, 1, 28, 28)``, and, if the model is
conditional, ``labels`` ``(N,)``. Exit codes: 0 scored, 1 a file or the scorer is not fit for it, 2 wrong
options.
"""

import argparse
import copy
import hashlib
import json
import math
import os
import pickle
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

MINIMUM_ACCURACY = 0.994  # of the scorer, on the 10,000 test digits
NEIGHBOURS = 5  # k of precision and recall
NUM_SAMPLES = 10_000  # of each reference GAN
RECIPE = 1  # raise it when the scorer or the reference GAN changes: caches of another recipe are not used


class ScoreError(Exception):
    """What is wrong with a file or the scorer, in one sentence."""


# --------------------------------------------------------------------------------------------- files


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write under a temporary name and rename, so that no reader meets half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    except OSError as error:
        raise ScoreError(f"{path}: cannot be written ({error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def load_npz(path: Path) -> tuple[Tensor, Tensor | None]:
    """Read ``images`` as uint8 (N, 28, 28) and, where there are any, ``labels`` as int64 (N,)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["images"]
            labels = arrays.get("labels")
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
    if len(images) <= NEIGHBOURS:
        raise ScoreError(f"{path}: {len(images)} images are too few, at least {NEIGHBOURS + 1} are needed")
    if labels is None:
        return torch.from_numpy(images.reshape(-1, 28, 28)), None
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ScoreError(f"{path}: labels are {labels.dtype} {labels.shape}, but integers ({len(images)},) are needed")
    return torch.from_numpy(images.reshape(-1, 28, 28)), torch.from_numpy(labels.astype(np.int64))


def load_mnist(folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Return images, uint8 (N, 28, 28), and labels; downloads where the folder has none."""
    try:
        data = torchvision.datasets.MNIST(folder, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise ScoreError(f"MNIST is not in {folder} and cannot be downloaded ({error})") from None
    return data.data, data.targets


def to_input(images: Tensor) -> Tensor:
    """Scale uint8 (N, 28, 28) to float32 (N, 1, 28, 28) in [-1, 1]."""
    return images.unsqueeze(1).float().div(127.5).sub(1)


# -------------------------------------------------------------------------------------------- scorer


def conv_block(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Halve the picture; pooling before the norm gives the same network for a quarter of its work."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return [conv, nn.MaxPool2d(2), nn.BatchNorm2d(out_channels), nn.ReLU()]


class Scorer(nn.Module):
    """MNIST classifier with 128 penultimate features (about 100,000 parameters)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *conv_block(1, 16),
            *conv_block(16, 32),
            *conv_block(32, 64),
            nn.Flatten(),
            nn.Linear(64 * 3 * 3, 128, bias=False),
            nn.BatchNorm1d(128),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits, (N, 10), for images in [-1, 1]."""
        return self.classifier(self.features(images))


def augment(images: Tensor) -> Tensor:
    """Rotate each picture by up to 12 degrees, scale it by up to 10 % and shift it by up to 2 pixels."""
    uniform = torch.rand(4, len(images)).mul(2).sub(1)
    angle, scale = uniform[0] * math.radians(12), 1 + uniform[1] * 0.1
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    shift_x, shift_y = uniform[2:] * (2 / 14)  # half the picture is 1
    theta = torch.stack([cosine, -sine, shift_x, sine, cosine, shift_y], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # outside is black, which is -1


def train_scorer(images: Tensor, labels: Tensor, seed: int, epochs: int = 18, batch_size: int = 100) -> Scorer:
    """Train on uint8 digits with AdamW and a one-cycle learning rate."""
    steps_per_epoch = len(images) // batch_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = Scorer().to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(scorer.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=epochs * steps_per_epoch)
        for epoch in range(epochs):
            start, total = time.perf_counter(), torch.zeros(())
            for index in torch.randperm(len(images))[: steps_per_epoch * batch_size].view(-1, batch_size):
                batch = augment(to_input(images[index])).contiguous(memory_format=torch.channels_last)
                loss = F.cross_entropy(scorer(batch), labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach()
            seconds = time.perf_counter() - start
            log(f"scorer: epoch {epoch + 1}/{epochs}, loss {total / steps_per_epoch:.4f}, {seconds:.0f} s")
    return scorer.eval()


@torch.no_grad()
def extract(scorer: Scorer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return float64 features, (N, 128), and predicted classes, (N,), of uint8 digits."""
    features, classes = [], []
    for block in images.split(1000):
        block_features = scorer.features(to_input(block))
        features.append(block_features.double())
        classes.append(scorer.classifier(block_features).argmax(dim=1))
    return torch.cat(features), torch.cat(classes)


def weights_hash(scorer: Scorer) -> str:
    """Return the sha256 of all weights and buffers, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(scorer.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_accuracy(accuracy: float, what: str) -> None:
    if accuracy < MINIMUM_ACCURACY:
        raise ScoreError(
            f"{what} recognises {accuracy:.2%} of the test digits, below the {MINIMUM_ACCURACY:.1%} "
            "that a score asks for: make another with --scorer_seed"
        )


def save_scorer(scorer: Scorer, path: Path, seed: int, accuracy: float) -> None:
    record = {"recipe": RECIPE, "seed": seed, "accuracy": accuracy, "sha256": weights_hash(scorer)}
    state = {name: value.contiguous() for name, value in scorer.state_dict().items()}
    write_whole(path, lambda file: torch.save({**record, "state_dict": state}, file))


def load_scorer(path: Path, seed: int | None) -> tuple[Scorer, int]:
    """Read a scorer and its seed; a seed other than the one asked for is an error."""
    scorer = Scorer()
    try:
        record = torch.load(path, weights_only=True)
        recipe, stored_seed, sha256 = record["recipe"], record["seed"], record["sha256"]
        if recipe == RECIPE:
            scorer.load_state_dict(record["state_dict"])
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError):
        raise ScoreError(f"{path}: not a scorer of this script; remove it, or name another --scorer") from None
    if recipe != RECIPE or sha256 != weights_hash(scorer):
        raise ScoreError(f"{path}: written by another version, or damaged; remove it, or name another --scorer")
    if seed is not None and seed != stored_seed:
        raise ScoreError(f"{path}: has seed {stored_seed}, not --scorer_seed {seed}; name another --scorer")
    return scorer.eval(), stored_seed


def prepare_scorer(path: Path, seed: int | None, data_dir: Path) -> tuple[Scorer, int, bool]:
    """Load the scorer, or train it on the 60,000 train digits; returns it, its seed and whether it is new."""
    if path.exists():
        return *load_scorer(path, seed), False
    seed = seed or 0
    return train_scorer(*load_mnist(data_dir, train=True), seed), seed, True


# ------------------------------------------------------------------------------------- reference GAN


class EMA:
    """Moving average of a generator's weights; BatchNorm's buffers are copied.

    A decay of 0.99 makes the reference better than the generator itself; 0.999 is too slow for 5 epochs and
    makes it worse.
    """

    def __init__(self, generator: nn.Module, decay: float = 0.99) -> None:
        self.generator = copy.deepcopy(generator).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, generator: nn.Module) -> None:
        """Take one step towards the generator's weights."""
        averages, values = list(self.generator.parameters()), list(generator.parameters())
        torch._foreach_lerp_(averages, values, 1 - self.decay)
        for average, value in zip(self.generator.buffers(), generator.buffers(), strict=True):
            average.copy_(value)


def reference_generator() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU()),
        *(nn.Linear(256, 512), nn.BatchNorm1d(512), nn.ReLU()),
        *(nn.Linear(512, 784), nn.Tanh()),
    )


def reference_discriminator() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(784, 512), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
        *(nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
        nn.Linear(256, 1),
    )


def train_reference(
    images: Tensor, seed: int, epochs: int = 5, batch_size: int = 64, num_samples: int = NUM_SAMPLES
) -> Tensor:
    """Train a fully connected GAN, non-saturating loss; returns samples of its EMA, uint8 (N, 28, 28)."""
    num_batches = len(images) // batch_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator, discriminator = reference_generator(), reference_discriminator()
        ema = EMA(generator)
        g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for epoch in range(epochs):
            start = time.perf_counter()
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
                ema.update(generator)
            seconds = time.perf_counter() - start
            log(f"reference {seed}: epoch {epoch + 1}/{epochs}, {seconds:.0f} s")
        with torch.no_grad():
            samples = ema.generator(torch.randn(num_samples, 64))
    return samples.add(1).mul(127.5).round().to(torch.uint8).view(-1, 28, 28)


def prepare_reference(folder: Path, seed: int, data_dir: Path) -> Tensor:
    """Load the samples of the reference GAN of this seed, or train it."""
    path = folder / f"reference-v{RECIPE}-seed{seed}.npz"
    if not path.exists():
        samples = train_reference(load_mnist(data_dir, train=True)[0], seed)
        write_whole(path, lambda file: np.savez_compressed(file, images=samples.numpy()))
    return load_npz(path)[0]


# ------------------------------------------------------------------------------------------- metrics


def frechet_from_moments(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Fréchet distance of two Gaussians, squared as in FID, in float64.

    The trace of (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of the symmetric matrix
    S1^(1/2) S2 S1^(1/2).
    """
    values, vectors = torch.linalg.eigh(covariance1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    eigenvalues = torch.linalg.eigvalsh(root @ covariance2 @ root)
    cross = eigenvalues.clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * cross
    return max(0.0, distance.item())  # rounding may leave -1e-12 for equal sets


def frechet_distance(features1: Tensor, features2: Tensor) -> float:
    """Fréchet distance between two sets of features, (N, C) and (M, C)."""
    features1, features2 = features1.double(), features2.double()
    return frechet_from_moments(features1.mean(dim=0), features1.T.cov(), features2.mean(dim=0), features2.T.cov())


def neighbour_radii(features: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other point, (N,)."""
    nearest = [torch.cdist(block, features).topk(k + 1, largest=False).values for block in features.split(1000)]
    return torch.cat(nearest)[:, k]  # the nearest, of index 0, is the point itself


def share_inside(points: Tensor, features: Tensor, radii: Tensor) -> float:
    """Share of the points that lie in the ball of at least one feature."""
    blocks = [(torch.cdist(block, features) <= radii).any(dim=1) for block in points.split(1000)]
    return torch.cat(blocks).double().mean().item()


def precision_recall(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991)."""
    precision = share_inside(fake, real, neighbour_radii(real, k))
    recall = share_inside(real, fake, neighbour_radii(fake, k))
    return precision, recall


def score(scorer: Scorer, real_features: Tensor, images: Tensor, labels: Tensor | None) -> dict[str, Any]:
    features, classes = extract(scorer, images)
    precision, recall = precision_recall(real_features, features)
    return {
        "num_samples": len(images),
        "distance": frechet_distance(real_features, features),
        "precision": precision,
        "recall": recall,
        "label_accuracy": None if labels is None else (classes == labels).double().mean().item(),
    }


def score_floor(scorer: Scorer, real_features: Tensor, images: Tensor) -> dict[str, Any]:
    """Score train digits: half against half, and as many as a reference has against the test digits."""
    features, _ = extract(scorer, images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    first, second = order.chunk(2)
    halves = {"num_samples": len(second), "distance": frechet_distance(features[first], features[second])}
    return {"halves": halves, "train": score(scorer, real_features, images[order[:NUM_SAMPLES]], None)}


# -------------------------------------------------------------------------------------------- report


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def format_table(report: dict[str, Any]) -> str:
    """Lay the report out for reading: the reference, its mean, the floor, then the files."""
    scorer, reference = report["scorer"], report["reference"]
    rows = [(f"reference, seed {row['seed']}", row) for row in reference["seeds"]]
    if rows:
        rows.append(("reference, mean", {"distance": reference["mean"], "ratio": 1.0}))
    if report["floor"] is not None:
        rows.append(("floor, train half against half", report["floor"]["halves"]))
        rows.append(("floor, train against test", report["floor"]["train"]))
    rows += [(row["file"], row) for row in report["files"]]

    columns = {"num_samples": "d", "distance": ".3f", "ratio": ".3f"}
    columns |= {"precision": ".3f", "recall": ".3f", "label_accuracy": ".4f"}
    width = max([len(name) for name, _ in rows], default=0)
    lines = [
        f"scorer: {scorer['accuracy']:.2%} of the test digits, seed {scorer['seed']}, "
        f"sha256 {scorer['sha256'][:16]}, {scorer['file']}"
    ]
    if rows:
        lines.append(" ".join([" " * width, *(f"{title:>14}" for title in columns)]))
    for name, row in rows:
        cells = [format(row[key], form) if row.get(key) is not None else "-" for key, form in columns.items()]
        lines.append(" ".join([name.ljust(width), *(f"{cell:>14}" for cell in cells)]))
    if any(row["num_samples"] != NUM_SAMPLES for row in report["files"]):
        lines.append(f"note: distances depend on the number of samples; the reference has {NUM_SAMPLES}")
    return "\n".join(lines)


def make_report(options: argparse.Namespace) -> dict[str, Any]:
    """Score every file; what is wrong with one of them shows before anything is trained."""
    samples = [(path, *load_npz(path)) for path in options.files]
    test_images, test_labels = load_mnist(options.data_dir, train=False)

    scorer, seed, is_new = prepare_scorer(options.scorer, options.scorer_seed, options.data_dir)
    real_features, classes = extract(scorer, test_images)
    accuracy = (classes == test_labels).double().mean().item()
    check_accuracy(accuracy, f"the scorer of seed {seed}")
    if is_new:
        save_scorer(scorer, options.scorer, seed, accuracy)

    references = []
    for reference_seed in options.reference_seeds:
        images = prepare_reference(options.scorer.parent, reference_seed, options.data_dir)
        references.append({"seed": reference_seed, **score(scorer, real_features, images, None)})
    distances = [row["distance"] for row in references]
    mean = sum(distances) / len(distances) if distances else None

    files: list[dict[str, Any]] = []
    for path, images, labels in samples:
        files.append({"file": str(path), **score(scorer, real_features, images, labels)})
    floor = None
    if options.floor:
        floor = score_floor(scorer, real_features, load_mnist(options.data_dir, train=True)[0])
    for row in [*references, *files, *(floor or {}).values()]:
        row["ratio"] = row["distance"] / mean if mean else None
    return {
        "scorer": {
            "file": str(options.scorer),
            "seed": seed,
            "accuracy": accuracy,
            "sha256": weights_hash(scorer),
        },
        "reference": {"seeds": references, "mean": mean},
        "floor": floor,
        "files": files,
        "neighbours": NEIGHBOURS,
        "recipe": RECIPE,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score generated MNIST digits.")
    parser.add_argument("files", nargs="*", type=Path, metavar="NPZ", help="files of lightning-gans sample")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="where MNIST is, or is put")
    parser.add_argument("--scorer", type=Path, help="its file (default: in ~/.cache/lightning_gans)")
    parser.add_argument("--scorer_seed", type=int, help="0 for a new scorer, else the one in the file")
    parser.add_argument("--reference_seeds", type=int, nargs="*", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--floor", action="store_true", help="also score real digits, for the scale")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    options = parser.parse_args(arguments)
    if options.scorer is None:
        name = f"mnist-scorer-v{RECIPE}-seed{options.scorer_seed or 0}.pt"
        options.scorer = Path.home() / ".cache" / "lightning_gans" / name
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(arguments)
    try:
        report = make_report(options)
        if options.json is not None:
            text = json.dumps(report, indent=2) + "\n"
            write_whole(options.json, lambda file: file.write(text.encode()))
    except ScoreError as error:
        log(f"error: {error}")
        return 1
    print(format_table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
