"""Normalization of the networks that translate images."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from lightning_gans.errors import check_choice

Norm = Literal["batch", "instance", "none"]


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Return a normalization layer: BatchNorm, InstanceNorm (Ulyanov et al. 2016, arXiv:1607.08022), or none.

    InstanceNorm has neither weights nor running statistics; it treats each image alone, in training and evaluation.

    Raises:
        SettingError: The name is unknown.
    """
    check_choice("norm", norm, get_args(Norm))
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels) if norm == "instance" else nn.Identity()
