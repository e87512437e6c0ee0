"""Pictures of a run: grids of samples and of reconstructions, as files and in every logger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lightning_gans._lightning import Callback, TrainerFn, pl
from lightning_gans.callbacks.loggers import log_picture
from lightning_gans.errors import SettingError, check_positive
from lightning_gans.io.pictures import grid, save_png
from lightning_gans.models.base import GenerativeModule

_MOST_CLASSES = 20


class Pictures(Callback):
    """Write a picture into a folder of the run and to its loggers, on the axis of the scalars.

    Args:
        every_n_epochs: How often to make the picture; one is always made at the end.

    Raises:
        SettingError: Before the first step: the model's samples are sequences, of which there is no picture.
    """

    folder_name = ""

    def __init__(self, every_n_epochs: int = 1) -> None:
        check_positive(every_n_epochs=every_n_epochs)
        self.every_n_epochs = every_n_epochs
        self.last_path: Path | None = None
        self._folder: Path | None = None
        self._drawn_at = -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the run's folder; all processes have to ask for it together."""
        if not isinstance(pl_module, GenerativeModule):
            raise SettingError(f"{type(self).__name__} needs a GenerativeModule, not a {type(pl_module).__name__}.")
        if not pl_module.makes_pictures and self.shows(pl_module):
            raise SettingError(
                f"{type(self).__name__} shows images, and image_shape {list(pl_module.image_shape)} is that of "
                f"sequences: set {self.folder_name}.enabled: false."
            )
        log_dir = trainer.log_dir
        self._folder = Path(log_dir or trainer.default_root_dir) / self.folder_name

    def shows(self, model: GenerativeModule) -> bool:
        """Whether the model makes what the picture is of."""
        return True

    def picture(self, trainer: pl.Trainer, model: GenerativeModule) -> Image.Image | None:
        """Make the picture, or None where there is nothing to show."""
        raise NotImplementedError

    def draw(self, trainer: Any, model: Any) -> None:
        """Make the picture on the first process, save it, and send it to the loggers."""
        step = trainer.global_step
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.fast_dev_run or step == self._drawn_at:
            return
        image = self.picture(trainer, model)
        if image is None or self._folder is None:
            return
        self._drawn_at = step
        self.last_path = self._folder / f"step={step:07d}.png"
        save_png(image, self.last_path)
        log_picture(trainer, self.folder_name, image, step)

    def due(self, trainer: pl.Trainer) -> bool:
        """Whether the epoch that ends is one to make a picture of."""
        return (trainer.current_epoch + 1) % self.every_n_epochs == 0


class SampleGrid(Pictures):
    """A grid of samples from the same noise each time, as ``samples/step=XXXXXXX.png`` and in the loggers.

    Conditional models get a row for each class, with the same noise along each column.

    Args:
        every_n_epochs: How often to make the grid; one is always made at the start and at the end.
        num_samples: Samples in the grid of an unconditional model.
        seed: Seed of the noise.
    """

    folder_name = "samples"

    def __init__(self, every_n_epochs: int = 1, num_samples: int = 64, seed: int = 0) -> None:
        super().__init__(every_n_epochs)
        check_positive(num_samples=num_samples)
        self.num_samples = num_samples
        self.seed = seed

    def picture(self, trainer: Any, model: GenerativeModule) -> Image.Image:
        """Lay out samples, by class where the model has classes."""
        title = f"{type(model).__name__}, step {trainer.global_step}, seed {self.seed}"
        if model.num_classes == 0:
            samples = model.sample(self.num_samples, seed=self.seed)
            return grid(samples, columns=max(1, round(self.num_samples**0.5)), title=title)
        classes, columns = range(min(model.num_classes, _MOST_CLASSES)), 10
        rows = [model.sample(labels=[label] * columns, seed=self.seed) for label in classes]
        names = getattr(trainer.datamodule, "class_names", None) or ()
        names = names if len(names) == model.num_classes else range(model.num_classes)
        return grid(torch.cat(rows), columns=columns, title=title, row_labels=[str(names[k]) for k in classes])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show where the training starts from; one that is resumed has shown it before."""
        if trainer.global_step == 0:
            self.draw(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show what the epoch has come to."""
        if self.due(trainer):
            self.draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show what the training has come to."""
        self.draw(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show a checkpoint's samples when it is validated on its own."""
        if trainer.state.fn != TrainerFn.FITTING:
            self.draw(trainer, pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show a checkpoint's samples when it is tested."""
        self.draw(trainer, pl_module)


class Reconstructions(Pictures):
    """Validation images above their reconstructions, as ``reconstructions/step=XXXXXXX.png`` and in the loggers.

    For models that can reconstruct (VAEs); it leaves others alone.

    Args:
        every_n_epochs: How often to make the picture.
        num_images: Images shown, always the first of the validation data.
    """

    folder_name = "reconstructions"

    def __init__(self, every_n_epochs: int = 1, num_images: int = 32) -> None:
        super().__init__(every_n_epochs)
        check_positive(num_images=num_images)
        self.num_images = num_images
        self._batch: tuple[Tensor, Tensor | None] | None = None

    def shows(self, model: GenerativeModule) -> bool:
        """Whether the model can reconstruct."""
        return hasattr(model, "reconstruct")

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first images."""
        if batch_idx == 0 and dataloader_idx == 0 and self.shows(pl_module):
            images, labels = pl_module.images_and_labels(batch)
            self._batch = images[: self.num_images], None if labels is None else labels[: self.num_images]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the images and what the model makes of them."""
        if trainer.state.fn != TrainerFn.FITTING or self.due(trainer):
            self.draw(trainer, pl_module)

    def picture(self, trainer: pl.Trainer, model: Any) -> Image.Image | None:
        """Lay out rows of images, each with the row of their reconstructions below."""
        if self._batch is None:
            return None
        images, labels = self._batch
        reconstructions = model.reconstruct(images, labels)
        columns = min(16, len(images))
        rows: list[Tensor] = []
        names: list[str] = []
        for start in range(0, len(images), columns):
            for part in (images[start : start + columns].float(), reconstructions[start : start + columns]):
                white = torch.ones_like(part[:1]).expand(columns - len(part), -1, -1, -1)
                rows += [part, white]
            names += ["image", "model"]
        title = f"{type(model).__name__}, step {trainer.global_step}"
        return grid(torch.cat(rows), columns=columns, title=title, row_labels=names)
