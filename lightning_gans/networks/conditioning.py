"""Conditioning on labels: appended to the input (Mirza & Osindero 2014, arXiv:1411.1784), or in BatchNorm.

A label is a class number, or a vector of floats. A class number acts as the vector with 1 at its place and 0 elsewhere,
so that a network takes either, and an embedding is linear in vectors (Miyato & Koyama 2018, arXiv:1802.05637, section
3).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import SettingError, check_counts


def check_labels(labels: Tensor | None, num_classes: int) -> None:
    """Raise :class:`SettingError` if labels are missing for a conditional network or given to an unconditional one."""
    if (labels is None) != (num_classes == 0):
        given = "no labels were given" if labels is None else "labels were given"
        raise SettingError(f"The network has num_classes={num_classes}, but {given}.", setting="labels")


def look_up(table: nn.Embedding, labels: Tensor) -> Tensor:
    """Return the row of each class number ``(N,)``, or the sum of rows weighted by vectors ``(N, num_classes)``."""
    if not labels.is_floating_point():
        rows: Tensor = table(labels)
        return rows
    weight = table.weight  # once, as spectral normalization computes it on each access
    return labels.to(weight.dtype) @ weight


def with_labels(inputs: Tensor, labels: Tensor | None, num_classes: int) -> Tensor:
    """Append one-hot labels to vectors as features, or to images as constant planes.

    Args:
        inputs: Shape ``(N, F)`` or ``(N, C, H, W)``.
        labels: int64, shape ``(N,)``, in [0, num_classes), or vectors, float, shape ``(N, num_classes)``; None if and
            only if ``num_classes`` is 0.
        num_classes: Number of classes, or length of the vectors; with 0 the inputs are returned unchanged.

    Returns:
        Shape ``(N, F + num_classes)`` or ``(N, C + num_classes, H, W)``.

    Raises:
        SettingError: Labels are missing for a conditional network or given to an unconditional one.
    """
    check_labels(labels, num_classes)
    if labels is None:
        return inputs
    one_hot = (labels if labels.is_floating_point() else F.one_hot(labels, num_classes)).to(inputs.dtype)
    planes = one_hot.reshape(one_hot.shape + (1,) * (inputs.dim() - 2)).expand(-1, -1, *inputs.shape[2:])
    return torch.cat([inputs, planes], dim=1)


class ConditionalBatchNorm(nn.Module):
    """BatchNorm with a scale and shift per label (de Vries et al. 2017, arXiv:1707.00683).

    The statistics are those of the whole batch, independent of the labels. All labels start with scale 1 and shift 0;
    they are the scale and shift of a vector of zeros, from which those of vectors are interpolated.
    Use :class:`ConditionalBatchNorm1d` for vectors and :class:`ConditionalBatchNorm2d` for images.

    Args:
        num_features: Number of channels.
        num_classes: Number of classes.

    Raises:
        SettingError: An argument is below 1.
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
        """Normalize ``(N, C)`` or ``(N, C, H, W)``; ``labels`` are those of :func:`with_labels`."""
        ones = (None,) * (inputs.dim() - 2)
        scale, shift = look_up(self.scale, labels), look_up(self.shift, labels)
        if labels.is_floating_point():
            scale = scale + (1 - labels.to(scale.dtype).sum(1, keepdim=True))
        return torch.addcmul(shift[(..., *ones)], self.norm(inputs), scale[(..., *ones)])


class ConditionalBatchNorm1d(ConditionalBatchNorm):
    """:class:`ConditionalBatchNorm` of vectors, ``(N, C)``."""

    kind = nn.BatchNorm1d


class ConditionalBatchNorm2d(ConditionalBatchNorm):
    """:class:`ConditionalBatchNorm` of images, ``(N, C, H, W)``."""

    kind = nn.BatchNorm2d


def make_batch_norm(num_features: int, num_classes: int = 0, *, dims: Literal[1, 2] = 2) -> nn.Module:
    """Return a BatchNorm for vectors (``dims=1``) or images (``dims=2``), conditional if ``num_classes`` is above 0."""
    if num_classes > 0:
        return (ConditionalBatchNorm1d if dims == 1 else ConditionalBatchNorm2d)(num_features, num_classes)
    return (nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d)(num_features)


def call_layers(layers: nn.Sequential, inputs: Tensor, labels: Tensor | None) -> Tensor:
    """Call layers in order, and pass the labels to conditional ones."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            inputs = call_layers(layer, inputs, labels)
        elif isinstance(layer, ConditionalBatchNorm):
            inputs = layer(inputs, labels)
        else:
            inputs = layer(inputs)
    return inputs
