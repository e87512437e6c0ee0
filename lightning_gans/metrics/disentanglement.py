"""How well single latents stand for single factors of variation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_gans.errors import check_counts, invalid
from lightning_gans.io.pictures import from_bytes
from lightning_gans.metrics.samples import num_labels


class MutualInformationGap(Metric):
    r"""Mutual information gap (MIG) between the codes of images and the factors that the images were drawn from.

    For each factor v, the two latents with the largest mutual information are compared (Chen et al. 2018,
    https://arxiv.org/abs/1802.04942, section 4.1): :math:`(I(z_1; v) - I(z_2; v)) / H(v)`. The score is the mean over
    the factors: 1 if each factor is known from one latent and from no other, 0 if none is.

    Each latent is divided into bins of equal width between its smallest and its largest value, as by Locatello et al.
    2019 (https://arxiv.org/abs/1811.12359), who use 20 bins of the posterior means. With fewer bins than a factor has
    values, even the factor itself is not known from its bin, and the score stays below 1.

    Args:
        num_bins: Number of bins of each latent.
        **options: Options of ``torchmetrics.Metric``.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> metric = MutualInformationGap()
        >>> metric.update(factors.float(), factors)
        >>> round(float(metric.compute()), 6)
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    codes: list[Tensor]
    factors: list[Tensor]

    def __init__(self, num_bins: int = 40, **options: Any) -> None:
        check_counts(num_bins=num_bins)
        super().__init__(**options)
        self.num_bins = num_bins
        self.add_state("codes", [], dist_reduce_fx="cat")
        self.add_state("factors", [], dist_reduce_fx="cat")

    def update(self, codes: Tensor, factors: Tensor) -> None:
        """Add the codes of images, ``(N, latent_dim)``, and their factors, integers ``(N, num_factors)``.

        Raises:
            SettingError: The shapes are others, or the factors are not integers.
        """
        if codes.dim() != 2:
            raise invalid("codes", list(codes.shape), "of shape (N, latent_dim)")
        if factors.dim() != 2 or len(factors) != len(codes) or factors.is_floating_point():
            raise invalid("factors", list(factors.shape), f"integers of shape ({len(codes)}, num_factors)")
        self.codes.append(codes.detach())
        self.factors.append(factors)

    def compute(self) -> Tensor:
        """Return the score, float64.

        Raises:
            SettingError: No factor varies.
        """
        from sklearn.metrics import mutual_info_score  # its import takes a second

        codes, factors = (torch.cat(list(state)).cpu() for state in (self.codes, self.factors))
        low, high = codes.double().aminmax(dim=0)
        shares = (codes.double() - low) / (high - low).clamp(min=torch.finfo(torch.double).tiny)
        bins = (shares * self.num_bins).long().clamp(max=self.num_bins - 1)
        gaps = []
        for factor in factors.T:
            factor = factor.unique(return_inverse=True)[1]
            entropy = mutual_info_score(factor, factor)
            if entropy > 0:
                *_, second, first = sorted([0.0, *(mutual_info_score(factor, latent) for latent in bins.T)])
                gaps.append((first - second) / entropy)
        if not gaps:
            raise invalid("factors", len(factors), "images that differ in at least one factor")
        return torch.tensor(gaps, dtype=torch.double).mean()


@torch.no_grad()
def gap_of_means(module: Any, images: Any, factors: Tensor) -> float:
    """Return the mutual information gap of the posterior means of images.

    Args:
        module: ``encode(images[, labels])`` returns the means first.
        images: uint8 images of a split, with their ``labels``.
        factors: What the images were drawn from, ``(N, K)``.
    """
    metric = MutualInformationGap(sync_on_compute=False)
    for rows in torch.split(torch.arange(len(images)), 1000):
        labels = [images.labels[rows].to(module.device)] if num_labels(module) > 0 else []
        means, _ = module.encode(from_bytes(images[rows]).to(module.device, module.dtype), *labels)
        metric.update(means, factors[rows])
    return float(metric.compute())
