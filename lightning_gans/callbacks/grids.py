"""Pictures of a run: grids of samples and of reconstructions, as files and in every logger."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lightning_gans._lightning import TrainerFn, pl
from lightning_gans.callbacks.base import (
    WritesIntoRun,
    check_is_image,
    images_and_labels,
    is_due,
    log_picture,
    pairs_of,
    run_folder,
    weights_step,
)
from lightning_gans.errors import check_counts
from lightning_gans.io.pictures import check_sheet, grid, in_view, save_png
from lightning_gans.metrics.samples import (
    Sample,
    TranslationSampler,
    draw,
    image_shape,
    normalized,
    num_classes,
    num_labels,
    sampler_of,
    translated,
    translates,
)
from lightning_gans.training.sampling import attributes_of

_MOST_CLASSES, _COLUMNS, _MOST_COLUMNS = 20, 10, 16
_TILES_OF_A_PAIR = 4  # at most


class Pictures(WritesIntoRun):
    """Write a picture to a folder of the run and log it at the step of the scalars.

    Of images with other than 1 or 3 channels, it shows the first three as RGB, or the first one.

    Args:
        every_n_epochs: How often to make the picture; the last epoch always counts.
        sample: As in :class:`~lightning_gans.GenerativeMetrics`.

    Raises:
        SettingError: The module's samples are not pictures, or the picture is too large; raised before the first step.
    """

    folder_name = ""

    def __init__(self, every_n_epochs: int = 1, sample: Sample | None = None) -> None:
        check_counts(every_n_epochs=every_n_epochs)
        self.every_n_epochs = every_n_epochs
        self.sample = sample
        self.last_path: Path | None = None
        self._drawn_at = -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the module and the size of the picture."""
        self._drawn_at = -1  # the next run may have other weights at the same step
        if self.shows(pl_module):
            shape = image_shape(self.sampler(pl_module))
            check_is_image(shape, type(self).__name__, self.folder_name)
            check_sheet(*self.size(pl_module), shape)

    def shows(self, module: Any) -> bool:
        """Return whether there is something to show."""
        return True

    def sampler(self, module: Any) -> Any:
        """Return the object whose ``sample`` is used; raise :class:`SettingError` if there is none."""
        return sampler_of(module, self.sample, type(self).__name__)

    def size(self, module: Any) -> tuple[str, int, int, int]:
        """Return the setting of the picture's size, its value, the number of images, and the columns."""
        raise NotImplementedError

    def picture(self, trainer: pl.Trainer, module: Any) -> Image.Image | None:
        """Make the picture, or None if there is nothing to show."""
        raise NotImplementedError

    def draw(self, trainer: Any, module: Any) -> None:
        """Make the picture on the first process, save it, and log it."""
        step = trainer.global_step
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.fast_dev_run or step == self._drawn_at:
            return
        image = self.picture(trainer, module)
        if image is None:
            return
        self._drawn_at = step
        of_weights = weights_step(trainer, module)
        self.last_path = run_folder(trainer) / self.folder_name / f"step={of_weights:07d}.png"
        save_png(image, self.last_path)
        log_picture(trainer, self.folder_name, image, self.last_path, step)


