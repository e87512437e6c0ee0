"""The evaluator: from real and generated images to scores with their protocol, on any number of processes."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data.distributed import DistributedSampler
from torchmetrics import Metric

from lightning_gans._lightning import pl, rank_zero_warn
from lightning_gans.errors import DataError
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics.cache import Cache, fingerprint
from lightning_gans.metrics.extractors import Extractor, make_extractor
from lightning_gans.metrics.processes import everywhere, gather_rows, on_first_process, shard
from lightning_gans.metrics.samples import BLOCK, draw, num_classes
from lightning_gans.metrics.scores import (
    METRICS,
    FeatureSet,
    Reference,
    Settings,
    described,
    own_scores,
    score,
    subsample,
)

DIVERGED = "The model has diverged: resume from an earlier checkpoint, and lower the learning rates."

_VERSION = 2  # of the cached files; increase it if the same key would give other numbers


def find_extractor(
    strategy: Any,
    extractor: str | nn.Module,
    image_shape: tuple[int, ...],
    weights_path: str | None,
    otherwise: str,
) -> Extractor | None:
    """Return the extractor on every process; None, with a warning, if ``auto`` finds no weights.

    Raises:
        DataError: The weights of a named extractor are missing.
    """

    def make() -> Extractor:
        with torch.random.fork_rng(devices=[]):  # initializing its weights leaves training's generator alone
            return make_extractor(extractor, image_shape, weights_path)

    try:
        if strategy.world_size > 1:
            on_first_process(strategy, lambda: bool(make()))  # downloads the weights once
        return everywhere(strategy, make)
    except DataError as error:
        if extractor != "auto" or weights_path is not None:
            raise
        rank_zero_warn(f"{otherwise}: {error}")
        return None


class Evaluator:
    """Score generated images against real ones.

    All processes call the methods together. Each image is generated and extracted once, in blocks of 250 by global
    index, so that the scores do not depend on the number of processes or on the batch size.

    Args:
        extractor: Maps images to features.
        metrics: Names of metrics.
        settings: Parameters of the metrics.
        own: Custom metrics by their names.
        cache: Stores the features of real images and the statistics of them; None stores nothing.
        strategy: The trainer's strategy; None is one process on the CPU.
    """

    def __init__(
        self,
        extractor: Extractor,
        metrics: Sequence[str] = METRICS,
        settings: Settings | None = None,
        *,
        own: Mapping[str, Metric] | None = None,
        cache: Cache | None = None,
        strategy: Any = None,
    ) -> None:
        self.extractor = extractor
        self.metrics = list(metrics)
        self.settings = settings or Settings()
        self.own = dict(own or {})
        self.cache = cache
        self.strategy = strategy or pl.strategies.SingleDeviceStrategy("cpu")

    # --- features -----------------------------------------------------------------------------------------

    def features(self, num: int, images: Callable[[int, int], Tensor]) -> tuple[FeatureSet, dict[str, float]]:
        """Extract the features of ``num`` images, each on one process.

        Args:
            num: Number of images.
            images: ``images(start, stop)`` returns uint8 ``(stop - start, C, H, W)``.

        Returns:
            All features in order on the first process, none on the others; and the seconds that ``generation`` (the
            calls of ``images``) and ``features`` took on this process.
        """
        strategy, device = self.strategy, self.strategy.root_device
        self.extractor.to(device)
        place = shard(num, BLOCK, strategy.global_rank, strategy.world_size)
        seconds = {"generation": 0.0, "features": 0.0}

        def work() -> list[tuple[Tensor, Tensor | None]]:
            found = []
            for start in range(place.start, place.stop, BLOCK):
                started = time.monotonic()
                block = images(start, min(start + BLOCK, place.stop)).to(device)
                generated = time.monotonic()
                found.append(self.extractor.extract(block))
                seconds["generation"] += generated - started
                seconds["features"] += time.monotonic() - generated
            return found

        return _gathered(strategy, everywhere(strategy, work)), seconds

    def reference(self, data: Any, split: str) -> Reference:
        """Return the real images of a split, whose features are cached.

        Args:
            data: Has ``split_images(split)``, which returns :class:`~lightning_gans.metrics.cache.Rows` with
                ``labels``, as the image data modules of this package do.
            split: ``train``, ``val`` or ``test``.
        """
        images = everywhere(self.strategy, lambda: data.split_images(split))
        key = {"data": fingerprint(images, images.labels), **self.extractor.identity(), "version": _VERSION}

        def compute() -> dict[str, Any]:
            found, _ = self.features(len(images), lambda start, stop: images[start:stop])
            return {"features": found.features.numpy()}

        stored = self._cached("features", key, compute)
        rows = stored.get("features", np.empty((0, 0), np.float32))
        features = FeatureSet(torch.from_numpy(rows), labels=images.labels)
        about = {"data": type(data).__name__, "split": split, "data_sha256": key["data"], "num_real": len(images)}
        classes = tuple(getattr(data, "class_names", ()))
        return Reference(features, self.settings, self.cache, key, about, classes)

    def _cached(self, kind: str, key: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return arrays on the first process: from the cache, or computed by all processes together and stored."""
        cache = self.cache
        stored: dict[str, Any] | None = None
        if cache is not None and self.strategy.is_global_zero:
            stored = cache.load(kind, key)
        if self.strategy.broadcast(stored is not None):
            return stored or {}
        arrays = compute()
        if cache is not None and self.strategy.is_global_zero:
            cache.save(kind, key, arrays)
        return arrays

    def reference_of_loader(
        self,
        loader: Any,
        unpack: Callable[[Any], tuple[Tensor, Tensor | None]],
        labelled: bool,
        limit: int | None = None,
    ) -> Reference:
        """Return the real images of any loader; nothing is cached.

        Args:
            loader: Yields batches; on several processes, with the sampler that Lightning gave it.
            unpack: Returns a batch's images in [-1, 1] and labels.
            labelled: Whether there are labels.
            limit: Number of batches, for a loader without an end.

        Raises:
            DataError: The images are not finite, or the loader repeats images on several processes in an unknown way.
        """
        pieces: list[Tensor] = []
        kinds: list[Tensor] = []

        def work() -> list[tuple[Tensor, Tensor | None]]:
            with torch.random.fork_rng(devices=[]):  # a DataLoader draws its seed from the global generator
                for batch in itertools.islice(loader, limit):
                    images, labels = unpack(batch)
                    if not images.isfinite().all():
                        raise DataError("the real images of the loader are not all finite numbers.", setting="loader")
                    pieces.append(to_bytes(images).cpu())
                    if labelled and labels is not None:
                        kinds.append(labels.cpu())
            blocks = torch.split(torch.cat(pieces), BLOCK) if pieces else ()
            return [self.extractor.extract(block.to(self.strategy.root_device)) for block in blocks]

        self.extractor.to(self.strategy.root_device)
        found = _gathered(self.strategy, everywhere(self.strategy, work))
        columns = [torch.tensor([int(fingerprint(image)[:15], 16) for piece in pieces for image in piece]).long()]
        if labelled:
            columns.append(torch.cat([torch.empty(0, dtype=torch.long), *kinds]))
        gathered = gather_rows(self.strategy, torch.stack(columns, dim=1))

        def settle() -> tuple[str, int]:
            assert gathered is not None
            order = _dataset_order(loader, len(gathered), self.strategy.world_size)
            rows = gathered[order]
            found.features, found.labels = found.features[order], rows[:, 1] if labelled else None
            return fingerprint(rows[:, 0].sort().values), len(rows)

        digest, num_real = on_first_process(self.strategy, settle)
        about = {"data": "loader", "split": "loader", "data_sha256": digest, "num_real": num_real}
        return Reference(found, self.settings, None, {}, about)

    # --- scores -------------------------------------------------------------------------------------------

    def floor(self, reference: Reference, data: Any, num: int) -> dict[str, Any] | None:
        """Score at most ``num`` real images of another split as if they were samples: the result of a perfect model.

        Returns:
            The scores, the split and the number of images; None without another split of a sufficient size.
        """
        about = reference.about
        for split in ("test", "val") if about["split"] == "train" else ("train",):
            others = data.split_images(split)
            if fingerprint(others, others.labels) != about["data_sha256"]:
                break
        else:
            return None
        images = subsample(others, num)
        if len(images) <= max(self.settings.precision_recall_k, self.settings.density_coverage_k):
            rank_zero_warn(f"No floor for the scores: the {split} split has only {len(images)} images.")
            return None
        # Real images have their own labels, not those of the samples.
        metrics = [name for name in self.metrics if name not in ("label_accuracy", "fid_class")]
        key = {
            "reference": about["data_sha256"],
            "floor": fingerprint(images),
            **self.extractor.identity(),
            **self.settings.fitted(about["num_real"], len(images)),
            "metrics": metrics,
            "version": _VERSION,
        }

        def compute() -> dict[str, Any]:
            real, _ = self.features(len(images), lambda start, stop: images[start:stop])
            device = self.strategy.root_device
            scores = on_first_process(self.strategy, lambda: score(real, reference, metrics, device)[0])
            return {"scores": np.array(json.dumps(scores))}

        arrays = self._cached("floor", key, compute)
        scores = on_first_process(self.strategy, lambda: json.loads(str(arrays["scores"])))
        return {"split": split, "num_images": len(images), "scores": scores}

    def evaluate(
        self,
        module: Any,
        reference: Reference,
        num_samples: int,
        *,
        seed: int = 0,
        num_repeats: int = 1,
        ema: bool = True,
    ) -> dict[str, Any]:
        """Score samples of a module; see :func:`~lightning_gans.metrics.samples.draw` for what it needs.

        Args:
            module: Generates the samples.
            reference: The real images.
            num_samples: Number of samples.
            seed: Seed of the samples.
            num_repeats: Number of sets of samples, with the seeds ``seed``, ``seed + 1``, …
            ema: Whether to use the moving average of the weights.

        Returns:
            On every process: ``scores``, the means over the repeats, with ``standard_deviations`` if there are
            several; the ``protocol``; and the ``seconds`` of each part.

        Raises:
            DataError: Samples are not finite.
            SettingError: There are too few images.
        """
        repeats = [self._repeat(module, reference, num_samples, seed + repeat, ema) for repeat in range(num_repeats)]
        values = {name: np.array([scores[name] for scores, _ in repeats]) for name in repeats[0][0]}
        record: dict[str, Any] = {
            "scores": {name: float(value.mean()) for name, value in values.items()},
            "protocol": self.extractor.describe()  # complete after the first images
            | reference.about
            | {"num_samples": num_samples, "ema": ema}
            | {f"own.{name}": described(metric) for name, metric in self.own.items()}
            | self.settings.fitted(reference.about["num_real"], num_samples),
            "seconds": {name: sum(seconds[name] for _, seconds in repeats) for name in repeats[0][1]},
        }
        if num_repeats > 1:
            record["standard_deviations"] = {name: float(value.std(ddof=1)) for name, value in values.items()}
        return record

    def _repeat(
        self, module: Any, reference: Reference, num: int, seed: int, ema: bool
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Return the scores and the seconds of one set of samples, on every process."""
        classes, metrics, device = num_classes(module), list(self.metrics), self.strategy.root_device

        def samples(start: int, stop: int) -> Tensor:
            images = draw(module, stop - start, seed=seed, start=start, ema=ema)
            if not images.isfinite().all():
                raise DataError(f"the samples are not all finite numbers. {DIVERGED}", setting="samples")
            return to_bytes(images)

        fake, seconds = self.features(num, samples)
        fake.labels = torch.arange(num) % classes if classes else None
        names = reference.class_names
        if not names or names != self.extractor.class_names or len(names) != classes:
            metrics = [name for name in metrics if name != "label_accuracy"]  # the extractor has other classes
        if names == ():
            metrics = [name for name in metrics if name != "fid_class"]  # the data has no classes

        def compute() -> tuple[dict[str, float], dict[str, float]]:
            scores, times = score(fake, reference, metrics, device)
            return scores | own_scores(self.own, fake.features, reference.images.features, device), times

        scores, times = on_first_process(self.strategy, compute)
        return scores, seconds | times


def _gathered(strategy: Any, found: list[tuple[Tensor, Tensor | None]]) -> FeatureSet:
    """Gather features and logits; a process without images does not know their widths."""
    widths = None
    if found:
        features, logits = found[0]
        widths = features.shape[1], None if logits is None else logits.shape[1]
    num_features, num_logits = strategy.broadcast(widths)
    mine = torch.cat([torch.empty(0, num_features), *(features for features, _ in found)])
    all_features, all_logits = gather_rows(strategy, mine), None
    if num_logits is not None:
        seen = [logits for _, logits in found if logits is not None]
        all_logits = gather_rows(strategy, torch.cat([torch.empty(0, num_logits), *seen]))
    return FeatureSet(torch.empty(0, num_features) if all_features is None else all_features, all_logits)


def _dataset_order(loader: Any, num_rows: int, world_size: int) -> Tensor:
    """Return the rows of the data set among the gathered rows of all processes, without repetitions.

    The sampler that Lightning gives a loader deals the images out in turn, and repeats the first images until every
    process has the same number.
    """
    if world_size == 1:
        return torch.arange(num_rows)
    sampler = getattr(loader, "sampler", None)
    dealt = isinstance(sampler, DistributedSampler) and not sampler.shuffle and not sampler.drop_last
    num = len(sampler.dataset) if dealt else 0  # type: ignore[union-attr]
    each = -(-num // world_size)
    if not dealt or num_rows != each * world_size:
        raise DataError(
            f"with {world_size} processes, the real images that this loader repeats are unknown: use a DataLoader "
            "without shuffle, drop_last or a custom sampler, or an ImageDataModule, or set metrics.enabled: false.",
            setting="loader",
        )
    index = torch.arange(num)
    order: Tensor = index % world_size * each + index // world_size
    return order
