"""The scores of a set of generated images, from features that were extracted once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_gans import randomness
from lightning_gans.errors import invalid
from lightning_gans.metrics.cache import Cache, Rows
from lightning_gans.metrics.frechet import FrechetDistance
from lightning_gans.metrics.gaussian_kernel import GaussianKernelDistance
from lightning_gans.metrics.inception_score import InceptionScore
from lightning_gans.metrics.kernel import KernelDistance
from lightning_gans.metrics.manifold import ManifoldMetrics
from lightning_gans.metrics.modes import ModeCoverage
from lightning_gans.metrics.monge import MongeDistance
from lightning_gans.metrics.sets import Statistics
from lightning_gans.randomness import Stream


@dataclass(frozen=True)
class Settings:
    """The parameters of the metrics.

    Attributes:
        precision_recall_k: The k of the k-th neighbor that defines precision and recall (Kynkäänniemi et al. 2019).
        density_coverage_k: The k of the k-th neighbor that defines density and coverage (Naeem et al. 2020).
        neighbor_images: Largest number of images of each set for these four metrics.
        kid_subsets: Number of pairs of subsets for the KID.
        kid_subset_size: Images per subset, at most the size of the smaller set.
        inception_score_splits: Number of splits of the images for the Inception Score.
    """

    precision_recall_k: int = 3
    density_coverage_k: int = 5
    neighbor_images: int = 10_000
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    inception_score_splits: int = 10

    def fitted(self, num_real: int, num_fake: int) -> dict[str, int]:
        """Return the settings as they apply to sets of these sizes."""
        return asdict(self) | {
            "neighbor_images_real": min(num_real, self.neighbor_images),
            "neighbor_images_fake": min(num_fake, self.neighbor_images),
            "kid_subset_size": min(self.kid_subset_size, num_real, num_fake),
            "inception_score_splits": min(self.inception_score_splits, num_fake),
        }

    def check(self, metrics: Collection[str], num: int) -> None:
        """Raise :class:`SettingError` if these metrics need more than ``num`` images of a set."""
        for name, family in _K.items():
            if family & set(metrics) and getattr(self, name) >= num:
                raise invalid(name, getattr(self, name), f"smaller than the number of images, {num}")


@dataclass
class FeatureSet:
    """What an extractor returned for a set of images.

    Attributes:
        features: float32 ``(N, d)``.
        logits: float32 ``(N, K)``, or None.
        labels: What the images should show, int64 ``(N,)`` or float ``(N, K)``, or None.
    """

    features: Tensor
    logits: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def at(self, places: slice | Tensor) -> FeatureSet:
        """Return some of the images."""
        parts = (self.features, self.logits, self.labels)
        return FeatureSet(*(None if part is None else part[places] for part in parts))  # type: ignore[arg-type]


class Reference:
    """Features of the real images, and their statistics, which all evaluations share.

    Args:
        images: The features.
        settings: Parameters of the metrics.
        cache: Stores the statistics; None keeps them in memory only.
        key: Identifies the features in the cache.
        about: The fields of the protocol that describe the images.
        class_names: Names of the classes of the labels; None if unknown.
    """

    def __init__(
        self,
        images: FeatureSet,
        settings: Settings,
        cache: Cache | None,
        key: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        self.images = images
        self.settings = settings
        self.about = dict(about or {})
        self.class_names = class_names
        self._cache = cache
        self._key = dict(key)
        self._memory: dict[tuple[str, str], Statistics] = {}

    def remember(self, kind: str, key: Mapping[str, Any], compute: Callable[[], Statistics]) -> Statistics:
        """Return statistics of the real images, on the CPU: from memory, from the cache, or computed and stored."""
        place = kind, repr(key)
        if place not in self._memory:

            def arrays() -> dict[str, np.ndarray]:
                return {name: value.cpu().numpy() for name, value in compute().items()}

            stored = arrays() if self._cache is None else self._cache.get(kind, self._key | dict(key), arrays)
            self._memory[place] = {name: torch.from_numpy(value) for name, value in stored.items()}
        return self._memory[place]


def subsample(rows: Rows, most: int) -> Tensor:
    """Return all rows, or ``most`` of them; the choice depends only on their number."""
    if len(rows) <= most:
        return rows[:]
    order = torch.randperm(len(rows), generator=randomness.generator(0, Stream.SPLIT, len(rows)))
    return rows[order[:most].sort().values]


# --- the registry -----------------------------------------------------------------------------------------

Scores = dict[str, float]

_WHOLE: dict[str, Any] = {"sync_on_compute": False, "keep_order": True}
"""Options of metrics that get all images, in the order of their indices, on one process."""


def _compared(metric: Metric, real: Tensor, fake: Tensor, device: torch.device) -> Any:
    """Compute a metric on two sets of features."""
    metric.to(device)
    metric.update(real.to(device), real=True)
    metric.update(fake.to(device), real=False)
    return metric.compute()


def _of_logits(metric: Metric, fake: FeatureSet, names: tuple[str, ...]) -> Scores:
    metric.update(fake.logits)
    return dict(zip(names, map(float, metric.compute()), strict=False))


def _fid(fake: FeatureSet, reference: Reference, device: torch.device, names: Collection[str]) -> Scores:
    metric = FrechetDistance(reference.images.features.shape[1], sync_on_compute=False).to(device)

    def sums() -> Statistics:
        metric.update(reference.images.features.to(device), real=True)
        states: dict[str, Any] = metric.metric_state
        return {name: value for name, value in states.items() if name.startswith("real_")}

    for name, value in reference.remember("sums", {}, sums).items():
        setattr(metric, name, value.clone().to(device))
    metric.update(fake.features.to(device), real=False)
    return {"fid": float(metric.compute())}


def _kid(fake: FeatureSet, reference: Reference, device: torch.device, names: Collection[str]) -> Scores:
    real, settings = reference.images.features, reference.settings
    size = settings.fitted(len(real), len(fake))["kid_subset_size"]
    metric = KernelDistance(real.shape[1], settings.kid_subsets, size, **_WHOLE)
    metric.remember = reference.remember
    mean, deviation = _compared(metric, real, fake.features, device)
    return {"kid": float(mean), "kid_std": float(deviation)}


def _inception_score(fake: FeatureSet, reference: Reference, device: torch.device, names: Collection[str]) -> Scores:
    if fake.logits is None:
        return {}
    splits = reference.settings.fitted(len(reference.images), len(fake))["inception_score_splits"]
    return _of_logits(InceptionScore(fake.logits.shape[1], splits, **_WHOLE), fake, ("inception_score",))


def _modes(fake: FeatureSet, reference: Reference, device: torch.device, names: Collection[str]) -> Scores:
    if fake.logits is None:
        return {}
    return _of_logits(ModeCoverage(fake.logits.shape[1], sync_on_compute=False), fake, ("modes", "mode_kl"))


def _label_accuracy(fake: FeatureSet, reference: Reference, device: torch.device, names: Collection[str]) -> Scores:
    if fake.logits is None or fake.labels is None or fake.labels.is_floating_point():
        return {}
    metric = MulticlassAccuracy(fake.logits.shape[1], average="micro", sync_on_compute=False)
    return {"label_accuracy": float(metric(fake.logits, fake.labels))}


def _fid_class(fake: FeatureSet, reference: Reference, device: torch.device, names: Collection[str]) -> Scores:
    """Return a Fréchet distance for each class, or attribute, that has two images of each kind."""
    real = reference.images
    if fake.labels is None or real.labels is None:
        return {}
    scores, missing = {}, []
    for label in range(max(_num_kinds(fake.labels), _num_kinds(real.labels))):
        reals, fakes = (images.features[_shows(images.labels, label)] for images in (real, fake))
        if min(len(fakes), len(reals)) < 2:
            missing.append(label)
        else:
            metric = FrechetDistance(real.features.shape[1], sync_on_compute=False)
            scores[f"fid_class/{label}"] = float(_compared(metric, reals, fakes, device))
    if missing:
        classes = ", ".join(map(str, missing))
        message = f"No fid_class for {classes}: fewer than 2 real or generated images of the class."
        warnings.warn(message, stacklevel=2)
    return scores


def _num_kinds(labels: Tensor) -> int:
    return labels.shape[1] if labels.is_floating_point() else int(labels.max()) + 1


def _shows(labels: Any, label: int) -> Tensor:
    """Return which images are of a class; or have an attribute, or more of it than the middle of its range."""
    found: Tensor = labels[:, label] > 0.5 if labels.is_floating_point() else labels == label
    return found


def _manifold(fake: FeatureSet, reference: Reference, device: torch.device, names: Collection[str]) -> Scores:
    """Return precision, recall, density and coverage; the pairs share one pass over the distances."""
    settings, real = reference.settings, reference.images.features
    for images in (real, fake.features):
        settings.check(names, min(len(images), settings.neighbor_images))
    ks = {name: getattr(settings, name) if family & set(names) else None for name, family in _K.items()}
    metric = ManifoldMetrics(real.shape[1], **ks, **_WHOLE)
    most = settings.neighbor_images
    metric.remember = lambda kind, key, compute: reference.remember(kind, {"neighbor_images": most, **key}, compute)
    found = _compared(metric, subsample(real, most), subsample(fake.features, most), device)
    return {name: float(value) for name, value in found.items()}


def _mind(fake: FeatureSet, reference: Reference, device: torch.device, names: Collection[str]) -> Scores:
    real = reference.images.features
    return {"mind": float(_compared(MongeDistance(real.shape[1], **_WHOLE), real, fake.features, device))}


def _cmmd(fake: FeatureSet, reference: Reference, device: torch.device, names: Collection[str]) -> Scores:
    real = reference.images.features
    metric = GaussianKernelDistance(real.shape[1], **_WHOLE)
    metric.remember = reference.remember
    return {"cmmd": float(_compared(metric, real, fake.features, device))}


_K = {"precision_recall_k": {"precision", "recall"}, "density_coverage_k": {"density", "coverage"}}

_REGISTRY = {
    "fid": _fid,
    "inception_score": _inception_score,
    "kid": _kid,
    "precision": _manifold,
    "recall": _manifold,
    "density": _manifold,
    "coverage": _manifold,
    "label_accuracy": _label_accuracy,
    "fid_class": _fid_class,
    "modes": _modes,
    "mode_kl": _modes,
    "mind": _mind,
    "cmmd": _cmmd,
}

ON_REQUEST = ("modes", "mode_kl", "mind", "cmmd")
"""Metrics that are computed only if named: ``modes`` and ``mode_kl`` say nothing with few classes, as all of them are
found; ``mind`` takes seconds; ``cmmd`` is established only for CLIP's features."""

