"""How a label enters a network: beside its input (Mirza & Osindero 2014, arXiv:1411.1784), or in its BatchNorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import SettingError, check_positive


def check_labels(labels: Tensor | None, num_classes: int) -> None:
    """Raise :class:`SettingError` for labels missing in a conditional network, or given to an unconditional one."""
    if (labels is None) != (num_classes == 0):
        given = "none were given" if labels is None else "labels were given"
        raise SettingError(f"the network has num_classes={num_classes}, but {given}")


def with_labels(inputs: Tensor, labels: Tensor | None, num_classes: int) -> Tensor:
    """Append the one-hot labels to vectors as features, or to images as constant planes.

    Args:
        inputs: Shape ``(N, F)`` or ``(N, C, H, W)``.
        labels: int64, shape ``(N,)``, in [0, num_classes); None if and only if ``num_classes`` is 0.
        num_classes: 0 leaves the inputs as they are.

    Returns:
        Shape ``(N, F + num_classes)`` or ``(N, C + num_classes, H, W)``.

    Raises:
        SettingError: Labels are missing in a conditional network, or given to an unconditional one.
    """
    check_labels(labels, num_classes)
    if labels is None:
        return inputs
    one_hot = F.one_hot(labels, num_classes).to(inputs.dtype)
    planes = one_hot.reshape(one_hot.shape + (1,) * (inputs.dim() - 2)).expand(-1, -1, *inputs.shape[2:])
    return torch.cat([inputs, planes], dim=1)


class ConditionalBatchNorm2d(nn.Module):
    """BatchNorm whose scale and shift belong to the label (de Vries et al. 2017, arXiv:1707.00683).

    The statistics are those of the whole batch, whatever its labels are. All labels start with scale 1 and
    shift 0.

    Args:
        num_features: Channels of the images.
        num_classes: Number of labels.

    Raises:
        SettingError: One of them is below 1.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        check_positive(num_features=num_features, num_classes=num_classes)
        self.norm = nn.BatchNorm2d(num_features, affine=False)
        self.scale = nn.Embedding(num_classes, num_features)
        self.shift = nn.Embedding(num_classes, num_features)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` with labels int64 ``(N,)`` to the same shape."""
        scale, shift = self.scale(labels)[:, :, None, None], self.shift(labels)[:, :, None, None]
        return torch.addcmul(shift, self.norm(images), scale)
