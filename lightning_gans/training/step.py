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
from lightning_gans.training.batches import Batch
from lightning_gans.training.schedules import step_schedulers
from lightning_gans.training.update import update

REMEDIES = (
    "Start from the last one (--init_from, load_weights) with lower learning rates, with gradient_clip_val (1.0, say), "
    "or in 32-true or bf16-mixed precision."
)


class TrainingStep:
    """One step of training, as used in a ``training_step``: batches, random numbers, updates and the log.

    A *step* consists of ``updates`` updates of one network and one update of the other, which is the counted one (in a
    VAE, the counted update is the last one, of both networks). An *update* averages ``accumulate_batches`` batches.

    A step takes ``updates * accumulate_batches`` batches from the loader. Until all of them have arrived, it has no
    batches and the block does nothing, so that every update uses batches of the full ``batch_size``. When the block
    ends, the images are counted, the moving averages and the schedules are updated, and what was logged goes to the
    loggers.

    Args:
        module: The model.
        batch: The batch that the loader has just returned.
        updates: Updates per step of the network that is updated most often, each on its own batch.

    Attributes:
        micro_batches: The batches of the step, ``accumulate_batches`` for each update.
        update_index: Index of the current update within the step.
        micro_batch_index: Index of the current batch within its update.
    """

    def __init__(self, module: Any, batch: Any, updates: int = 1) -> None:
        self.module, self.trainer = module, module.trainer
        self.updates, self.accumulate = updates, module.accumulate_batches
        self.global_step = module.trainer.global_step
        self.micro_batches = module.collect(batch, updates * self.accumulate)
        self.update_index = self.micro_batch_index = 0
        every: int = self.trainer.log_every_n_steps
        self._writes = every > 0 and (self.global_step + 1) % every == 0
        batches_left = module.trainer.num_training_batches - module.trainer.fit_loop.batch_idx - 1
        is_last = batches_left < updates * self.accumulate or self.global_step + 1 == module.trainer.max_steps
        # Callbacks such as EarlyStopping read the scalars at the end of the epoch.
        self.will_log = self._writes or is_last or module.trainer.is_last_batch
        self._counted: bool | None = None  # None without any update
        self._logged: dict[str, list[Tensor]] = {}
        self._noted: dict[str, list[Tensor]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Seed torch's global stream (dropout) from the run's seed, the step and the rank."""
        self.module.within_step = True  # until its last batch is done
        self.module.open_step = self
        if self.micro_batches:
            key = (self.module.run_seed, Stream.LAYERS, self.global_step, self.module.global_rank)
            self._stack.enter_context(randomness.default_generator_seeded(self.module.device, *key))
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """Count the images, update averages and schedules, and log; after an error only restore the global stream."""
        self._stack.close()
        self.module.open_step = None
        if kind is not None:
            return
        if self.micro_batches:
            if self._counted is False:
                message = "no update of the step is counted: pass counted=True to the last step.update."
                raise SettingError(message, setting="counted", value=False, allowed=True)
            images = sum(len(batch[0]) for batch in self.micro_batches) * self.trainer.world_size
            self.module.end_of_step(images)
            self.module.within_step = False
        # Sets the x-axis of what Lightning passes to loggers, including validation; by default Lightning counts
        # batches.
        _lightning.set_logger_step(self.trainer, self.trainer.global_step)
        if self._logged or self._noted:
            self._write()
        if self.trainer.lr_scheduler_configs:
            if self.micro_batches:
                step_schedulers(self.module, "step", self.trainer.global_step)
            if self.trainer.is_last_batch:  # the schedulers that monitor a metric wait for the validation
                step_schedulers(self.module, "epoch", self.trainer.current_epoch + 1, (False,))

    # --- batches and updates ------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        """Iterate over the batches of all updates: ``accumulate_batches`` for each."""
        for index, batch in enumerate(self.micro_batches):
            self.update_index, self.micro_batch_index = divmod(index, self.accumulate)
            if self.micro_batch_index == 0:
                self._logged.clear()
                self._noted.clear()
            yield batch

    def last_batches(self) -> Iterator[Batch]:
        """Iterate over the batches of the last update again, for the update of another network."""
        for index, batch in enumerate(self.micro_batches[-self.accumulate :]):
            self.micro_batch_index = index
            yield batch

    def update(self, loss: Tensor, *optimizers: Any, counted: bool = False) -> None:
        """Backpropagate the loss of the current batch, and step once the update has all its batches.

        See :func:`lightning_gans.training.update.update`. Each step needs exactly one counted update, the last one.
        """
        self._counted = bool(self._counted or counted)
        update(
            self.module,
            loss,
            *optimizers,
            micro_batch=self.micro_batch_index,
            micro_batches=self.accumulate,
            counted=counted,
        )

    @property
    def completes_update(self) -> bool:
        """Whether the current batch is the last one of its update."""
        last: bool = self.micro_batch_index + 1 == self.accumulate
        return last

    # --- random numbers -----------------------------------------------------------------------------------------

    def first_row(self, num: int) -> int:
        """Return the index of this batch's first image within the update's global batch.

        The global batch is laid out as ``(accumulate_batches, processes, num)``, so that a function of the index does
        not depend on how the batch is divided.
        """
        place: int = self.micro_batch_index * self.trainer.world_size + self.module.global_rank
        return place * num

    def noise(self, num: int, size: int | None = None, stream: int = Stream.NOISE) -> Tensor:
        """Draw this batch's rows of the global batch's standard normal noise, ``(num, size)``.

        Each update of a step gets different noise, but a second call with the same arguments returns the same numbers.
        The generator's update has the noise of the step's last update of the discriminator.

        Args:
            num: Rows of this batch.
            size: Length of a row; by default the model's ``latent_dim``.
            stream: What the noise is for; different streams are independent. Custom ones start at 1000.
        """
        return self._rows(randomness.randn, num, size or self.module.latent_dim, stream, self.update_index).to(
            self.module.dtype
        )

    def uniform(self, num: int, size: int, *key: int) -> Tensor:
        """Draw this batch's rows of the global batch's numbers uniform in [0, 1), float32 ``(num, size)``.

        Unlike :meth:`noise`, they are the same in all updates of a step: add ``update_index`` to the key for others. A
        regularizer uses :meth:`~lightning_gans.training.turn.Turn.uniform`, which does.

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
        """Log scalars under ``train/`` in the steps that the logger writes: means over batches and processes.

        Those of an epoch's last step that the logger does not write enter only ``trainer.callback_metrics``.
        """
        if self.will_log:
            for name, value in scalars.items():
                self._logged.setdefault(name, []).append(value.detach())

    def note(self, name: str, value: Any, over_processes: bool = False) -> None:
        """Log a value under its full name; unlike in :meth:`log`, it may be infinite or NaN."""
        if self.will_log:
            number = torch.as_tensor(value, dtype=torch.float32, device=self.module.device).detach().mean()
            number = self.trainer.strategy.reduce(number) if over_processes else number
            self._noted.setdefault(name, []).append(number)

    def _write(self) -> None:
        """Average over the processes and write.

        Raises:
            DivergedError: A scalar is not finite; raised on all processes.
        """
        scalars = [torch.stack(values).mean().float() for values in self._logged.values()]
        means = self.trainer.strategy.reduce(torch.stack(scalars)) if scalars else torch.empty(0)
        numbers = dict(zip(self._logged, means.tolist(), strict=True))
        if not all(map(math.isfinite, numbers.values())):
            raise DivergedError(
                f"update {self.trainer.global_step} is not finite: "
                + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
                + ". No checkpoint is written from here on; those from before are finite.\n"
                + REMEDIES
            )
        values = {f"train/{name}": mean for name, mean in zip(self._logged, means, strict=True)}
        self.module.log_dict(values, prog_bar=True, logger=False)
        row = {name: torch.stack(noted).mean().item() for name, noted in self._noted.items()}
        row |= {f"train/{name}": value for name, value in numbers.items()}
        # Log directly: through Lightning the axis could only be set by logging a `step` metric, which would stay in
        # checkpoint names.
        for logger in self.trainer.loggers if self._writes else ():
            logger.log_metrics(row, self.trainer.global_step)
            logger.save()
