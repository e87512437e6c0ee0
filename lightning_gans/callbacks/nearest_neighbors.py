"""The training images that samples are nearest to: a picture, and a number."""

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
from lightning_gans.callbacks.grids import Pictures
from lightning_gans.errors import SettingError, check_positive
from lightning_gans.io.pictures import grid, to_bytes
from lightning_gans.metrics.cache import Rows
from lightning_gans.metrics.evaluate import BLOCK, evaluated, find_extractor, is_ours
from lightning_gans.metrics.extractors.base import Extractor
from lightning_gans.metrics.memorization import memorization, nearest
from lightning_gans.metrics.processes import on_first_process
from lightning_gans.models.base import GenerativeModule

_OFF = "neighbours.enabled: false"


class NearestNeighbours(Pictures):
    """Samples above the training images that are nearest to them, as ``neighbours/step=XXXXXXX.png``, and a number.

    Shown are the samples that are nearest to a training image by their features, where copies would be: in pixels in
    the second row, by the features of an extractor in the third. Where ``auto`` finds no extractor, pixels are all. The
    numbers are ``memorization`` (features) and ``memorization_pixels`` under ``val/`` or ``test/``; see
    :func:`lightning_gans.metrics.memorization.memorization`.
    The real images that samples are compared with are those of the test split, or of the validation split; of data of
    your own those of the loader that is evaluated, and its training images those of its training loader's data set, in
    their order, with one draw of the random changes that the data set makes to them.

    Args:
        every_n_epochs: How often to look, in a fit; ``validate`` and ``test`` always do.
        num_samples: Samples that are looked at, and as many real images at most.
        num_shown: How many of them the picture has.
        seed: Seed of the noise.
        extractor: As in :class:`~lightning_gans.GenerativeMetrics`.
        weights_path: As there.

    Raises:
        SettingError: The images of data of your own cannot be had: a loader is no ``DataLoader`` of a data set with
            indices, or a checkpoint is evaluated on loaders instead of a ``LightningDataModule``.
    """

    folder_name = "neighbours"

    def __init__(
        self,
        every_n_epochs: int = 1,
        num_samples: int = 1000,
        num_shown: int = 16,
        seed: int = 0,
        extractor: str | nn.Module = "auto",
        weights_path: str | None = None,
    ) -> None:
        super().__init__(every_n_epochs)
        check_positive(num_samples=num_samples, num_shown=num_shown)
        self.num_samples = num_samples
        self.num_shown = num_shown
        self.seed = seed
        self.extractor = extractor
        self.weights_path = weights_path
        self.scores: dict[str, float] = {}
        self._extractor: Extractor | None = None
        # The training images, or their features, and how far held-out images are from them.
        self._known: dict[str, tuple[Rows, Tensor]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Get the extractor before the first step."""
        super().setup(trainer, pl_module, stage)
        self._known.clear()
        self.scores, self._drawn_at = {}, -1  # another model, or other data, may be at the same step
        if stage != "fit" and getattr(trainer, "datamodule", None) is None:
            raise SettingError(
                "neighbours needs the training images, which loaders to evaluate on have not: give a data module, or "
                f"set {_OFF}."
            )
        if self._extractor is None:
            self._extractor = find_extractor(
                trainer,
                self.extractor,
                pl_module.image_shape,
                self.weights_path,
                "Neighbours are looked for in pixels alone",
            )

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Refuse data whose images cannot be had, before the first step."""
        if not is_ours(trainer.train_dataloader):
            for loader in (trainer.train_dataloader, trainer.val_dataloaders):
                if loader is not None:
                    _in_order(loader)

    def on_validation_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Look, and log the numbers."""
        if trainer.sanity_checking or (trainer.state.fn == TrainerFn.FITTING and not self.due(trainer)):
            return
        self._look(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Look, and log the numbers."""
        self._look(trainer, pl_module, "test")

    def _look(self, trainer: Any, model: Any, stage: str) -> None:
        def draw() -> dict[str, float]:
            self.draw(trainer, model)
            return self.scores

        scores = on_first_process(trainer, draw)
        model.log_dict({f"{stage}/{name}": value for name, value in scores.items()}, rank_zero_only=True)
        if scores:
            rank_zero_info(", ".join(f"{name} {value:.3f}" for name, value in scores.items()) + " (0.5 is right)")

    def picture(self, trainer: Any, model: GenerativeModule) -> Image.Image:
        """Compare samples and held-out images with the training images."""
        if not self._known:
            train, others = _real_images(trainer, model)
            held_out = self._seen(others[: self.num_samples], model)
            for way, points in self._seen(train, model).items():
                self._known[way] = points, nearest(held_out[way], points).distances
        samples = to_bytes(model.sample(self.num_samples, seed=self.seed)).cpu()
        near = {way: nearest(points, self._known[way][0]) for way, points in self._seen(samples, model).items()}
        names = {"pixels": "memorization_pixels", "features": "memorization"}
        self.scores = {
            names[way]: float(memorization(found.distances, self._known[way][1])) for way, found in near.items()
        }
        *_, best = near.values()
        chosen = best.distances.argsort()[: self.num_shown]
        images, _ = self._known["pixels"]
        rows = [samples[chosen], *(images[found.places[chosen]] for found in near.values())]
        title = f"Of {self.num_samples} samples the nearest to a training image, step {model.weights_step}"
        return grid(torch.cat(rows).float() / 127.5 - 1, columns=len(chosen), title=title, row_labels=["sample", *near])

    def _seen(self, images: Rows, model: GenerativeModule) -> dict[str, Rows]:
        """Return what distances are measured between: the pixels of images, and their features where there are any."""
        if self._extractor is None:
            return {"pixels": images}
        self._extractor.to(model.device)
        blocks = (images[start : start + BLOCK].to(model.device) for start in range(0, len(images), BLOCK))
        return {"pixels": images, "features": torch.cat([self._extractor.extract(block)[0] for block in blocks])}


def _real_images(trainer: Any, model: Any) -> tuple[Rows, Rows]:
    """Return the training images and those that are held out, uint8 ``(N, C, H, W)``."""
    data = trainer.datamodule
    held_out, _ = evaluated(trainer)
    if is_ours(held_out):
        return data.split_images("train"), data.split_images("test")
    if trainer.state.fn == TrainerFn.FITTING:
        train = trainer.train_dataloader
    else:
        data.setup("fit")
        train = data.train_dataloader()
    # What the data sets draw is not taken from training's random numbers.
    with isolate_rng():
        return _bytes_of(_in_order(train), trainer, model), _bytes_of(_in_order(held_out), trainer, model)


def _in_order(given: Any) -> DataLoader[Any]:
    """Return a loader of all images that a loader chooses from, one after the other, on one process.

    Raises:
        SettingError: It is another kind of loader, its data set has no indices, or a sampler of an unknown kind chooses
            from it: on several processes, where Lightning wraps them, all but the usual ones are.
    """
    dataset = given.dataset if isinstance(given, DataLoader) else given
    if dataset is given or isinstance(dataset, IterableDataset):
        raise SettingError(
            f"neighbours needs a DataLoader of a data set with indices, but got {type(dataset).__name__}: set {_OFF}."
        )
    sampler = getattr(given.batch_sampler, "sampler", given.sampler)
    if isinstance(sampler, SubsetRandomSampler):
        dataset = Subset(dataset, sampler.indices)
    elif type(sampler) not in (RandomSampler, SequentialSampler, DistributedSampler):
        raise SettingError(
            f"neighbours cannot tell which images a {type(sampler).__name__} chooses: give a data set of these alone, "
            f"or set {_OFF}."
        )
    size = None if given.batch_sampler is None else BLOCK  # None: the data set gives batches
    return DataLoader(dataset, size, collate_fn=given.collate_fn)


def _bytes_of(loader: DataLoader[Any], trainer: Any, model: Any) -> Tensor:
    """Return a loader's images as the model would get them, uint8 ``(N, C, H, W)``."""
    batches = map(trainer.strategy.batch_to_device, loader)
    return torch.cat([to_bytes(model.images_and_labels(batch)[0]).cpu() for batch in batches])
