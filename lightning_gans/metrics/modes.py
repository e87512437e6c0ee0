"""The number of classes among generated images, and how uniform they are."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_gans.errors import check_counts, invalid
from lightning_gans.metrics.sets import check_rows


class ModeCoverage(Metric):
    r"""The number of classes among the images, and the divergence :math:`\mathrm{KL}(p \,\|\, u)` in nats.

    Each image counts for its most likely class. With the shares p of the K classes and the uniform distribution
    u = 1/K, the divergence is :math:`\log K + \sum_k p_k \log p_k`: 0 for equal shares, log K if all images are of one
    class. Both numbers depend on the number of images N: the divergence of a perfect generator is still about
    (K - 1) / 2N. They are published for Stacked MNIST (Metz et al. 2016, https://arxiv.org/abs/1611.02163), with
    K = 1,000 and, since PacGAN, N = 26,000 (Lin et al. 2018, https://arxiv.org/abs/1712.04086).

    Args:
        num_classes: Number of logits.
        **options: Options of ``torchmetrics.Metric``, such as ``sync_on_compute``.

    Example:
        >>> metric = ModeCoverage(4)
        >>> metric.update(torch.eye(4)[[0, 0, 2, 2]])
        >>> modes, kl = metric.compute()
        >>> int(modes), round(float(kl), 4)  # half of the classes: log 2
        (2, 0.6931)
    """

    is_differentiable = False
    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int, **options: Any) -> None:
        check_counts(num_classes=num_classes)
        super().__init__(**options)
        self.num_classes = num_classes
        self.add_state("counts", torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor) -> None:
        """Add the logits ``(N, num_classes)`` of generated images."""
        check_rows(self, logits, self.num_classes)
        self.counts += logits.argmax(1).bincount(minlength=self.num_classes)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the number of classes found, int64, and the divergence, float64.

        Raises:
            SettingError: There are no images.
        """
        if not self.counts.any():
            raise invalid("num_fake", 0, "1 or more for ModeCoverage")
        counts = self.counts.cpu().double()  # some devices have no float64
        shares = counts / counts.sum()
        divergence = math.log(self.num_classes) + torch.special.xlogy(shares, shares).sum()
        return self.counts.count_nonzero(), divergence.clamp(min=0)  # negative only by rounding
