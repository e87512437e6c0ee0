"""Scores of a model's samples at the end of validation and of test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from lightning_gans._lightning import Callback, TrainerFn, pl
from lightning_gans.callbacks.base import (
    check_is_image,
    evaluated,
    images_and_labels,
    is_due,
    is_ours,
    length,
    log_evaluation,
    run_folder,
)
from lightning_gans.errors import DataError, check_choice, check_counts, invalid
from lightning_gans.io.files import check_writable
from lightning_gans.metrics.cache import Cache, fingerprint
from lightning_gans.metrics.evaluate import DIVERGED, Evaluator, find_extractor
from lightning_gans.metrics.extractors.base import Extractor
from lightning_gans.metrics.processes import on_first_process
from lightning_gans.metrics.protocol import made, table, write_scores
from lightning_gans.metrics.samples import check_sampler, image_shape, num_classes
from lightning_gans.metrics.scores import METRICS, ON_REQUEST, Reference, Settings, is_measured

_LIKELIHOODS = ("elbo", "reconstruction", "kl", "iw_bound", "bits_per_dim")

_TAKEN = {*METRICS, *ON_REQUEST, *_LIKELIHOODS, "kid_std", "memorization", "memorization_pixels"}

Stage = Literal["val", "test"]


class GenerativeMetrics(Callback):
    """FID, Inception Score, KID, precision, recall, density and coverage of a model's samples.

    At the end of validation and of test, each image is generated and extracted once, and all metrics are computed from
    its features. Sample i is the same picture on any number of processes, each real image counts once, and the scores
    are the same numbers. They are logged as ``val/fid`` and so on, and written with their protocol to
    ``metrics/step=XXXXXXX.json`` in the run's folder. Conditional models get ``fid_class/0`` …, and
    ``label_accuracy`` if the extractor knows the data's classes.

    The module needs a method ``sample(n)``; see :func:`lightning_gans.metrics.samples.draw` for what it may take.

    The real images are those of the data module's ``images(split)``, whatever ``limit_val_batches`` is; without a data
    module of this package, those of the validation or test loader. Features of a data module's images are cached on
    disk, by the content of the images and by the extractor.

    Args:
        metrics: Names out of ``fid``, ``inception_score``, ``kid``, ``precision``, ``recall``, ``density``,
            ``coverage``, ``label_accuracy``, ``fid_class``, ``modes`` (how many of the extractor's classes the samples
            have) and ``mode_kl`` (divergence of their shares from uniform, in nats). None is all but the last two,
            which are meaningful for many classes only; an empty list is none.
        num_samples: Number of images to generate.
        extractor: ``mnist`` (part of the package, for grayscale images), ``inception`` (for published protocols),
            ``stacked_mnist`` (``mnist`` on each channel of RGB images), a custom network, or ``auto``: ``inception`` if
            ``weights_path`` is given, ``mnist`` for other grayscale images, else ``inception`` if its weights are
            available, else a warning and no scores.
        weights_path: File of the ``inception`` weights, for machines without network access.
        split: The real images: ``train``, ``val`` or ``test``. None is ``train`` in validation, as in published FIDs,
            and ``test`` in test.
        every_n_epochs: How often to score within a fit; the last epoch always counts.
        num_repeats: Number of sets of samples, with the seeds ``seed``, ``seed + 1``, …: the scores are means, and
            their standard deviations are written too.
        floor: Whether to score real images of another split as if they were samples, once: the result of a perfect
            model.
        seed: Seed of the samples.
        ema: Whether samples come from the moving average of the weights; likelihoods always do.
        iw_samples: For models with a likelihood: samples of the importance-weighted bound ``iw_bound``; 0 disables it.
        precision_recall_k: Neighbor that defines the manifolds of precision and recall.
        density_coverage_k: Neighbor that defines density and coverage.
        neighbour_images: Largest number of images of each set for precision, recall, density and coverage; the choice
            depends only on their number.
        cache_dir: Folder of the cached features; None is ``$LIGHTNING_GANS_CACHE``, else ``lightning_gans`` in the
            user's cache folder.
        own: Custom metrics by their names. Each gets the features of all real images, ``update(features, real=True)``,
            and of all samples, ``update(features, real=False)``, float32 ``(N, num_features)``, on the first process;
            ``compute()`` returns one number.

    Raises:
        SettingError: A setting is invalid, the extractor does not fit the images, or the module has no ``sample``.
        DataError: The extractor's weights are missing; raised before the first step.
    """

    def __init__(
        self,
        metrics: Sequence[str] | None = None,
        num_samples: int = 10_000,
        extractor: str | nn.Module = "auto",
        weights_path: str | None = None,
        split: Literal["train", "val", "test"] | None = None,
        every_n_epochs: int = 1,
        num_repeats: int = 1,
        floor: bool = True,
        seed: int = 0,
        ema: bool = True,
        iw_samples: int = 0,
        precision_recall_k: int = 3,
        density_coverage_k: int = 5,
        neighbour_images: int = 10_000,
        cache_dir: str | None = None,
        own: Mapping[str, Metric] | None = None,
    ) -> None:
        for name in own or ():
            if name in _TAKEN or not name.isidentifier():
                raise invalid("metrics.own", name, "an identifier that is not the name of another score")
        for name in metrics or ():
            check_choice("metrics.metrics", name, (*METRICS, *ON_REQUEST))
        if split is not None:
            check_choice("metrics.split", split, ("train", "val", "test"))
        counts: dict[str, Any] = {
            "every_n_epochs": every_n_epochs,
            "num_repeats": num_repeats,
            "precision_recall_k": precision_recall_k,
            "density_coverage_k": density_coverage_k,
            "neighbour_images": neighbour_images,
        }
        check_counts(**{f"metrics.{name}": value for name, value in counts.items()})
        check_counts(zero=True, **{"metrics.iw_samples": iw_samples})
        if num_samples < 2:
            raise invalid("metrics.num_samples", num_samples, "2 or more")
        self.metrics = list(METRICS if metrics is None else metrics)
        self.num_samples = num_samples
        self.extractor = extractor
        self.weights_path = weights_path
        self.split = split
        self.every_n_epochs = every_n_epochs
        self.num_repeats = num_repeats
        self.floor = floor
        self.seed = seed
        self.ema = ema
        self.iw_samples = iw_samples
        self.settings = Settings(precision_recall_k, density_coverage_k, neighbour_images)
        self.cache = Cache(cache_dir)
        self.own = dict(own or {})
        self.last_path: Path | None = None
        self.last_scored_step = -1
        self._evaluator: Evaluator | None = None
        self._real: dict[Stage, tuple[Reference, dict[str, Any] | None]] = {}
        self._bound = MeanMetric()
        self._folder = Path()
        self._written: dict[Path, Stage] = {}
        k, most = self.settings.largest_k(self.metrics), min(num_samples, neighbour_images)
        if k[1] >= most:
            raise invalid(f"metrics.{k[0]}", k[1], f"smaller than the number of images, {most}")

    @property
    def active(self) -> bool:
        """Whether samples are scored: there are metrics and an extractor."""
        return self._evaluator is not None

    @property
    def network(self) -> Extractor | None:
        """The extractor; None before ``setup``."""
        return None if self._evaluator is None else self._evaluator.extractor

    def measures(self, key: str) -> bool:
        """Return whether some validations log this key."""
        name = key.removeprefix("val/")
        if name == "iw_bound":
            return self.iw_samples > 0
        return self.active and name != key and (name in self.own or is_measured(name, self.metrics))

    # --- when ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Load the extractor before the first step, so that a missing file costs no training."""
        self._real.clear()
        self._folder = run_folder(trainer) / "metrics"
        self._evaluator = None
        if not (self.metrics or self.own) or stage == "predict":
            return
        check_sampler(pl_module, type(self).__name__)
        shape = image_shape(pl_module)
        check_is_image(shape, type(self).__name__, "metrics")
        strategy = trainer.strategy
        extractor = find_extractor(strategy, self.extractor, shape, self.weights_path, "Samples will not be scored")
        if extractor is not None:
            self._evaluator = Evaluator(
                extractor, self.metrics, self.settings, own=self.own, cache=self.cache, strategy=strategy
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the mean of the bound."""
        self._bound = MeanMetric(nan_strategy="disable").to(pl_module.device)
        if pl_module.device.type != "mps":  # which has no float64
            self._bound.set_dtype(torch.float64)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add a batch to the mean of the importance-weighted bound."""
        if self.iw_samples and hasattr(pl_module, "bound") and is_due(trainer, self.every_n_epochs):
            images, labels = images_and_labels(pl_module, batch)
            bound = pl_module.bound(images, self.iw_samples, labels, seed=self.seed)
            self._bound.update(bound.to(self._bound.dtype))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the samples."""
        if is_due(trainer, self.every_n_epochs):
            self._evaluate(trainer, pl_module, "val")

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the samples."""
        if is_due(trainer, self.every_n_epochs):
            self._evaluate(trainer, pl_module, "test")

    # --- what ---------------------------------------------------------------------------------------------

    def _evaluate(self, trainer: Any, module: Any, stage: Stage) -> None:
        """Score the samples on all processes together, and log and write the scores."""
        record: dict[str, Any] = {"scores": {}, "protocol": {}}
        if self._evaluator is not None:
            reference, floor = self._reference(trainer, module, stage)
            record = self._evaluator.evaluate(
                module, reference, self.num_samples, seed=self.seed, num_repeats=self.num_repeats, ema=self.ema
            )
            record["floor"] = floor
        if self.iw_samples and hasattr(module, "bound"):
            record["scores"]["iw_bound"] = float(self._bound.compute())
        scores = record["scores"]
        module.log_dict({f"{stage}/{name}": value for name, value in scores.items()}, rank_zero_only=False)
        # The module itself logs its likelihood, of the same images.
        likelihoods = {name: trainer.callback_metrics.get(f"{stage}/{name}") for name in _LIKELIHOODS}
        likelihoods = {name: float(value) for name, value in likelihoods.items() if value is not None}
        record["scores"] = scores | likelihoods
        step = getattr(module, "weights_step", trainer.global_step)
        infinite = [name for name, value in record["scores"].items() if not math.isfinite(value)]
        if infinite:
            names = ", ".join(infinite)
            raise DataError(f"{names} of step {step} is not a finite number. {DIVERGED}", setting=names)
        if not record["scores"]:
            return
        self.last_scored_step = trainer.global_step
        if likelihoods:
            record["protocol"] |= self._likelihood_protocol(trainer, module, stage)
        about = {"stage": stage, "step": step, "run_seed": getattr(module, "run_seed", None)}
        record = about | {"model": type(module).__name__} | record
        record |= {"seed": self.seed, "num_repeats": self.num_repeats} | made()
        path = self._path(step, stage)
        on_first_process(trainer.strategy, lambda: write_scores(check_writable(path), record))
        if trainer.is_global_zero:
            log_evaluation(trainer, record, trainer.global_step)
        self.last_path = path
        if trainer.is_global_zero and trainer.state.fn != TrainerFn.FITTING:
            print(f"\n{table(record)}\n{path}")

    def _reference(self, trainer: Any, module: Any, stage: Stage) -> tuple[Reference, dict[str, Any] | None]:
        """Return the real images and the floor, computed once."""
        assert self._evaluator is not None
        if stage in self._real:
            return self._real[stage]
        loader, num_batches = evaluated(trainer)
        floor = None
        if self._has_data(trainer):
            split = self.split or ("test" if stage == "test" else "train")
            reference = self._evaluator.reference(trainer.datamodule, split)
            if self.floor:
                floor = self._evaluator.floor(reference, trainer.datamodule, self.num_samples)
        else:
            if loader is None:
                message = "there are no real images to compare with: give the trainer a data module or a loader."
                raise DataError(message, setting="loader")
            endless = length(loader) is None
            if endless and num_batches == float("inf"):
                raise DataError("the loader of the real images has no end: set limit_val_batches.", setting="loader")

            def unpack(batch: Any) -> tuple[Tensor, Tensor | None]:
                return images_and_labels(module, trainer.strategy.batch_to_device(batch))

            limit = int(num_batches) if endless else None
            reference = self._evaluator.reference_of_loader(loader, unpack, num_classes(module) > 0, limit)
        self._real[stage] = reference, floor
        return self._real[stage]

    def _has_data(self, trainer: Any) -> bool:
        """Return whether a data module of this package is evaluated, and not merely left from an earlier run."""
        return hasattr(trainer.datamodule, "split_images") and is_ours(evaluated(trainer)[0])

    def _likelihood_protocol(self, trainer: Any, module: Any, stage: Stage) -> dict[str, Any]:
        """Return the fields of the protocol that make a likelihood comparable."""
        loader, num_batches = evaluated(trainer)
        data = trainer.datamodule
        images = data.split_images(stage) if self._has_data(trainer) else None
        whole = num_batches == length(loader)
        limit = "" if whole else f", {num_batches:.0f} batches on each of {trainer.world_size} processes"
        return {
            "likelihood": getattr(module, "likelihood", None),
            "likelihood_images": f"{stage} {'loader' if images is None else 'split'}{limit}",
            "likelihood_batch_size": "any" if whole else getattr(data, "batch_size", None),
            "likelihood_data_sha256": None if images is None else fingerprint(images, images.labels),
            "likelihood_ema": True,
            "binarization": getattr(data, "binarization", "none"),
            "iw_samples": self.iw_samples,
        }

    def _path(self, step: int, stage: Stage) -> Path:
        """Return the file of the scores; the scores of test do not replace those of validation."""
        path = self._folder / f"step={step:07d}.json"
        if self._written.setdefault(path, stage) != stage:
            path = path.with_name(f"{path.stem}-{stage}.json")
        return path
