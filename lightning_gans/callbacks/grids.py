"""Pictures of a run: grids of samples and of reconstructions, as files and in every logger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lightning_gans._lightning import Callback, TrainerFn, pl
from lightning_gans.callbacks.base import check_is_image, images_and_labels, is_due, log_picture, run_folder
from lightning_gans.errors import check_counts
from lightning_gans.io.pictures import grid, save_png
from lightning_gans.metrics.samples import check_sampler, draw, num_classes

_MOST_CLASSES = 20


class Pictures(Callback):
    """Write a picture to a folder of the run and log it at the step of the scalars.

    Args:
        every_n_epochs: How often to make the picture; the last epoch always counts.

    Raises:
        SettingError: Before the first step: the module's samples are sequences, not images.
    """

    folder_name = ""

    def __init__(self, every_n_epochs: int = 1) -> None:
        check_counts(every_n_epochs=every_n_epochs)
        self.every_n_epochs = every_n_epochs
        self.last_path: Path | None = None
        self._folder: Path | None = None
        self._drawn_at = -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the module, and find the run's folder."""
        self._folder = run_folder(trainer) / self.folder_name
        shape = getattr(pl_module, "image_shape", None)
        if self.shows(pl_module) and shape is not None:
            check_is_image(shape, type(self).__name__, self.folder_name)

    def shows(self, module: Any) -> bool:
        """Return whether there is something to show; raise :class:`SettingError` if the module has no ``sample``."""
        check_sampler(module, type(self).__name__)
        return True

    def picture(self, trainer: pl.Trainer, module: Any) -> Image.Image | None:
        """Make the picture, or None if there is nothing to show."""
        raise NotImplementedError

    def draw(self, trainer: Any, module: Any) -> None:
        """Make the picture on the first process, save it, and log it."""
        step = trainer.global_step
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.fast_dev_run or step == self._drawn_at:
            return
        image = self.picture(trainer, module)
        if image is None or self._folder is None:
            return
        self._drawn_at = step
        self.last_path = self._folder / f"step={step:07d}.png"
        save_png(image, self.last_path)
        log_picture(trainer, self.folder_name, image, step)


class SampleGrid(Pictures):
    """A grid of samples of the same noise each time, as ``samples/step=XXXXXXX.png`` and in the loggers.

    Conditional models get a row for each class, with the same noise in each column. The module needs a method
    ``sample(n)``; see :func:`lightning_gans.metrics.samples.draw` for what it may take.

    Args:
        every_n_epochs: How often to make the grid; the start and the last epoch always count.
        num_samples: Samples in the grid of an unconditional model.
        seed: Seed of the noise.
    """

    folder_name = "samples"

    def __init__(self, every_n_epochs: int = 1, num_samples: int = 64, seed: int = 0) -> None:
        super().__init__(every_n_epochs)
        check_counts(num_samples=num_samples)
        self.num_samples = num_samples
        self.seed = seed

    def picture(self, trainer: Any, module: Any) -> Image.Image:
        """Arrange samples in a grid, with a row for each class."""
        title = f"{type(module).__name__}, step {trainer.global_step}, seed {self.seed}"
        classes = num_classes(module)
        if classes == 0:
            samples = draw(module, self.num_samples, seed=self.seed)
            return grid(samples, columns=max(1, round(self.num_samples**0.5)), title=title)
        labels, columns = range(min(classes, _MOST_CLASSES)), 10
        rows = [draw(module, columns, labels=torch.full((columns,), label), seed=self.seed) for label in labels]
        names = getattr(trainer.datamodule, "class_names", None) or ()
        names = names if len(names) == classes else range(classes)
        return grid(torch.cat(rows), columns=columns, title=title, row_labels=[str(names[label]) for label in labels])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the start; a resumed run has shown it before."""
        if trainer.global_step == 0:
            self.draw(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch's result."""
        if is_due(trainer, self.every_n_epochs):
            self.draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the final result, or the samples of a checkpoint that is tested."""
        self.draw(trainer, pl_module)

    on_test_end = on_train_end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the samples of a checkpoint that is validated."""
        if trainer.state.fn != TrainerFn.FITTING:
            self.draw(trainer, pl_module)


class Reconstructions(Pictures):
    """Validation images above their reconstructions, as ``reconstructions/step=XXXXXXX.png`` and in the loggers.

    For modules with a method ``reconstruct(images, labels)``; it does nothing for other modules.

    Args:
        every_n_epochs: How often to make the picture; the last epoch always counts.
        num_images: Number of images, the first of the validation data.
    """

    folder_name = "reconstructions"

    def __init__(self, every_n_epochs: int = 1, num_images: int = 32) -> None:
        super().__init__(every_n_epochs)
        check_counts(num_images=num_images)
        self.num_images = num_images
        self._batch: tuple[Tensor, Tensor | None] | None = None

    def shows(self, module: Any) -> bool:
        """Return whether the module can reconstruct."""
        return hasattr(module, "reconstruct")

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first images."""
        if batch_idx == 0 and dataloader_idx == 0 and self.shows(pl_module):
            images, labels = images_and_labels(pl_module, batch)
            self._batch = images[: self.num_images], None if labels is None else labels[: self.num_images]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the images and their reconstructions."""
        if is_due(trainer, self.every_n_epochs):
            self.draw(trainer, pl_module)

    def picture(self, trainer: pl.Trainer, module: Any) -> Image.Image | None:
        """Arrange rows of images, each above the row of its reconstructions."""
        if self._batch is None:
            return None
        images, labels = self._batch
        reconstructions = module.reconstruct(images, labels)
        columns = min(16, len(images))
        rows: list[Tensor] = []
        names: list[str] = []
        for start in range(0, len(images), columns):
            for part in (images[start : start + columns].float(), reconstructions[start : start + columns]):
                white = torch.ones_like(part[:1]).expand(columns - len(part), -1, -1, -1)
                rows += [part, white]
            names += ["image", "model"]
        title = f"{type(module).__name__}, step {trainer.global_step}"
        return grid(torch.cat(rows), columns=columns, title=title, row_labels=names)