class SampleGrid(Pictures):
    """A grid of samples, always of the same noise, as ``samples/step=XXXXXXX.png`` and in the loggers.

    Conditional models get a row for each class, or for some values of each attribute if the labels are vectors (see
    :meth:`lightning_gans.io.attributes.Attributes.examples`), with the same noise in each column. The module needs a
    method ``sample(n)``, or pass a function as ``sample``; see :func:`lightning_gans.metrics.samples.draw` for its
    options.
    Translators, which have a method ``translate(images)``, get pairs from all over the evaluated split as rows of
    sources, outputs and targets, and a row ``reverse`` of targets that are translated to sources, if
    ``translate(images, to="source")`` does that.

    Args:
        every_n_epochs: How often to make the grid; the start and the last epoch always count.
        num_samples: Samples in the grid of an unconditional model; a translator gets a quarter as many pairs.
        seed: Seed of the noise.
        sample: As in :class:`~lightning_gans.GenerativeMetrics`.
    """

    folder_name = "samples"

    def __init__(
        self, every_n_epochs: int = 1, num_samples: int = 64, seed: int = 0, sample: Sample | None = None
    ) -> None:
        super().__init__(every_n_epochs, sample)
        check_counts(num_samples=num_samples)
        self.num_samples = num_samples
        self.seed = seed
        self._pairs: tuple[Any, bool] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the pairs of a translator, and check the module and the size of the picture."""
        translator = stage != "predict" and translates(pl_module, self.sample)
        self._pairs = pairs_of(trainer, pl_module, "samples") if translator else None
        super().setup(trainer, pl_module, stage)

    def sampler(self, module: Any) -> Any:
        """Return what samples; raise :class:`SettingError` if nothing does."""
        return super().sampler(module) if self._pairs is None else TranslationSampler(module, self._pairs[0])

    def size(self, module: Any) -> tuple[str, int, int, int]:
        """Return ten columns for conditional models, else a square."""
        num, columns = self.num_samples, max(1, round(self.num_samples**0.5))
        if self._pairs is not None:
            pairs = max(1, num // _TILES_OF_A_PAIR)
            return "samples.num_samples", num, pairs * _TILES_OF_A_PAIR, min(_MOST_COLUMNS, pairs)
        if rows := _labels_of_rows(self.sampler(module)):
            num, columns = _COLUMNS * len(rows), _COLUMNS
        return "samples.num_samples", self.num_samples, num, columns

    def picture(self, trainer: Any, module: Any) -> Image.Image:
        """Arrange samples in a grid, with a row for each class."""
        if self._pairs is not None:
            return self._translations(trainer, module)
        title = f"{type(module).__name__}, step {weights_step(trainer, module)}, seed {self.seed}"
        sampler, (*_, columns) = self.sampler(module), self.size(module)
        labels = _labels_of_rows(sampler, trainer.datamodule)
        if not labels:
            return grid(draw(sampler, self.num_samples, seed=self.seed), columns=columns, title=title)
        rows = [draw(sampler, columns, labels=of_row, seed=self.seed) for of_row in labels.values()]
        return grid(torch.cat(rows), columns=columns, title=title, row_labels=[*labels])

    def _translations(self, trainer: Any, module: Any) -> Image.Image:
        """Arrange pairs with their translations, and with those to the source where there are any."""
        assert self._pairs is not None
        pairs = self._pairs[0]
        num = max(1, self.num_samples // _TILES_OF_A_PAIR)
        step = max(1, len(pairs) // num)  # all classes are shown, also where the pairs are sorted by class
        source, target = pairs[: num * step : step]
        rows = {
            "source": normalized(module, source),
            "output": translated(module, source),
            "target": normalized(module, target),
        }
        if "to" in inspect.signature(module.translate).parameters:
            rows["reverse"] = translated(module, target, to="source")
        sides = target.shape[2:]
        return _rows({name: _in_color(images, sides) for name, images in rows.items()}, trainer, module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show samples of the untrained model; a resumed run has already shown them."""
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

    This needs a module with a method ``reconstruct(images, labels)`` and does nothing for other modules.

    Args:
        every_n_epochs: How often to make the picture; the last epoch always counts.
        num_images: Number of images; the first ones of the validation data are used.
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

    def sampler(self, module: Any) -> Any:
        """Return the module, which needs no samples."""
        return module

    def size(self, module: Any) -> tuple[str, int, int, int]:
        """Return twice the number of images."""
        return "reconstructions.num_images", self.num_images, 2 * self.num_images, min(_MOST_COLUMNS, self.num_images)

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
        return _rows({"image": images.float(), "model": reconstructions}, trainer, module)


def _labels_of_rows(sampler: Any, data: Any = None) -> dict[str, Tensor]:
    """Return the labels of each row of a grid by the row's name; nothing for an unconditional module."""
    classes = num_classes(sampler)
    if classes == 0:
        return {}
    attributes = attributes_of(sampler)
    if attributes is not None:
        return attributes.examples(_COLUMNS)
    class_names: Sequence[str] = getattr(data, "class_names", None) or ()
    names = class_names if len(class_names) == classes == num_labels(sampler) else range(classes)
    return {str(names[label]): torch.full((_COLUMNS,), label) for label in range(min(classes, _MOST_CLASSES))}


def _rows(parts: dict[str, Tensor], trainer: Any, module: Any) -> Image.Image:
    """Arrange equally many images of each kind in rows, one below the other."""
    num = min(map(len, parts.values()))
    columns = min(_MOST_COLUMNS, num)
    rows: list[Tensor] = []
    for start in range(0, num, columns):
        for images in parts.values():
            part = images[start : start + columns]
            white = torch.ones_like(part[:1]).expand(columns - len(part), -1, -1, -1)
            rows += [part, white]
    title = f"{type(module).__name__}, step {weights_step(trainer, module)}"
    return grid(torch.cat(rows), columns=columns, title=title, row_labels=[*parts] * math.ceil(num / columns))


def _in_color(images: Tensor, sides: Sequence[int]) -> Tensor:
    """Return the shown channels of images, gray as RGB, on the CPU in a size."""
    return F.interpolate(in_view(images).float().cpu(), tuple(sides)).expand(-1, 3, -1, -1)
