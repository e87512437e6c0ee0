"""The Inception Score of a set of class logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gans.errors import check_counts, invalid
from lightning_gans.metrics.sets import RowsMetric


class InceptionScore(RowsMetric):
    r""":math:`\exp \mathbb{E}_x \mathrm{KL}(p(y|x) \,\|\, p(y))`, between 1 and the number of classes.

    The result is the mean and the standard deviation over splits of the images (Salimans et al. 2016,
    https://arxiv.org/abs/1606.03498), which with ``keep_order`` are those of torch-fidelity.

    Args:
        num_classes: Number of logits.
        splits: Number of splits.
        seed: Seed of the shuffling.
        **options: Options of ``torchmetrics.Metric``, such as ``sync_on_compute``; and ``keep_order``: by default, the
            result does not depend on the order of the images, nor on which process has which.
    """

    higher_is_better = True

    def __init__(self, num_classes: int, splits: int = 10, seed: int = 2020, **options: Any) -> None:
        check_counts(splits=splits)
        super().__init__(num_classes, ("logits",), **options)
        self.splits = splits
        self.seed = seed

    def update(self, logits: Tensor) -> None:
        """Add the logits ``(N, num_classes)`` of generated images."""
        self.add("logits", logits)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation over the splits, float64.

        Raises:
            SettingError: There are fewer images than splits.
        """
        logits = self.ordered("logits")
        if len(logits) < self.splits:
            raise invalid("splits", self.splits, f"at most the number of images, {len(logits)}")
        order = torch.from_numpy(np.random.RandomState(self.seed).permutation(len(logits))).to(logits.device)
        scores = []
        for split in range(self.splits):
            rows = order[split * len(order) // self.splits : (split + 1) * len(order) // self.splits]
            part = logits[rows].double().log_softmax(1)
            # The logarithm of the mean stays finite for a class without any mass.
            log_mean = part.logsumexp(0) - np.log(len(part))
            scores.append((part.exp() * (part - log_mean)).sum(1).mean().exp())
        values = torch.stack(scores)
        return values.mean(), values.std(correction=0)
