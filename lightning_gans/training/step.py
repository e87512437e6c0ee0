"""One training step: batches, random numbers, updates and logging."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor

from lightning_gans import _lightning, randomness
from lightning_gans.errors import DivergedError, SettingError
from lightning_gans.randomness import Stream
from lightning_gans.training.batches import Part
from lightning_gans.training.update import update

REMEDIES = (
    "Start from that one (--init_from, load_weights) with lower learning rates, with gradient_clip_val (1.0, say), "
    "or in 32-true or bf16-mixed precision."
)


class TrainingStep:
    """One step of training, as used in a ``training_step``: batches, random numbers, updates and the log.

    A *step* has ``updates`` updates of one network and a counted update of the other (in a VAE the last update, of
    both, is counted); an *update* averages ``accumulate_batches`` batches.

    A step takes ``updates * accumulate_batches`` batches of the loader. Until all have arrived it has none and the
    block does nothing, so ``batch_size`` always means the images of one update. When the block ends, the images are
    counted, the moving averages and the schedules are updated, and what was logged goes to the loggers.

    Args:
        module: The model.
        batch: What the loader has just given.
        updates: Updates per step of the network that is updated most often, each on its own batch.

    Attributes:
        number: Index of the current update.
        position: Index of the current batch within its update.
    """

    def __init__(self, module: Any, batch: Any, updates: int = 1) -> None:
        self.module, self.trainer = module, module.trainer
        self.updates, self.accumulate = updates, module.accumulate_batches
        self.global_step = module.trainer.global_step
        self.parts = module.collect(batch, updates * self.accumulate)
        self.number = self.position = 0
        every: int = self.trainer.log_every_n_steps
        self.will_log = every > 0 and (self.global_step + 1) % every == 0
        self._counted: bool | None = None  # None without any update
        self._logged: dict[str, list[Tensor]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Seed torch's global stream (dropout) from the run's seed, the step and the rank."""
        self.module.within_step = True  # until its last batch is done
        if self.parts:
            key = (self.module.run_seed, Stream.LAYERS, self.global_step, self.module.global_rank)
            self._stack.enter_context(randomness.default_generator_seeded(self.module.device, *key))
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """Count the images, update averages and schedules, and log; after an error only restore the global stream."""
        self._stack.close()
        if kind is not None:
            return
        if self.parts:
            if self._counted is False:
                message = "no update of the step is counted: pass counted=True to the last step.update."
                raise SettingError(message, setting="counted", value=False, allowed=True)
            images = sum(len(part[0]) for part in self.parts) * self.trainer.world_size
            self.module.end_of_step(images)
            self.module.within_step = False
        # Sets the x-axis of what Lightning passes to loggers, including validation; by default Lightning counts
        # batches.
        _lightning.set_logger_step(self.trainer, self.trainer.global_step)
        if self._logged:
            self._write({name: torch.stack(values).mean().float() for name, values in self._logged.items()})

    # --- batches and updates ------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Part]:
        """Iterate over the batches of all updates: ``accumulate_batches`` for each."""
        for index, part in enumerate(self.parts):
            self.number, self.position = divmod(index, self.accumulate)
            if self.position == 0:
                self._logged.clear()
            yield part

    def last_batches(self) -> Iterator[Part]:
        """Iterate over the batches of the last update again, for the update of another network."""
        for position, part in enumerate(self.parts[-self.accumulate :]):
            self.position = position
            yield part

    def update(self, loss: Tensor, *optimizers: Any, counted: bool = False) -> None:
        """Backpropagate the loss of the current batch, and step once the update has all its batches.

        See :func:`lightning_gans.training.update.update`. Each step needs exactly one counted update, the last one.
        """
        self._counted = bool(self._counted or counted)
        update(self.module, loss, *optimizers, part=self.position, parts=self.accumulate, counted=counted)

    # --- random numbers -----------------------------------------------------------------------------------------

    def first_row(self, num: int) -> int:
        """Return the index of this batch's first image within the update's global batch.

        The global batch is laid out as ``(accumulate_batches, processes, num)``, so that a function of the index does
        not depend on how the batch is divided.
        """
        place: int = self.position * self.trainer.world_size + self.module.global_rank
        return place * num

    def noise(self, num: int, size: int | None = None, stream: int = Stream.NOISE) -> Tensor:
        """Draw this batch's rows of the global batch's standard normal noise, ``(num, size)``.

        Args:
            num: Rows of this batch.
            size: Length of a row; by default the model's ``latent_dim``.
            stream: What the noise is for; different streams are independent. Custom ones start at 1000.
        """
        return self._rows(randomness.randn, num, size or self.module.latent_dim, stream, self.number).to(
            self.module.dtype
        )

    def uniform(self, num: int, size: int, *key: int) -> Tensor:
        """Draw this batch's rows of the global batch's numbers uniform in [0, 1), float32 ``(num, size)``.

        Args:
            num: Rows of this batch.
            size: Length of a row.
            *key: What the numbers are for, a stream first.
        """
        return self._rows(randomness.rand, num, size, *key)

    def _rows(self, draw: Any, num: int, size: int, stream: int, *key: int) -> Tensor:
        shape = (self.accumulate * self.trainer.world_size * num, size)
        rows: Tensor = draw(shape, self.module.run_seed, stream, self.global_step, *key, device=self.module.device)
        return rows[self.first_row(num) :][:num]

    # --- the log ------------------------------------------------------------------------------------------------

    def log(self, **scalars: Tensor) -> None:
        """Log scalars under ``train/`` in the steps that the logger writes: means over batches and processes."""
        if self.will_log:
            for name, value in scalars.items():
                self._logged.setdefault(name, []).append(value.detach())

    def _write(self, scalars: dict[str, Tensor]) -> None:
        """Average over the processes and write.

        Raises:
            DivergedError: A scalar is not finite; on all processes.
        """
        means = self.trainer.strategy.reduce(torch.stack(list(scalars.values())))
        numbers = dict(zip(scalars, means.tolist(), strict=True))
        if not all(map(math.isfinite, numbers.values())):
            raise DivergedError(
                f"update {self.trainer.global_step} is not finite: "
                + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
                + ". No checkpoint is written from here on; the last one is finite.\n"
                + REMEDIES
            )
        values = {f"train/{name}": mean for name, mean in zip(scalars, means, strict=True)}
        self.module.log_dict(values, prog_bar=True, logger=False)
        # Log directly: through Lightning the axis could only be set by logging a `step` metric, which would stay in
        # checkpoint names.
        for logger in self.trainer.loggers:
            logger.log_metrics({f"train/{name}": value for name, value in numbers.items()}, self.trainer.global_step)
            logger.save()
