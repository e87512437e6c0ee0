"""All scores of a set of generated images, from features that were extracted once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from lightning_gans import randomness
from lightning_gans._lightning import rank_zero_warn
from lightning_gans.errors import SettingError
from lightning_gans.metrics.cache import Cache, Rows
from lightning_gans.metrics.frechet import FrechetDistance
from lightning_gans.metrics.inception_score import InceptionScore
from lightning_gans.metrics.kernel import KID_SEED, Subsets, draw_subsets, squared_mmds, sums_within
from lightning_gans.metrics.manifold import count_inside, nearest_squared_distances
from lightning_gans.metrics.modes import ModeCoverage
from lightning_gans.randomness import Stream

METRICS = (
    "fid",
    "inception_score",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "label_accuracy",
    "fid_class",
)
"""What is measured where nothing else is asked for, by the key it is logged under.

``fid_class`` is one number for each class.
"""

ON_REQUEST = ("modes", "mode_kl")
"""What is measured only where it is asked for by name: of ten digits all are found, and the number says nothing."""

FAMILIES = (("precision", "recall"), ("density", "coverage"))
"""The metrics of nearest neighbours, by the k that they take."""

_OF_NEIGHBOURS = [name for family in FAMILIES for name in family]
_REAL_SUMS = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")


@dataclass(frozen=True)
class Settings:
    """The numbers that the metrics' definitions leave open.

    Attributes:
        precision_recall_k: Neighbour that a ball of the manifolds reaches to (Kynkäänniemi et al. 2019).
        density_coverage_k: The same for density and coverage (Naeem et al. 2020).
        neighbour_images: The nearest-neighbour metrics take at most so many images of each set.
        kid_subsets: Pairs of subsets.
        kid_subset_size: Images in each; all, where there are fewer.
        inception_score_splits: Parts of the images.
    """

    precision_recall_k: int = 3
    density_coverage_k: int = 5
    neighbour_images: int = 10_000
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    inception_score_splits: int = 10

    def fitted(self, num_real: int, num_fake: int) -> dict[str, int]:
        """Return the settings as they apply to sets of these sizes."""
        smaller = min(num_real, num_fake)
        return asdict(self) | {
            "neighbour_images_real": min(num_real, self.neighbour_images),
            "neighbour_images_fake": min(num_fake, self.neighbour_images),
            "kid_subset_size": min(self.kid_subset_size, smaller),
            "inception_score_splits": min(self.inception_score_splits, num_fake),
        }

    def drawn(self, num_real: int, num_fake: int) -> tuple[int, int, int, int, int]:
        """Return what :func:`draw_subsets` takes."""
        return num_real, num_fake, self.kid_subsets, self.fitted(num_real, num_fake)["kid_subset_size"], KID_SEED


@dataclass
class FeatureSet:
    """Features of a set of images, and what else its extractor saw in them.

    Attributes:
        features: float32 ``(N, d)``.
        logits: float32 ``(N, K)``, or None.
        labels: int64 ``(N,)``, what the images should show, or None.
    """

    features: Tensor
    logits: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)


class Reference:
    """Features of the real images, and what every evaluation against them shares, kept on disk.

    Args:
        images: The features.
        settings: The numbers that the metrics take.
        cache: Where to keep what is computed from them; None keeps it in memory only.
        key: What they were made from.
    """

    def __init__(self, images: FeatureSet, settings: Settings, cache: Cache | None, key: Mapping[str, Any]) -> None:
        self.images = images
        self.settings = settings
        self._cache = cache
        self._key = dict(key)
        self._sums: dict[str, Tensor] | None = None
        self._neighbours: Tensor | None = None
        self._subsets: dict[tuple[int, ...], tuple[Subsets, Tensor]] = {}

    def prepare(self, metrics: Sequence[str], num_fake: int, device: torch.device | str = "cpu") -> None:
        """Compute now what the metrics need of the real images alone, for so many generated ones."""
        device = _with_float64(device)
        if "fid" in metrics:
            self.sums(device)
        if "kid" in metrics:
            self.subsets(*self.settings.drawn(len(self.images), num_fake))
        if any(name in metrics for name in _OF_NEIGHBOURS):
            self.radii(1, device)

    def sums(self, device: torch.device) -> dict[str, Tensor]:
        """Return the states of a Fréchet distance that has seen the real images."""
        if self._sums is None:
            stored = self._load("sums", self._key)
            if stored is None:
                metric = FrechetDistance(self.images.features.shape[1], sync_on_compute=False).to(device)
                metric.update(self.images.features.to(device), real=True)
                stored = {name: getattr(metric, name).cpu().numpy() for name in _REAL_SUMS}
                self._save("sums", self._key, stored)
            self._sums = {name: torch.from_numpy(stored[name]) for name in _REAL_SUMS}
        return {name: value.clone().to(device) for name, value in self._sums.items()}

    def subsets(self, *drawn: int) -> tuple[Subsets, Tensor]:
        """Return the pairs of :func:`draw_subsets`, and the kernel's sums within the real ones, float64 ``(K,)``."""
        if drawn not in self._subsets:
            subsets = draw_subsets(*drawn)
            key = self._key | {"subsets": drawn}
            stored = self._load("kernel", key)
            if stored is None:
                stored = {"sums": sums_within(self.images.features, [chosen for chosen, _ in subsets]).numpy()}
                self._save("kernel", key, stored)
            self._subsets[drawn] = subsets, torch.from_numpy(stored["sums"])
        return self._subsets[drawn]

    def _load(self, kind: str, key: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        return None if self._cache is None else self._cache.load(kind, key)

    def _save(self, kind: str, key: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        if self._cache is not None:
            self._cache.save(kind, key, arrays)

    def chosen(self) -> Tensor:
        """Return the features that the nearest-neighbour metrics take, float32 ``(n, d)``."""
        return subsample(self.images.features, self.settings.neighbour_images)

    def radii(self, k: int, device: torch.device) -> Tensor:
        """Return the squared distances to the k-th neighbours of :meth:`chosen`, float64 ``(n,)``."""
        if self._neighbours is None:
            most = max(self.settings.precision_recall_k, self.settings.density_coverage_k)
            most = max(1, min(most, len(self.chosen()) - 1))
            key = self._key | {"neighbour_images": self.settings.neighbour_images, "k": most}
            stored = self._load("neighbours", key)
            if stored is None:
                nearest = nearest_squared_distances(self.chosen().double().to(device), most)
                stored = {"squared_distances": nearest.cpu().numpy()}
                self._save("neighbours", key, stored)
            self._neighbours = torch.from_numpy(stored["squared_distances"])
        if k > self._neighbours.shape[1]:
            raise SettingError(f"k is {k}, but {len(self.chosen())} images have fewer neighbours each.")
        return self._neighbours[:, k - 1].to(device)


def subsample(rows: Rows, most: int) -> Tensor:
    """Return all rows, or a choice of so many that depends on their number alone."""
    if len(rows) <= most:
        return rows[:]
    order = torch.randperm(len(rows), generator=randomness.generator(0, Stream.SPLIT, len(rows)))
    return rows[order[:most].sort().values]


def _with_float64(device: torch.device | str) -> torch.device:
    """Return the device, or the CPU in the place of one that may not have float64."""
    device = torch.device(device)
    return device if device.type == "cuda" else torch.device("cpu")


def score(
    fake: FeatureSet, reference: Reference, metrics: Sequence[str], device: torch.device | str = "cpu"
) -> tuple[dict[str, float], dict[str, float]]:
    """Compute the metrics asked for, in float64.

    Args:
        fake: Features of generated images.
        reference: Features of the real ones.
        metrics: Names out of :data:`METRICS` and :data:`ON_REQUEST`; those for which logits or labels are missing
            are left out.
        device: Where to compute.

    Returns:
        The scores by the key they are logged under, and the seconds that the nearest neighbours
        (``neighbours``) and everything else (``metrics``) took.

    Raises:
        SettingError: There are too few images.
    """
    device = _with_float64(device)
    real, settings = reference.images, reference.settings
    fitted = settings.fitted(len(real), len(fake))
    width = real.features.shape[1]
    scores: dict[str, float] = {}
    started = time.monotonic()
    if "fid" in metrics:
        fid = FrechetDistance(width, sync_on_compute=False).to(device)
        for name, value in reference.sums(device).items():
            setattr(fid, name, value)
        fid.update(fake.features.to(device), real=False)
        scores["fid"] = float(fid.compute())
    if "kid" in metrics:
        drawn = settings.drawn(len(real), len(fake))
        real_features, fake_features = real.features.to(device), fake.features.to(device)
        values = squared_mmds(real_features, fake_features, *reference.subsets(*drawn))
        scores |= {"kid": float(values.mean()), "kid_std": float(values.std(correction=0))}
    if "inception_score" in metrics and fake.logits is not None:
        splits = fitted["inception_score_splits"]
        inception_score = InceptionScore(fake.logits.shape[1], splits, sync_on_compute=False)
        inception_score.update(fake.logits)
        scores["inception_score"] = float(inception_score.compute()[0])
    if fake.logits is not None and any(name in metrics for name in ON_REQUEST):
        coverage = ModeCoverage(fake.logits.shape[1], sync_on_compute=False)
        coverage.update(fake.logits)
        found = dict(zip(ON_REQUEST, map(float, coverage.compute()), strict=True))
        scores |= {name: value for name, value in found.items() if name in metrics}
    if "label_accuracy" in metrics and fake.logits is not None and fake.labels is not None:
        accuracy = MulticlassAccuracy(fake.logits.shape[1], average="micro", sync_on_compute=False)
        accuracy.update(fake.logits, fake.labels)
        scores["label_accuracy"] = float(accuracy.compute())
    if "fid_class" in metrics and fake.labels is not None and real.labels is not None:
        scores |= _class_distances(fake, real, device)
    seconds = {"metrics": time.monotonic() - started}
    if any(name in metrics for name in _OF_NEIGHBOURS):
        started = time.monotonic()
        scores |= _neighbour_scores(fake, reference, metrics, device)
        seconds["neighbours"] = time.monotonic() - started
    return scores, seconds


def _class_distances(fake: FeatureSet, real: FeatureSet, device: torch.device) -> dict[str, float]:
    """Return a Fréchet distance for each class; one without two images of each kind is left out, and said so."""
    assert fake.labels is not None and real.labels is not None
    scores = {}
    missing = []
    for label in range(int(max(fake.labels.max(), real.labels.max())) + 1):
        fakes, reals = fake.features[fake.labels == label], real.features[real.labels == label]
        if min(len(fakes), len(reals)) < 2:
            missing.append(label)
            continue
        metric = FrechetDistance(real.features.shape[1], sync_on_compute=False).to(device)
        metric.update(reals.to(device), real=True)
        metric.update(fakes.to(device), real=False)
        scores[f"fid_class/{label}"] = float(metric.compute())
    if missing:
        names = ", ".join(map(str, missing))
        rank_zero_warn(f"fid_class is left out for {names}: fewer than 2 real or generated images of the class.")
    return scores


def _neighbour_scores(
    fake: FeatureSet, reference: Reference, metrics: Sequence[str], device: torch.device
) -> dict[str, float]:
    """Return precision, recall, density and coverage from one pass over the distances between the sets."""
    settings = reference.settings
    fakes = subsample(fake.features, settings.neighbour_images).double().to(device)
    reals = reference.chosen().double().to(device)
    closed, opened = settings.precision_recall_k, settings.density_coverage_k
    on_manifolds, in_neighbourhoods = (any(name in metrics for name in family) for family in FAMILIES)
    inside = count_inside(
        reals,
        fakes,
        reference.radii(closed, device) if on_manifolds else reals.new_zeros(len(reals)),
        reference.radii(opened, device) if in_neighbourhoods else reals.new_zeros(len(reals)),
        nearest_squared_distances(fakes, closed)[:, -1] if on_manifolds else fakes.new_zeros(len(fakes)),
    )
    scores = {
        "precision": inside.precision(),
        "recall": inside.recall(),
        "density": inside.density(opened),
        "coverage": inside.coverage(),
    }
    return {name: float(value) for name, value in scores.items() if name in metrics}
