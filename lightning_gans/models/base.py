"""The base of all models: what Lightning, the callbacks and the commands rely on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import cycle, islice
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_gans import randomness
from lightning_gans._lightning import Callback, TrainerFn, pl, set_hyperparameters, trainer_of, warn_of_both_families
from lightning_gans.errors import (
    SettingError,
    are_counts,
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
    check_repeats,
    check_share,
    check_whole,
    invalid,
    shown,
)
from lightning_gans.io.arrays import Scale
from lightning_gans.io.attributes import Attributes
from lightning_gans.training import batches, checkpoint_format
from lightning_gans.training.acceleration import Acceleration, CompileMode, MatmulPrecision
from lightning_gans.training.arguments import (
    constructor_arguments,
    hyperparameters,
    resolved_arguments,
    whole_signature,
)
from lightning_gans.training.batches import Batch
from lightning_gans.training.clipping import ClipGradients
from lightning_gans.training.ema import EMA
from lightning_gans.training.exact_resume import ExactResume
from lightning_gans.training.optimizers import OptimizerCallable, adam, places_of
from lightning_gans.training.sampling import check_latents, checked_sample_labels, evaluating, in_blocks, truncated
from lightning_gans.training.schedules import (
    CURVES,
    Schedule,
    Schedulers,
    move_beta2,
    scale_learning_rates,
    steps_planned,
)
from lightning_gans.training.step import TrainingStep


class GenerativeModule(pl.LightningModule):
    """A model that makes images.

    A subclass creates its networks, names them in ``trained_networks``, calls :meth:`create_ema`, and implements
    ``training_step``, ``configure_optimizers`` and, for sampling, :meth:`decode`. A training step is a ``with`` block
    of :meth:`step`; ``trainer.global_step``, ``max_steps``, checkpoint names and the loggers' axis all count such
    steps.

    Args:
        image_shape: ``(C, H, W)`` of the images, or ``(C, T)`` of sequences.
        latent_dim: Length of the latent vectors; 0 for a model without latents, which cannot be sampled.
        num_classes: Number of classes, or of attributes if the labels are vectors; 0 makes the model unconditional.
        ema_half_life: Half-life of the moving average of the weights, in images; 0 switches it off.
        ema_ramp: Caps the half-life at this fraction of the images seen so far, so that the average forgets the first
            steps (Karras et al. 2020, arXiv:2006.06676).
        ema_start: Fraction of the half-life at the start of the schedule; it rises to 1 along a cosine.
        lr_schedule: How the learning rates change from their value to ``lr_end`` times their value: ``constant`` (not
            at all), ``linear`` or ``cosine``.
        lr_end: Fraction of the initial learning rates at the end of the schedule.
        schedule_images: Number of images after which all schedules end; None is the end of the run.
        accumulate_batches: Number of batches whose gradients are averaged into one update, for batches that do not fit
            into memory. The result equals that of one batch as large as all of them, except for whatever computes
            statistics of a batch (BatchNorm, ``feature_matching``, the penalty ``dragan``) or changes with every pass
            (spectral normalization's power iteration, dropout).
        gradient_clip_val: Largest norm of each optimizer's gradient; None does not clip.
        compile_mode: Deprecated; use the callback :class:`~lightning_gans.callbacks.Acceleration`.
        channels_last: Deprecated, likewise.
        matmul_precision: Deprecated, likewise.

    Attributes:
        run_seed: Seed of every random number of the run: that of ``seed_everything``, or else drawn once; kept in
            checkpoints.
        images_seen: Images that the updates have seen so far, on all processes; kept in checkpoints.
        weights_step: Value of ``trainer.global_step`` that the weights belong to, even after loading.
        image_scale: The values that -1 and 1 stand for in the images that the model was trained on, and their type; a
            :class:`~lightning_gans.io.arrays.Scale`, kept in checkpoints.
        source_scale: The same for the sources of pairs.
        attributes: What the numbers of label vectors stand for, and labels of training images, for samples without
            labels; an :class:`~lightning_gans.io.attributes.Attributes`, kept in checkpoints. None for class numbers.

    Raises:
        SettingError: A setting is invalid.
    """

    trained_networks: tuple[str, ...] = ()
    """Names of the networks that the updates change."""

    averaged_networks: tuple[str, ...] = ()
    """Names of the networks of which :attr:`ema` keeps a moving average."""

    batch_kind: Literal["images", "vectors", "pairs"] = "images"
    """What a batch contains: images, with labels if ``num_classes`` is not 0, class numbers, int64 ``(N,)``, or
    vectors, float ``(N, num_classes)``; images with float vectors ``(N, D)``; or images ``(source, target)``, matched
    or not."""

    labels_of_data: bool = True
    """Whether labels are those of the data. Otherwise batches need none, and no score compares them."""

    betas: tuple[float, float]
    """Adam's decay rates."""

    beta2_end: float | None = None
    """Adam's second decay rate at the end of the schedule; None keeps it constant."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make ``help()`` and editors show all arguments, including those passed through ``**options``."""
        super().__init_subclass__(**kwargs)
        cls.__signature__ = whole_signature(cls)  # type: ignore[attr-defined]

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int = 0,
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
        warn_of_both_families()
        check_sizes(image_shape, num_classes, sequences=True)
        check_counts(least=0, latent_dim=latent_dim)
        check_choice("lr_schedule", lr_schedule, CURVES)
        check_not_negative(ema_half_life=ema_half_life, ema_ramp=ema_ramp)
        check_repeats(accumulate_batches=accumulate_batches)
        if gradient_clip_val is not None:
            check_positive(gradient_clip_val=gradient_clip_val)
        if schedule_images is not None:
            check_positive(schedule_images=schedule_images)
        check_share(lr_end=lr_end, ema_start=ema_start)
        self.automatic_optimization = False
        self.image_shape = self.source_shape = tuple(image_shape)
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
        self.image_format: torch.memory_format = torch.contiguous_format
        seed = randomness.global_seed()
        self.run_seed = seed if seed is not None else int(torch.randint(2**32, ()))
        self.images_seen = 0
        self.weights_step = 0
        self.image_scale = self.source_scale = Scale()
        self.attributes: Attributes | None = None
        self.within_step = False
        self.open_step: TrainingStep | None = None
        self.register_buffer("stop_vote", torch.zeros(()), persistent=False)  # averaged over processes with the others
        self.ema = EMA({})
        self.given_arguments = constructor_arguments(self)
        set_hyperparameters(self, hyperparameters(type(self), self.given_arguments))
        self._callbacks: list[Callback] = [ExactResume(), Schedulers()]
        if gradient_clip_val is not None:
            self._callbacks.append(ClipGradients(gradient_clip_val))
        if compile_mode is not None or channels_last or matmul_precision is not None:
            message = "compile_mode, channels_last and matmul_precision are settings of the callback Acceleration now."
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            self._callbacks.append(Acceleration(compile_mode, channels_last, matmul_precision))
        self._collected: list[Batch] = []
        self._collected_epoch = 0
        self._batches_per_step = 1
        self._stages_checked: frozenset[Any] = frozenset()
        self._optimizer_places: dict[tuple[str, ...], list[int]] = {}

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks that exact resume, clipping and compilation need; extend the list of ``super()``.

        Raises:
            SettingError: The trainer is set to clip or accumulate gradients, which are settings of the model.
        """
        trainer = trainer_of(self)
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            hint, count = " Set the model's {} instead.", trainer.accumulate_grad_batches
            if limit := trainer.gradient_clip_val:
                raise invalid("trainer.gradient_clip_val", limit, "None", hint.format("gradient_clip_val"))
            if count != 1:
                raise invalid("trainer.accumulate_grad_batches", count, "1", hint.format("accumulate_batches"))
        return self._callbacks

    def log(  # type: ignore[override]
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        **options: Any,
    ) -> None:
        """Log a value as Lightning does; within a training step the loggers get it with the step's own values.

        Lightning would write it one step earlier. See ``LightningModule.log`` for the arguments.
        """
        is_plain = not isinstance(value, Metric) and on_step is not False and not on_epoch
        if self.open_step is not None and is_plain and logger is not False:
            self.open_step.note(name, value, options.get("sync_dist", False))
            logger = False
        super().log(name, value, prog_bar, logger, on_step, on_epoch, **options)

    # --- training -----------------------------------------------------------------------------------------------

    def step(self, batch: Any, updates: int = 1) -> TrainingStep:
        """Return the training step that a batch belongs to, a context manager.

        Args:
            batch: A batch of the loader; see :attr:`batch_kind`.
            updates: Number of updates per step of the network that is updated most often, each on its own batch.
        """
        return TrainingStep(self, batch, updates)

    def collect(self, batch: Any, count: int) -> list[Batch]:
        """Return the step's ``count`` batches once all have arrived, else an empty list.

        An epoch shorter than ``count`` is one step, with its batches repeated.
        """
        if self._collected_epoch != self.trainer.current_epoch:
            self._collected, self._collected_epoch = [], self.trainer.current_epoch
        unpacked = self.unpack(batch)
        if len(unpacked[0]) == 1 and any(isinstance(module, nn.BatchNorm1d) for module in self.modules()):
            raise SettingError(
                "the loader returned a batch of 1 image, which BatchNorm cannot normalize: use a larger batch_size and "
                "drop_last=True.",
                setting="batch_size",
                value=1,
            )
        self._batches_per_step = count
        if count == 1:
            return [unpacked]
        self._collected.append(unpacked)
        if len(self._collected) == self.trainer.num_training_batches < count:  # as with fast_dev_run
            self._collected = list(islice(cycle(self._collected), count))
        if len(self._collected) < count:
            return []
        collected, self._collected = self._collected, []
        return collected

    def forget_batches(self) -> None:
        """Forget collected batches and the optimizers, and check the data's range again: all may have changed."""
        self._collected, self._stages_checked, self._optimizer_places = [], frozenset(), {}

    def unpack(self, batch: Any) -> Batch:
        """Return what a batch consists of, by :attr:`batch_kind`; labels are None in an unconditional model."""
        if self.batch_kind == "images":
            return self.images_and_labels(batch)
        images, condition = batches.unpacked_pair(batch)
        first = self._is_first_batch(images)
        if self.batch_kind == "pairs":
            sources = self._checked_images(images, first, "source_shape")
            return sources, self._checked_images(condition, first)
        return self._checked_images(images, first), batches.checked_vectors(condition, len(images)).to(self.dtype)

    def images_and_labels(self, batch: Any) -> Batch:
        """Return a batch's images, and its labels in a conditional model, unless they are not those of the data.

        Values are checked in the first batch of each stage; on a CPU, labels are checked in every batch.

        Raises:
            SettingError: The images are not floats, or not of ``image_shape``; or labels are missing or out of range.
            DataError: The batch is neither images nor images and labels, or there is not one label for each image; or
                the images are not in [-1, 1].
        """
        labelled = self.num_classes > 0 and self.labels_of_data
        images, labels = batches.unpacked(batch, labelled)
        first = self._is_first_batch(images)
        images = self._checked_images(images, first)
        if not labelled:
            return images, None
        return images, batches.checked_labels(labels, len(images), self.num_classes, first)

    def _is_first_batch(self, images: Tensor) -> bool:
        """Return whether this is the first batch of a stage; checking every batch would force a GPU synchronization."""
        stage = getattr(getattr(trainer_of(self), "state", None), "stage", None)
        first = stage not in self._stages_checked and len(images) > 0
        if first:
            self._stages_checked |= {stage}
        return first

    def _checked_images(self, images: Tensor, first: bool, setting: str = "image_shape") -> Tensor:
        batches.check_images(images, getattr(self, setting), setting)
        if first:
            batches.check_range(images)
        return images.to(self.dtype, memory_format=self.image_format)

    def end_of_step(self, num_images: int) -> None:
        """Count the images of a step, and update the averages and the schedules."""
        self.images_seen += num_images
        self.weights_step = self.trainer.global_step
        if self.ema:
            progress = self.progress() if self.ema_start < 1 else 1.0
            self.ema.average(self.networks(self.averaged_networks), num_images, self.images_seen, progress)
        self.move_schedules()

    def move_schedules(self) -> None:
        """Set the learning rates of all optimizers and Adam's second decay rate, if they are scheduled."""
        if self.lr_schedule != "constant":
            factor = CURVES[self.lr_schedule](1.0, self.lr_end, self.progress())
            scale_learning_rates(self.trainer.optimizers, factor)
        if self.beta2_end is not None:
            move_beta2(self.trainer.optimizers, self.betas[1], self.beta2_end, self.progress())

    def optimizers_of(self, *names: str) -> list[Any]:
        """Return the optimizer that holds the parameters of each network, in the order of the names.

        Raises:
            SettingError: A network does not have its own optimizer.
        """
        found: Any = self.optimizers()
        optimizers = found if isinstance(found, list) else [found]
        if names not in self._optimizer_places:
            self._optimizer_places[names] = places_of(self.networks(names), self.trainer.optimizers)
        return [optimizers[place] for place in self._optimizer_places[names]]

    def progress(self) -> float:
        """Return the progress of the schedules, between 0 and 1.

        Raises:
            SettingError: The schedules have no end.
        """
        if self.schedule_images is not None:
            return min(self.images_seen / self.schedule_images, 1.0)
        return min(self.trainer.global_step / steps_planned(self.trainer, self._batches_per_step), 1.0)

    def make_optimizer(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        custom: OptimizerCallable | None = None,
    ) -> torch.optim.Optimizer:
        """Return a network's optimizer: Adam by flat settings, or the custom one.

        Raises:
            SettingError: There are no parameters, or the optimizer rejects its arguments.
        """
        try:
            return custom(parameters) if custom is not None else adam(self, parameters, lr, betas, weight_decay)
        except (TypeError, ValueError) as error:
            name = "Adam" if custom is None else getattr(custom, "__name__", "a custom optimizer")
            message = f"the optimizer of a network, {name}, cannot be created: {error}."
            raise SettingError(message, setting="configure_optimizers", value=name) from error

    # --- networks and their averages ------------------------------------------------------------------------------

    def networks(self, names: Iterable[str]) -> dict[str, nn.Module]:
        """Return networks by their names."""
        return {name: getattr(self, name) for name in names}

    def create_ema(self) -> None:
        """Copy the networks of ``averaged_networks`` into :attr:`ema`; call it once all networks exist.

        Raises:
            SettingError: A network is not an ``nn.Module``.
        """
        for name in dict.fromkeys((*self.trained_networks, *self.averaged_networks)):
            check_network(name, getattr(self, name, None))
        if self.ema_half_life > 0:
            averaged = self.networks(self.averaged_networks)
            self.ema = EMA(averaged, self.ema_half_life, self.ema_ramp, self.ema_start)

    def averaged(self, name: str, ema: bool = True) -> Any:
        """Return the moving average of a network, or the network itself where there is none or ``ema`` is off."""
        return self.ema[name] if ema and name in self.ema else getattr(self, name)

    def check_networks(self, *names: str) -> None:
        """Raise :class:`SettingError` if a network of this package has other sizes than the model."""
        for name, network in self.networks(names).items():
            if not type(network).__module__.startswith("lightning_gans.networks."):
                continue  # a custom network may mean something else by these names
            for setting in ("image_shape", "latent_dim", "num_classes"):
                theirs, ours = getattr(network, setting, None), getattr(self, setting)
                if theirs not in (None, ours):
                    raise SettingError(
                        f"{name}.{setting} is {shown(theirs)}, but the model's {setting} is {shown(ours)}: "
                        "make them the same.",
                        setting=f"{name}.{setting}",
                        value=theirs,
                        allowed=ours,
                    )

    def not_compiled(self) -> dict[str, str]:
        """Return the networks that must not be compiled, each with the reason."""
        return {}

    # --- samples --------------------------------------------------------------------------------------------------

    @property
    def makes_pictures(self) -> bool:
        """Whether samples are images ``(N, C, H, W)``, not sequences ``(N, C, T)``."""
        return len(self.image_shape) == 3

    def decode(self, latents: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Map latents ``(N, latent_dim)`` to images ``(N, C, H, W)`` in [-1, 1].

        Labels are class numbers, int64 ``(N,)``, or vectors, float ``(N, num_classes)``; vectors also interpolate
        between classes.
        """
        raise NotImplementedError

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return :meth:`decode` of latents."""
        return self.decode(latents, labels)

    def latents(
        self, num: int, *, seed: int, start: int = 0, truncation: float | None = None, ema: bool = True
    ) -> Tensor:
        """Return the latents of samples ``start`` to ``start + num - 1``, float32 ``(num, latent_dim)``, on the CPU.

        Args:
            num: Number of latents.
            seed: Seed of the noise.
            start: Index of the first one in the endless sequence that the seed stands for.
            truncation: Largest absolute value; lower limits make samples more typical and less diverse. The numbers
                shrink continuously with the limit, so that a seed's picture stays recognizable.
            ema: Whether to use the moving average of the weights, where latents depend on weights (a learned prior).
        """
        noise = randomness.randn_rows(start, num, self.latent_dim, seed, randomness.Stream.SAMPLE)
        return noise if truncation is None else truncated(noise, truncation)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int | None = None,
        labels: Tensor | Sequence[Any] | None = None,
        *,
        seed: int | None = None,
        start: int = 0,
        ema: bool = True,
        truncation: float | None = None,
    ) -> Tensor:
        """Generate images; picture k depends only on (seed, start + k), its label and the truncation.

        Args:
            num_samples: Number of images; by default one for each label, or 1 without labels.
            labels: One label for each image, in a conditional model: class numbers, or floats ``(num_samples,
                num_classes)``. By default, the classes in turn, or else labels of the training images in turn, if those
                are vectors.
            seed: Seed of the noise; None draws one from torch's global stream.
            start: Index of the first picture in the endless sequence that the seed stands for.
            ema: Whether to use the moving average of the weights, where the model has one.
            truncation: See :meth:`latents`; None does not truncate.

        Returns:
            Float images in [-1, 1], shape ``(num_samples, C, H, W)``, on the model's device.

        Raises:
            SettingError: Labels do not match the model or the number of samples, a count is negative, the seed is not
                whole, the truncation is not above 0, a custom network makes images of another shape, or the model has
                no latents.
        """
        check_latents(self)
        if num_samples is None:
            num_samples = 1 if labels is None else len(labels)
        check_counts(least=0, num_samples=num_samples, start=start)
        if truncation is not None:
            check_positive(truncation=truncation)
        if seed is not None:
            check_whole(seed=seed)
        all_labels = checked_sample_labels(self, labels, num_samples, start)
        if seed is None:
            seed = int(torch.randint(2**31, ()))
        latents = partial(self.latents, seed=seed, truncation=truncation, ema=ema)
        return in_blocks(self, latents, all_labels, num_samples, start, ema)

    def check_made(self, images: Tensor, setting: str = "image_shape") -> None:
        """Raise :class:`SettingError` if images do not have the model's shape, the value of ``setting``."""
        shape = getattr(self, setting)
        if images.shape[1:] != shape:
            raise SettingError(
                f"{setting} is {list(shape)}, but the network makes images {list(images.shape[1:])}: "
                "change one of them.",
                setting=setting,
                value=shape,
                allowed=tuple(images.shape[1:]),
            )

    def evaluating(self) -> AbstractContextManager[None]:
        """Put the model into evaluation mode inside the block."""
        return evaluating(self)

    # --- evaluation -----------------------------------------------------------------------------------------------

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do nothing with the batch: models without a likelihood are judged by their samples, in callbacks."""

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return samples of a batch's labels, ``(N, C, H, W)`` in [-1, 1].

        Raises:
            SettingError: The model is unconditional.
        """
        if self.num_classes == 0:
            raise SettingError(
                f"predict has no meaning for an unconditional {type(self).__name__}: "
                "use `lightning-gans sample CKPT --num_samples 64 --output samples.png`.",
                setting="num_classes",
                value=0,
            )
        images, labels = self.images_and_labels(batch)
        place = (batch_idx, self.global_rank, *[dataloader_idx] * (dataloader_idx > 0))
        seed = randomness.mix(self.run_seed, randomness.Stream.SAMPLE, *place)
        return self.sample(len(images), labels, seed=seed)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that rebuild this model: what its constructor was given, and the defaults."""
        return resolved_arguments(type(self), self.given_arguments, self)

    def note_arguments(self, **config: Any) -> None:
        """Replace networks by what they were built from, ``{class_path, init_args}``, so that they can be stored."""
        given = self.given_arguments
        stored = [name for name in config if not name.endswith(checkpoint_format.FOR_TRAINING)]
        given |= {name: config[name] for name in stored if isinstance(given.get(name), nn.Module)}

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = "cpu",
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        *,
        imports: Iterable[str] = (),
        **overrides: Any,
    ) -> Self:
        """Rebuild the model from only a checkpoint, in evaluation mode.

        Args:
            checkpoint_path: A checkpoint of this class or of a subclass; a folder that ``lightning-gans push`` wrote;
                or ``hf:USER/NAME`` for such a folder on the Hugging Face Hub.
            map_location: The device to load to.
            hparams_file: A YAML file of arguments that replace the stored ones, such as a logger's ``hparams.yaml``.
            strict: Whether checkpoint and model must have the same weights; by default ``self.strict_loading``.
            weights_only: Has no effect: code in a checkpoint is never run.
            imports: Your modules whose networks the checkpoint may name. Without them only the layers of
                ``torch.nn`` and ``lightning_gans.networks`` are built.
            **overrides: Arguments that replace the stored ones, and networks that were given as instances.

        Raises:
            DataError: The file is not a checkpoint, its class is not known here, or an argument is missing.
        """
        options = {"map_location": map_location, "hparams_file": hparams_file, "strict": strict, "imports": imports}
        return checkpoint_format.load(checkpoint_path, cls, **options, **overrides)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; accept the names that they had in 0.1 as well.

        Raises:
            DataError: A weight is of another shape, or missing or unknown (``strict``).
        """
        renamed = checkpoint_format.rename_averages(state_dict)
        checkpoint_format.check_fit(self, renamed, strict)
        return super().load_state_dict(renamed, strict, assign)

    def load_weights(self, path: Any, strict: bool = True) -> checkpoint_format.Transfer:
        """Start from the weights of a checkpoint; counters, optimizers and settings stay this model's.

        Args:
            path: As in :meth:`load_from_checkpoint`; code in a checkpoint is never run.
            strict: Whether all weights have to fit. Otherwise those with the name and the shape of one of the model's
                are taken, even from a model of another class.

        Returns:
            What was taken and what was not; print it.

        Raises:
            DataError: A weight is of another shape, missing or unknown (``strict``), or none fits.
        """
        return checkpoint_format.load_weights(self, path, strict)


def check_sizes(
    image_shape: Sequence[int],
    num_classes: int = 0,
    *,
    sequences: bool = False,
    setting: str = "image_shape",
    **lengths: int,
) -> None:
    """Raise :class:`SettingError` for sizes that no network can have; call it before building one.

    Args:
        image_shape: ``(C, H, W)`` of images, or ``(C, T)`` of sequences if the model takes them.
        num_classes: Number of labels, or 0.
        sequences: Whether the model takes sequences too.
        setting: Name of the shape's setting.
        **lengths: ``latent_dim``, if the model has latents.
    """
    if not are_counts(image_shape) or len(image_shape) not in ((2, 3) if sequences else (3,)):
        allowed = "[channels, height, width]" + (", or [channels, steps] for sequences" if sequences else "")
        raise SettingError(
            f"{setting} is {shown(image_shape)}: give {allowed}, each a whole number, 1 or more.",
            setting=setting,
            value=image_shape,
            allowed=allowed,
        )
    check_counts(**lengths)
    check_counts(least=0, num_classes=num_classes)


def check_network(name: str, network: Any) -> None:
    """Raise :class:`SettingError` if a network that replaces the default one is not an ``nn.Module``."""
    if network is not None and not isinstance(network, nn.Module):
        raise invalid(name, network, "an nn.Module")


def tried(name: str, network: nn.Module, *shapes: Sequence[int]) -> Any:
    """Return what a network returns for images of zeros, one of each shape, in evaluation mode.

    Args:
        name: The setting that the network is the value of.
        network: Called with images ``(1, C, H, W)``.
        *shapes: ``(C, H, W)`` of the images.

    Raises:
        SettingError: It fails.
    """
    check_network(name, network)
    weight = next(network.parameters(), torch.zeros(()))
    images = [torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device) for shape in shapes]
    try:
        with torch.no_grad(), evaluating(network):
            return network(*images)
    except SettingError:
        raise
    except Exception as error:
        given = " and ".join(str(list(shape)) for shape in shapes)
        message = f"the {name} fails on images {given}: {type(error).__name__}: {error}"
        raise SettingError(message, setting=name, value=type(network).__name__) from error


def check_unconditional(model: str, options: Mapping[str, Any]) -> None:
    """Raise :class:`SettingError` if ``num_classes`` is given to an unconditional model."""
    if "num_classes" in options:
        given = options["num_classes"]
        raise SettingError(
            f"num_classes is {given!r}, but {model} has no labels: leave it out, or use ConditionalGAN.",
            setting="num_classes",
            value=given,
            allowed=0,
        )
