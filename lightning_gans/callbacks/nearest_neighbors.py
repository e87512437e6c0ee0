"""The nearest training images of samples: a picture, and a score of memorization."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_gans._lightning import TrainerFn, isolate_rng, pl, rank_zero_info
from lightning_gans.callbacks.base import (
    evaluated,
    images_and_labels,
    is_due,
    is_ours,
    skip_stale,
    stage_of,
    warn_if_not_validated,
    weights_step,
)
from lightning_gans.callbacks.grids import Pictures
from lightning_gans.errors import SettingError, check_counts, in_section
from lightning_gans.io.pictures import from_bytes, grid, to_bytes
from lightning_gans.metrics.cache import Rows
from lightning_gans.metrics.evaluate import find_extractor
from lightning_gans.metrics.extractors.base import Extractor
from lightning_gans.metrics.memorization import memorization, nearest
from lightning_gans.metrics.processes import on_first_process
from lightning_gans.metrics.samples import BLOCK, Sample, draw, image_shape, translates
from lightning_gans.metrics.scores import subsample

_OFF = "neighbors.enabled: false"


class NearestNeighbors(Pictures):
    """Samples above their nearest training images, as ``neighbors/step=XXXXXXX.png``, and a score of memorization.

    The picture shows the samples that are nearest to a training image, by their features or, if ``auto`` finds no
    extractor, by their pixels. The scores are ``memorization`` (features) and ``memorization_pixels`` under ``val/`` or
    ``test/``; see :func:`lightning_gans.metrics.memorization.memorization`.

    The held-out images are those of the test split, or else of the validation split. With loaders that are not of this
    package, the held-out images are those of the evaluated loader, and the training images are the data set of the
    training loader, with one draw of its random transforms. It does nothing for translators.

    Args:
        every_n_epochs: How often to compare within a fit; the last epoch always counts.
        num_samples: Number of samples, and largest number of held-out images.
        num_shown: Number of samples in the picture.
        seed: Seed of the noise.
        extractor: As in :class:`~lightning_gans.GenerativeMetrics`.
        weights_path: As in :class:`~lightning_gans.GenerativeMetrics`.
        sample: As in :class:`~lightning_gans.GenerativeMetrics`.

    Raises:
        SettingError: A loader is not a ``DataLoader`` of a map-style data set, or a checkpoint is evaluated on loaders
            instead of a ``LightningDataModule``.
    """

    folder_name = "neighbors"

    def __init__(
        self,
        every_n_epochs: int = 1,
        num_samples: int = 1000,
        num_shown: int = 16,
        seed: int = 0,
        extractor: str | nn.Module = "auto",
        weights_path: str | None = None,
        sample: Sample | None = None,
    ) -> None:
        super().__init__(every_n_epochs, sample)
        check_counts(num_samples=num_samples, num_shown=num_shown)
        self.num_samples = num_samples
        self.num_shown = num_shown
        self.seed = seed
        self.extractor = extractor
        self.weights_path = weights_path
        self.scores: dict[str, float] = {}
        self.last_scored_step = -1
        self._extractor: Extractor | None = None
        # The training images or their features, and the distances of held-out images from them.
        self._known: dict[str, tuple[Rows, Tensor]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Load the extractor before the first step."""
        super().setup(trainer, pl_module, stage)
        skip_stale(trainer)
        self._known.clear()
        self.scores = {}  # the next run may have another model or other data
        if not self.shows(pl_module):
            return
        if stage != "fit" and getattr(trainer, "datamodule", None) is None:
            message = f"neighbors needs the training images: use a data module, or set {_OFF}."
            raise SettingError(message, setting="neighbors", allowed="a data module")
        if self._extractor is None:
            shape = image_shape(self.sampler(pl_module))
            options = self.weights_path, "Neighbors are searched by pixels only", trainer.datamodule  # type: ignore[attr-defined]
            with in_section("neighbors"):
                self._extractor = find_extractor(trainer.strategy, self.extractor, shape, *options)

    def shows(self, module: Any) -> bool:
        """Return whether the module samples; a translator does not."""
        return not translates(module, self.sample)

    def size(self, module: Any) -> tuple[str, int, int, int]:
        """Return three rows."""
        return "neighbors.num_shown", self.num_shown, 3 * self.num_shown, self.num_shown

    def measures(self, key: str) -> bool:
        """Return whether validations may log this key."""
        return key == "val/memorization_pixels" or (key == "val/memorization" and self._extractor is not None)

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Warn if there is no validation, and check the data before the first step."""
        if self.shows(pl_module):
            warn_if_not_validated(trainer, pl_module, type(self).__name__)
        if self.shows(pl_module) and not is_ours(trainer.train_dataloader):
            for loader in (trainer.train_dataloader, trainer.val_dataloaders):
                if loader is not None:
                    _in_order(loader)

    def on_validation_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Make the picture, and log the scores."""
        if not (self.shows(pl_module) and is_due(trainer, self.every_n_epochs)):
            return

        def look() -> dict[str, float]:
            self.draw(trainer, pl_module)
            return self.scores

        scores, stage = on_first_process(trainer.strategy, look), stage_of(trainer)
        self.last_scored_step = trainer.global_step
        pl_module.log_dict({f"{stage}/{name}": value for name, value in scores.items()}, rank_zero_only=True)
        if scores:
            told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            rank_zero_info(f"{told} (0.5 is ideal)" + (f"\n{self.last_path}" if trainer.testing else ""))

    on_test_epoch_end = on_validation_epoch_end

    def picture(self, trainer: Any, module: Any) -> Image.Image:
        """Compare samples and held-out images with the training images."""
        if not self._known:
            train, others = _real_images(trainer, module)
            held_out = self._measured(subsample(others, self.num_samples), module)
            for way, points in self._measured(train, module).items():
                self._known[way] = points, nearest(held_out[way], points).distances
        samples = to_bytes(draw(self.sampler(module), self.num_samples, seed=self.seed)).cpu()
        near = {way: nearest(points, self._known[way][0]) for way, points in self._measured(samples, module).items()}
        names = {"pixels": "memorization_pixels", "features": "memorization"}
        self.scores = {
            names[way]: float(memorization(found.distances, self._known[way][1])) for way, found in near.items()
        }
        *_, best = near.values()
        chosen = best.distances.argsort()[: self.num_shown]
        images, _ = self._known["pixels"]
        rows = [samples[chosen], *(images[found.places[chosen]] for found in near.values())]
        title = (
            f"Of {self.num_samples} samples, those nearest to a training image, step {weights_step(trainer, module)}"
        )
        return grid(from_bytes(torch.cat(rows)), columns=len(chosen), title=title, row_labels=["sample", *near])

    def _measured(self, images: Rows, module: Any) -> dict[str, Rows]:
        """Return what distances are measured between: pixels, and features if there is an extractor."""
        if self._extractor is None:
            return {"pixels": images}
        self._extractor.to(module.device)
        blocks = (images[start : start + BLOCK].to(module.device) for start in range(0, len(images), BLOCK))
        return {"pixels": images, "features": torch.cat([self._extractor.extract(block)[0] for block in blocks])}


