"""Whether samples are nearer to the training images than other real images are: copies, not inventions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gans.errors import SettingError
from lightning_gans.metrics.cache import Rows

_BLOCK = 1000  # training images that are compared at once


class Nearest(NamedTuple):
    """The training image that is nearest to each of several images.

    Attributes:
        places: Its place among the training images, int64 ``(N,)``.
        distances: How far it is, Euclidean, float64 ``(N,)``.
    """

    places: Tensor
    distances: Tensor


def nearest(points: Rows, others: Rows) -> Nearest:
    """Find the nearest of many points to each of a few.

    Which one is nearest comes from a matrix product, how far it is from the difference itself.

    Args:
        points: Features or images of any shape and type, ``(N, ...)``.
        others: The same, ``(M, ...)``, M being 1 or more; they are read in blocks.
    """
    if len(others) < 1:
        raise SettingError("there are no training images to be near to.")
    given = points[:].flatten(1).double()
    best = torch.full((len(given),), torch.inf, dtype=torch.float64)
    places = torch.zeros(len(given), dtype=torch.long)
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK].flatten(1).double()
        distances = torch.addmm(block.square().sum(1), given, block.T, alpha=-2)  # but for what all have in common
        found, columns = distances.min(1)
        nearer = found < best
        best = torch.where(nearer, found, best)
        places = torch.where(nearer, columns + start, places)
    return Nearest(places, (given - others[places].flatten(1).double()).norm(dim=1))


def memorization(fake: Tensor, held_out: Tensor) -> Tensor:
    """Return how often a sample lies nearer to the training images than a real image that was not trained on.

    The share of pairs of a sample and such an image in which the sample's distance to its nearest training image is the
    smaller one, equal ones counting one half: the Mann-Whitney statistic by which Meehan et al. 2020
    (https://arxiv.org/abs/2004.05675) test for copies, here for all images at once and as a share. 0.5 is what new
    real images give, 1 what copies do, and 0 what lies away from all real images.

    Args:
        fake: Distances of samples to their nearest training image, ``(N,)``.
        held_out: Those of real images that were not trained on, ``(M,)``.

    Example:
        >>> memorization(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
        tensor(0.8750, dtype=torch.float64)
    """
    ordered = held_out.double().sort().values.contiguous()
    fake = fake.double().contiguous()
    below, upto = (torch.searchsorted(ordered, fake, right=right) for right in (False, True))
    return 1 - (below + upto).double().mean() / (2 * len(ordered))