METRICS = tuple(name for name in _REGISTRY if name not in ON_REQUEST)
"""Metrics that are computed by default, by the key they are logged under; ``fid_class`` is one number per class."""


def score(
    fake: FeatureSet, reference: Reference, metrics: Collection[str], device: torch.device | str = "cpu"
) -> tuple[Scores, dict[str, float]]:
    """Compute metrics in float64.

    Args:
        fake: Features of generated images.
        reference: Features of the real images.
        metrics: Names from :data:`METRICS` and :data:`ON_REQUEST`; those whose logits or labels are missing are left
            out.
        device: Where to compute; see :func:`with_float64`.

    Returns:
        The scores by the key they are logged under, and the seconds of the nearest-neighbor metrics (``neighbors``)
        and of all other metrics (``metrics``).

    Raises:
        SettingError: There are too few images.
    """
    device = with_float64(device)
    scores: Scores = {}
    seconds = {"metrics": 0.0}
    for compute in dict.fromkeys(function for name, function in _REGISTRY.items() if name in metrics):
        started = time.monotonic()
        found = compute(fake, reference, device, metrics)
        scores |= {key: value for key, value in found.items() if _metric_of(key) in metrics}
        part = "neighbors" if compute is _manifold else "metrics"
        seconds[part] = seconds.get(part, 0.0) + time.monotonic() - started
    return scores, seconds


