"""Random numbers that belong to the images of a batch, and the crops that they choose."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gans import randomness
from lightning_gans.randomness import Stream


class Draws:
    """Random numbers for the images of a batch.

    The numbers of an image are a function of the seed, the epoch and its row in the data set, not of the batch.

    Args:
        rows: The rows, int64 ``(n,)``.
        seed: Seed of the numbers.
        *place: The pass over the data: (1, epoch) for training, (0, 0) or (0, 1) for evaluation.
    """

    def __init__(self, rows: Tensor, seed: int, *place: int) -> None:
        self.rows, self.seed, self.place = rows, seed, place

    def uniform(self, size: int, stream: int = Stream.TASK, *key: int) -> Tensor:
        """Draw numbers in [0, 1), float32 ``(n, size)``; other streams and keys are independent."""
        return randomness.rand_at(self.rows, size, self.seed, stream, *self.place, *key)

    def normal(self, size: int, stream: int = Stream.TASK, *key: int) -> Tensor:
        """Draw standard normal numbers, float32 ``(n, size)``."""
        uniforms = self.uniform(size, stream, *key).double() + 2**-25  # multiples of 2^-24 can be 0
        numbers: Tensor = torch.special.ndtri(uniforms)
        return numbers.float()


def jittered(images: Tensor, uniforms: Tensor, extra: int) -> Tensor:
    """Enlarge images by some pixels and crop them to their size (Isola et al. 2017, section 6.2).

    Args:
        images: ``(n, C, H, W)`` in [-1, 1].
        uniforms: Numbers in [0, 1), ``(n, 2)``: where to crop.
        extra: Number of pixels by which height and width grow before the crop.
    """
    height, width = images.shape[2:]
    large = F.interpolate(images, (height + extra, width + extra), mode="bicubic").clamp(-1, 1)
    corners = (uniforms * (extra + 1)).long().clamp(max=extra).tolist()
    crops = [image[:, top:, left:][:, :height, :width] for image, (top, left) in zip(large, corners, strict=True)]
    return torch.stack(crops)
