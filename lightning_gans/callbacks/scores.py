"""Scores of a model's samples, at the end of validation and of test, on any number of processes."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from lightning_gans._lightning import Callback, TrainerFn, pl
from lightning_gans._version import __version__
from lightning_gans.callbacks.loggers import log_evaluation
from lightning_gans.callbacks.rhythm import is_due
from lightning_gans.errors import DataError, SettingError, check_choice, check_not_negative, check_positive
from lightning_gans.io.files import check_writable
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics.cache import Cache, fingerprint
from lightning_gans.metrics.evaluate import (
    RealImages,
    evaluated,
    extract,
    find_extractor,
    is_ours,
    length,
    reference_from_loader,
)
from lightning_gans.metrics.extractors.base import Extractor
from lightning_gans.metrics.own import described, own_scores
from lightning_gans.metrics.processes import on_first_process
from lightning_gans.metrics.protocol import table, write_scores
from lightning_gans.metrics.scores import FAMILIES, METRICS, ON_REQUEST, Reference, Settings, score
from lightning_gans.models.base import GenerativeModule

_LIKELIHOODS = ("elbo", "reconstruction", "kl", "iw_bound", "bits_per_dim")

# What an own metric may not be called: the scores of ours, and of the neighbours.
_TAKEN = {*METRICS, *ON_REQUEST, *_LIKELIHOODS, "kid_std", "memorization", "memorization_pixels"}

_DIVERGED = "The model has diverged: go back to an earlier checkpoint, and lower the learning rates."

Stage = Literal["val", "test"]


class GenerativeMetrics(Callback):
    """FID, Inception Score, KID, precision, recall, density and coverage of a model's samples.

    At the end of validation and of test each image is generated once and shown to the extractor once, and all
    metrics are computed from what it saw. Sample i is the same picture on any number of processes, each real
    image counts once, and the scores are the same numbers. They are logged as ``val/fid`` and so on, and
    written with the protocol they were made under to ``metrics/step=XXXXXXX.json`` in the run's folder.
    Conditional models get ``fid_class/0`` … and, where the extractor knows the data's classes,
    ``label_accuracy``.

    The real images are the data module's ``images(split)``, whatever ``limit_val_batches`` says; without one,
    those of the validation or test loader. Features of a data module's images are kept on disk, by the content
    of the images and by the extractor, and not computed again.

    Args:
        metrics: Which of ``fid``, ``inception_score``, ``kid``, ``precision``, ``recall``, ``density``,
            ``coverage``, ``label_accuracy``, ``fid_class``, ``modes`` (how many of the extractor's classes the
            samples have) and ``mode_kl`` (how far their shares are from even ones, in nats). None is all but the
            last two, which mean something where classes are many; an empty list is none.
        num_samples: How many images to generate.
        extractor: ``mnist`` (the package's own, for grey images), ``inception`` (for published protocols),
            ``stacked_mnist`` (``mnist`` on each channel of RGB images), a network of your own, or ``auto``:
            ``inception`` where ``weights_path`` is given, ``mnist`` for other grey images, else ``inception`` if
            its weights can be had, else a warning and no scores.
        weights_path: The file of the ``inception`` weights, for machines without network.
        split: The real images: ``train``, ``val`` or ``test``. None is ``train`` in validation, as in
            published FIDs, and ``test`` in test.
        every_n_epochs: How often within a fit; the last of ``max_epochs`` always counts.
        num_repeats: Score so many sets of samples, of the seeds ``seed``, ``seed + 1``, …: the scores are
            their means, and the standard deviations are written beside.
        floor: Whether to score real images of another split in the place of samples, once: what a perfect
            model would get.
        seed: Seed of the samples.
        ema: Whether the samples come from the moving average of the weights; likelihoods always do.
        iw_samples: For models with a likelihood: samples of the importance-weighted bound ``iw_bound``; 0
            leaves it out.
        precision_recall_k: Neighbour that defines the manifolds of precision and recall.
        density_coverage_k: Neighbour that defines density and coverage.
        neighbour_images: Precision, recall, density and coverage take at most so many images of each set: a
            choice that depends on their number alone.
        cache_dir: Where features of real images are kept; None is ``$LIGHTNING_GANS_CACHE``, else
            ``lightning_gans`` in the user's cache folder.
        own: Metrics of your own by their names: each is given the features of all real images,
            ``update(features, real=True)``, then those of the samples, ``update(features, real=False)``, float32
            ``(N, num_features)``, on the first process, and ``compute()`` gives one number.

    Raises:
        SettingError: A setting is out of its range, or the extractor does not fit the images.
        DataError: The extractor's weights are missing: before the first step.
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
                raise SettingError(f"metrics.own has {name!r}: choose another name, of letters.")
        for name in metrics or ():
            check_choice("metrics.metrics", name, (*METRICS, *ON_REQUEST))
        if split is not None:
            check_choice("metrics.split", split, ("train", "val", "test"))
        positive = {
            "every_n_epochs": every_n_epochs,
            "num_repeats": num_repeats,
            "precision_recall_k": precision_recall_k,
            "density_coverage_k": density_coverage_k,
            "neighbour_images": neighbour_images,
        }
        check_positive(**{f"metrics.{name}": value for name, value in positive.items()})
        if num_samples < 2:
            raise SettingError(f"metrics.num_samples is {num_samples}: it must be 2 or more.")
        pairs = min(num_samples, neighbour_images)
        for family, (name, k) in zip(
            FAMILIES,
            (("precision_recall_k", precision_recall_k), ("density_coverage_k", density_coverage_k)),
            strict=True,
        ):
            if pairs <= k and any(wanted in (METRICS if metrics is None else metrics) for wanted in family):
                raise SettingError(f"metrics.{name} is {k}, which needs more than {k} images: there are {pairs}.")
        check_not_negative(**{"metrics.iw_samples": iw_samples})
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
        self._extractor: Extractor | None = None
        self._real: dict[Stage, tuple[Reference, dict[str, Any], dict[str, Any] | None]] = {}
        self._bound = MeanMetric()
        self.last_scored_step = -1
        self._folder = Path()
        self._written: dict[Path, Stage] = {}

    @property
    def active(self) -> bool:
        """Whether samples are scored: something was asked for, and there is an extractor to do it with."""
        return bool(self.metrics or self.own) and self._extractor is not None

    @property
    def network(self) -> Extractor | None:
        """The extractor, once ``setup`` has it."""
        return self._extractor

    def measures(self, key: str) -> bool:
        """Whether some validations log this key."""
        if key == "val/iw_bound":
            return self.iw_samples > 0
        names = (*self.metrics, *self.own, *(["kid_std"] if "kid" in self.metrics else []))
        wanted = [f"val/{name}" for name in names]
        return self.active and (key in wanted or ("val/fid_class" in wanted and key.startswith("val/fid_class/")))

    # --- when ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Get the extractor before the first step, so that a missing file costs no training."""
        if not isinstance(pl_module, GenerativeModule):
            raise SettingError(f"GenerativeMetrics needs a GenerativeModule, not a {type(pl_module).__name__}.")
        self._real.clear()
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "metrics"  # asked by all processes together
        self._extractor = None
        if not (self.metrics or self.own) or stage == "predict":
            return
        if not pl_module.makes_pictures:
            raise SettingError(
                f"GenerativeMetrics scores images, and image_shape {list(pl_module.image_shape)} is that of sequences: "
                "set metrics.enabled: false."
            )
        self._extractor = find_extractor(
            trainer, self.extractor, pl_module.image_shape, self.weights_path, "The samples will not be scored"
        )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new mean of the bound."""
        self._bound = MeanMetric(nan_strategy="disable").to(pl_module.device)
        if pl_module.device.type != "mps":  # which has no float64
            self._bound.set_dtype(torch.float64)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add a batch to the mean of the importance-weighted bound."""
        if self.iw_samples and hasattr(pl_module, "bound") and self._due(trainer):
            images, labels = pl_module.images_and_labels(batch)
            bound = pl_module.bound(images, self.iw_samples, labels, seed=self.seed)
            self._bound.update(bound.to(self._bound.dtype))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Score the samples."""
        if self._due(trainer):
            self._evaluate(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new mean of the bound."""
        self.on_validation_epoch_start(trainer, pl_module)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add a batch to the mean of the importance-weighted bound."""
        self.on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Score the samples."""
        if self._due(trainer):
            self._evaluate(trainer, pl_module, "test")

    def _due(self, trainer: Any) -> bool:
        """Whether this validation is one to score: outside a fit every one is."""
        if trainer.sanity_checking or trainer.fast_dev_run:
            return False
        return trainer.state.fn != TrainerFn.FITTING or is_due(trainer, self.every_n_epochs)

    # --- the evaluation -----------------------------------------------------------------------------------

    def _evaluate(self, trainer: Any, model: GenerativeModule, stage: Stage) -> None:
        """Score the samples on all processes together, log the scores and write them down."""
        record: dict[str, Any] = {"scores": {}, "protocol": {}}
        if self.active:
            record |= self._score(trainer, model, stage)
        if self.iw_samples and hasattr(model, "bound"):
            record["scores"]["iw_bound"] = float(self._bound.compute())
        scores = record["scores"]
        model.log_dict({f"{stage}/{name}": value for name, value in scores.items()}, rank_zero_only=False)
        # What the model itself has logged of its likelihood is measured on the same images.
        likelihoods = {name: trainer.callback_metrics.get(f"{stage}/{name}") for name in _LIKELIHOODS}
        likelihoods = {name: float(value) for name, value in likelihoods.items() if value is not None}
        record["scores"] = scores | likelihoods
        wrong = [name for name, value in record["scores"].items() if not math.isfinite(value)]
        if wrong:
            raise DataError(f"{', '.join(wrong)} of step {model.weights_step} is not a finite number. {_DIVERGED}")
        if not record["scores"]:
            return
        self.last_scored_step = trainer.global_step
        if likelihoods:
            record["protocol"] |= self._likelihood_protocol(trainer, model, stage)
        about = {"stage": stage, "step": model.weights_step, "run_seed": model.run_seed, "model": type(model).__name__}
        made = {"versions": _versions(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
        record = about | record | {"seed": self.seed, "num_repeats": self.num_repeats} | made
        path = self._path(model, stage)
        on_first_process(trainer, lambda: write_scores(check_writable(path), record))
        if trainer.is_global_zero:
            log_evaluation(trainer, record, trainer.global_step)
        self.last_path = path
        if trainer.is_global_zero and trainer.state.fn != TrainerFn.FITTING:
            print(f"\n{table(record)}\n{path}")

    def _score(self, trainer: Any, model: GenerativeModule, stage: Stage) -> dict[str, Any]:
        """Return the scores with their protocol, the floor and the seconds; the scores on every process."""
        assert self._extractor is not None
        self._extractor.to(model.device)
        reference, about, floor = self._reference(trainer, model, stage)
        repeats = [
            self._score_samples(trainer, model, reference, self.seed + repeat) for repeat in range(self.num_repeats)
        ]
        values = {name: np.array([scores[name] for scores, _ in repeats]) for name in repeats[0][0]}
        record = {
            "scores": {name: float(value.mean()) for name, value in values.items()},
            "protocol": self._extractor.describe()  # after the first images, when it is known whole
            | about
            | {"num_samples": self.num_samples, "ema": self.ema}
            | {f"own.{name}": described(metric) for name, metric in self.own.items()}
            | self.settings.fitted(about["num_real"], self.num_samples),
            "floor": floor,
            "seconds": {name: sum(seconds[name] for _, seconds in repeats) for name in repeats[0][1]},
        }
        if self.num_repeats > 1:
            record["standard_deviations"] = {name: float(value.std(ddof=1)) for name, value in values.items()}
        return record

    def _score_samples(
        self, trainer: Any, model: GenerativeModule, reference: Reference, seed: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Generate, extract and score one set of samples; the result is the same on every process."""
        assert self._extractor is not None
        extractor = self._extractor

        def samples(start: int, stop: int) -> Tensor:
            images = model.sample(stop - start, seed=seed, start=start, ema=self.ema)
            if not images.isfinite().all():
                raise DataError(f"the samples of step {model.weights_step} are not finite numbers. {_DIVERGED}")
            return to_bytes(images)

        fake, seconds = extract(trainer, extractor, self.num_samples, samples)
        metrics = list(self.metrics)
        if model.num_classes > 0:
            fake.labels = torch.arange(self.num_samples) % model.num_classes
            names = tuple(getattr(trainer.datamodule, "class_names", ())) if self._data_given(trainer) else ()
            if names != extractor.class_names or len(names) != model.num_classes:
                metrics = [name for name in metrics if name != "label_accuracy"]  # its classes are not the data's
            if self._data_given(trainer) and not names:
                metrics = [name for name in metrics if name != "fid_class"]  # the data has no classes

        def judge() -> tuple[dict[str, float], dict[str, float]]:
            scores, times = score(fake, reference, metrics, model.device)
            return scores | own_scores(self.own, fake.features, reference.images.features, model.device), times

        scores, times = on_first_process(trainer, judge)
        return scores, seconds | times

    def _reference(
        self, trainer: Any, model: GenerativeModule, stage: Stage
    ) -> tuple[Reference, dict[str, Any], dict[str, Any] | None]:
        """Return the real images' features, what a protocol says of them, and the floor."""
        if stage not in self._real:
            assert self._extractor is not None
            if self._data_given(trainer):
                split = self.split or ("test" if stage == "test" else "train")
                real = RealImages(trainer, self._extractor, self.cache, self.settings)
                reference, about = real.reference(split)
                device = model.device
                on_first_process(trainer, lambda: reference.prepare(self.metrics, self.num_samples, device))
                floor = real.floor(about, reference, self.num_samples, self.metrics) if self.floor else None
                self._real[stage] = reference, about, floor
            else:
                loader, num_batches = evaluated(trainer)
                about_loader = (trainer, model, self._extractor, loader, num_batches, self.settings)
                self._real[stage] = *reference_from_loader(*about_loader), None
        return self._real[stage]

    def _data_given(self, trainer: Any) -> bool:
        """Whether the evaluation runs on a data module of ours; the trainer keeps one of an earlier run, too."""
        return callable(getattr(trainer.datamodule, "load_images", None)) and is_ours(evaluated(trainer)[0])

    def _likelihood_protocol(self, trainer: Any, model: Any, stage: Stage) -> dict[str, Any]:
        """Return what has to be known of a likelihood to compare it."""
        loader, num_batches = evaluated(trainer)
        given = self._data_given(trainer)
        images = trainer.datamodule.split_images(stage) if given else None
        whole = num_batches == length(loader)
        limit = "" if whole else f", {num_batches:.0f} batches on each of {trainer.world_size} processes"
        return {
            "likelihood": getattr(model, "likelihood", None),
            "likelihood_images": (f"{stage} split" if given else f"{stage} loader") + limit,
            "likelihood_batch_size": "any" if whole else getattr(trainer.datamodule, "batch_size", None),
            "likelihood_data_sha256": fingerprint(images, images.labels) if images is not None else None,
            "likelihood_ema": True,
            "binarization": getattr(trainer.datamodule, "binarization", "none"),
            "iw_samples": self.iw_samples,
        }

    def _path(self, model: GenerativeModule, stage: Stage) -> Path:
        """Return where the scores go; those of test do not replace those of validation."""
        path = self._folder / f"step={model.weights_step:07d}.json"
        if self._written.setdefault(path, stage) != stage:
            path = path.with_name(f"{path.stem}-{stage}.json")
        return path


def _versions() -> dict[str, str]:
    """Return the versions that a score may depend on."""
    libraries = {"torch": torch.__version__, "torchmetrics": torchmetrics.__version__, "numpy": np.__version__}
    return {"lightning_gans": __version__, **libraries, "python": platform.python_version()}
