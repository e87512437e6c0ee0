"""The evaluator: from real and generated images to scores with their protocol, on any number of processes."""

from __future__ import annotations

import itertools
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data.distributed import DistributedSampler
from torchmetrics import Metric

from lightning_gans.errors import DataError, SettingError
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics.cache import Cache, fingerprint
from lightning_gans.metrics.extractors import Extractor, make_extractor
from lightning_gans.metrics.processes import OneProcess, everywhere, gather_rows, on_first_process, shard, warn_once
from lightning_gans.metrics.samples import BLOCK, data_labels_in_turn, draw, is_averaged
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
from lightning_gans.metrics.translations import Translations

DIVERGED = "The model has diverged: resume from an earlier checkpoint, and lower the learning rates."

_VERSION = 2  # version of the cached files; increase it if the numbers for the same key change


def find_extractor(
    strategy: Any,
    extractor: str | nn.Module,
    image_shape: tuple[int, ...],
    weights_path: str | None,
    otherwise: str,
    data: Any = None,
) -> Extractor | None:
    """Return the extractor on every process; None, with a warning, if ``auto`` finds no weights.

    ``auto`` prefers the ``default_extractor`` of the data module ``data``, if it has one.

    Raises:
        DataError: The weights of a named extractor are missing.
        SettingError: A custom extractor fails on two images.
    """

    def make() -> Extractor:
        with torch.random.fork_rng(devices=[]):  # initializing its weights must not change training's generator
            made = make_extractor(extractor, image_shape, weights_path, getattr(data, "default_extractor", None))
            if isinstance(extractor, nn.Module):
                made.check(image_shape, strategy.root_device)
            return made

    try:
        if strategy.world_size > 1:
            on_first_process(strategy, lambda: bool(make()))  # downloads the weights once
        return everywhere(strategy, make)
    except DataError as error:
        if extractor != "auto" or weights_path is not None:
            raise
        warn_once(strategy, f"{otherwise}: {error}")
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
        pairs: Compares each output of a :class:`~lightning_gans.metrics.samples.TranslationSampler` with its target.
        cache: Stores the features of real images and their statistics; None stores nothing.
        strategy: The trainer's strategy; None is one process on the CPU.
    """

    def __init__(
        self,
        extractor: Extractor,
        metrics: Sequence[str] = METRICS,
        settings: Settings | None = None,
        *,
        own: Mapping[str, Metric] | None = None,
        pairs: Translations | None = None,
        cache: Cache | None = None,
        strategy: Any = None,
    ) -> None:
        self.extractor = extractor
        self.metrics = list(metrics)
        self.settings = settings or Settings()
        self.own = dict(own or {})
        self.pairs = pairs
        self.cache = cache
        self.strategy = strategy or OneProcess()

    # --- features -----------------------------------------------------------------------------------------

    def features(self, num: int, images: Callable[[int, int], Tensor]) -> tuple[FeatureSet, dict[str, float]]:
        """Extract the features of ``num`` images, each on one process.

        Args:
            num: Number of images.
            images: ``images(start, stop)`` returns uint8 ``(stop - start, C, H, W)``.

        Returns:
            All features in order on the first process, none on the others; and the seconds on this process for
            ``generation`` (the calls of ``images``) and for ``features``.
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
        """Return the real images of a split; their features are cached.

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
            loader: Yields batches; on several processes, it has the sampler that Lightning gave it.
            unpack: Returns a batch's images in [-1, 1] and labels.
            labelled: Whether there are labels.
            limit: Number of batches, for an endless loader.

        Raises:
            DataError: The images are not finite, or it is unknown which images the loader repeats on several processes.
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
            if pieces and min(int(piece.min()) for piece in pieces) > 127:
                message = "a module with images in [0, 1] needs value_range = (0, 1)."
                warn_once(self.strategy, f"No pixel of the real images is below 0: {message}")
            blocks = torch.split(torch.cat(pieces), BLOCK) if pieces else ()
            return [self.extractor.extract(block.to(self.strategy.root_device)) for block in blocks]

        self.extractor.to(self.strategy.root_device)
        found = _gathered(self.strategy, everywhere(self.strategy, work))
        digests = torch.tensor([int(fingerprint(image)[:15], 16) for piece in pieces for image in piece]).long()
        gathered = gather_rows(self.strategy, digests)
        none: Tensor | None = self.strategy.broadcast(kinds[0][:0] if kinds else None)  # a process may have no images
        labels = None if none is None else gather_rows(self.strategy, torch.cat([none, *kinds]))

        def settle() -> tuple[str, int]:
            assert gathered is not None
            order = _dataset_order(loader, len(gathered), self.strategy.world_size)
            found.features, found.labels = found.features[order], None if labels is None else labels[order]
            return fingerprint(gathered[order].sort().values), len(order)

        digest, num_real = on_first_process(self.strategy, settle)
        about = {"data": "loader", "split": "loader", "data_sha256": digest, "num_real": num_real}
        return Reference(found, self.settings, None, {}, about)

    def warn_of_few_images(self, num_samples: int, num_real: int) -> None:
        """Warn if a set has fewer images than features: its covariance is singular, and the FID is far too high."""
        extractor, num_features = self.extractor.name, self.extractor.num_features
        if "fid" in self.metrics and min(num_samples, num_real) < num_features:
            warn_once(
                self.strategy,
                f"{num_samples:,} generated and {num_real:,} real images are few for the {num_features:,} features of "
                f"the extractor {extractor}: the FID is much too high; compare it only with FIDs of as many images.",
            )

    def metrics_of_floor(self) -> list[str]:
        """Return the metrics of the floor: all except those of single classes, which would have few images."""
        return [name for name in self.metrics if name != "fid_class"]

    # --- scores -------------------------------------------------------------------------------------------

    def floor(self, reference: Reference, data: Any, num: int) -> dict[str, Any] | None:
        """Score at most ``num`` real images of another split as if they were samples of a perfect model.

        Returns:
            The scores, the split and the number of images; None if no other split is large enough.
        """
        about = reference.about
        for split in ("test", "val") if about["split"] == "train" else ("train",):
            others = data.split_images(split)
            if fingerprint(others, others.labels) != about["data_sha256"]:
                break
        else:
            return None
        if split == "test" and not data.has_test_split:
            split = "val"  # which stands in for it
        images = subsample(others, num)
        metrics = self.metrics_of_floor()
        try:
            self.settings.check(metrics, len(images))
        except SettingError:
            warn_once(self.strategy, f"No floor for the scores: the {split} split has only {len(images)} images.")
            return None
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
            real.labels = None if others.labels is None else subsample(others.labels, num)
            scores = on_first_process(self.strategy, lambda: self.compare(real, reference, metrics)[0])
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
        floor: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Score samples of a module; see :func:`~lightning_gans.metrics.samples.draw` for what it needs.

        Args:
            module: Generates the samples.
            reference: The real images.
            num_samples: Number of samples.
            seed: Seed of the samples.
            num_repeats: Number of sets of samples, with the seeds ``seed``, ``seed + 1``, …
            ema: Whether to use the moving average of the weights.
            floor: What :meth:`floor` returned.

        Returns:
            On every process: ``scores``, the means over the repeats, with ``standard_deviations`` if there are
            several; the ``protocol``; the ``seconds`` of each part; and the ``floor``. If the floor has fewer images,
            it also gets ``samples``, the scores of as many samples, because FID, recall, coverage and other metrics
            depend on the number of images.

        Raises:
            DataError: Samples are not finite.
            SettingError: There are too few images.
        """
        few = floor["num_images"] if floor and floor["num_images"] < num_samples else None
        self.warn_of_few_images(num_samples, reference.about["num_real"])
        repeats = [
            self._repeat(module, reference, num_samples, seed + repeat, ema, few) for repeat in range(num_repeats)
        ]
        values, of_few, seconds = (
            {name: np.array([found[part][name] for found in repeats]) for name in repeats[0][part]} for part in range(3)
        )
        if floor and few:
            floor = floor | {"samples": {name: float(value.mean()) for name, value in of_few.items()}}
        record: dict[str, Any] = {
            "scores": {name: float(value.mean()) for name, value in values.items()},
            "floor": floor,
            "protocol": self.extractor.describe()  # complete after the first images
            | reference.about
            | {"num_samples": num_samples, "ema": is_averaged(module, ema)}
            | {f"own.{name}": described(metric) for name, metric in self.own.items()}
            | {f"own.{name}": about for name, about in (self.pairs.describe() if self.pairs else {}).items()}
            | self.settings.fitted(reference.about["num_real"], num_samples),
            "seconds": {name: float(value.sum()) for name, value in seconds.items()},
        }
        if num_repeats > 1:
            record["standard_deviations"] = {name: float(value.std(ddof=1)) for name, value in values.items()}
        return record

    def _repeat(
        self, module: Any, reference: Reference, num: int, seed: int, ema: bool, few: int | None
    ) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Return the scores of a set of samples, the scores of the first ``few``, and the seconds, on every process."""
        pairs = self.pairs
        if pairs is not None:
            pairs.reset()
            pairs.to(self.strategy.root_device)

        def samples(start: int, stop: int) -> Tensor:
            images = sample_bytes(module, start, stop, seed, ema)
            if pairs is not None:
                pairs.update(*(each.to(pairs.device) for each in (images, to_bytes(module.targets(start, stop)))))
            return images

        fake, seconds = self.features(num, samples)
        fake.labels = data_labels_in_turn(module, num)
        rows = None if pairs is None else gather_rows(self.strategy, pairs.rows("pairs").cpu())

        def compute() -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
            of_few = {} if few is None else self.compare(fake.at(slice(few)), reference, self.metrics_of_floor())[0]
            scores, times = self.compare(fake, reference)
            if pairs is not None and rows is not None:
                pairs.reset()
                pairs.add("pairs", rows)
                for name, reason in pairs.left_out().items():
                    warnings.warn(f"No {name}: {reason}.", stacklevel=2)
                scores |= {name: float(mean) for name, mean in pairs.means().items()}
            return scores, of_few, seconds | times

        return on_first_process(self.strategy, compute)

    def compare(
        self, fake: FeatureSet, reference: Reference, metrics: Sequence[str] | None = None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Score features on this process, which has all of them.

        Args:
            fake: Features of generated images.
            reference: Features of the real images.
            metrics: Names of metrics; None is all metrics of the evaluator, including the custom ones.

        Returns:
            The scores, and the seconds that they took by part.
        """
        names, labels, device = reference.class_names, fake.labels, self.strategy.root_device
        left_out = set()
        if not names or names != self.extractor.class_names or (labels is not None and labels.max() >= len(names)):
            left_out.add("label_accuracy")  # the extractor has other classes
        if names == ():
            left_out.add("fid_class")  # the data has no classes
        wanted = [name for name in (self.metrics if metrics is None else metrics) if name not in left_out]
        scores, seconds = score(fake, reference, wanted, device)
        if metrics is None:
            scores |= own_scores(self.own, fake.features, reference.images.features, device)
        return scores, seconds


