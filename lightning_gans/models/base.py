"""What every model shares: sampling, the moving average of the weights, and one update."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_gans import randomness
from lightning_gans.errors import SettingError, check_choice, check_positive
from lightning_gans.models import checkpoints
from lightning_gans.models.distributed import average_over_processes, unsynchronized
from lightning_gans.randomness import Stream

SAMPLE_BLOCK = 50
"""Samples are generated in blocks of this many by their global index, the last one filled up: a picture's
bits then depend neither on how many are asked for at once nor on who asks."""

Schedule = Literal["constant", "linear", "cosine"]


def check_sizes(image_shape: Sequence[int], latent_dim: int) -> None:
    """Raise :class:`SettingError` for sizes of which no network can be made; to be called before one is."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise SettingError(f"image_shape is {list(image_shape)}: give [channels, height, width], each 1 or more.")
    check_positive(latent_dim=latent_dim)


class GenerativeModule(checkpoints.NotesArguments, pl.LightningModule):
    """A model that makes images: what callbacks and commands may know of it.

    A batch is ``(images, labels)``: float32 ``(N, C, H, W)`` in [-1, 1] and int64 ``(N,)``. One call of
    ``training_step`` is one update of the network that makes the images, so that ``trainer.global_step``,
    ``max_steps``, checkpoint names and the loggers' axis all count the same thing.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Length of the latent vectors.
        num_classes: Number of labels; 0 makes the model unconditional.
        ema_half_life: Half-life of the moving average of the weights, in images; 0 switches it off.
        ema_ramp: The half-life is at most this share of the images seen so far, so that the average forgets
            the first steps (Karras et al. 2020, arXiv:2006.06676).
        lr_schedule: How the learning rates go from their value to ``lr_end`` times their value over the
            whole run: ``constant`` (not at all), ``linear`` or ``cosine``.
        lr_end: Share of the learning rates that is left at the end of the schedule.

    Raises:
        SettingError: A setting is out of its range.
    """

    averaged_networks: tuple[str, ...] = ()
    """Names of the networks of which a moving average is kept, under the same name with ``_ema``."""

    batches_per_step: int = 1
    """How many batches one training step takes; the data module fetches them at once."""

    run_seed: int
    """Seed of every random number of the run: ``seed_everything``'s, else drawn once; kept in checkpoints."""

    images_seen: int
    """Images that the updates have seen so far, on all processes; kept in checkpoints."""

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        num_classes: int = 0,
        *,
        ema_half_life: float = 10_000,
        ema_ramp: float = 0.05,
        lr_schedule: Schedule = "constant",
        lr_end: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(image_shape, latent_dim)
        check_choice("lr_schedule", lr_schedule, ("constant", "linear", "cosine"))
        for name, value in {
            "num_classes": num_classes,
            "ema_half_life": ema_half_life,
            "ema_ramp": ema_ramp,
        }.items():
            if value < 0:
                raise SettingError(f"{name} is {value}: it must not be negative.")
        if not 0 <= lr_end <= 1:
            raise SettingError(f"lr_end is {lr_end}: it is a share of the learning rate, between 0 and 1.")
        self.automatic_optimization = False
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.ema_half_life = ema_half_life
        self.ema_ramp = ema_ramp
        self.lr_schedule = lr_schedule
        self.lr_end = float(lr_end)
        seed = randomness.global_seed()
        self.run_seed = seed if seed is not None else int(torch.randint(2**32, ()))
        self.images_seen = 0

    # --- sampling -----------------------------------------------------------------------------------------

    def decode(self, latents: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Map latents ``(N, latent_dim)`` to images ``(N, C, H, W)`` in [-1, 1]."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self,
        num_samples: int | None = None,
        labels: Tensor | Sequence[int] | None = None,
        *,
        seed: int | None = None,
        start: int = 0,
        ema: bool = True,
    ) -> Tensor:
        """Generate images; picture k depends on (seed, start + k, its label) alone.

        Args:
            num_samples: How many; by default as many as there are labels, else 1.
            labels: One label for each image, in a conditional model; by default the classes in turn.
            seed: Seed of the noise; None draws one from torch's global stream.
            start: Index of the first picture in the endless row of pictures that the seed stands for.
            ema: Whether to use the moving average of the weights, where the model has one.

        Returns:
            Float images in [-1, 1], shape ``(num_samples, C, H, W)``, on the model's device.

        Raises:
            SettingError: Labels do not fit the model or their number, or a count is negative.
        """
        if num_samples is None:
            num_samples = 1 if labels is None else len(labels)
        if num_samples < 0 or start < 0:
            raise SettingError(f"num_samples is {num_samples} and start is {start}: neither may be negative.")
        all_labels = self._labels_for(num_samples, labels, start)
        if seed is None:
            seed = int(torch.randint(2**31, ()))
        first, stop = start // SAMPLE_BLOCK * SAMPLE_BLOCK, start + num_samples
        images = [torch.empty(0, *self.image_shape, device=self.device)]
        with self._evaluating():
            for block in range(first, stop, SAMPLE_BLOCK):
                latents = randomness.randn_rows(
                    block,
                    SAMPLE_BLOCK,
                    self.latent_dim,
                    seed,
                    Stream.SAMPLE,
                    device=self.device,
                ).to(self.dtype)
                low, high = max(block, start), min(block + SAMPLE_BLOCK, stop)
                block_labels = None
                if all_labels is not None:
                    block_labels = torch.zeros(SAMPLE_BLOCK, dtype=torch.long, device=self.device)
                    block_labels[low - block : high - block] = all_labels[low - start : high - start]
                images.append(self.decode(latents, block_labels, ema=ema)[low - block : high - block].float())
        return torch.cat(images)

    def _labels_for(self, num_samples: int, labels: Tensor | Sequence[int] | None, start: int) -> Tensor | None:
        """Check the labels asked for, or give the classes in turn."""
        if self.num_classes == 0:
            if labels is not None:
                raise SettingError("labels were given, but the model is unconditional: leave them out.")
            return None
        if labels is None:
            return (torch.arange(start, start + num_samples) % self.num_classes).to(self.device)
        chosen = torch.as_tensor(labels, dtype=torch.long).to(self.device)
        if chosen.shape != (num_samples,):
            raise SettingError(f"labels has the shape {list(chosen.shape)}: give one label for each of {num_samples}.")
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < self.num_classes:
            wrong = next(int(label) for label in chosen if not 0 <= label < self.num_classes)
            raise SettingError(f"labels contains {wrong}: the model knows 0 to {self.num_classes - 1}.")
        return chosen

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Put the model into evaluation mode inside the block, each module back into its own afterwards."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    # --- the moving average -------------------------------------------------------------------------------

    def create_ema(self) -> None:
        """Copy the networks named in ``averaged_networks``; to be called once they are all there."""
        if self.ema_half_life > 0:
            for name in self.averaged_networks:
                self.add_module(f"{name}_ema", copy.deepcopy(getattr(self, name)).requires_grad_(False).eval())

    def averaged(self, name: str, ema: bool = True) -> Any:
        """Return the moving average of a network, or the network itself where there is none or ``ema`` is off."""
        return getattr(self, f"{name}_ema" if ema and hasattr(self, f"{name}_ema") else name)

    @torch.no_grad()
    def update_ema(self, batch_images: int) -> None:
        """Move the averages towards the weights; copy the buffers (BatchNorm's statistics)."""
        if self.ema_half_life == 0:
            return
        half_life = max(min(self.ema_half_life, self.ema_ramp * self.images_seen), 1e-8)
        average = get_ema_multi_avg_fn(0.5 ** (batch_images / half_life))  # type: ignore[no-untyped-call]
        for name in self.averaged_networks:
            ema, network = getattr(self, f"{name}_ema"), getattr(self, name)
            average(list(ema.parameters()), list(network.parameters()), None)
            for target, source in zip(ema.buffers(), network.buffers(), strict=True):
                target.copy_(source)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the networks; the averages always stay in evaluation mode."""
        super().train(mode)
        for name in self.averaged_networks:
            if hasattr(self, f"{name}_ema"):
                getattr(self, f"{name}_ema").eval()
        return self

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Refuse: what there is to predict from a batch is each model's own."""
        raise SettingError(
            f"predict has no meaning for an unconditional {type(self).__name__}: "
            "use `lightning-gans sample CKPT --num_samples 64 --output samples.png`."
        )

    # --- one update ---------------------------------------------------------------------------------------

    def update(self, loss: Tensor, *optimizers: Any, counted: bool = False) -> None:
        """Zero the gradients, go backward and step: the only place where this is done.

        Only the optimizers' own parameters get gradients. With several processes these are averaged in one
        message; in a counted update BatchNorm's statistics ride along, so that processes never differ.

        Args:
            loss: The scalar to go down.
            *optimizers: As ``self.optimizers()`` gives them; they step in this order.
            counted: Whether ``trainer.global_step`` counts the last one's step. It counts the updates of the
                network that makes the images; all others step through the strategy, which is what an
                optimizer's own ``step`` does apart from the counting (precision plugins and hooks included).
        """
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        parameters = [p for group in groups for p in group["params"] if p.requires_grad]
        for optimizer in optimizers:
            optimizer.zero_grad()
        strategy = self.trainer.strategy
        with unsynchronized(strategy):
            self.manual_backward(loss, inputs=parameters)
        average_over_processes(strategy, parameters, self._statistics() if counted else [])
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

    def _statistics(self) -> list[Tensor]:
        """Return the floating-point buffers that training changes, which the averages only copy."""
        averages = tuple(f"{name}_ema." for name in self.averaged_networks)
        return [b for name, b in self.named_buffers() if b.is_floating_point() and not name.startswith(averages)]

    def images_and_labels(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Return a batch's images, and its labels in a conditional model.

        Raises:
            SettingError: The images are not of ``image_shape``, or labels are missing.
        """
        images, labels = batch if isinstance(batch, (tuple, list)) else (batch, None)
        if tuple(images.shape[1:]) != self.image_shape:
            raise SettingError(
                f"image_shape is {list(self.image_shape)}, but the data's images are {list(images.shape[1:])}: "
                f"set --model.image_shape '{list(images.shape[1:])}', or other data."
            )
        if self.num_classes > 0 and labels is None:
            raise SettingError(f"num_classes is {self.num_classes}, but the data has no labels: set it to 0.")
        return images.to(self.dtype), labels if self.num_classes > 0 else None

    def batch_parts(self, batch: Any) -> list[tuple[Tensor, Tensor | None]]:
        """Split what was fetched into ``batches_per_step`` equal batches of images and labels.

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
        if labels is None:
            return [(part, None) for part in images.chunk(count)]
        return list(zip(images.chunk(count), labels.chunk(count), strict=True))

    def noise(self, num: int, part: int, stream: Stream = Stream.NOISE) -> Tensor:
        """Draw this process's rows of the noise that the whole world draws at this step, ``(num, latent_dim)``."""
        rows = randomness.randn(
            (self.trainer.world_size * num, self.latent_dim),
            *(self.run_seed, stream, self.trainer.global_step, part),
            device=self.device,
        )
        return rows[self.global_rank * num :][:num].to(self.dtype)

    @contextmanager
    def step_randomness(self) -> Iterator[None]:
        """Make what draws from the global stream in a step (dropout) a function of the step and the rank."""
        key = (self.run_seed, Stream.LAYERS, self.trainer.global_step, self.global_rank)
        with randomness.default_generator_seeded(self.device, *key):
            yield

    def end_of_step(self, num_images: int) -> None:
        """Count the images, and move the averages and the schedules on; to be called last in a step."""
        batch_images = num_images * self.trainer.world_size
        self.images_seen += batch_images
        self.update_ema(batch_images)
        schedulers: Any = self.lr_schedulers() or []
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()
        # The axis of what Lightning hands to the loggers, validation included; its own is one behind.
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step

    @property
    def will_log(self) -> bool:
        """Whether the logger writes down the update under way; to be asked before its counted step."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    def log_scalars(self, **scalars: Tensor) -> None:
        """Log under ``train/``; to be called on the logger's own rhythm, as a scalar costs 0.2 ms."""
        values = {f"train/{name}": value.detach() for name, value in scalars.items()}
        self.log_dict(values, prog_bar=True, logger=False)
        # To the loggers without Lightning, whose axis can be set by logging a "step" only; that number would
        # then stay for the names of all checkpoints until the next.
        numbers = {name: value.item() for name, value in values.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers, self.trainer.global_step)
            logger.save()

    # --- optimizers ---------------------------------------------------------------------------------------

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
        total = self.trainer.estimated_stepping_batches
        if not math.isfinite(total):
            raise SettingError(
                f"lr_schedule is {self.lr_schedule!r}, which needs an end: set --trainer.max_epochs or max_steps."
            )

        def factor(step: int) -> float:
            done = min(step / total, 1.0)
            left = 1 - done if self.lr_schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
            return self.lr_end + (1 - self.lr_end) * left

        return list(optimizers), [LambdaLR(optimizer, factor) for optimizer in optimizers]

    # --- checkpoints --------------------------------------------------------------------------------------

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that make this model again: what its constructor was given, and the defaults."""
        return checkpoints.resolved_arguments(self)

    def note_arguments(self, **config: Any) -> None:
        """Replace networks by what they were made from, ``{class_path, init_args}``, so that they can be stored."""
        given = self.__dict__["_given_arguments"]
        given |= {name: value for name, value in config.items() if isinstance(given.get(name), nn.Module)}

    def setup(self, stage: str) -> None:
        """Hand the arguments to the loggers."""
        self.save_hyperparameters(self.arguments)

    def on_fit_start(self) -> None:
        """Give every process the first one's seed."""
        self.run_seed = self.trainer.strategy.broadcast(self.run_seed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes the model again from the file alone."""
        checkpoints.describe(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the run's seed and its count of images from the checkpoint."""
        description = checkpoints.description(checkpoint)
        self.run_seed, self.images_seen = description["run_seed"], description["images_seen"]

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: Any, map_location: Any = "cpu", **overrides: Any
    ) -> Self:
        """Make the model again from a checkpoint alone.

        Args:
            checkpoint_path: A checkpoint of this class or of a subclass.
            map_location: The device to load to.
            **overrides: Arguments that replace the stored ones, and networks that were given as instances.
        """
        return checkpoints.load(checkpoint_path, expected=cls, map_location=map_location, **overrides)

    def load_weights(self, path: Any) -> None:
        """Start from the weights of a checkpoint; counters, optimizers and settings stay this model's own."""
        checkpoints.load_weights(self, path)
