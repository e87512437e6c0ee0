"""Metrics on images, with the names and arguments of ``torchmetrics.image`` where those exist.

Each combines an extractor with the metric on features of the same kind. With ``torchmetrics.wrappers.FeatureShare``,
several of them share one pass through the extractor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_gans.errors import invalid
from lightning_gans.metrics import frechet, inception_score, kernel, manifold
from lightning_gans.metrics.extractors import Extractor, make_extractor

__all__ = [
    "DensityCoverage",
    "FrechetInceptionDistance",
    "InceptionScore",
    "KernelInceptionDistance",
    "PrecisionRecall",
]

_INCEPTION_FEATURES = (2048, "logits_unbiased")


class _Network(nn.Module):
    """An extractor as the network of a metric; as in torchmetrics, a custom network gets the images unchanged."""

    def __init__(self, feature: Any, extractor: str | nn.Module, weights_path: str | None) -> None:
        super().__init__()
        self.is_custom = isinstance(feature, nn.Module) and not isinstance(feature, Extractor)
        if self.is_custom:
            self.extractor = feature
            return
        if not isinstance(feature, Extractor) and feature not in _INCEPTION_FEATURES:
            raise invalid("feature", feature, "2048, or a network")
        chosen = feature if isinstance(feature, Extractor) else extractor
        self.extractor = make_extractor(chosen, None, weights_path)

    def forward(self, images: Tensor, normalize: bool) -> tuple[Tensor, Tensor | None]:
        """Return the features and the logits of images."""
        if self.is_custom:
            found = self.extractor(images)
            features, logits = found if isinstance(found, tuple) else (found, None)
            return features, logits
        if normalize:
            if not images.is_floating_point() or images.amin() < 0 or images.amax() > 1:
                raise invalid("images", images.dtype, "floats in [0, 1], as normalize=True")
            images = (images * 255).byte()
        elif images.dtype != torch.uint8:
            raise invalid("images", images.dtype, "uint8, or normalize=True for floats in [0, 1]")
        extracted: tuple[Tensor, Tensor | None] = self.extractor.extract(images)
        return extracted

    def width(self, part: int, input_img_size: tuple[int, int, int]) -> int:
        """Return the number of features (part 0) or of logits (1); if the network does not state it, call it once."""
        known: int = getattr(self.extractor, "num_features", 0) if part == 0 else 0
        found = None if known else self(torch.zeros(1, *input_img_size, dtype=torch.uint8), False)[part]
        if not known and found is None:
            raise invalid("extractor", type(self.extractor).__name__, "a network with class logits")
        return known if found is None else found.shape[1]


class _OnImages(Metric):
    """Run an extractor before a metric on features or logits.

    Args:
        feature: 2048 for the extractor; or a network that maps the unchanged images to features. The network has an
            attribute ``num_features``, or is called once on an image of ``input_img_size``.
        normalize: Whether images are floats in [0, 1] instead of uint8.
        feature_extractor_weights_path: File of the extractor's weights.
        extractor: Name of an extractor, or an :class:`~lightning_gans.metrics.Extractor`; see
            :func:`~lightning_gans.metrics.make_extractor`.
        input_img_size: ``(C, H, W)`` of the image for that call.
        **options: Options of the metric on features.
    """

    feature_network = "extractor"  # where torchmetrics' FeatureShare finds it
    _part = 0

    def __init__(
        self,
        feature: Any = 2048,
        normalize: bool = False,
        feature_extractor_weights_path: str | None = None,
        *,
        extractor: str | nn.Module = "inception",
        input_img_size: tuple[int, int, int] = (3, 299, 299),
        **options: Any,
    ) -> None:
        network = _Network(feature, extractor, feature_extractor_weights_path)
        super().__init__(network.width(self._part, input_img_size), **options)  # type: ignore[call-arg]
        self.extractor, self.normalize = network, normalize

    def extracted(self, images: Tensor) -> Tensor:
        """Return the features, or the logits, of images."""
        found: Tensor = self.extractor(images, self.normalize)[self._part]
        return found.to(self.device)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one or several values; for a mean with its deviation, or for a pair, plot the first number."""
        value = self.compute() if val is None else val
        return self._plot(value[0] if isinstance(value, tuple) else value, ax)


class _TwoSets(_OnImages):
    def update(self, images: Tensor, real: bool) -> None:
        """Add real or generated images ``(N, C, H, W)``."""
        super().update(self.extracted(images), real)  # type: ignore[safe-super]


class FrechetInceptionDistance(_TwoSets, frechet.FrechetDistance):
    """:class:`~lightning_gans.metrics.FrechetDistance` on images, instead of ``torchmetrics.image.fid``'s.

    Unlike torchmetrics', its root of the covariances is exact even with fewer images than features.

    Example:
        >>> fid = FrechetInceptionDistance(extractor="mnist")
        >>> images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)
        >>> fid.update(images, real=True)
        >>> fid.update(images.flip(0), real=False)
        >>> fid.compute().round(decimals=3)
        tensor(0., dtype=torch.float64)
    """


class KernelInceptionDistance(_TwoSets, kernel.KernelDistance):
    """:class:`~lightning_gans.metrics.KernelDistance` on images, instead of ``torchmetrics.image.kid``'s.

    The subsets depend only on ``seed``, and not on the number of processes.

    Args:
        subsets: Number of pairs of subsets.
        **options: As in :class:`~lightning_gans.metrics.KernelDistance` and :class:`FrechetInceptionDistance`.
    """

    def __init__(self, feature: Any = 2048, subsets: int = 100, **options: Any) -> None:
        super().__init__(feature, num_subsets=subsets, **options)


class PrecisionRecall(_TwoSets, manifold.PrecisionRecall):
    """:class:`~lightning_gans.metrics.PrecisionRecall` on images."""


class DensityCoverage(_TwoSets, manifold.DensityCoverage):
    """:class:`~lightning_gans.metrics.DensityCoverage` on images."""


class InceptionScore(_OnImages, inception_score.InceptionScore):
    """:class:`~lightning_gans.metrics.InceptionScore` on images, instead of ``torchmetrics.image.inception``'s."""

    _part = 1

    def __init__(self, feature: Any = "logits_unbiased", splits: int = 10, **options: Any) -> None:
        super().__init__(feature, splits=splits, **options)

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add generated images ``(N, C, H, W)``; ignore real ones, which other metrics of a collection need."""
        if not real:
            super().update(self.extracted(images))
