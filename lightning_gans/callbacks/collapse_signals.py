"""What the watchdog measures: cheap signals of a collapse, of a few samples and real images."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gans.io.pictures import to_bytes
from lightning_gans.training.regularizers import call

MEANINGS = {
    "d_accuracy": (
        "the discriminator tells nearly every real image from every sample, and the generator learns little from it",
        "a lower discriminator_lr, penalties (r1, r2), augment, or dropout in the discriminator",
    ),
    "spread": (
        "the samples differ far less from each other than real images do",
        "lower learning rates, penalties (r1, r2), or loss relativistic",
    ),
    "duplicates": (
        "many samples have a twin among the others: the generator makes few pictures",
        "penalties (r1, r2), loss relativistic, a lower generator_lr, or a longer latent_dim",
    ),
    "classes": (
        "the samples are of few classes, or most are of one",
        "penalties (r1, r2), loss relativistic, or a conditional model",
    ),
    "fid": (
        "val/fid has left its best far behind",
        "best.ckpt in the place of the last one, lower learning rates, lr_schedule, or penalties (r1, r2)",
    ),
}
"""What each signal means, and what to try."""


class Nearness(NamedTuple):
    """How near to each other images are.

    Attributes:
        spread: Mean distance of two of them.
        nearest: Each one's distance from its nearest other, ``(N,)``.
    """

    spread: float
    nearest: Tensor


def nearness(images: Tensor) -> Nearness:
    """Return how near to each other images ``(N, ...)`` in [-1, 1] are, as bytes: equal ones are at a distance of 0.

    Example:
        >>> nearness(torch.tensor([-1.0, -1.0, 1.0]).view(3, 1, 1, 1))
        Nearness(spread=170.0, nearest=tensor([  0.,   0., 255.], dtype=torch.float64))
    """
    # In float64 the products of bytes are exact, and so is the zero between two that are equal.
    flat = to_bytes(images).flatten(1).to(torch.float32 if images.device.type == "mps" else torch.float64)
    norms = flat.square().sum(1)
    distances = torch.addmm(norms, flat, flat.T, alpha=-2).add_(norms[:, None]).clamp_(min=0).sqrt_()
    spread = float(distances.sum()) / (len(flat) * (len(flat) - 1))
    return Nearness(spread, distances.fill_diagonal_(torch.inf).amin(1))


def num_classes(logits: Tensor) -> float:
    """Return how many classes images are of: the exponential of the entropy of the shares of the likeliest ones.

    Example:
        >>> num_classes(torch.eye(4)), num_classes(torch.eye(4)[[0, 0, 1, 1]]), num_classes(torch.eye(4)[[2, 2]])
        (4.0, 2.0, 1.0)
    """
    shares = logits.argmax(1).bincount().double() / len(logits)
    return float(torch.special.entr(shares).sum().exp())


@torch.no_grad()
def d_accuracy(model: Any, real: tuple[Tensor, Tensor | None], fake: tuple[Tensor, Tensor | None]) -> float:
    """Return in which share of the pairs the discriminator prefers the real image; chance is 0.5.

    Args:
        model: An adversarial model; nothing in it moves, and no random number is drawn.
        real: Real images and, in a conditional model, their labels.
        fake: Samples and theirs.
    """
    with model.evaluating():  # dropout draws no number, and no statistics move
        preferred, other = (_logits(model, *shown) for shown in (real, fake))
    wins = (preferred[:, None] > other).double() + (preferred[:, None] == other).double() / 2
    return float(wins.mean())


def _logits(model: Any, images: Tensor, labels: Tensor | None) -> Tensor:
    """Return the discriminator's logits ``(N,)``, of an auxiliary classifier none."""
    logits = call(model.discriminator, images.to(model.dtype), labels)
    logits = logits[0] if isinstance(logits, tuple) else logits
    flat: Tensor = logits.flatten().float()
    return flat
