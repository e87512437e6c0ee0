"""The base of the image data modules: splits, loaders and what metrics need from a data set."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_gans import randomness
from lightning_gans._lightning import LightningDataModule, warn_of_both_families
from lightning_gans.datamodules.batch_order import SequentialOrder, ShuffledOrder
from lightning_gans.datamodules.draws import Draws, jittered
from lightning_gans.datamodules.resident import (
    Normalize,
    ResidentImages,
    ResidentLoader,
    SplitImages,
    SplitPairs,
)
from lightning_gans.datamodules.tasks import Task, find_task
from lightning_gans.errors import DataError, check_choice, check_counts, check_whole, invalid, is_number, is_whole
from lightning_gans.io.arrays import Scale
from lightning_gans.io.attributes import Attributes
from lightning_gans.io.checkpoint_io import loading
from lightning_gans.randomness import Stream

Split = Literal["train", "val", "test"]
Binarization = Literal["none", "static", "dynamic"]

_STAGES: dict[Split, tuple[str, ...]] = {"train": ("fit",), "val": ("fit", "validate"), "test": ("test", "predict")}


def memory() -> float:
    """Return this machine's memory in bytes."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if hasattr(os, "sysconf") else math.inf


def check_fits(num_bytes: int, **setting: Any) -> None:
    """Raise :class:`SettingError` for a setting with which the images take more than this machine's memory."""
    if num_bytes > memory():
        ((name, value),) = setting.items()
        raise invalid(name, value, f"smaller, as {num_bytes >> 30:,} GiB of images do not fit into memory")


