"""Metrics of the user's own, on the features that all scores come from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from lightning_gans.errors import SettingError


def own_scores(own: Mapping[str, Metric], fake: Tensor, real: Tensor, device: torch.device) -> dict[str, float]:
    """Compute each metric, on this process alone: it has all features.

    Args:
        own: The metrics by their names.
        fake: Features of the samples, ``(N, d)``.
        real: Those of the real images, ``(M, d)``.
        device: Where to compute.

    Raises:
        SettingError: One gives more than a number.
    """
    found = {}
    for name, metric in own.items():
        metric.to(device).reset()
        for part in metric.modules():
            if isinstance(part, Metric):
                part.sync_on_compute = False
        metric.update(real.to(device), real=True)
        metric.update(fake.to(device), real=False)
        value = torch.as_tensor(metric.compute())
        if value.numel() != 1:
            raise SettingError(f"metrics.own.{name} gives {list(value.shape)}: it must give one number.")
        found[name] = value.item()
    return found


def described(metric: Metric) -> str:
    """Return a metric in words: its class, and its own attributes that are plain values."""
    of_all = vars(MeanMetric())
    plain = {
        name: value
        for name, value in vars(metric).items()
        if isinstance(value, (bool, int, float, str)) and not name.startswith("_") and name not in of_all
    }
    return f"{type(metric).__module__}.{type(metric).__qualname__}({plain})"