def _real_images(trainer: Any, module: Any) -> tuple[Rows, Rows]:
    """Return the training images and the held-out images, uint8 ``(N, C, H, W)``."""
    data = trainer.datamodule
    held_out, _ = evaluated(trainer)
    if is_ours(held_out):
        return data.split_images("train"), data.split_images("test")
    if trainer.state.fn == TrainerFn.FITTING:
        train = trainer.train_dataloader
    else:
        data.setup("fit")
        train = data.train_dataloader()
    with isolate_rng():  # random transforms leave training's generators alone
        return _bytes_of(_in_order(train), trainer, module), _bytes_of(_in_order(held_out), trainer, module)


def _in_order(given: Any) -> DataLoader[Any]:
    """Return a loader, for one process, that yields all images that another loader samples from, in order.

    Raises:
        SettingError: It is not a ``DataLoader``, its data set is not map-style, or its sampler is unknown; on several
            processes, Lightning wraps every sampler that is not one of torch's usual ones.
    """
    dataset = given.dataset if isinstance(given, DataLoader) else given
    if dataset is given or isinstance(dataset, IterableDataset):
        name = type(dataset).__name__
        message = f"neighbors needs a DataLoader of a data set with indices, but got {name}: set {_OFF}."
        raise SettingError(message, setting="neighbors", value=name, allowed="a DataLoader of a data set with indices")
    sampler = getattr(given.batch_sampler, "sampler", given.sampler)
    if isinstance(sampler, SubsetRandomSampler):
        dataset = Subset(dataset, sampler.indices)
    elif type(sampler) not in (RandomSampler, SequentialSampler, DistributedSampler):
        name = type(sampler).__name__
        message = f"neighbors does not know which images a {name} samples: use a data set of them, or set {_OFF}."
        raise SettingError(message, setting="neighbors", value=name, allowed="a known sampler")
    size = None if given.batch_sampler is None else BLOCK  # None: the data set yields batches
    return DataLoader(dataset, size, collate_fn=given.collate_fn)


def _bytes_of(loader: DataLoader[Any], trainer: Any, module: Any) -> Tensor:
    """Return a loader's images as the module gets them, uint8 ``(N, C, H, W)``."""
    batches = map(trainer.strategy.batch_to_device, loader)
    return torch.cat([to_bytes(images_and_labels(module, batch)[0]).cpu() for batch in batches])
