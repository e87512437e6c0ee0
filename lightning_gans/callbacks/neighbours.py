"""The training images that samples are nearest to: a picture, and a number."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_gans.callbacks.samples import Pictures
from lightning_gans.errors import SettingError, check_positive
from lightning_gans.metrics.extractors import Extractor, make_extractor
from lightning_gans.metrics.memorization import Nearest, memorization, nearest
from lightning_gans.models.base import GenerativeModule
from lightning_gans.pictures import grid, to_bytes

_BLOCK = 250


class NearestNeighbours(Pictures):
    """Samples above the training images that are nearest to them, as ``neighbours/step=XXXXXXX.png``, and a number.

    Shown are the samples that are nearest to a training image by their features, where copies would be: in pixels in
    the second row, by the features of an extractor in the third. The numbers are ``memorization`` (features) and
    ``memorization_pixels`` under ``val/`` or ``test/``; see :func:`lightning_gans.metrics.memorization.memorization`.
    The real images that samples are compared with are those of the test split, or of the validation split.

    Args:
        enabled: The command line leaves the callback out where this is False.
        every_n_epochs: How often to look, in a fit; ``validate`` and ``test`` always do.
        num_samples: Samples that are looked at, and as many real images at most.
        num_shown: How many of them the picture has.
        seed: Seed of the noise.
        extractor: As in :class:`~lightning_gans.GenerativeMetrics`.
        weights_path: As there.

    Raises:
        SettingError: The data is no data module of this package, whose images can be asked for.
    """

    folder_name = "neighbours"

    def __init__(
        self,
        enabled: bool = False,
        every_n_epochs: int = 1,
        num_samples: int = 1000,
        num_shown: int = 16,
        seed: int = 0,
        extractor: str | nn.Module = "auto",
        weights_path: str | None = None,
    ) -> None:
        super().__init__(enabled, every_n_epochs)
        check_positive(num_samples=num_samples, num_shown=num_shown)
        self.num_samples = num_samples
        self.num_shown = num_shown
        self.seed = seed
        self.extractor = extractor
        self.weights_path = weights_path
        self.scores: dict[str, float] = {}
        self._extractor: Extractor | None = None
        # The training images, or their features, and how far held-out images are from them, by the scores' names.
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Get the extractor before the first step."""
        super().setup(trainer, pl_module, stage)
        data: Any = getattr(trainer, "datamodule", None)
        if not callable(getattr(data, "images", None)):
            raise SettingError(
                "neighbours needs a data module that gives its images, as those of this package do: "
                "set neighbours.enabled: false."
            )
        self._known.clear()
        if self._extractor is None:
            self._extractor = make_extractor(self.extractor, pl_module.image_shape, self.weights_path)

    def on_validation_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Look, and log the numbers."""
        if trainer.sanity_checking or (trainer.state.fn == TrainerFn.FITTING and not self.due(trainer)):
            return
        self._look(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Look, and log the numbers."""
        self._look(trainer, pl_module, "test")

    def _look(self, trainer: Any, model: Any, stage: str) -> None:
        self.draw(trainer, model)
        scores = trainer.strategy.broadcast(self.scores)
        model.log_dict({f"{stage}/{name}": value for name, value in scores.items()}, rank_zero_only=True)
        if self.scores:
            rank_zero_info(", ".join(f"{name} {value:.3f}" for name, value in self.scores.items()) + " (0.5 is right)")

    def picture(self, trainer: Any, model: GenerativeModule) -> Image.Image:
        """Compare samples and held-out images with the training images."""
        if not self._known:
            data = trainer.datamodule
            train, held_out = data.images("train")[0], data.images("test")[0][: self.num_samples]
            features = self._features(train, model)
            self._known["memorization_pixels"] = train, _nearest(held_out, train).distances
            self._known["memorization"] = features, _nearest(self._features(held_out, model), features).distances
        samples = to_bytes(model.sample(self.num_samples, seed=self.seed)).cpu()
        made = {"memorization": self._features(samples, model), "memorization_pixels": samples}
        near: dict[str, Nearest] = {}
        self.scores = {}
        for name, fake in made.items():
            train, of_held_out = self._known[name]
            near[name] = _nearest(fake, train)
            self.scores[name] = float(memorization(near[name].distances, of_held_out))
        chosen = near["memorization"].distances.argsort()[: self.num_shown]
        rows = [samples[chosen]]
        images = self._known["memorization_pixels"][0]
        rows += [images[near[name].places[chosen]] for name in ("memorization_pixels", "memorization")]
        title = f"Of {self.num_samples} samples the nearest to a training image, step {model.weights_step}"
        return grid(
            torch.cat(rows).float() / 127.5 - 1,
            columns=len(chosen),
            title=title,
            row_labels=["sample", "pixels", "features"],
        )

    def _features(self, images: Tensor, model: GenerativeModule) -> Tensor:
        """Return the features of images."""
        assert self._extractor is not None
        self._extractor.to(model.device)
        found = [self._extractor.extract(block.to(model.device))[0] for block in torch.split(images, _BLOCK)]
        return torch.cat(found)


def _nearest(images: Tensor, train: Tensor) -> Nearest:
    """Find the nearest training images to images, or to features."""
    return nearest(images.flatten(1), train.flatten(1))
