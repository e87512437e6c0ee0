"""Memorization: whether samples are closer to the training images than held-out real images are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gans.errors import SettingError
from lightning_gans.metrics.cache import Rows

_BLOCK = 1000  # training images compared at once


class Nearest(NamedTuple):
    """The nearest training image of each of several images.

    Attributes:
        places: Its index among the training images, int64 ``(N,)``.
        distances: Its Euclidean distance, float64 ``(N,)``.
    """

    places: Tensor
    distances: Tensor


def nearest(points: Rows, others: Rows) -> Nearest:
    """Find, for each of a few points, the nearest of many others.

    A matrix product finds the nearest point; its distance comes from the difference itself.

    Args:
        points: Features or images of any shape and type, ``(N, ...)``.
        others: Points of the same shape, ``(M, ...)`` with M >= 1, read in blocks.
    """
    if len(others) < 1:
        raise SettingError("there are no training images.", setting="num_train", value=0)
    given = points[:].flatten(1).double()
    best = torch.full((len(given),), torch.inf, dtype=torch.float64)
    places = torch.zeros(len(given), dtype=torch.long)
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK].flatten(1).double()
        distances = torch.addmm(block.square().sum(1), given, block.T, alpha=-2)  # up to a constant for each point
        found, columns = distances.min(1)
        nearer = found < best
        best = torch.where(nearer, found, best)
        places = torch.where(nearer, columns + start, places)
    return Nearest(places, (given - others[places].flatten(1).double()).norm(dim=1))


def memorization(fake: Tensor, held_out: Tensor) -> Tensor:
    """Return how often a sample is closer to the training images than a held-out real image.

    The result is the fraction of pairs of a sample and a held-out image in which the sample is closer to its nearest
    training image than the held-out image is to its own; ties count one half. This is the Mann-Whitney statistic with
    which Meehan et al. 2020 (https://arxiv.org/abs/2004.05675) test for data copying, here for all images at once. It
    is 0.5 for new real images, 1 for copies, and 0 for images far from all real ones.

    Args:
        fake: Distances of samples to their nearest training image, ``(N,)``.
        held_out: Distances of held-out images to their nearest training image, ``(M,)``.

    Example:
        >>> memorization(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
        tensor(0.8750, dtype=torch.float64)
    """
    ordered = held_out.double().sort().values.contiguous()
    fake = fake.double().contiguous()
    below, upto = (torch.searchsorted(ordered, fake, right=right) for right in (False, True))
    return 1 - (below + upto).double().mean() / (2 * len(ordered))
