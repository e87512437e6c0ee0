"""The base of the image data modules: splits, loaders and what metrics need of a data set."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_gans import randomness
from lightning_gans._lightning import LightningDataModule
from lightning_gans.datamodules.batch_order import SequentialOrder, ShuffledOrder
from lightning_gans.datamodules.resident import ResidentImages, ResidentLoader, SplitImages
from lightning_gans.errors import DataError, SettingError, check_choice, check_counts, invalid
from lightning_gans.randomness import Stream

Split = Literal["train", "val", "test"]
Binarization = Literal["none", "static", "dynamic"]


class ImageDataModule(LightningDataModule):
    """Images in memory, as batches ``(images, labels)``.

    images: float32 ``(N, C, H, W)`` in [-1, 1]; labels: int64 ``(N,)``. A subclass sets ``image_shape``,
    ``class_names`` and, where they apply, ``horizontal_flip`` and ``binarization``, and implements
    :meth:`load_images`. A subclass that downloads overrides ``prepare_data``.

    The validation split is a fixed choice of training images: it depends on ``split_seed`` and their number, not on
    the run's seed or the machine. A data set with its own validation images uses them instead. Without a test split,
    the validation split is also the test split. With ``val_size=0``, all training images train and the test split
    validates.

    The order of the training images is a function of the seed and the epoch (see
    :class:`~lightning_gans.datamodules.batch_order.ShuffledOrder`). The seed is that of ``seed_everything``, or
    torch's if it was not called; checkpoints keep it, so a resumed run continues in the same order. (Loaders that are
    passed to the trainer without their data module keep it within an epoch only: call ``seed_everything``.)

    ``overfit_batches`` is supported with ``trainer.fit(model, datamodule=...)``: each epoch has the first batches in
    the same order.

    Args:
        batch_size: Images per batch and process.
        val_size: Training images set aside for validation: their number, or a fraction below 1.
        split_seed: Seed of the choice of validation images.
        device_resident: Keep the data set on the training device. ``"auto"`` does so if it takes less than a quarter
            of the accelerator's free memory.

    Raises:
        SettingError: A setting is out of range.
        DataError: A subclass has no ``class_names``, or :meth:`load_images` returns an invalid value.
    """

    image_shape: tuple[int, ...]

    def __init__(
        self,
        batch_size: int = 128,
        val_size: int | float = 0.1,
        *,
        split_seed: int = 0,
        device_resident: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        check_counts(batch_size=batch_size)
        limit = 1 if isinstance(val_size, float) else math.inf
        if not isinstance(val_size, int | float) or not 0 <= val_size < limit:
            raise invalid("val_size", val_size, "a number of images, or a fraction below 1")
        if device_resident not in (True, False, "auto"):
            raise invalid("device_resident", device_resident, "True, False or 'auto'")
        self.batch_size = batch_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.device_resident = device_resident
        self.horizontal_flip = False
        self.binarization: Binarization = "none"
        self._sets: dict[str, ResidentImages | None] = {}
        self._order_seed: int | None = None

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Names of the classes in the order of the labels; empty if the images have no labels."""
        name = type(self).__name__
        raise DataError(
            f"{name} has no class_names: set the names of its classes, or ().", setting=f"{name}.class_names"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 if the images have no labels."""
        return len(self.class_names)

    @abstractmethod
    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Return a stored split and its labels, or None if the data set does not have it (``train`` is required).

        Returns:
            Images, uint8 ``(N, C, H, W)`` in [0, 255], or sequences, float32 ``(N, C, T)`` in [-1, 1]; and labels,
            int64 ``(N,)``, zeros if there are no classes.
        """

    def images(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return all images of a split and their labels, uint8 ``(N, C, H, W)`` and int64 ``(N,)``.

        Needs no trainer: prepares and loads the data if necessary.
        """
        images = self.split_images(split)
        return images[:], images.labels

    def split_images(self, split: Split) -> SplitImages:
        """Return the images of a split like :meth:`images`, but read them on access."""
        check_choice("split", split, ["train", "val", "test"])
        if self.trainer is None:
            self.prepare_data()
        return SplitImages(*self._split(split))

    @property
    def order_seed(self) -> int:
        """Seed of the order: that of ``seed_everything``, else torch's; the first process's on all of them.

        Without a trainer that could share torch's, it is 0 instead.
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
        self.use_seed(state_dict["seed"])

    def setup(self, stage: str | None = None) -> None:
        """Load the splits of the stage, once."""
        splits: dict[str | None, list[Split]] = {
            "fit": ["train", "val"],
            "validate": ["val"],
            "test": ["test"],
            "predict": ["test"],
            None: ["train", "val", "test"],
        }
        if stage == "fit":
            self._order_seed = None  # Lightning restores it after this hook
        for split in splits[stage]:
            self._split(split)

    def teardown(self, stage: str) -> None:
        """Release the accelerator's memory."""
        for source in self._sets.values():
            if source is not None:
                source.release()

    def train_dataloader(self) -> ResidentLoader:
        """Return shuffled training batches, of equal size and number on every process."""
        source, rows = self._split("train")
        size, place = (len(source) if rows is None else len(rows), self.batch_size), self._place()
        order: ShuffledOrder
        if self.trainer is not None and self.trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            order = SequentialOrder(*size, drop_last=True, place=place)
        else:
            order = ShuffledOrder(*size, flips=self.horizontal_flip, seed=lambda: self.order_seed, place=place)
        if self.binarization == "dynamic":
            return ResidentLoader(source, order, rows, lambda: (self.order_seed, Stream.BINARIZE, 1, order.epoch))
        return ResidentLoader(source, order, rows, self._fixed_binarization(source))

    def val_dataloader(self) -> ResidentLoader:
        """Return the validation images, each exactly once over all processes."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> ResidentLoader:
        """Return the test images, each exactly once over all processes."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> ResidentLoader:
        """Return the test images, each exactly once over all processes."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: Split) -> ResidentLoader:
        source, rows = self._split(split)
        order = SequentialOrder(len(source) if rows is None else len(rows), self.batch_size, place=self._place())
        processes = order.place[0]
        if order.num_rows < processes:  # Lightning skips the evaluation on some, and the others wait for them forever
            raise SettingError(
                f"the {split} split has {order.num_rows} images: it needs one for each of {processes} processes.",
                setting=split,
                value=order.num_rows,
                allowed=f"at least {processes}",
            )
        return ResidentLoader(source, order, rows, self._fixed_binarization(source))

    def _fixed_binarization(self, source: ResidentImages) -> Callable[[], tuple[int, ...]] | None:
        """Return what gives the same key in every epoch."""
        if self.binarization == "none":
            return None
        return lambda: (0, Stream.BINARIZE, 0, int(source is self._sets.get("test")))

    def _place(self) -> tuple[int, int] | None:
        """Return the trainer's number of processes and the number of this one."""
        return None if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _set(self, split: Split) -> ResidentImages | None:
        """Load a stored split once; train and val share the tensor that they are chosen from."""
        if split not in self._sets:
            loaded = self.load_images(split)
            if loaded is not None or split == "train":
                _check_loaded(loaded, f"{type(self).__name__}.load_images({split!r})")
            self._sets[split] = loaded and ResidentImages(*loaded, device_resident=self.device_resident)
        return self._sets[split]

    def _split(self, split: Split) -> tuple[ResidentImages, Tensor | None]:
        """Return the set that holds a split, and its rows there, or None for all rows."""
        if split == "test":
            test = self._set("test")
            return self._split("val") if test is None else (test, None)
        val = self._set("val")
        if split == "val" and val is not None:
            return val, None
        train = self._set("train")
        assert train is not None  # checked by _set()
        if val is not None:
            return train, None
        num_val = self._num_val(len(train))
        if num_val == 0 and split == "val":
            test = self._set("test")
            if test is None:
                raise invalid(
                    "val_size", self.val_size, "at least 1 image", " There are no test images to validate on."
                )
            return test, None
        order = torch.randperm(len(train), generator=randomness.generator(self.split_seed, Stream.SPLIT, len(train)))
        chosen = order[:num_val] if split == "val" else order[num_val:]
        return train, chosen.sort().values  # in the order of the files

    def _num_val(self, num_images: int) -> int:
        num_val = self.val_size
        if isinstance(num_val, float):
            num_val = max(1, int(num_images * num_val)) if num_val else 0
        if num_val >= num_images:
            raise invalid("val_size", self.val_size, f"at most {num_images - 1} of {num_images} training images")
        return num_val


def _check_loaded(loaded: Any, where: str) -> None:
    """Raise :class:`DataError` if a subclass has not loaded images, or sequences, with labels."""
    pair = loaded if isinstance(loaded, tuple | list) else [loaded]
    wrong = ""
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        wrong = " and ".join(type(part).__name__ for part in pair) or "nothing"
    else:
        images, labels = pair
        sequences = images.dim() == 3 and images.is_floating_point()
        if not sequences and (images.dim() != 4 or images.dtype != torch.uint8):
            wrong = f"images of {images.dtype} and shape {list(images.shape)}"
        elif labels.shape != images.shape[:1]:
            wrong = f"{len(images)} images and labels of shape {list(labels.shape)}"
    if wrong:
        allowed = "images, uint8 (N, C, H, W) in [0, 255], and labels, int64 (N,)"
        raise DataError(f"{where} returned {wrong}: it must return {allowed}.", setting=where, allowed=allowed)
