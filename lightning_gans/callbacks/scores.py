"""Scores of a model's samples at the end of validation and of test."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from lightning_gans._lightning import TrainerFn, pl
from lightning_gans.callbacks.base import (
    WritesIntoRun,
    check_is_image,
    evaluated,
    images_and_labels,
    is_due,
    is_ours,
    length,
    log_evaluation,
    pairs_of,
    run_folder,
    skip_stale,
    stage_of,
    warn_if_not_validated,
    weights_step,
)
from lightning_gans.errors import DataError, check_choice, check_choices, check_counts, check_whole, in_section, invalid
from lightning_gans.io.files import check_writable
from lightning_gans.metrics.cache import Cache, fingerprint
from lightning_gans.metrics.disentanglement import gap_of_means
from lightning_gans.metrics.evaluate import DIVERGED, Evaluator, find_extractor
from lightning_gans.metrics.extractors.base import Extractor, NoExtractor
from lightning_gans.metrics.processes import on_first_process
from lightning_gans.metrics.protocol import made, table, write_scores
from lightning_gans.metrics.samples import (
    Sample,
    TranslationSampler,
    image_shape,
    num_labels,
    sampler_of,
    translates,
)
from lightning_gans.metrics.scores import METRICS, ON_REQUEST, Reference, Settings, is_measured
from lightning_gans.metrics.translations import DISTANCES, SIMILARITIES, Translations

_LIKELIHOODS = ("elbo", "reconstruction", "kl", "iw_bound", "bits_per_dim")
_OF_MODULE = (*_LIKELIHOODS, "mse", "code_nll")

_OF_PAIRS, _DEFAULT_OF_PAIRS = (*SIMILARITIES, *DISTANCES), ("psnr", "ssim", "l1")

NAMES = (*METRICS, *ON_REQUEST, *_OF_PAIRS, "mig")
"""Names that ``metrics`` takes."""

_TAKEN = {*NAMES, *_LIKELIHOODS, "kid_std", "memorization", "memorization_pixels"}

Stage = Literal["val", "test"]


class GenerativeMetrics(WritesIntoRun):
    """FID, Inception Score, KID, precision, recall, density and coverage of a model's samples.

    At the end of validation and test, each image is generated once, and its features are extracted once for all
    metrics; the scores are the same on any number of processes. They are logged as ``val/fid`` and so on, and written
    with their protocol to ``metrics/step=XXXXXXX.json`` in the run's folder. Conditional models also get
    ``fid_class/0`` …, and ``label_accuracy`` if the extractor's classes are those of the data.

    The module needs a method ``sample(n)``; see :func:`lightning_gans.metrics.samples.draw` for its options.
    Of a translator, which has a method ``translate(images)``, the samples are the translations of the evaluated split's
    sources, and the real images are targets. If sources and targets of the data module are paired, each translation is
    also compared with its target, by :class:`~lightning_gans.metrics.Translations`.

    The real images are those of the data module's split, whatever ``limit_val_batches`` is, and their features are
    cached on disk. Without a data module of this package, they are the images of the validation or test loader.

    Args:
        metrics: Names from ``fid``, ``inception_score``, ``kid``, ``precision``, ``recall``, ``density``,
            ``coverage``, ``label_accuracy``, ``fid_class``, ``modes`` (how many of the extractor's classes the samples
            have), ``mode_kl`` (divergence of their shares from uniform, in nats), ``mind`` (sliced Wasserstein
            distance) and ``cmmd`` (kernel distance, for CLIP's features); for translators also ``psnr``,
            ``ssim``, ``l1``, ``ms_ssim``, ``lpips`` and ``perceptual``; and ``mig``, the
            :class:`~lightning_gans.metrics.MutualInformationGap` of the codes of the evaluated split's images, for
            models with ``encode`` and data modules with ``factors``. None is all but ``ms_ssim``, ``lpips``,
            ``perceptual``, ``mig``, ``mind``, ``cmmd``, and ``modes`` and ``mode_kl``, which are meaningful only for
            many classes; an empty list disables scoring.
        num_samples: Number of images to generate; for a translator, the largest number.
        extractor: A name, a custom network or ``auto``, as in :func:`~lightning_gans.metrics.make_extractor`. If
            ``auto`` finds no weights, there is a warning and no scores. Images with other than 1 or 3 channels have
            scores only with a custom network.
        weights_path: File of the extractor's weights, for machines without network access.
        split: The real images: ``train``, ``val`` or ``test``. None is ``train`` in validation, as in published FIDs,
            and ``test`` in test.
        every_n_epochs: How often to score within a fit; the last epoch always counts.
        num_repeats: Number of sets of samples, with the seeds ``seed``, ``seed + 1``, …: the scores are means, and
            their standard deviations are written too.
        floor: Whether to score real images of another split once as if they were samples, which shows the result of a
            perfect model.
        seed: Seed of the samples.
        ema: Whether samples come from the moving average of the weights; likelihoods always do.
        iw_samples: For models with a likelihood, number of samples for the importance-weighted bound ``iw_bound``; 0
            disables it.
        precision_recall_k: The k of the k-th neighbor that defines the manifolds of precision and recall.
        density_coverage_k: The k of the k-th neighbor that defines density and coverage.
        neighbor_images: Largest number of images of each set for precision, recall, density and coverage; the choice
            depends only on the size of the set.
        cache_dir: Folder of the cached features; None is ``$LIGHTNING_GANS_CACHE``, or else ``lightning_gans`` in the
            user's cache folder.
        own: Custom metrics by their names. On the first process, each gets the features of all real images,
            ``update(features, real=True)``, and of all samples, ``update(features, real=False)``, float32
            ``(N, num_features)``. ``compute()`` must return one number.
        sample: For modules without a method ``sample(n)``: a function of the module and n that returns n images.
        neighbour_images: Deprecated name of ``neighbor_images``.

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
        neighbor_images: int = 10_000,
        cache_dir: str | None = None,
        own: Mapping[str, Metric] | None = None,
        sample: Sample | None = None,
        neighbour_images: int | None = None,
    ) -> None:
        if neighbour_images is not None:
            warnings.warn("neighbour_images is deprecated: use neighbor_images.", FutureWarning, stacklevel=2)
            neighbor_images = neighbour_images
        self.settings = Settings(precision_recall_k, density_coverage_k, neighbor_images)
        named = (*METRICS, *_DEFAULT_OF_PAIRS) if metrics is None else metrics
        with in_section("metrics"):
            if own is not None and not (isinstance(own, Mapping) and all(isinstance(m, Metric) for m in own.values())):
                raise invalid("own", own, "a dict of torchmetrics' metrics by their names")
            for name in own or ():
                if name in _TAKEN or not (isinstance(name, str) and name.isidentifier()):
                    raise invalid("own", name, "an identifier that is not the name of another score")
            check_choices("metrics", named, NAMES)
            if split is not None:
                check_choice("split", split, ("train", "val", "test"))
            check_counts(every_n_epochs=every_n_epochs, num_repeats=num_repeats, **asdict(self.settings))
            check_counts(least=0, iw_samples=iw_samples)
            check_counts(least=2, num_samples=num_samples)
            check_whole(seed=seed)
            self.settings.check(named, min(num_samples, neighbor_images))
        self.metrics = [name for name in named if name not in (*_OF_PAIRS, "mig")]
        self.of_pairs = [name for name in named if name in _OF_PAIRS]
        self.mig = "mig" in named
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
        self.cache = Cache(cache_dir)
        self.own = dict(own or {})
        self.sample = sample
        self.last_path: Path | None = None
        self.last_scored_step = -1
        self._evaluator: Evaluator | None = None
        self._pairs: tuple[Any, bool] | None = None
        self._real: dict[Stage, tuple[Reference, dict[str, Any] | None]] = {}
        self._bound = MeanMetric()
        self._written: dict[Path, Stage] = {}

    @property
    def network(self) -> Extractor | None:
        """The extractor; None before ``setup``, and if no score needs one."""
        extractor = None if self._evaluator is None else self._evaluator.extractor
        return None if isinstance(extractor, NoExtractor) else extractor

    def measures(self, key: str) -> bool:
        """Return whether validations may log this key."""
        name = key.removeprefix("val/")
        if name == key:
            return False
        if name == "iw_bound":
            return self.iw_samples > 0
        if name == "mig":
            return self.mig
        if self._evaluator is None:
            return False
        of_pairs = () if self._evaluator.pairs is None else self._evaluator.pairs.metrics
        return name in self.own or name in of_pairs or is_measured(name, self.metrics)

    # --- when ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Load the extractor before the first step, so that no training is lost if a file is missing."""
        skip_stale(trainer)
        self._real.clear()
        self._evaluator = None
        has_codes = hasattr(pl_module, "encode") and hasattr(trainer.datamodule, "factors")  # type: ignore[attr-defined]
        if self.mig and stage != "predict" and not has_codes:
            allowed = "without mig, unless the model has encode(images), and the data module factors(split)"
            raise invalid("metrics.metrics", ["mig"], allowed)
        if not (self.metrics or self.own or self.of_pairs) or stage == "predict":
            return
        self._pairs = pairs_of(trainer, pl_module, "metrics") if translates(pl_module, self.sample) else None
        if self._pairs is not None:
            with in_section("metrics"):
                self.settings.check(self.metrics, len(self._pairs[0]))
        pairs = Translations(self.of_pairs, sync_on_compute=False) if self.of_pairs and self._is_paired else None
        shape = image_shape(self.sampler(pl_module))
        check_is_image(shape, type(self).__name__, "metrics")
        strategy, cache = trainer.strategy, None
        extractor: Extractor | None = NoExtractor()
        if self.metrics or self.own:
            options = self.weights_path, "Samples will not be scored", trainer.datamodule  # type: ignore[attr-defined]
            with in_section("metrics"):
                extractor = find_extractor(strategy, self.extractor, shape, *options)
            cache = self.cache
        if extractor is not None:
            self._evaluator = Evaluator(
                extractor, self.metrics, self.settings, own=self.own, pairs=pairs, cache=cache, strategy=strategy
            )

    @property
    def _is_paired(self) -> bool:
        """Whether outputs have targets that they should equal."""
        return self._pairs is not None and self._pairs[1]

    def sampler(self, module: Any) -> Any:
        """Return the object whose ``sample`` is used; raise :class:`SettingError` if there is none."""
        if self._pairs is not None:
            return TranslationSampler(module, self._pairs[0])
        return sampler_of(module, self.sample, type(self).__name__)

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Warn if there is no validation, and check the number of real images, if it is known before the first step."""
        if self._evaluator is None:
            return
        warn_if_not_validated(trainer, pl_module, type(self).__name__)
        loader, num = evaluated(trainer)[0], None
        if self._has_data(trainer):
            num = len(trainer.datamodule.split_images(self.split or "train"))
        elif getattr(loader, "batch_size", None):  # the items of its data set are images
            num = length(loader.dataset)
        if num is not None:
            with in_section("metrics"):
                self.settings.check(self.metrics, num)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the mean of the bound."""
        self._bound = MeanMetric(nan_strategy="disable").to(pl_module.device)
        if pl_module.device.type != "mps":  # MPS has no float64
            self._bound.set_dtype(torch.float64)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add a batch to the mean of the importance-weighted bound."""
        if self.iw_samples and hasattr(pl_module, "bound") and is_due(trainer, self.every_n_epochs):
            images, labels = images_and_labels(pl_module, batch)
            bound = pl_module.bound(images, self.iw_samples, labels, seed=self.seed)
            self._bound.update(bound.to(self._bound.dtype))

    def on_validation_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Score the samples."""
        if is_due(trainer, self.every_n_epochs):
            self._evaluate(trainer, pl_module, stage_of(trainer))

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    # --- what ---------------------------------------------------------------------------------------------

    def _evaluate(self, trainer: Any, module: Any, stage: Stage) -> None:
        """Score the samples on all processes together, and log and write the scores."""
        record: dict[str, Any] = {"scores": {}, "protocol": {}}
        if self._evaluator is not None:
            reference, floor = self._reference(trainer, module, stage)
            with in_section("metrics"):
                self.settings.check(self.metrics, reference.about["num_real"])
            options: dict[str, Any] = {"seed": self.seed, "num_repeats": self.num_repeats, "ema": self.ema}
            num = self.num_samples if self._pairs is None else min(self.num_samples, len(self._pairs[0]))
            record = self._evaluator.evaluate(self.sampler(module), reference, num, floor=floor, **options)
            if self._pairs is not None:
                record["protocol"] |= {"sources": stage, "paired": self._is_paired}
        if self.iw_samples and hasattr(module, "bound"):
            record["scores"]["iw_bound"] = float(self._bound.compute())
        if self.mig:
            images, factors = trainer.datamodule.split_images(stage), trainer.datamodule.factors(stage)
            gap = partial(gap_of_means, module, images, factors)
            record["scores"]["mig"] = on_first_process(trainer.strategy, gap)
            record["protocol"]["mig_images"] = f"{stage} split"
        scores = record["scores"]
        module.log_dict({f"{stage}/{name}": value for name, value in scores.items()}, rank_zero_only=False)
        # The module itself logs its likelihood on the same images.
        logged = trainer.callback_metrics
        likelihoods = {name: float(logged[key]) for name in _OF_MODULE if (key := f"{stage}/{name}") in logged}
        record["scores"] = scores | likelihoods
        step = weights_step(trainer, module)
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

        def write() -> Path:
            path = self._path(run_folder(trainer) / "metrics" / f"step={step:07d}.json", stage)
            write_scores(check_writable(path), record)
            log_evaluation(trainer, record, trainer.global_step)
            if trainer.state.fn != TrainerFn.FITTING:
                print(f"\n{table(record)}\n{path}")
            return path

        self.last_path = on_first_process(trainer.strategy, write)

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
            if self.floor and self.metrics:
                floor = self._evaluator.floor(reference, trainer.datamodule, self.num_samples)
        else:
            if loader is None:
                message = "there are no real images to compare with: pass the trainer a data module or a loader."
                raise DataError(message, setting="loader")
            endless = length(loader) is None
            if endless and num_batches == float("inf"):
                raise DataError("the loader of the real images is endless: set limit_val_batches.", setting="loader")

            def unpack(batch: Any) -> tuple[Tensor, Tensor | None]:
                return images_and_labels(module, trainer.strategy.batch_to_device(batch))

            limit = int(num_batches) if endless else None
            reference = self._evaluator.reference_of_loader(loader, unpack, num_labels(self.sampler(module)) > 0, limit)
        self._real[stage] = reference, floor
        return self._real[stage]

    def _has_data(self, trainer: Any) -> bool:
        """Return whether a data module of this package is evaluated, rather than left over from an earlier run."""
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
            "likelihood_ema": bool(getattr(module, "ema", False)),
            "binarization": getattr(data, "binarization", "none"),
            "iw_samples": self.iw_samples,
        }

    def _path(self, path: Path, stage: Stage) -> Path:
        """Return the file of the scores; the scores of test do not replace those of validation."""
        if self._written.setdefault(path, stage) != stage:
            path = path.with_name(f"{path.stem}-{stage}.json")
        return path
