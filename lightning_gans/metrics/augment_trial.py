"""Test whether samples help a classifier that is trained on few real images."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from lightning_gans import randomness
from lightning_gans.errors import DataError, SettingError, check_counts, invalid
from lightning_gans.io.pictures import from_bytes
from lightning_gans.metrics.cache import fingerprint
from lightning_gans.metrics.evaluate import sample_bytes
from lightning_gans.metrics.image_sets import ImageSet
from lightning_gans.metrics.protocol import aligned, made
from lightning_gans.metrics.samples import BLOCK, image_shape, num_labels
from lightning_gans.randomness import Stream

ARMS = {
    "real": "real",
    "augmented": "real, augmented",
    "real_and_samples": "real + samples",
    "samples": "samples alone",
}
"""The training sets that are compared, by their names in files and in tables."""

CONFIDENCE = 0.95
_VERSION = 1  # increase it when the classifier or its training changes: accuracies of two versions are not comparable
_LR, _WEIGHT_DECAY = 3e-3, 0.02

Labeled = tuple[Tensor, Tensor]  # images, uint8 (N, C, H, W), and labels, int64 (N,)


def augment_trial(
    module: Any,
    train: ImageSet,
    test: ImageSet,
    *,
    num_real: int | None = None,
    num_samples: int = 10_000,
    seeds: Sequence[int] = (0, 1, 2),
    updates: int = 1000,
    batch_size: int = 64,
    flip: bool = False,
    ema: bool = True,
    device: str | torch.device = "cpu",
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Train a small classifier on real images, with classical augmentation, with samples, and on samples alone.

    All classifiers get the same number of updates. Each seed draws its own samples, initial weights and order of the
    images. The classifiers of a seed start from the same weights, so the differences between them are paired.

    Args:
        module: A conditional model: its ``sample`` takes ``labels``; see
            :func:`~lightning_gans.metrics.samples.draw`.
        train: Real training images with labels.
        test: Real test images with labels, for the accuracies.
        num_real: Number of training images to use, in the proportions of the classes; the same images for every seed,
            those that the data modules' ``limit`` chooses. None is all.
        num_samples: Number of samples, all classes in turn.
        seeds: Seeds of the classifiers and of the samples, two or more.
        updates: Number of updates of each classifier.
        batch_size: Images per update.
        flip: Whether classical augmentation mirrors images; it always shifts them by up to an eighth of their size.
        ema: Whether samples come from the moving average of the weights.
        device: Device for training.
        progress: Called with 1 after each update.

    Returns:
        A record with ``scores``, the mean accuracy of each of :data:`ARMS`; ``arms``, the ``accuracy`` of each, its
        difference ``against_real``, and the ``recall`` of each class, each with its ``mean``, its 95 % t interval over
        the seeds from ``low`` to ``high``, and its ``values``; the ``conclusion``; and the ``protocol``.

    Raises:
        DataError: Images or labels do not match the model's.
        SettingError: A setting is invalid, or the model is unconditional.
    """
    check_counts(num_samples=num_samples, updates=updates, batch_size=batch_size)
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise invalid("seeds", seeds, "two or more different whole numbers, as the intervals need them")
    classes = num_labels(module)
    if classes == 0:
        name = type(module).__name__
        message = f"this {name} is unconditional or has labels of its own: a classifier needs samples with labels."
        raise SettingError(message, setting="checkpoint", value=name)
    for images in (train, test):
        _check(images, image_shape(module), classes)
    if num_real is not None:
        check_counts(num_real=num_real)
        if num_real > len(train):
            raise invalid("num_real", num_real, f"at most {len(train)}, the number of training images")
        assert train.labels is not None  # checked above
        train = train.chosen(randomness.stratified(train.labels, num_real, 0, Stream.SPLIT, len(train), 1))
    height, width = image_shape(module)[1:]
    shift = v2.RandomCrop((height, width), padding=[width // 8, height // 8], padding_mode="edge")
    augment = v2.Compose([shift, v2.RandomHorizontalFlip()]) if flip else shift
    real, held_out = _labeled(train, device), _labeled(test, device)
    hits: dict[str, list[Tensor]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        samples = _samples(module, num_samples, classes, seed, ema, device)
        both = torch.cat([real[0], samples[0]]), torch.cat([real[1], samples[1]])
        for arm, data in zip(ARMS, (real, real, both, samples), strict=True):
            with randomness.default_generator_seeded(torch.device("cpu"), seed):
                transform = augment if arm == "augmented" else None
                network = _train(data, classes, updates, batch_size, transform, progress)
            hits[arm].append(_predicted(network, held_out[0]) == held_out[1])
    of_class = {name: held_out[1] == label for label, name in enumerate(test.class_names or range(classes))}
    arms: dict[str, dict[str, Any]] = {}
    for arm, found in hits.items():
        gains = [_share(hit) - _share(of_real) for hit, of_real in zip(found, hits["real"], strict=True)]
        arms[arm] = {
            "accuracy": _estimate([_share(hit) for hit in found]),
            "against_real": _estimate(gains),
            "recall": {str(name): _estimate([_share(hit[rows]) for hit in found]) for name, rows in of_class.items()},
        }
    return {
        "stage": "augment_trial",
        "scores": {arm: found["accuracy"]["mean"] for arm, found in arms.items()},
        "arms": arms,
        "conclusion": _conclusion(arms["real_and_samples"]["against_real"]),
        "protocol": {
            "metric": "augment_trial",
            "version": _VERSION,
            "train": train.name,
            "test": test.name,
            "data_sha256": fingerprint(*real, *held_out),
            "num_real": len(train),
            "num_test": len(test),
            "num_samples": num_samples,
            "updates": updates,
            "batch_size": batch_size,
            "lr": _LR,
            "weight_decay": _WEIGHT_DECAY,
            "flip": flip,
            "ema": ema,
            "seeds": list(seeds),
            "interval": f"{CONFIDENCE:.0%} t interval over {len(seeds)} seeds",
        },
        **made(),
    }


def table(record: dict[str, Any]) -> str:
    """Format a record as text: accuracies, recall of each class, the protocol and the conclusion."""
    arms, protocol = record["arms"], record["protocol"]
    rows = [["percent", *ARMS.values()]]
    for name in ("accuracy", "against_real"):
        rows.append([name.replace("_", " "), *(_percent(arms[arm][name]) for arm in ARMS)])
    for name in arms["real"]["recall"]:
        rows.append([f"recall of {name}", *(_percent(arms[arm]["recall"][name]) for arm in ARMS)])
    return "\n".join(
        [
            *aligned(rows),
            f"mean ± half of the {protocol['interval']}: same real images, different samples, weights and order",
            f"{protocol['num_real']:,} real images ({protocol['train']}), {protocol['num_samples']:,} samples; "
            f"{protocol['updates']:,} updates of {protocol['batch_size']} images each",
            f"tested on {protocol['num_test']:,} real images ({protocol['test']})",
            record["conclusion"],
        ]
    )


def _check(images: ImageSet, shape: tuple[int, ...], classes: int) -> None:
    """Raise :class:`DataError` unless the images have the shape and all classes of a model's samples."""
    name = images.name
    if images.labels is None:
        raise DataError(f"{name} has no labels, but a classifier needs them.", setting=name)
    if images.labels.is_floating_point():
        raise DataError(f"{name} has vectors as labels, but a classifier needs classes.", setting=name)
    if tuple(images.images.shape[1:]) != shape:
        found = tuple(images.images.shape[1:])
        raise DataError(f"{name} has images {found}, but the samples are {shape}.", setting=name, allowed=shape)
    found = torch.unique(images.labels).tolist()
    if found != list(range(classes)):
        message = f"{name} has the labels {found[:20]}, but the model has the classes 0 to {classes - 1}."
        raise DataError(message, setting=name, value=found, allowed=range(classes))


def _labeled(images: ImageSet, device: str | torch.device) -> Labeled:
    assert images.labels is not None  # checked above
    return images.images[:].to(device), images.labels.to(device)


def _samples(module: Any, num: int, classes: int, seed: int, ema: bool, device: str | torch.device) -> Labeled:
    blocks = [sample_bytes(module, start, min(start + BLOCK, num), seed, ema) for start in range(0, num, BLOCK)]
    return torch.cat(blocks).to(device), torch.arange(num, device=device) % classes


def _train(
    data: Labeled,
    classes: int,
    updates: int,
    batch_size: int,
    transform: Callable[[Tensor], Tensor] | None,
    progress: Callable[[int], Any] | None,
) -> nn.Module:
    """Train a classifier, with random numbers from torch's default generator."""
    images, labels = data
    network = _classifier(images.shape[1], classes).to(images.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    epochs = math.ceil(updates * batch_size / len(images))
    order = torch.cat([torch.randperm(len(images)) for _ in range(epochs)]).to(images.device)
    for places in order[: updates * batch_size].view(updates, batch_size):
        batch = images[places]
        if transform is not None:
            batch = torch.stack([transform(image) for image in batch])  # independently for each image
        loss = F.cross_entropy(network(from_bytes(batch)), labels[places])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(1)
    return network.eval()


def _classifier(channels: int, classes: int) -> nn.Module:
    widths = (channels, 32, 64, 128)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        conv = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


@torch.no_grad()
def _predicted(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(from_bytes(block)).argmax(dim=1) for block in torch.split(images, 1000)])


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


def _estimate(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean of values and its t interval."""
    mean, n = statistics.fmean(values), len(values)
    half = float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": list(values)}


def _percent(estimate: dict[str, Any]) -> str:
    return f"{100 * estimate['mean']:.2f} ± {50 * (estimate['high'] - estimate['low']):.2f}"


def _conclusion(gain: dict[str, Any]) -> str:
    """Say whether samples helped, from the paired differences to real images alone."""
    verdict = "helped" if gain["low"] > 0 else "hurt" if gain["high"] < 0 else "made no measurable difference"
    mean, low, high = (f"{100 * gain[name]:+.2f}" for name in ("mean", "low", "high"))
    about = f"{CONFIDENCE:.0%} t interval {low} to {high}, n = {len(gain['values'])} paired seeds"
    return f"Samples {verdict}: {mean} points of accuracy against real images alone ({about})."
