"""How a label enters a network: beside its input (Mirza & Osindero 2014, arXiv:1411.1784), or in its BatchNorm."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import SettingError, check_counts


def check_labels(labels: Tensor | None, num_classes: int) -> None:
    """Raise :class:`SettingError` for labels missing in a conditional network, or given to an unconditional one."""
    if (labels is None) != (num_classes == 0):
        given = "none were given" if labels is None else "labels were given"
        raise SettingError(f"the network has num_classes={num_classes}, but {given}")


def look_up(table: nn.Embedding, labels: Tensor) -> Tensor:
    """Return each label's row of a table, ``(N, F)``; weights of the classes, ``(N, num_classes)``, give their mean."""
    rows: Tensor = labels.to(table.weight.dtype) @ table.weight if labels.is_floating_point() else table(labels)
    return rows


def with_labels(inputs: Tensor, labels: Tensor | None, num_classes: int) -> Tensor:
    """Append the one-hot labels to vectors as features, or to images as constant planes.

    Args:
        inputs: Shape ``(N, F)`` or ``(N, C, H, W)``.
        labels: int64, shape ``(N,)``, in [0, num_classes), or weights of the classes, ``(N, num_classes)``; None if and
            only if ``num_classes`` is 0.
        num_classes: 0 leaves the inputs as they are.

    Returns:
        Shape ``(N, F + num_classes)`` or ``(N, C + num_classes, H, W)``.

    Raises:
        SettingError: Labels are missing in a conditional network, or given to an unconditional one.
    """
    check_labels(labels, num_classes)
    if labels is None:
        return inputs
    one_hot = (labels if labels.is_floating_point() else F.one_hot(labels, num_classes)).to(inputs.dtype)
    planes = one_hot.reshape(one_hot.shape + (1,) * (inputs.dim() - 2)).expand(-1, -1, *inputs.shape[2:])
    return torch.cat([inputs, planes], dim=1)


class ConditionalBatchNorm(nn.Module):
    """BatchNorm whose scale and shift belong to the label (de Vries et al. 2017, arXiv:1707.00683).

    The statistics are those of the whole batch, whatever its labels are. All labels start with scale 1 and
    shift 0. :class:`ConditionalBatchNorm1d` is for vectors, :class:`ConditionalBatchNorm2d` for images.

    Args:
        num_features: Channels.
        num_classes: Number of labels.

    Raises:
        SettingError: One of them is below 1.
    """

    kind: type[nn.BatchNorm1d | nn.BatchNorm2d]

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        check_counts(num_features=num_features, num_classes=num_classes)
        self.norm = self.kind(num_features, affine=False)
        self.scale = nn.Embedding(num_classes, num_features)
        self.shift = nn.Embedding(num_classes, num_features)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Map ``(N, C)`` or ``(N, C, H, W)`` with labels as in :func:`with_labels` to the same shape."""
        ones = (None,) * (inputs.dim() - 2)
        scale, shift = (look_up(table, labels)[(..., *ones)] for table in (self.scale, self.shift))
        return torch.addcmul(shift, self.norm(inputs), scale)


class ConditionalBatchNorm1d(ConditionalBatchNorm):
    """:class:`ConditionalBatchNorm` of vectors, ``(N, C)``."""

    kind = nn.BatchNorm1d


class ConditionalBatchNorm2d(ConditionalBatchNorm):
    """:class:`ConditionalBatchNorm` of images, ``(N, C, H, W)``."""

    kind = nn.BatchNorm2d


def make_batch_norm(num_features: int, num_classes: int = 0, *, dims: Literal[1, 2] = 2) -> nn.Module:
    """Make a BatchNorm of vectors (``dims`` 1) or of images (2), conditional where there are classes."""
    if num_classes > 0:
        return (ConditionalBatchNorm1d if dims == 1 else ConditionalBatchNorm2d)(num_features, num_classes)
    return (nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d)(num_features)


def call_layers(layers: nn.Sequential, inputs: Tensor, labels: Tensor | None) -> Tensor:
    """Call layers one after the other, and with the labels those that take them."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            inputs = call_layers(layer, inputs, labels)
        elif isinstance(layer, ConditionalBatchNorm):
            inputs = layer(inputs, labels)
        else:
            inputs = layer(inputs)
    return inputs
