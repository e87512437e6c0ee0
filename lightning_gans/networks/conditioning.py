"""How a label enters a network: one-hot, beside its input (Mirza & Osindero 2014, arXiv:1411.1784)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gans.errors import SettingError


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
    if (labels is None) != (num_classes == 0):
        given = "none were given" if labels is None else "labels were given"
        raise SettingError(f"the network has num_classes={num_classes}, but {given}")
    if labels is None:
        return inputs
    one_hot = F.one_hot(labels, num_classes).to(inputs.dtype)
    planes = one_hot.reshape(one_hot.shape + (1,) * (inputs.dim() - 2)).expand(-1, -1, *inputs.shape[2:])
    return torch.cat([inputs, planes], dim=1)
