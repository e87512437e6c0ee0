"""MNIST with digits that are rotated by a known angle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gans import randomness
from lightning_gans.datamodules.base import Split
from lightning_gans.datamodules.mnist import MNISTDataModule
from lightning_gans.errors import are_counts, check_positive, check_whole, invalid
from lightning_gans.randomness import Stream

_AT_ONCE = 4096


class RotatedMNISTDataModule(MNISTDataModule):
    """Digits of MNIST, each rotated by a random angle, which is its label: one attribute, ``angle``, in degrees.

    The angle of an image is uniform and a function of ``angle_seed``, the split and the image's place among those of
    ``digits``.
    Positive angles rotate counterclockwise, as in :func:`torchvision.transforms.functional.rotate` with bilinear
    interpolation.

    Args:
        digits: The digits to keep; None is all.
        max_angle: The largest angle; angles are from ``-max_angle`` to ``max_angle``.
        angle_seed: Seed of the angles.
        **options: As in :class:`MNISTDataModule`, without ``binarization``.
    """

    class_names = ("angle",)

    def __init__(
        self, digits: Sequence[int] | None = None, max_angle: float = 45.0, angle_seed: int = 0, **options: Any
    ) -> None:
        super().__init__(**options)
        if digits is not None and not (are_counts(digits, 0) and digits and max(digits) < 10):
            raise invalid("digits", digits, "a list of digits, as in [3, 7]")
        check_positive(max_angle=max_angle)
        check_whole(angle_seed=angle_seed)
        self.digits = digits
        self.max_angle = max_angle
        self.angle_seed = angle_seed

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read and rotate the training or the test images; the labels are angles, float32 ``(N, 1)``."""
        loaded = super().load_images(split)
        if loaded is None:
            return None
        images, digits = loaded
        if self.digits is not None:
            images = images[torch.isin(digits, torch.tensor(self.digits))]
        shares = randomness.rand_at(torch.arange(len(images)), 1, self.angle_seed, Stream.LABELS, int(split == "test"))
        angles = (2 * shares - 1) * self.max_angle
        pieces = zip(torch.split(images, _AT_ONCE), torch.split(angles[:, 0], _AT_ONCE), strict=True)
        return torch.cat([rotated(*piece) for piece in pieces]), angles


def rotated(images: Tensor, angles: Tensor) -> Tensor:
    """Rotate square images counterclockwise around their centers, bilinearly; what comes in from outside is 0.

    Args:
        images: uint8 ``(N, C, S, S)``.
        angles: Angles in degrees, ``(N,)``.
    """
    turn = angles * math.pi / 180
    cos, sin, zero = turn.cos(), turn.sin(), torch.zeros_like(turn)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    places = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), places, align_corners=False).round_().byte()