def sample_bytes(module: Any, start: int, stop: int, seed: int, ema: bool) -> Tensor:
    """Return samples ``start`` to ``stop - 1`` of a module, uint8 ``(stop - start, C, H, W)``.

    Raises:
        DataError: They are not finite.
    """
    images = draw(module, stop - start, seed=seed, start=start, ema=ema)
    if not images.isfinite().all():
        raise DataError(f"the samples are not all finite numbers. {DIVERGED}", setting="samples")
    return to_bytes(images)


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

    The sampler that Lightning gives a loader distributes the images over the processes in turn, and repeats the first
    images until every process has the same number.
    """
    if world_size == 1:
        return torch.arange(num_rows)
    sampler = getattr(loader, "sampler", None)
    dealt = isinstance(sampler, DistributedSampler) and not sampler.shuffle and not sampler.drop_last
    num = len(sampler.dataset) if dealt else 0  # type: ignore[union-attr]
    each = -(-num // world_size)
    if not dealt or num_rows != each * world_size:
        raise DataError(
            f"with {world_size} processes, it is unknown which real images this loader repeats: use a DataLoader "
            "without shuffle, drop_last or a custom sampler, or an ImageDataModule, or set metrics.enabled: false.",
            setting="loader",
        )
    index = torch.arange(num)
    order: Tensor = index % world_size * each + index // world_size
    return order