class ImageDataModule(LightningDataModule):
    """Images in memory, as batches ``(images, labels)``.

    images: float32 ``(N, C, H, W)`` in [-1, 1]; labels: class numbers, int64 ``(N,)``, or vectors of a number for each
    attribute, float32 ``(N, num_classes)``. In a vector, the lowest value of an attribute among the stored training
    images is 0 and its highest value is 1; see :attr:`attributes`. A subclass sets ``image_shape``, ``class_names``
    and, where they apply, ``horizontal_flip`` and ``binarization``, and implements
    :meth:`load_images`. A subclass that downloads overrides ``prepare_data``. ``default_extractor`` names the extractor
    that ``metrics.extractor: auto`` uses for these images; with None, it depends on their channels.

    Unless the data set has its own validation split, it is a choice of training images that depends only on
    ``split_seed`` and on their number. Without a test split, the validation split is also the test split. With
    ``val_size=0``, all training images are used for training and the test split is used for validation.

    The order of the training images is a function of the seed and the epoch (see
    :class:`~lightning_gans.datamodules.batch_order.ShuffledOrder`). The seed is that of ``seed_everything``, or
    torch's if it was not called; checkpoints keep it, so a resumed run continues in the same order. (Loaders that are
    passed to the trainer without their data module keep it only within an epoch: call ``seed_everything``.) With
    ``overfit_batches``, each epoch has the first batches in the same order, if the trainer has the data module.

    Args:
        batch_size: Images per batch and process.
        val_size: Training images set aside for validation: their number, or a fraction below 1.
        split_seed: Seed of the choice of validation images, and of the images within ``limit``.
        limit: Train on this number, or fraction, of the training images, chosen at random in the proportions of the
            classes. The images of a smaller limit are a subset of those of a larger one; validation images do not
            change.
        device_resident: Keep the data set on the training device. ``"auto"`` does so if it takes less than a quarter
            of the accelerator's free memory.
        jitter: Enlarge training images by this number of pixels, then crop them back to their size at random places.
        task: Yield pairs ``(source, target)`` instead: the images are the targets, and the task makes the sources from
            them. A name in :data:`lightning_gans.datamodules.tasks.TASKS` or a
            :class:`~lightning_gans.datamodules.tasks.Task`. Random parts are a function of the seed, the epoch and the
            image; in validation and test they do not change.

    Raises:
        SettingError: A setting is out of range.
        DataError: A subclass has no ``class_names``, or :meth:`load_images` returns an invalid value.
    """

    image_shape: tuple[int, ...]
    default_extractor: str | None = None
    paired = True
    """Whether the target of a pair is what its source should become."""
    _channels = slice(None)
    """The stored channels that belong to an image; the others belong to its source."""

    def __init__(
        self,
        batch_size: int = 128,
        val_size: int | float = 0.1,
        *,
        split_seed: int = 0,
        limit: int | float | None = None,
        device_resident: bool | Literal["auto"] = "auto",
        jitter: int = 0,
        task: str | Task | None = None,
    ) -> None:
        super().__init__()
        warn_of_both_families()
        check_counts(batch_size=batch_size)
        check_counts(least=0, jitter=jitter)
        if not is_number(val_size) or not 0 <= val_size < (math.inf if is_whole(val_size) else 1):
            raise invalid("val_size", val_size, "a number of images, or a fraction below 1")
        if limit is not None and (not is_number(limit) or not 0 < limit <= (math.inf if is_whole(limit) else 1)):
            raise invalid("limit", limit, "a number of images, or a fraction up to 1")
        check_whole(split_seed=split_seed)
        if device_resident not in (True, False, "auto"):
            raise invalid("device_resident", device_resident, "True, False or 'auto'")
        self.batch_size = batch_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.limit = limit
        self.device_resident = device_resident
        self.jitter = jitter
        self.task = find_task(task)
        self.horizontal_flip = False
        self.binarization: Binarization = "none"
        self._sets: dict[str, ResidentImages | None] = {}
        self._attributes: Attributes | None = None
        self._order_seed: int | None = None

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Names of the classes in the order of the labels, or of the attributes; empty if the images have no labels."""
        name = f"{type(self).__name__}.class_names"
        raise DataError(f"{name} is missing: set the names of its classes, or ().", setting=name)

    @property
    def num_classes(self) -> int:
        """Number of classes, or of attributes; 0 if the images have no labels."""
        return len(self.class_names)

    @property
    def attributes(self) -> Attributes | None:
        """The attributes of labels that are vectors, with those of training images; None for class numbers.

        It is an :class:`~lightning_gans.io.attributes.Attributes`, whose ``restore`` maps labels to their own values.
        """
        source, rows = self._split("train")
        if self._attributes is None:
            return None
        return self._attributes.with_rows(source.labels_at(rows))

    @property
    def image_scale(self) -> Scale:
        """The values that -1 and 1 stand for in the images, and their type."""
        return Scale()

    @property
    def source_scale(self) -> Scale:
        """The same for the sources of pairs."""
        return self.image_scale

    @property
    def _stored_shape(self) -> tuple[int, ...]:
        """Shape of what :meth:`load_images` returns for each image."""
        return tuple(getattr(self, "image_shape", ()))

    @abstractmethod
    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Return a stored split and its labels, or None if the data set does not have it (``train`` is required).

        Returns:
            Images ``(N, C, H, W)``, uint8 in [0, 255] or float32 in [-1, 1], or sequences, float32 ``(N, C, T)`` in
            [-1, 1]; and labels: classes, int64 ``(N,)``, zeros if there are none; or the values of attributes, float32
            ``(N, len(class_names))``, in any range.
        """

    def __str__(self) -> str:
        """Describe the splits that are loaded; Lightning's own text needs loaders of torch's type."""
        sizes = [f"{split}: {len(self._split(split)[1])}" for split in _STAGES if split in self._sets]
        return f"{type(self).__name__}({', '.join(sizes) or 'not loaded'})"

    def images(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return all images of a split, uint8 ``(N, C, H, W)``, and their labels.

        Images that 8 bits cannot hold are float32 in [-1, 1]. Needs no trainer: prepares and loads the data if
        necessary.
        """
        images = self.split_images(split)
        return images.exact(slice(None)), images.labels

    def split_images(self, split: Split) -> SplitImages:
        """Return the images of a split with 256 levels, uint8 ``(N, C, H, W)``, read on access: what scores need."""
        check_choice("split", split, _STAGES)
        if self.trainer is None:
            self.prepare_data()
        return SplitImages(*self._split(split), self._channels)

    @property
    def has_test_split(self) -> bool:
        """Whether the data set has test images; otherwise its validation images are its test images."""
        return self._set("test") is not None

    def split_pairs(self, split: Literal["val", "test"]) -> SplitPairs:
        """Return the pairs ``(source, target)`` that evaluate translators, as the split's loader makes them, on access.

        They are float32 in [-1, 1], on the CPU.
        """
        check_choice("split", split, ("val", "test"))
        if self.trainer is None:
            self.prepare_data()
        return SplitPairs(self._evaluation_loader(split))

    @property
    def order_seed(self) -> int:
        """Seed of the order: that of ``seed_everything``, or else torch's; all processes use the first one's.

        Without a trainer, which shares torch's seed with all processes, it is 0 instead.
        """
        if self._order_seed is None:
            seed = randomness.global_seed()
            if self.trainer is not None:
                seed = self.trainer.strategy.broadcast(torch.initial_seed() if seed is None else seed)
            self._order_seed = seed or 0
        return self._order_seed

    def use_seed(self, seed: int) -> None:
        """Set the seed of the order until the next call of ``setup("fit")``."""
        self._order_seed = seed

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of the order, which Lightning saves in checkpoints."""
        return {"seed": self.order_seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seed of the order from a checkpoint."""
        with loading():
            self.use_seed(int(state_dict["seed"]))

    def setup(self, stage: str | None = None) -> None:
        """Load the splits of the stage, once."""
        if stage == "fit":
            self._order_seed = None  # Lightning restores it after this hook
        for split, stages in _STAGES.items():
            if stage is None or stage in stages:
                self._split(split)

    def teardown(self, stage: str) -> None:
        """Release the accelerator's memory."""
        for source in self._sets.values():
            if source is not None:
                source.release()

    def train_dataloader(self) -> ResidentLoader:
        """Return shuffled training batches, of equal size and number on every process."""
        source, rows = self._epoch("train")
        size, place = (len(rows), self.batch_size), self._place()
        if self.trainer is not None and self.trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            order: ShuffledOrder = SequentialOrder(*size, drop_last=True, place=place)
        else:
            order = ShuffledOrder(*size, flips=self.horizontal_flip, seed=lambda: self.order_seed, place=place)
        binarize = self._fixed_binarization(source)
        if self.binarization == "dynamic":
            binarize = lambda: (self.order_seed, Stream.BINARIZE, 1, order.epoch)  # noqa: E731
        finish = lambda: partial(self._finished, "train", (self.order_seed, 1, order.epoch))  # noqa: E731
        return ResidentLoader(source, order, rows, binarize, finish)

    def val_dataloader(self) -> ResidentLoader:
        """Return the validation images, each exactly once over all processes."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> ResidentLoader:
        """Return the test images, each exactly once over all processes."""
        return self._evaluation_loader("test")

    predict_dataloader = test_dataloader

    def _evaluation_loader(self, split: Split) -> ResidentLoader:
        source, rows = self._epoch(split)
        order = SequentialOrder(len(rows), self.batch_size, place=self._place())
        processes = order.place[0]
        if order.num_rows < processes:  # Lightning would skip the evaluation on some, and the others would wait forever
            raise invalid(split, order.num_rows, f"at least {processes} images, one for each process")
        finish = partial(self._finished, split, (0, 0, int(source is self._sets.get("test"))))
        return ResidentLoader(source, order, rows, self._fixed_binarization(source), lambda: finish)

    def _epoch(self, split: Split) -> tuple[ResidentImages, Tensor]:
        """Return the set that an epoch of a split iterates over, and its rows there."""
        return self._split(split)

    def _finished(
        self, split: Split, key: tuple[int, ...], images: Tensor, labels: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        draws = Draws(rows, *key)
        if split == "train" and self.jitter:
            images = jittered(images, draws.uniform(2, Stream.JITTER), self.jitter)
        return self.make_batch(images, labels, draws, split)

    def make_batch(self, images: Tensor, labels: Tensor, draws: Draws, split: Split) -> tuple[Tensor, Tensor]:
        """Return a batch as the loaders yield it: ``(images, labels)``, or with a task ``(source, target)``.

        Args:
            images: ``(n, C, H, W)`` in [-1, 1], on the training device.
            labels: int64 ``(n,)``, or float32 ``(n, num_classes)``.
            draws: Random numbers of the images.
            split: The split that the images are from.
        """
        return (images, labels) if self.task is None else self.task(images, draws)

    def _fixed_binarization(self, source: ResidentImages) -> Callable[[], tuple[int, ...]] | None:
        """Return a function that returns the same key in every epoch; None without binarization."""
        if self.binarization == "none":
            return None
        return lambda: (0, Stream.BINARIZE, 0, int(source is self._sets.get("test")))

    def _place(self) -> tuple[int, int] | None:
        """Return the trainer's world size and this process's rank; None without a trainer."""
        return None if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _set(self, split: Split) -> ResidentImages | None:
        """Load a stored split once; train and val share the tensor that they are chosen from."""
        if split not in self._sets:
            loaded = self.load_images(split)
            if loaded is not None or split == "train":
                self._check_loaded(loaded, f"{type(self).__name__}.load_images({split!r})")
            if loaded is not None and loaded[0].dim() == 3 and (self.task or self.jitter):
                raise invalid("task" if self.task else "jitter", self.task or self.jitter, "left out for sequences")
            self._sets[split] = loaded and self._resident(split, loaded[0], self._normalized(split, loaded[1]))
        return self._sets[split]

    def _normalized(self, split: Split, labels: Tensor) -> Tensor:
        """Return labels as batches have them; the training images define the ranges of attributes."""
        if not labels.is_floating_point():
            return labels
        if split == "train":
            self._attributes = Attributes.of(self.class_names, labels)
        else:
            self._set("train")
        if self._attributes is None:
            where = f"{type(self).__name__}.load_images"
            raise DataError(f"{where} returned vectors as labels of {split!r}, but classes of 'train'.", setting=where)
        return self._attributes.normalize(labels)

    @property
    def _normalize(self) -> Normalize | None:
        """Maps what :meth:`load_images` returns to [-1, 1], if that is of other types than it says."""
        return None

    def _resident(self, split: Split, images: Tensor, labels: Tensor) -> ResidentImages:
        return ResidentImages(images, labels, normalize=self._normalize, device_resident=self.device_resident)

    def _split(self, split: Split) -> tuple[ResidentImages, Tensor]:
        """Return the set that holds a split, and its rows there."""
        if split == "test" and self._set("test") is None:
            split = "val"
        if split != "train" and (own := self._set(split)) is not None:
            return own, torch.arange(len(own))
        train = self._set("train")
        assert train is not None  # checked by _set()
        rows = torch.arange(len(train))
        if self._set("val") is None:
            num_val = self._held_out(len(train))
            if num_val >= len(train):
                raise invalid("val_size", self.val_size, f"at most {len(train) - 1} of {len(train)} training images")
            if num_val == 0 and split == "val":
                test = self._set("test")
                if test is None:
                    hint = " There are no test images to validate on."
                    raise invalid("val_size", self.val_size, "at least 1 image", hint)
                return test, torch.arange(len(test))
            generator = randomness.generator(self.split_seed, Stream.SPLIT, len(train))
            order = torch.randperm(len(train), generator=generator)
            rows = (order[:num_val] if split == "val" else order[num_val:]).sort().values  # in the order of the files
        return train, rows if split == "val" else self._limited(train, rows)

    def _limited(self, train: ResidentImages, rows: Tensor) -> Tensor:
        """Return the training rows that are within the limit."""
        if self.limit is None:
            return rows
        num = int(self.limit) if is_whole(self.limit) else max(1, round(self.limit * len(rows)))
        if num > len(rows):
            raise invalid("limit", self.limit, f"at most {len(rows)}, the number of training images")
        labels = train.labels_at(rows)
        if labels.is_floating_point():
            labels = labels.new_zeros(len(labels))  # no classes to keep in proportion
        return rows[randomness.stratified(labels, num, self.split_seed, Stream.SPLIT, len(rows), 1)]

    def _held_out(self, num_images: int) -> int:
        """Return how many training images ``val_size`` asks for."""
        if is_whole(self.val_size):
            return int(self.val_size)
        return max(1, int(num_images * self.val_size)) if self.val_size else 0

    def _check_loaded(self, loaded: Any, where: str) -> None:
        """Raise :class:`DataError` if a subclass has not loaded images, or sequences, with labels."""
        pair = loaded if isinstance(loaded, tuple | list) else [loaded]
        wrong = " and ".join(type(part).__name__ for part in pair) or "nothing"
        if len(pair) == 2 and all(isinstance(part, Tensor) for part in pair):
            images, labels = pair
            shape, wanted = images.shape[1:], self._stored_shape or tuple(images.shape[1:])
            classes = 0 if type(self).class_names is ImageDataModule.class_names else self.num_classes
            is_known = images.is_floating_point() or self._normalize is not None
            if (images.dim(), images.dtype) != (4, torch.uint8) and not (images.dim() in (3, 4) and is_known):
                wrong = f"images of type {images.dtype} and shape {list(images.shape)}"
            elif labels.shape != (len(images), *[classes] * labels.is_floating_point()) or len(images) == 0:
                wrong = f"{len(images)} images and labels of type {labels.dtype} and shape {list(labels.shape)}"
            elif not labels.isfinite().all():
                wrong = "labels that are not all finite numbers"
            elif shape != wanted:
                wrong = f"images of shape {list(shape)}, but image_shape is {list(wanted)}"
            elif labels.dim() == 1 and classes and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
                wrong = f"labels from {labels.min()} to {labels.max()} of {classes} classes"
            else:
                return
        allowed = "images (N, C, H, W), uint8 in [0, 255] or floats in [-1, 1], and labels, int64 (N,) or float (N, K)"
        raise DataError(f"{where} returned {wrong}: it must return {allowed}.", setting=where, allowed=allowed)
