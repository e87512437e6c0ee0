"""Two sets of custom images without pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_gans import randomness
from lightning_gans.datamodules.base import Split
from lightning_gans.datamodules.draws import Draws, jittered
from lightning_gans.datamodules.image_folder import ImageFolderDataModule
from lightning_gans.datamodules.resident import ResidentImages
from lightning_gans.io.arrays import Scale
from lightning_gans.randomness import Stream


class UnpairedFolderDataModule(ImageFolderDataModule):
    """Images of two folders, as batches ``(source, target)`` of unrelated images.

    Each folder is read as in :class:`ImageFolderDataModule`, with the same settings but its own splits. An epoch has
    each image of the larger set once. The images of the smaller set are repeated, each equally often up to one time,
    with partners that are a function of the seed and the epoch. In validation and test, image k of the larger set has
    the partner k modulo the size of the smaller set. :meth:`images` returns the targets.

    Args:
        data_dir: The folder of the sources.
        target_dir: The folder of the targets.
        **options: As in :class:`ImageFolderDataModule`, for both.

    Raises:
        DataError: A folder has no images, or one of them cannot be read.
    """

    paired = False

    def __init__(self, data_dir: str | Path, target_dir: str | Path, **options: Any) -> None:
        super().__init__(target_dir, task=None, **options)
        self.sources = ImageFolderDataModule(data_dir, **options)

    @property
    def source_scale(self) -> Scale:
        """The values that -1 and 1 stand for in the sources, and their type."""
        return self.sources.image_scale

    def prepare_data(self) -> None:
        """Decode the images of both sides."""
        super().prepare_data()
        self.sources.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Load the splits of the stage, once."""
        super().setup(stage)
        self.sources.setup(stage)

    def teardown(self, stage: str) -> None:
        """Release the accelerator's memory."""
        super().teardown(stage)
        self.sources.teardown(stage)

    def make_batch(self, images: Tensor, labels: Tensor, draws: Draws, split: Split) -> tuple[Tensor, Tensor]:
        """Return the images of the larger set and their partners, the source first."""
        larger, smaller = self._sides(split)
        source, rows = smaller._split(split)
        flips = draws.uniform(1, Stream.FLIP)[:, 0] < 0.5 if split == "train" and self.horizontal_flip else None
        partners, _ = source.gather(rows[self._partners(split, draws)], flips, images.device, images.dtype)
        if split == "train" and self.jitter:
            partners = jittered(partners, draws.uniform(2, Stream.JITTER, 1), self.jitter)
        return (images, partners) if larger is self.sources else (partners, images)

    def _epoch(self, split: Split) -> tuple[ResidentImages, Tensor]:
        larger, _ = self._sides(split)
        return super()._epoch(split) if larger is self else larger._epoch(split)

    def _sides(self, split: Split) -> tuple[ImageFolderDataModule, ImageFolderDataModule]:
        """Return the larger and the smaller set of a split."""
        of_sources, of_targets = (len(side._split(split)[1]) for side in (self.sources, self))
        return (self.sources, self) if of_sources > of_targets else (self, self.sources)

    def _partners(self, split: Split, draws: Draws) -> Tensor:
        """Return the places, within the smaller set, of the partners of the rows of the larger set."""
        rows, others = (side._split(split)[1] for side in self._sides(split))
        num_other = len(others)
        # The rows' places within the split, whose rows ascend.
        places = torch.searchsorted(rows, draws.rows.contiguous())
        if split != "train":
            return places % num_other
        generator = randomness.generator(draws.seed, Stream.PARTNER, *draws.place)
        turns = torch.randperm(len(rows), generator=generator) % num_other
        return torch.randperm(num_other, generator=generator)[turns[places]]
