"""What every model shares: its settings, and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn

from lightning_gans import randomness
from lightning_gans._lightning import TrainerFn, rank_zero_warn
from lightning_gans.errors import (
    DataError,
    SettingError,
    are_counts,
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
    check_share,
    shown,
)
from lightning_gans.training import checkpoint_format as checkpoints
from lightning_gans.training import exact_resume as resuming
from lightning_gans.training.acceleration import CompileMode, MatmulPrecision
from lightning_gans.training.processes import check_strategy
from lightning_gans.training.sampling import SampledModule
from lightning_gans.training.update import Schedule


def check_sizes(image_shape: Sequence[int], latent_dim: int, num_classes: int = 0, *, sequences: bool = False) -> None:
    """Raise :class:`SettingError` for sizes of which no network can be made; to be called before one is.

    Args:
        image_shape: ``(C, H, W)`` of images, or ``(C, T)`` of sequences where the model takes these.
        latent_dim: Length of the latent vectors.
        num_classes: Number of labels, or 0.
        sequences: Whether the model takes sequences too.
    """
    if not are_counts(image_shape) or len(image_shape) not in ((2, 3) if sequences else (3,)):
        allowed = "[channels, height, width]" + (", or [channels, steps] for sequences" if sequences else "")
        raise SettingError(f"image_shape is {shown(image_shape)}: give {allowed}, each a whole number, 1 or more.")
    check_counts(latent_dim=latent_dim)
    check_counts(num_classes=num_classes, zero=True)


def check_unconditional(model: str, options: Mapping[str, Any]) -> None:
    """Raise :class:`SettingError` if labels are asked of a model that has none."""
    if "num_classes" in options:
        given = options["num_classes"]
        raise SettingError(f"num_classes is {given!r}, but {model} has no labels: leave it out, or use ConditionalGAN.")


def call(network: Any, inputs: Tensor, labels: Tensor | None) -> Any:
    """Call a network as every one is called: with labels if and only if there are any."""
    return network(inputs) if labels is None else network(inputs, labels)


class GenerativeModule(checkpoints.NotesArguments, SampledModule):
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
        ema_start: Share of the half-life at the start, from where it rises to the whole along a cosine.
        lr_schedule: How the learning rates go from their value to ``lr_end`` times their value: ``constant`` (not
            at all), ``linear`` or ``cosine``.
        lr_end: Share of the learning rates that is left at the end of the schedule.
        schedule_images: After how many images all schedules have come to their end; None is the whole run.
        accumulate_batches: Batches whose gradients are averaged into one update, for batches that do not fit
            into memory: it is the same update as that of one batch so many times as large, but for what takes
            statistics of a batch (BatchNorm, ``feature_matching``, the penalty ``dragan``) or goes on with every pass
            (spectral normalisation's power iteration, dropout's draws).
        gradient_clip_val: Largest norm of each network's gradient; None leaves it as it is.
        compile_mode: Compiles the networks while they train, in this mode of ``torch.compile``; None does not. A
            network that cannot be compiled, as one with a gradient penalty, trains as it is, with a warning.
            ``reduce-overhead`` replays CUDA graphs.
        channels_last: Keeps convolutional networks and their images as ``(N, H, W, C)`` in memory, which changes
            no result but by rounding, and is faster where the device has kernels for it.
        matmul_precision: Of float32 matrix products while training, as in ``torch.set_float32_matmul_precision``:
            ``high`` lets a GPU use TF32. None leaves it as it is.

    Raises:
        SettingError: A setting is out of its range.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        num_classes: int = 0,
        *,
        ema_half_life: float = 10_000,
        ema_ramp: float = 0.05,
        ema_start: float = 1.0,
        lr_schedule: Schedule = "constant",
        lr_end: float = 0.0,
        schedule_images: int | None = None,
        accumulate_batches: int = 1,
        gradient_clip_val: float | None = None,
        compile_mode: CompileMode | None = None,
        channels_last: bool = False,
        matmul_precision: MatmulPrecision | None = None,
    ) -> None:
        super().__init__()
        check_sizes(image_shape, latent_dim, num_classes, sequences=True)
        if compile_mode is not None:
            check_choice("compile_mode", compile_mode, get_args(CompileMode))
        if matmul_precision is not None:
            check_choice("matmul_precision", matmul_precision, get_args(MatmulPrecision))
        check_choice("lr_schedule", lr_schedule, ("constant", "linear", "cosine"))
        check_not_negative(ema_half_life=ema_half_life, ema_ramp=ema_ramp)
        check_counts(accumulate_batches=accumulate_batches)
        if gradient_clip_val is not None:
            check_positive(gradient_clip_val=gradient_clip_val)
        if schedule_images is not None:
            check_positive(schedule_images=schedule_images)
        check_share(lr_end=lr_end, ema_start=ema_start)
        self.automatic_optimization = False
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.ema_half_life = ema_half_life
        self.ema_ramp = ema_ramp
        self.ema_start = ema_start
        self.lr_schedule = lr_schedule
        self.lr_end = float(lr_end)
        self.schedule_images = schedule_images
        self.accumulate_batches = accumulate_batches
        self.gradient_clip_val = gradient_clip_val
        self.compile_mode = compile_mode
        self.channels_last = channels_last
        self.matmul_precision = matmul_precision
        seed = randomness.global_seed()
        self.run_seed = seed if seed is not None else int(torch.randint(2**32, ()))
        self.images_seen = 0
        self.weights_step = 0
        self.stop_vote = torch.zeros(())
        self._validated_step = -1
        self._max_steps: int | None = None
        self._place_in_epoch: Any = None
        self._before_validation: resuming.BeforeValidation | None = None

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Refuse: what there is to predict from a batch is each model's own."""
        raise SettingError(
            f"predict has no meaning for an unconditional {type(self).__name__}: "
            "use `lightning-gans sample CKPT --num_samples 64 --output samples.png`."
        )

    # --- checkpoints --------------------------------------------------------------------------------------

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that make this model again: what its constructor was given, and the defaults."""
        return checkpoints.resolved_arguments(self)

    def note_arguments(self, **config: Any) -> None:
        """Replace networks by what they were made from, ``{class_path, init_args}``, so that they can be stored."""
        given = self.__dict__["_given_arguments"]
        given |= {name: value for name, value in config.items() if isinstance(given.get(name), nn.Module)}

    def check_networks(self) -> None:
        """Raise :class:`SettingError` for a network of this package that was made for other sizes than the model's."""
        for name in self.trained_networks:
            network = getattr(self, name)
            if not type(network).__module__.startswith("lightning_gans.networks."):
                continue  # what a network of the user's own calls num_classes may be something else
            for setting in ("image_shape", "latent_dim", "num_classes"):
                theirs, ours = getattr(network, setting, None), getattr(self, setting)
                if theirs not in (None, ours):
                    raise SettingError(
                        f"{name}.{setting} is {shown(theirs)}, but the model's {setting} is {shown(ours)}: "
                        "make them the same."
                    )

    def setup(self, stage: str) -> None:
        """Refuse what this trainer cannot do, and hand the arguments to the loggers."""
        self._stages_checked = frozenset()  # there may be other data
        trainer: Any = self.trainer
        if stage == "fit" and getattr(trainer, "_val_check_time_interval", None) is not None:
            raise SettingError(
                "trainer.val_check_interval is a time, which cannot be resumed exactly: give a number of batches."
            )
        check_strategy(trainer.strategy, sync_batchnorm=getattr(trainer.strategy, "_layer_sync", None) is not None)
        self.save_hyperparameters(self.arguments)

    def on_fit_start(self) -> None:
        """Give every process the first one's seed; let the networks train that :func:`load` has put to evaluation."""
        for network in (getattr(self, name) for name in self.trained_networks):
            if not network.training:
                network.train()
        self.run_seed = self.trainer.strategy.broadcast(self.run_seed)
        self.stop_vote = torch.zeros((), device=self.device)
        self._validated_step, self._before_validation, self._steps_planned = -1, None, None
        self.start_averaging()
        self._within_step, self._place_in_epoch = False, None
        self.start_acceleration()

    def on_train_start(self) -> None:
        """Tell the loader its place, where ``configure_optimizers`` had it made before the checkpoint was read.

        ``trainer.estimated_stepping_batches`` does that; Lightning then forgets the place.
        """
        loop: Any = self.trainer.fit_loop
        if getattr(loop, "_combined_loader_states_to_load", None):
            loop._load_combined_loader_states()

    def on_train_end(self) -> None:
        """Keep the place in the data, which Lightning forgets when it evaluates the model after the fit."""
        self._place_in_epoch = self.trainer.fit_loop.on_save_checkpoint().get("combined_loader")

    def on_validation_start(self) -> None:
        """Keep what a checkpoint needs that is written before the validation is over."""
        if self._is_fitting:
            if self._max_steps is not None:
                self.trainer.fit_loop.epoch_loop.max_steps, self._max_steps = self._max_steps, None
            self._before_validation = resuming.BeforeValidation(self.trainer)

    def on_validation_end(self) -> None:
        """Note that the validation is done; what is saved from here on counts it."""
        if self._is_fitting:
            self._validated_step, self._before_validation = self.trainer.global_step, None

    @property
    def _is_fitting(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes the model again from the file alone, and what resumes the run exactly.

        Raises:
            DivergedError: The weights are not finite; nothing is written then.
        """
        checkpoints.check_finite(self)
        if self._within_step:
            rank_zero_warn("This checkpoint is written within an update: what is resumed from it is not exact.")
        checkpoints.describe(self, checkpoint)
        before, trainer = self._before_validation, self.trainer
        checkpoint[checkpoints.KEY]["loggers"] = resuming.logger_states(trainer) if before is None else before.loggers
        if before is not None and "callbacks" in checkpoint:
            checkpoint["callbacks"] = before.callbacks
        validated = before is None and self._validated_step == trainer.global_step
        resuming.settle_place(checkpoint, trainer, validated)
        if self._place_in_epoch is not None:
            checkpoint["loops"]["fit_loop"]["state_dict"].setdefault("combined_loader", self._place_in_epoch)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the run's seed and its count of images from the checkpoint, and go on with its loggers."""
        description = checkpoints.description(checkpoint)
        if self.strict_loading:
            checkpoints.check_fit(self, checkpoint["state_dict"], "the checkpoint")
        self.run_seed, self.images_seen = description["run_seed"], description["images_seen"]
        self.weights_step = checkpoint["global_step"]
        if self._trainer is not None and self._is_fitting:
            if "optimizer_states" not in checkpoint or "loops" not in checkpoint:
                raise DataError("the checkpoint holds weights only: start from them with --init_from (load_weights).")
            resuming.restore_loggers(self.trainer, description.get("loggers", []), checkpoint["global_step"])
            self._max_steps = resuming.allow_validation(self.trainer, checkpoint)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: Any, map_location: Any = "cpu", imports: Iterable[str] = (), **overrides: Any
    ) -> Self:
        """Make the model again from a checkpoint alone.

        Args:
            checkpoint_path: A checkpoint of this class or of a subclass.
            map_location: The device to load to.
            imports: Modules of yours whose networks the checkpoint may name. Without them only the layers of
                ``torch.nn`` and ``lightning_gans.networks`` are built.
            **overrides: Arguments that replace the stored ones, and networks that were given as instances.
        """
        return checkpoints.load(checkpoint_path, expected=cls, map_location=map_location, imports=imports, **overrides)

    def load_weights(self, path: Any) -> None:
        """Start from the weights of a checkpoint; counters, optimizers and settings stay this model's own."""
        checkpoints.load_weights(self, path)
