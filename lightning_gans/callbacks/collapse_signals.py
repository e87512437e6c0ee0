"""The signals of the watchdog, from a few samples and real images."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gans.io.pictures import to_bytes
from lightning_gans.training.sampling import evaluating

MEANINGS = {
    "d_accuracy": (
        "the discriminator distinguishes nearly every real image from every sample, and the generator learns little",
        "a lower discriminator_lr, penalties (r1, r2), augment, or dropout in the discriminator",
    ),
    "spread": (
        "the samples differ far less from each other than real images",
        "lower learning rates, penalties (r1, r2), or loss relativistic",
    ),
    "duplicates": (
        "many samples have a near duplicate: the generator makes few pictures",
        "penalties (r1, r2), loss relativistic, a lower generator_lr, or a longer latent_dim",
    ),
    "classes": (
        "the samples belong to few classes, or most to one",
        "penalties (r1, r2), loss relativistic, or a conditional model",
    ),
    "code_usage": (
        "few of the codes are used",
        "a higher revive_below, a lower decay, a lower encoder_lr, or fewer codes",
    ),
    "code_perplexity": (
        "nearly all codes are the same",
        "a higher revive_below, a lower decay, a lower encoder_lr, or a lower commitment",
    ),
    "fid": (
        "val/fid is far worse than its best",
        "best.ckpt instead of the last one, lower learning rates, lr_schedule, or penalties (r1, r2)",
    ),
}
"""The meaning of each signal, and what to try."""


class Nearness(NamedTuple):
    """The mean distance between two images, and the distance of each image from its nearest neighbor, ``(N,)``."""

    spread: float
    nearest: Tensor


def nearness(images: Tensor) -> Nearness:
    """Return the distances between images ``(N, ...)`` in [-1, 1] as bytes; equal images have a distance of 0.

    Example:
        >>> nearness(torch.tensor([-1.0, -1.0, 1.0]).view(3, 1, 1, 1))
        Nearness(spread=170.0, nearest=tensor([  0.,   0., 255.], dtype=torch.float64))
    """
    # In float64, sums of products of bytes are exact, and so is the zero distance of equal images.
    dtype = torch.float32 if images.device.type == "mps" else torch.float64
    products = torch.zeros(len(images), len(images), dtype=dtype, device=images.device)
    for part in torch.split(to_bytes(images).flatten(1), 2**16, dim=1):
        products.addmm_(part.to(dtype), part.to(dtype).T)
    norms = products.diagonal()
    distances = (norms + norms[:, None] - 2 * products).clamp_(min=0).sqrt_()
    spread = float(distances.sum()) / (len(images) * (len(images) - 1))
    return Nearness(spread, distances.fill_diagonal_(torch.inf).amin(1))


def effective_classes(logits: Tensor) -> float:
    """Return the effective number of classes: the exponential of the entropy of the most likely classes.

    Example:
        >>> [effective_classes(torch.eye(4)[classes]) for classes in ([0, 1, 2, 3], [0, 0, 1, 1], [2, 2])]
        [4.0, 2.0, 1.0]
    """
    shares = logits.argmax(1).bincount().double() / len(logits)
    return float(torch.special.entr(shares).sum().exp())


@torch.no_grad()
def d_accuracy(model: Any, real: tuple[Tensor, Tensor | None], fake: tuple[Tensor, Tensor | None]) -> float:
    """Return the fraction of pairs in which the discriminator prefers the real image; chance is 0.5.

    An image is judged by the mean of its logits, without those of an auxiliary classifier.

    Args:
        model: Has a ``discriminator``, whose state and random numbers stay unchanged.
        real: Real images, and their labels in a conditional model.
        fake: Samples, and their labels.
    """
    means = []
    with evaluating(model):
        for images, labels in (real, fake):
            given = (images.to(model.dtype),) if labels is None else (images.to(model.dtype), labels)
            logits = model.discriminator(*given)
            logits = logits[0] if isinstance(logits, tuple) else logits
            means.append(logits.reshape(len(logits), -1).float().mean(1))
    preferred, other = means[0][:, None], means[1]
    return float(((preferred > other).double() + (preferred == other).double() / 2).mean())
