"""Images to features, shared out among the processes, and the real images' features kept on disk."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data.distributed import DistributedSampler

from lightning_gans._lightning import rank_zero_warn
from lightning_gans.errors import DataError
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics.cache import Cache, fingerprint
from lightning_gans.metrics.extractors import Extractor, make_extractor
from lightning_gans.metrics.processes import everywhere, gather_rows, on_first_process, shard
from lightning_gans.metrics.scores import FeatureSet, Reference, Settings, score, subsample

BLOCK = 250
"""Images that go through the generator and the extractor together, by their global index."""

_VERSION = 2  # of what is kept on disk; raise it when the same key would give other numbers


def find_extractor(
    trainer: Any,
    extractor: str | nn.Module,
    image_shape: tuple[int, ...],
    weights_path: str | None,
    without: str,
) -> Extractor | None:
    """Return the extractor on every process, or None where ``auto`` cannot have one, with a warning of what follows.

    Raises:
        DataError: The weights of one that was named are missing.
    """

    def make() -> Extractor:
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and training's stream is not its own
            return make_extractor(extractor, image_shape, weights_path)

    try:
        # The first process may have to download a file; the others then find it there.
        if trainer.world_size > 1:
            on_first_process(trainer, lambda: bool(make()))
        return everywhere(trainer, make)
    except DataError as error:
        if extractor != "auto" or weights_path is not None:
            raise
        rank_zero_warn(f"{without}: {error}")
        return None


def evaluated(trainer: Any) -> tuple[Any, float]:
    """Return the loader of the evaluation under way, and how many of its batches this process evaluates."""
    if trainer.testing:
        return trainer.test_dataloaders, float(sum(trainer.num_test_batches))
    return trainer.val_dataloaders, float(sum(trainer.num_val_batches))


def is_ours(loader: Any) -> bool:
    """Whether a loader is of a data module of this package; the trainer also keeps the one of an earlier run."""
    return hasattr(loader, "source")


def extract(
    trainer: Any, extractor: Extractor, num: int, images: Callable[[int, int], Tensor]
) -> tuple[FeatureSet, dict[str, float]]:
    """Extract the features of ``num`` images, each on one process.

    Args:
        trainer: Gives the processes.
        extractor: On the device of this process.
        num: How many images there are.
        images: ``images(start, stop)`` gives these, uint8 ``(stop - start, C, H, W)``.

    Returns:
        The features of all in their order on the first process, nothing on the others; and the seconds that
        ``generation`` (making the images) and ``features`` took on this one.
    """
    place = shard(num, BLOCK, trainer.global_rank, trainer.world_size)
    seconds = {"generation": 0.0, "features": 0.0}

    def work() -> list[tuple[Tensor, Tensor | None]]:
        found = []
        for start in range(place.start, place.stop, BLOCK):
            began = time.monotonic()
            block = images(start, min(start + BLOCK, place.stop)).to(trainer.strategy.root_device)
            between = time.monotonic()
            found.append(extractor.extract(block))
            seconds["generation"] += between - began
            seconds["features"] += time.monotonic() - between
        return found

    return _gathered(trainer, everywhere(trainer, work)), seconds


def _gathered(trainer: Any, found: list[tuple[Tensor, Tensor | None]]) -> FeatureSet:
    """Bring the processes' features and logits together; a process that had no image knows no shapes."""
    widths = None
    if found:
        features, logits = found[0]
        widths = features.shape[1], None if logits is None else logits.shape[1]
    num_features, num_logits = trainer.strategy.broadcast(widths)
    mine = torch.cat([torch.empty(0, num_features), *(features for features, _ in found)])
    all_features, all_logits = gather_rows(trainer, mine), None
    if num_logits is not None:
        seen = [logits for _, logits in found if logits is not None]
        all_logits = gather_rows(trainer, torch.cat([torch.empty(0, num_logits), *seen]))
    return FeatureSet(torch.empty(0, num_features) if all_features is None else all_features, all_logits)