def _metric_of(key: str) -> str:
    """Return the metric that a score's key belongs to: ``kid`` of ``kid_std``, ``fid_class`` of ``fid_class/3``."""
    return "kid" if key == "kid_std" else key.split("/")[0]


def is_measured(key: str, metrics: Collection[str]) -> bool:
    """Return whether these metrics include a score with this key."""
    return _metric_of(key) in metrics and ("/" in key) == key.startswith("fid_class/")


def with_float64(device: torch.device | str) -> torch.device:
    """Return the device, or the CPU if the device lacks float64."""
    device = torch.device(device)
    return device if device.type == "cuda" else torch.device("cpu")


# --- custom metrics ---------------------------------------------------------------------------------------


def own_scores(own: Mapping[str, Metric], fake: Tensor, real: Tensor, device: torch.device) -> Scores:
    """Compute custom metrics on this process, which has all features.

    Args:
        own: Metrics by their names.
        fake: Features of the samples, ``(N, d)``.
        real: Features of the real images, ``(M, d)``.
        device: Where to compute.

    Raises:
        SettingError: A metric returns more than one number.
    """
    scores = {}
    for name, metric in own.items():
        metric.reset()
        for part in metric.modules():
            if isinstance(part, Metric):
                part.sync_on_compute = False
        value = torch.as_tensor(_compared(metric, real, fake, device))
        if value.numel() != 1:
            raise invalid(f"metrics.own.{name}", list(value.shape), "a metric that returns one number")
        scores[name] = value.item()
    return scores


def described(metric: Metric) -> str:
    """Return a metric's class and its plain attributes, for the protocol."""
    inherited = vars(MeanMetric())
    plain = {
        name: value
        for name, value in vars(metric).items()
        if isinstance(value, (bool, int, float, str)) and not name.startswith("_") and name not in inherited
    }
    return f"{type(metric).__module__}.{type(metric).__qualname__}({plain})"
