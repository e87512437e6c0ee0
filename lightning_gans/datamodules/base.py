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
from lightning_gans.datamodules.resident import ResidentImages, ResidentLoader, SplitImages
from lightning_gans.datamodules.sampler import InOrderBatchSampler, ShardedBatchSampler, default_seed
from lightning_gans.errors import DataError, SettingError, check_choice, check_counts
from lightning_gans.randomness import Stream

Split = Literal["train", "val", "test"]
Binarization = Literal["none", "static", "dynamic"]


class ImageDataModule(LightningDataModule):
    """Pictures in memory, as batches ``(images, labels)``.

    images: float32 ``(N, C, H, W)`` in [-1, 1]; labels: int64 ``(N,)``. A subclass sets ``image_shape``,
    ``class_names`` and, where they have a meaning, ``horizontal_flip`` and ``binarization``, and implements
    :meth:`load_images`; one that downloads overrides ``prepare_data``.

    The validation split is a fixed choice from the training pictures: it depends on ``split_seed`` and their
    number, not on the run's seed or the machine. A set that has its own validation pictures uses these. Where
    there is no test split, the validation split is tested on; with ``val_size=0`` every training picture
    trains, and the test split validates.

    The order of the training pictures is a function of the seed and the epoch (see
    :class:`~lightning_gans.datamodules.sampler.ShardedBatchSampler`); the seed is the model's ``run_seed``
    where it has one, else that of ``seed_everything``, else 0. A model with ``batches_per_step`` gets so many
    batches at once.

    ``overfit_batches`` is supported with ``trainer.fit(model, datamodule=...)``: the first batches, in the
    same order in every epoch.

    Args:
        batch_size: Pictures per batch and process.
        val_size: Training pictures set aside for validation: their number, or a fraction below 1.
        split_seed: Chooses which.
        device_resident: Keep the set on the device that trains; ``"auto"``: if it takes less than a quarter
            of the accelerator's free memory.

    Raises:
        SettingError: A setting is out of range.
        DataError: A subclass has no ``class_names``, or its :meth:`load_images` returns something else than it should.
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
            raise SettingError(f"val_size is {val_size!r}: it must be a number of pictures, or a fraction below 1.")
        if device_resident not in (True, False, "auto"):
            raise SettingError(f"device_resident is {device_resident!r}: it must be True, False or 'auto'.")
        self.batch_size = batch_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.device_resident = device_resident
        self.horizontal_flip = False
        self.binarization: Binarization = "none"
        self._sets: dict[str, ResidentImages | None] = {}

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Names of the classes, in the order of the labels; none where the pictures have no labels."""
        raise DataError(
            f"{type(self).__name__} has no class_names: set the names of its classes in the order of the labels, or ()."
        )

    @property
    def num_classes(self) -> int:
        """Number of classes that the labels tell apart; 0 where the pictures have none."""
        return len(self.class_names)

    @abstractmethod
    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Return a stored split and its labels; None if the set has it not, but for ``train``.

        Returns:
            Images, uint8 ``(N, C, H, W)`` in [0, 255], or sequences, float32 ``(N, C, T)`` in [-1, 1]; and labels,
            int64 ``(N,)``, zeros where there are no classes. What else is returned is a :class:`DataError` when the
            split is set up.
        """

    def images(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return all pictures of a split and their labels, uint8 ``(N, C, H, W)`` and int64 ``(N,)``.

        Needs no trainer: what is not there yet is prepared and loaded.
        """
        images = self.split_images(split)
        return images[:], images.labels

    def split_images(self, split: Split) -> SplitImages:
        """Return the pictures of a split like :meth:`images`, but read as they are asked for."""
        check_choice("split", split, ["train", "val", "test"])
        if self.trainer is None:
            self.prepare_data()
        return SplitImages(*self._split(split))

    def setup(self, stage: str | None = None) -> None:
        """Load the splits of the stage, once."""
        splits: dict[str | None, list[Split]] = {
            "fit": ["train", "val"],
            "validate": ["val"],
            "test": ["test"],
            "predict": ["test"],
            None: ["train", "val", "test"],
        }
        for split in splits[stage]:
            self._split(split)

    def teardown(self, stage: str) -> None:
        """Give the accelerator's memory back."""
        for source in self._sets.values():
            if source is not None:
                source.release()

    def train_dataloader(self) -> ResidentLoader:
        """Return shuffled training batches, of equal size and number on every process."""
        source, rows = self._split("train")
        options: dict[str, Any] = {
            "parts": getattr(self._model, "batches_per_step", 1),
            "seed": self._run_seed,
            "in_flight": self._fetches_in_flight,
            **self._place(),
        }
        num_rows = len(source) if rows is None else len(rows)
        if self.trainer is not None and getattr(self.trainer, "overfit_batches", 0) > 0:
            sampler: ShardedBatchSampler = InOrderBatchSampler(num_rows, self.batch_size, drop_last=True, **options)
        else:
            sampler = ShardedBatchSampler(num_rows, self.batch_size, flips=self.horizontal_flip, **options)
        return ResidentLoader(source, sampler, rows, self._binarize_by(sampler, source, training=True))

    def val_dataloader(self) -> ResidentLoader:
        """Return the validation pictures, each exactly once over all processes."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> ResidentLoader:
        """Return the test pictures, each exactly once over all processes."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> ResidentLoader:
        """Return the test pictures, each exactly once over all processes."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: Split) -> ResidentLoader:
        source, rows = self._split(split)
        num_rows = len(source) if rows is None else len(rows)
        processes = self._place().get("num_replicas", 1)
        if num_rows < processes:  # Lightning would leave the evaluation out on some, where others wait for them
            raise SettingError(
                f"the {split} split has {num_rows} pictures for {processes} processes: it needs one for each at least."
            )
        sampler = InOrderBatchSampler(num_rows, self.batch_size, **self._place())
        return ResidentLoader(source, sampler, rows, self._binarize_by(sampler, source, training=False))

    def _binarize_by(
        self, sampler: ShardedBatchSampler, source: ResidentImages, training: bool
    ) -> Callable[[], tuple[int, ...]] | None:
        """Return what gives an epoch's key: a new one each time only for training with ``dynamic``."""
        if self.binarization == "none":
            return None
        of_test = int(source is self._sets.get("test"))
        if training and self.binarization == "dynamic":
            return lambda: (self._run_seed(), Stream.BINARIZE, 1, sampler.epoch)
        return lambda: (0, Stream.BINARIZE, 0, of_test)

    def _set(self, split: Split) -> ResidentImages | None:
        """Load a stored split once; train and val share the tensor that they are chosen from."""
        if split not in self._sets:
            loaded = self.load_images(split)
            if loaded is not None or split == "train":
                _check_loaded(loaded, f"{type(self).__name__}.load_images({split!r})")
            self._sets[split] = (
                None if loaded is None else ResidentImages(*loaded, device_resident=self.device_resident)
            )
        return self._sets[split]

    def _split(self, split: Split) -> tuple[ResidentImages, Tensor | None]:
        """Return the set that holds a split, and its rows there; None stands for all."""
        if split == "test":
            test = self._set("test")
            return self._split("val") if test is None else (test, None)
        own = self._set("val")
        if split == "val" and own is not None:
            return own, None
        train = self._set("train")
        assert train is not None  # which _set() refuses
        if own is not None:
            return train, None
        num_val = self._num_val(len(train))
        if num_val == 0 and split == "val":
            test = self._set("test")
            if test is None:
                raise SettingError(
                    f"val_size is {self.val_size}, which sets aside none of {len(train)} pictures, "
                    "and there are no test pictures to validate on: set aside at least 1."
                )
            return test, None
        order = torch.randperm(len(train), generator=randomness.generator(self.split_seed, Stream.SPLIT, len(train)))
        # Sorted: the rows of a split then stand in the order of the files.
        chosen = order[:num_val] if split == "val" else order[num_val:]
        return train, chosen.sort().values

    def _num_val(self, num_images: int) -> int:
        num_val = self.val_size
        if isinstance(num_val, float):
            num_val = max(1, int(num_images * num_val)) if num_val else 0
        if num_val >= num_images:
            raise SettingError(
                f"val_size is {self.val_size}, but there are {num_images} training pictures: "
                f"it may be at most {num_images - 1}."
            )
        return num_val

    @property
    def _model(self) -> Any:
        return None if self.trainer is None else self.trainer.lightning_module

    def _run_seed(self) -> int:
        seed = getattr(self._model, "run_seed", None)
        return default_seed() if seed is None else int(seed)

    def _fetches_in_flight(self) -> int:
        """Return the number of fetches whose step has not ended, which a resumed run does again."""
        if self.trainer is None:
            return 0
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return int(progress.ready - progress.processed)

    def _place(self) -> dict[str, Any]:
        """Return the number of processes and this one's, as the strategy has them."""
        return {} if self.trainer is None else self.trainer.distributed_sampler_kwargs or {}


def _check_loaded(loaded: Any, where: str) -> None:
    """Raise :class:`DataError` for what is no set of images, or sequences, with their labels."""
    pair = loaded if isinstance(loaded, tuple | list) else [loaded]
    wrong = ""
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        wrong = " and ".join(type(part).__name__ for part in pair) or "nothing"
    else:
        images, labels = pair
        sequences = images.dim() == 3 and images.is_floating_point()
        if not sequences and (images.dim() != 4 or images.dtype != torch.uint8):
            wrong = f"images of {images.dtype} and the shape {list(images.shape)}"
        elif labels.shape != images.shape[:1]:
            wrong = f"{len(images)} images and labels of the shape {list(labels.shape)}"
    if wrong:
        raise DataError(
            f"{where} returned {wrong}: it must return images, uint8 (N, C, H, W) in [0, 255], and labels, int64 (N,)."
        )