class RealImages:
    """The real images' features, from a data module of ours, and the floor that they give.

    Args:
        trainer: Gives the processes and the data module.
        extractor: On the device of this process.
        cache: Where the features are kept.
        settings: The numbers that the metrics take.
    """

    def __init__(self, trainer: Any, extractor: Extractor, cache: Cache, settings: Settings) -> None:
        self.trainer = trainer
        self.extractor = extractor
        self.cache = cache
        self.settings = settings

    def reference(self, split: str) -> tuple[Reference, dict[str, Any]]:
        """Return the reference (whole on the first process only), and what a protocol says of it."""
        data = self.trainer.datamodule
        images = everywhere(self.trainer, lambda: data.split_images(split))
        labels = images.labels
        key = {"data": fingerprint(images, labels), **self.extractor.identity(), "version": _VERSION}

        def look() -> FeatureSet | None:
            stored = self.cache.load("features", key)
            return None if stored is None else FeatureSet(torch.from_numpy(stored["features"]), labels=labels)

        found = everywhere(self.trainer, lambda: look() if self.trainer.is_global_zero else None)
        # The others only need to know whether it is there.
        if not self.trainer.strategy.broadcast(found is not None):
            found, _ = extract(self.trainer, self.extractor, len(images), lambda start, stop: images[start:stop])
            found.labels, found.logits = labels, None  # of real images no metric takes logits, which may be large
            features = found.features
            on_first_process(self.trainer, lambda: self.cache.save("features", key, {"features": features.numpy()}))
        reference = Reference(found or FeatureSet(torch.empty(0, 0)), self.settings, self.cache, key)
        about = {"data": type(data).__name__, "split": split, "data_sha256": key["data"], "num_real": len(images)}
        return reference, about

    def floor(
        self, about: dict[str, Any], reference: Reference, num: int, metrics: Sequence[str]
    ) -> dict[str, Any] | None:
        """Score real images of another split as if they were samples: what a perfect model would get.

        Args:
            about: What a protocol says of the reference.
            reference: The real images.
            num: At most so many images are taken.
            metrics: Which scores.

        Returns:
            The scores, the split they come from and the number of images; None where there is no other split.
        """
        data = self.trainer.datamodule
        for other in ("test", "val") if about["split"] == "train" else ("train",):
            others = data.split_images(other)
            if fingerprint(others, others.labels) != about["data_sha256"]:
                break
        else:
            return None
        images = subsample(others, num)
        if len(images) <= max(self.settings.precision_recall_k, self.settings.density_coverage_k):
            rank_zero_warn(f"No floor beside the scores: the {other} split has {len(images)} images only.")
            return None
        # The real images have their own labels, not those that samples are asked for.
        metrics = [name for name in metrics if name not in ("label_accuracy", "fid_class")]
        key = {
            "reference": about["data_sha256"],
            "floor": fingerprint(images),
            **self.extractor.identity(),
            **self.settings.fitted(len(reference.images), len(images)),
            "metrics": metrics,
            "version": _VERSION,
        }
        stored = on_first_process(self.trainer, lambda: _loaded(self.cache, key))
        if stored is None:
            real, _ = extract(self.trainer, self.extractor, len(images), lambda start, stop: images[start:stop])
            device = self.trainer.strategy.root_device
            stored = on_first_process(self.trainer, lambda: score(real, reference, metrics, device)[0])
            arrays = {"scores": np.array(json.dumps(stored))}
            on_first_process(self.trainer, lambda: self.cache.save("floor", key, arrays))
        return {"split": other, "num_images": len(images), "scores": stored}


def _loaded(cache: Cache, key: dict[str, Any]) -> dict[str, float] | None:
    stored = cache.load("floor", key)
    scores: dict[str, float] | None = None if stored is None else json.loads(str(stored["scores"]))
    return scores


def reference_from_loader(
    trainer: Any, model: Any, extractor: Extractor, loader: Any, num_batches: float, settings: Settings
) -> tuple[Reference, dict[str, Any]]:
    """Return a reference of the images of a loader of the user's own; nothing of it is kept on disk.

    Raises:
        DataError: There is no loader, it has no end, its images are not finite, or it deals them out to several
            processes in a way that does not tell which are repetitions.
    """
    if loader is None:
        raise DataError("there are no real images to compare with: give the trainer a data module, or a loader.")
    endless = length(loader) is None
    if endless and num_batches == float("inf"):
        raise DataError("the real images are those of a loader without an end: set limit_val_batches.")
    pieces: list[Tensor] = []
    kinds: list[Tensor] = []

    def work() -> list[tuple[Tensor, Tensor | None]]:
        # A DataLoader draws its seed from the global stream, which is training's.
        with torch.random.fork_rng(devices=[]):
            for batch in itertools.islice(loader, int(num_batches)) if endless else loader:
                images, labels = model.images_and_labels(trainer.strategy.batch_to_device(batch))
                if not images.isfinite().all():
                    raise DataError("the real images of the loader are not all finite numbers.")
                pieces.append(to_bytes(images).cpu())
                if labels is not None:
                    kinds.append(labels.cpu())
        blocks = torch.split(torch.cat(pieces), BLOCK) if pieces else ()
        return [extractor.extract(block.to(trainer.strategy.root_device)) for block in blocks]

    found = _gathered(trainer, everywhere(trainer, work))
    digests = [int(fingerprint(image)[:15], 16) for piece in pieces for image in piece]
    columns = [torch.tensor(digests, dtype=torch.long)]
    if model.num_classes > 0:
        columns.append(torch.cat([torch.empty(0, dtype=torch.long), *kinds]))
    gathered = gather_rows(trainer, torch.stack(columns, dim=1))

    def settle() -> tuple[str, int]:
        assert gathered is not None
        order = _dataset_order(trainer, loader, len(gathered))
        rows = gathered[order]
        found.features = found.features[order]
        found.labels = rows[:, 1] if model.num_classes > 0 else None
        return fingerprint(rows[:, 0].sort().values), len(rows)

    digest, num_real = on_first_process(trainer, settle)
    about = {"data": "loader", "split": "loader", "data_sha256": digest, "num_real": num_real}
    return Reference(found, settings, None, {}), about


def length(loader: Any) -> int | None:
    """Return how many batches a loader has; None where it does not say."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):  # a DataLoader of an iterable data set has a __len__ that raises
        return None


def _dataset_order(trainer: Any, loader: Any, num_rows: int) -> Tensor:
    """Return where each image of the data set lies in the processes' rows, one after the other.

    The sampler that Lightning gives a loader deals the images out in turn, and repeats the first ones so that
    every process has as many: these must not count twice.
    """
    world_size = trainer.world_size
    if world_size == 1:
        return torch.arange(num_rows)
    sampler = getattr(loader, "sampler", None)
    dealt = isinstance(sampler, DistributedSampler) and not sampler.shuffle and not sampler.drop_last
    num = len(sampler.dataset) if dealt else 0  # type: ignore[union-attr]
    each = -(-num // world_size)
    if not dealt or num_rows != each * world_size:
        raise DataError(
            f"with {world_size} processes it cannot be told which real images this loader repeats: give a DataLoader "
            "without shuffle, drop_last or a sampler of its own, or an ImageDataModule, or --metrics.enabled false."
        )
    index = torch.arange(num)
    order: Tensor = index % world_size * each + index // world_size
    return order
