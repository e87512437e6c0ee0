"""One update: what it takes from a batch, how it goes backward and steps, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lightning_gans import randomness
from lightning_gans._lightning import pl
from lightning_gans.errors import DivergedError, SettingError
from lightning_gans.randomness import Stream
from lightning_gans.training import batches
from lightning_gans.training.batches import Part
from lightning_gans.training.processes import average_over_processes, unsynchronized

Schedule = Literal["constant", "linear", "cosine"]


def cosine(start: float, end: float, progress: float) -> float:
    """Go from one value to another along half a cosine, ``progress`` being from 0 to 1.

    Example:
        >>> [round(cosine(1.0, 0.0, progress / 4), 3) for progress in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


REMEDIES = (
    "Start from that one (--init_from, load_weights) with lower learning rates, with gradient_clip_val (1.0, say), "
    "or in 32-true or bf16-mixed precision."
)


class UpdatingModule(pl.LightningModule):
    """The parts that a ``training_step`` with manual optimization is put together from."""

    image_shape: tuple[int, ...]
    latent_dim: int
    num_classes: int
    lr_schedule: Schedule
    lr_end: float
    schedule_images: int | None
    accumulate_batches: int
    gradient_clip_val: float | None

    trained_networks: tuple[str, ...] = ()
    """Names of the networks that the updates change."""

    averaged_networks: tuple[str, ...] = ()
    """Names of the networks of which a moving average is kept, under the same name with ``_ema``."""

    batches_per_step: int = 1
    """How many batches one training step takes; the data module fetches them at once."""

    run_seed: int
    """Seed of every random number of the run: ``seed_everything``'s, else drawn once; kept in checkpoints."""

    images_seen: int
    """Images that the updates have seen so far, on all processes; kept in checkpoints."""

    weights_step: int
    """Value of ``trainer.global_step`` that the weights belong to, also after they were loaded."""

    image_format: torch.memory_format = torch.contiguous_format
    """How the images of a batch lie in memory."""

    stop_vote: Tensor
    """Not zero: this process, or after an update any process, wants to stop."""

    _stages_checked: frozenset[Any] = frozenset()
    """The trainer's stages whose first batch has been looked at."""

    _within_step: bool = False
    """Whether an update has begun and not ended, which an error may have kept it from."""

    _steps_planned: float | None = None
    """How many updates the fit is to have, once that was asked."""

    _accumulated: int = 0
    """Which of the ``accumulate_batches`` the loss under way is made from."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set plain attributes that are there already at once.

        Lightning notes around each hook which one it is, and torch's own way to set what is no tensor and no
        module looks for it everywhere: with both, a twelfth of what a step costs beside its arithmetic.
        """
        if name in self.__dict__ and not isinstance(value, (Tensor, nn.Module)):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def update_ema(self, batch_images: int) -> None:
        """Move the averages towards the weights, after a step on so many images."""
        raise NotImplementedError

    def update(self, losses: Iterable[Tensor], *optimizers: Any, counted: bool = False) -> Tensor:
        """Zero the gradients, go backward and step: the only place where this is done.

        Only the optimizers' own parameters get gradients. With several processes these are averaged in one
        message; in a counted update BatchNorm's statistics ride along, so that processes never differ, and the
        vote on whether to stop.

        Args:
            losses: The scalar to go down, for each of the ``accumulate_batches``. One goes backward before the
                next is asked for, so that the memory of one batch is enough.
            *optimizers: As ``self.optimizers()`` gives them; they step in this order.
            counted: Whether ``trainer.global_step`` counts the last one's step. It counts the updates of the
                network that makes the images; all others step through the strategy, which is what an
                optimizer's own ``step`` does apart from the counting (precision plugins and hooks included).

        Returns:
            The mean of the losses, without a graph.
        """
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        parameters = [p for group in groups for p in group["params"] if p.requires_grad]
        for optimizer in optimizers:
            optimizer.zero_grad()
        strategy = self.trainer.strategy
        total = torch.zeros((), device=self.device)
        with unsynchronized(strategy):
            for loss in losses:
                loss = loss / self.accumulate_batches if self.accumulate_batches > 1 else loss
                self.manual_backward(loss, inputs=parameters)
                total = total + loss.detach()
        average_over_processes(strategy, parameters, chain(self._statistics(), [self.stop_vote]) if counted else ())
        scaler = getattr(strategy.precision_plugin, "scaler", None) if len(optimizers) > 1 else None
        scale = 1.0 if scaler is None else scaler.get_scale()
        for optimizer in optimizers:
            if scaler is not None and (changed := scaler.get_scale()) != scale:
                # The step before has changed float16's scale; these gradients have that of their backward pass.
                for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                    if parameter.grad is not None:
                        parameter.grad *= changed / scale
            if counted and optimizer is optimizers[-1]:
                optimizer.step()
            else:
                strategy.optimizer_step(optimizer.optimizer, lambda: None)
        # An autocast that caches the low-precision copies of the weights (Lightning's own does not) keeps them
        # until the end of the step; the next forward has to see the weights that have just changed.
        torch.clear_autocast_cache()
        return total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip one network's gradients: here they are unscaled, and averaged over batches and processes."""
        if self.gradient_clip_val is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.gradient_clip_val)

    def _statistics(self) -> Iterator[Tensor]:
        """Yield the floating-point buffers that training changes, which the averages only copy."""
        averages = tuple(f"{name}_ema." for name in self.averaged_networks)
        yield from (b for name, b in self.named_buffers() if b.is_floating_point() and not name.startswith(averages))

    def images_and_labels(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Return a batch's images, and its labels in a conditional model.

        Ranges are looked at in the first batch of a stage, those of labels on a CPU in every batch.

        Raises:
            SettingError: The images are not floats, or not of ``image_shape``; or labels are missing or out of range.
            DataError: The batch is neither images nor images and labels, or there is not one label for each image; or
                the images are not in [-1, 1].
        """
        images, labels = batches.unpacked(batch, self.num_classes > 0)
        batches.check_images(images, self.image_shape)
        stage = getattr(getattr(self._trainer, "state", None), "stage", None)
        first = stage not in self._stages_checked and len(images) > 0  # once: a GPU would wait for it each time
        if first:
            self._stages_checked |= {stage}
            batches.check_range(images)
        images = images.to(self.dtype, memory_format=self.image_format)
        if self.num_classes == 0:
            return images, None
        return images, batches.checked_labels(labels, len(images), self.num_classes, first)

    def batch_parts(self, batch: Any) -> list[list[Part]]:
        """Split what was fetched into ``batches_per_step`` equal batches of images and labels.

        Returns:
            For each update of the step the ``accumulate_batches`` that it takes.

        Raises:
            SettingError: As :meth:`images_and_labels`, or the number of images does not divide.
        """
        images, labels = self.images_and_labels(batch)
        count = self.batches_per_step
        if len(images) % count:
            raise SettingError(
                f"one step takes {count} batches, and the loader gave {len(images)} images, which do not divide: "
                f"use a batch_size that is a multiple of {count}, and drop_last=True."
            )
        if len(images) == count and any(isinstance(module, nn.BatchNorm1d) for module in self.modules()):
            raise SettingError(
                "the loader gave a batch of 1 image, which BatchNorm cannot normalize: use a larger batch_size, and "
                "drop_last=True."
            )
        all_labels: Sequence[Tensor | None] = [None] * count if labels is None else labels.chunk(count)
        parts = list(zip(images.chunk(count), all_labels, strict=True))
        return [parts[start : start + self.accumulate_batches] for start in range(0, count, self.accumulate_batches)]

    def accumulated(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Go through the batches of one update, of each of which a loss is to be made."""
        for self._accumulated, part in enumerate(parts):
            yield part

    def first_row(self, num: int) -> int:
        """Return the place of this batch of ``num`` within the update's global batch.

        That is laid out as ``(accumulate_batches, processes, num)``, so that what is a function of the place
        does not depend on how the batch is divided.
        """
        return (self._accumulated * self.trainer.world_size + self.global_rank) * num

    def noise(self, num: int, update: int, stream: Stream = Stream.NOISE) -> Tensor:
        """Draw this batch's rows of the noise of the step's global batch, ``(num, latent_dim)``."""
        rows = randomness.randn(
            (self.accumulate_batches * self.trainer.world_size * num, self.latent_dim),
            *(self.run_seed, stream, self.trainer.global_step, update),
            device=self.device,
        )
        return rows[self.first_row(num) :][:num].to(self.dtype)

    def uniform(self, num: int, size: int, *key: int) -> Tensor:
        """Draw this batch's rows of numbers uniform in [0, 1) for the step's global batch, ``(num, size)``."""
        rows = randomness.rand(
            (self.accumulate_batches * self.trainer.world_size * num, size),
            *(self.run_seed, key[0], self.trainer.global_step, *key[1:]),
            device=self.device,
        )
        return rows[self.first_row(num) :][:num]

    @contextmanager
    def step_randomness(self) -> Iterator[None]:
        """Make what draws from the global stream in a step (dropout) a function of the step and the rank."""
        self._within_step = True
        key = (self.run_seed, Stream.LAYERS, self.trainer.global_step, self.global_rank)
        with randomness.default_generator_seeded(self.device, *key):
            yield

    def end_of_step(self, num_images: int) -> None:
        """Count the images, and move the averages and the schedules on; to be called last in a step."""
        batch_images = num_images * self.trainer.world_size
        self.images_seen += batch_images
        self.weights_step = self.trainer.global_step
        self.update_ema(batch_images)
        self.move_schedules()
        schedulers: Any = self.lr_schedulers() or []
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            if not isinstance(scheduler, ReduceLROnPlateau):  # which wants a score: its owner steps it
                scheduler.step()
        # The axis of what Lightning hands to the loggers, validation included; its own is one behind.
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step
        self._within_step = False

    def move_schedules(self) -> None:
        """Set what depends on :meth:`progress`, beside the learning rates and the averages."""

    def progress(self) -> float:
        """Return how far the schedules have come, from 0 to 1.

        Raises:
            SettingError: They have no end.
        """
        trainer = self.trainer
        if self.schedule_images is not None:
            return min(self.images_seen / self.schedule_images, 1.0)
        if trainer.max_steps == -1 and trainer.max_epochs == -1:
            raise SettingError(
                "a schedule needs an end: set --trainer.max_epochs, --trainer.max_steps or --model.schedule_images."
            )
        if trainer.global_step == 0:  # asked any earlier, Lightning makes the loader before a resume tells it its place
            return 0.0
        if self._steps_planned is None:
            self._steps_planned = trainer.estimated_stepping_batches
        if not 0 < self._steps_planned < math.inf:  # it is max_steps, -1, for a loader without a length
            raise SettingError(
                "a schedule needs an end, and the loader does not say how many batches it has: set "
                "--trainer.max_steps, --trainer.limit_train_batches or --model.schedule_images."
            )
        return float(min(trainer.global_step / self._steps_planned, 1.0))

    @property
    def will_log(self) -> bool:
        """Whether the logger writes down the update under way; to be asked before its counted step."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    def log_scalars(self, **scalars: Tensor) -> None:
        """Log means over the processes under ``train/``, on the logger's own rhythm: a scalar costs 0.2 ms.

        Raises:
            DivergedError: A scalar is not finite; on all processes.
        """
        means = self.trainer.strategy.reduce(torch.stack([v.detach().float() for v in scalars.values()]))
        self._check_finite(dict(zip(scalars, means.tolist(), strict=True)))
        values = {f"train/{name}": mean for name, mean in zip(scalars, means, strict=True)}
        self.log_dict(values, prog_bar=True, logger=False)
        # To the loggers without Lightning, whose axis can be set by logging a "step" only; that number would
        # then stay for the names of all checkpoints until the next.
        numbers = {name: value.item() for name, value in values.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers, self.trainer.global_step)
            logger.save()

    def _check_finite(self, scalars: dict[str, float]) -> None:
        """Stop a run that cannot recover."""
        if not all(map(math.isfinite, scalars.values())):
            raise DivergedError(
                f"update {self.trainer.global_step} is not finite: "
                + ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
                + ". No checkpoint is written from here on; the last one is finite.\n"
                + REMEDIES
            )

    def adam(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> Optimizer:
        """Make Adam for one network's parameters, fused where the device has it.

        Lightning leaves the unscaling of float16 gradients to a fused optimizer, after every hook; clipping
        needs them unscaled before, so ``16-mixed`` takes the plain one.
        """
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        # Plain numbers, as the optimizer's state enters checkpoints: NumPy's would not load again.
        return Adam(parameters, float(lr), (float(betas[0]), float(betas[1])), 1e-8, float(weight_decay), fused=fused)

    def scheduled(self, *optimizers: Optimizer) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Return the optimizers and the schedules of their learning rates, as Lightning takes them."""
        if self.lr_schedule == "constant":
            return list(optimizers), []
        self.progress()  # which says at once where there is no end

        def factor(step: int) -> float:
            done = self.progress() if step > 0 else 0.0
            if self.lr_schedule == "cosine":
                return cosine(1.0, self.lr_end, done)
            return 1 + (self.lr_end - 1) * done

        return list(optimizers), [LambdaLR(optimizer, factor) for optimizer in optimizers]
