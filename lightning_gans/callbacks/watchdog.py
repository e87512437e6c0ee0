"""Detect a collapse during training: warn, stop, or roll back to the best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_gans._lightning import Callback, ModelCheckpoint, TrainerFn, pl, rank_zero_info, rank_zero_warn
from lightning_gans.callbacks.base import images_and_labels, is_stale
from lightning_gans.callbacks.collapse_signals import MEANINGS, d_accuracy, effective_classes, nearness
from lightning_gans.callbacks.scores import GenerativeMetrics
from lightning_gans.errors import (
    SettingError,
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
    check_share,
    in_section,
    invalid,
    is_number,
)
from lightning_gans.io.checkpoint_io import loading
from lightning_gans.io.files import read_tensors
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics import samples
from lightning_gans.metrics.processes import everywhere, on_first_process

_FID = "val/fid"
_FEWEST = 16  # images for a meaningful fraction or mean
_FEWEST_CLASSES = 4  # in real images; with fewer, the extractor does not fit the data


class CollapseWatchdog(Callback):
    """Watch cheap signals of a collapse, and warn, stop the run, or roll it back.

    Every ``every_n_steps`` generator updates, ``num_samples`` samples of the current weights (not of their moving
    average) are compared with the same number of real images from the last batches. A signal fires after ``patience``
    consecutive checks beyond its threshold; a threshold of None disables it. Signals that do not apply are skipped, and
    so are those that raise an error, with a warning. The values are logged as ``watchdog/<signal>``:

    ``d_accuracy``: Fraction of pairs in which the discriminator's mean logit of the real image is greater than that of
    the sample; 0.5 is chance. It is not measured for the loss ``wasserstein``, whose critic should be ahead.
    ``spread``: Mean distance between two samples, relative to that between two real images.
    ``duplicates``: Fraction of samples that have another sample closer than ``duplicate_distance`` times the median
    distance of a real image from its nearest neighbor; equal samples always count.
    ``classes``: Effective number of classes of the samples, relative to that of real images (the exponential of the
    entropy of the class shares). It is measured only if :class:`GenerativeMetrics` has an extractor with classes
    (``mnist``, ``stacked_mnist``) that finds four or more of them in the real images.
    ``fid``: The last ``val/fid``, relative to the best.
    ``code_usage``: The module's ``code_usage``: the fraction of its codes that the last batch used (``VQVAE``).
    ``code_perplexity``: The module's ``code_perplexity``: the effective number of these codes.

    Distances are between pixels. The watchdog does not change the bits of a run that is not rolled back. ``rollback``
    restores weights, averages and optimizer moments from ``best.ckpt``, and lowers the learning rates. All counters and
    schedules continue, so that the run does not repeat the noise and the data on which it failed.

    The module needs a method ``sample(n)``; see :func:`lightning_gans.metrics.samples.draw` for its options.
    ``rollback`` needs a method ``load_weights(path)``. For translators, which have a method
    ``translate``, only the signal ``fid`` is watched. Samples are not looked at while the module's
    ``samples_are_trained`` is False.

    Args:
        action: What happens when a signal fires: ``warn`` (once, until it recovers), ``stop`` (the run ends normally),
            or ``rollback``, which needs ``checkpoint.monitor``.
        every_n_steps: Generator updates between two checks; a check costs about as much as an update.
        num_samples: Samples and real images per check; fewer if the batches before it contain fewer.
        patience: Number of consecutive checks beyond a threshold until a signal fires.
        max_d_accuracy: Largest ``d_accuracy``.
        min_spread: Smallest ``spread``.
        max_duplicates: Largest ``duplicates``.
        duplicate_distance: Distance of a duplicate; see above.
        min_classes: Smallest ``classes``.
        max_fid_ratio: Largest ``fid``, without patience.
        fid_rises: ``fid`` also fires after this many consecutive rises of ``val/fid``, to more than 1.2 times the best.
        rollback_lr_factor: Factor of all learning rates at each rollback.
        max_rollbacks: The signal after this many rollbacks stops the run.
        seed: Seed of the samples.
        sample: As in :class:`~lightning_gans.GenerativeMetrics`.
        min_code_usage: Smallest ``code_usage``.
        min_code_perplexity: Smallest ``code_perplexity``.

    Raises:
        SettingError: A setting is invalid, the module lacks a method, or no best checkpoint is saved for a rollback.
    """

    def __init__(
        self,
        action: Literal["warn", "stop", "rollback"] = "warn",
        every_n_steps: int = 250,
        num_samples: int = 100,
        patience: int = 3,
        max_d_accuracy: float | None = 0.999,
        min_spread: float | None = 0.3,
        max_duplicates: float | None = 0.3,
        duplicate_distance: float = 0.25,
        min_classes: float | None = 0.3,
        max_fid_ratio: float | None = 2.0,
        fid_rises: int = 4,
        rollback_lr_factor: float = 0.5,
        max_rollbacks: int = 2,
        seed: int = 0,
        sample: samples.Sample | None = None,
        min_code_usage: float | None = 0.05,
        min_code_perplexity: float | None = 2.0,
    ) -> None:
        self._most = {"d_accuracy": max_d_accuracy, "duplicates": max_duplicates, "fid": max_fid_ratio}
        self._least = {"spread": min_spread, "classes": min_classes}
        self._least |= {"code_usage": min_code_usage, "code_perplexity": min_code_perplexity}
        shares = {"max_d_accuracy": max_d_accuracy, "min_spread": min_spread, "max_duplicates": max_duplicates}
        shares |= {"min_classes": min_classes, "min_code_usage": min_code_usage}
        with in_section("watchdog"):
            check_choice("action", action, ("warn", "stop", "rollback"))
            check_counts(every_n_steps=every_n_steps, patience=patience)
            check_counts(fid_rises=fid_rises, max_rollbacks=max_rollbacks)
            check_counts(least=_FEWEST, num_samples=num_samples)
            check_positive(duplicate_distance=duplicate_distance, rollback_lr_factor=rollback_lr_factor)
            check_share(rollback_lr_factor=rollback_lr_factor)
            if min_code_perplexity is not None:
                check_not_negative(min_code_perplexity=min_code_perplexity)
            check_share(**{name: value for name, value in shares.items() if value is not None})
            if max_fid_ratio is not None and not (is_number(max_fid_ratio) and max_fid_ratio > 1):
                raise invalid("max_fid_ratio", max_fid_ratio, "greater than 1, or null")
        self.action = action
        self.every_n_steps = every_n_steps
        self.num_samples = num_samples
        self.patience = patience
        self.duplicate_distance = duplicate_distance
        self.fid_rises = fid_rises
        self.rollback_lr_factor = rollback_lr_factor
        self.max_rollbacks = max_rollbacks
        self.seed = seed
        self.sample = sample
        self.values: dict[str, float] = {}
        self._reset()

    def _reset(self) -> None:
        """Forget the state of an earlier run."""
        self.streaks: dict[str, int] = {}
        self.warned: list[str] = []
        self.rollbacks = 0
        self._fid: dict[str, float] = {}
        self._real_classes: float | None = None
        self._real: list[tuple[Tensor, Tensor | None]] = []
        self._scorer: GenerativeMetrics | None = None
        self._last_step = 0
        self._failed: set[str] = set()

    # --- when ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start a new run; the state of a resumed one is loaded afterwards."""
        self._sampler(pl_module)
        if stage == "fit":
            self._reset()
            self._scorer = next((c for c in trainer.callbacks if isinstance(c, GenerativeMetrics)), None)  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Check that a rollback is possible; by now the checkpoint callbacks know which scores are measured."""
        if self.action != "rollback" or trainer.fast_dev_run:
            return
        if _best(trainer) is None or not hasattr(pl_module, "load_weights"):
            message = (
                "watchdog.action is 'rollback', which needs a module with load_weights(path), and a best checkpoint: "
                "set checkpoint.monitor to a score that is measured, such as val/fid."
            )
            raise SettingError(message, setting="watchdog.action", value=self.action, allowed=["warn", "stop"])

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Note the step that a resumed run starts from."""
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep the last real images before a check, and check."""
        stepped, self._last_step = trainer.global_step != self._last_step, trainer.global_step
        left = -trainer.global_step % self.every_n_steps
        if trainer.is_global_zero:
            self._try("the real images", partial(self._keep, pl_module, batch, left))
        if left == 0 and stepped:  # a step may take several batches
            self._check(trainer, pl_module)
            if sum(len(images) for images, _ in self._real) >= _FEWEST:  # fewer wait for the next check
                self._real.clear()

    def _sampler(self, module: Any) -> Any:
        return samples.sampler_of(module, self.sample, type(self).__name__)

    def _keep(self, module: Any, batch: Any, left: int) -> None:
        """Keep the images of a batch if the next check, ``left`` updates away, needs them."""
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        if left * len(images) < self.num_samples and not samples.translates(module, self.sample):
            images, labels = images_and_labels(module, batch)
            kept = slice(-self.num_samples, None)
            labelled = labels is not None and samples.num_labels(self._sampler(module)) > 0
            self._real.append((images[kept], labels[kept] if labels is not None and labelled else None))

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Record the FID, if this validation measured it; the next check judges it."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or self._most["fid"] is None:
            return
        measured = None if is_stale(trainer, _FID) else trainer.callback_metrics.get(_FID)
        value = trainer.strategy.broadcast(None if measured is None else float(measured))
        if value is None or not math.isfinite(value):
            return
        rises = self._fid["rises"] + 1 if self._fid and value > self._fid["last"] else 0
        self._fid = {"last": value, "best": min(value, self._fid.get("best", value)), "rises": rises}

    # --- a check ------------------------------------------------------------------------------------------

    def _check(self, trainer: Any, module: Any) -> None:
        """Measure, log, judge and act, with the same result on all processes."""
        self.values, self._real_classes = on_first_process(trainer.strategy, lambda: self._measure(trainer, module))
        if not self.values:
            return
        for logger in trainer.loggers:
            row = {f"watchdog/{name}": value for name, value in self.values.items()}
            logger.log_metrics(row, trainer.global_step)
            logger.save()
        firing = [name for name, value in self.values.items() if self._fires(name, value)]
        step = f"update {trainer.global_step:,}"
        for name in [name for name in self.warned if name in self.values and name not in firing]:
            self.warned.remove(name)
            rank_zero_info(f"Watchdog, {step}: {name} has recovered to {self.values[name]:.3g}.")
        for name in [name for name in firing if name not in self.warned]:
            self.warned.append(name)
            meaning, remedy = MEANINGS[name]
            rank_zero_warn(f"Watchdog, {step}: {name} is {self._against(name)}: {meaning}. Try {remedy}.")
        if firing and self.action != "warn":
            self._act(trainer, module, f"Watchdog, {step}: {', '.join(firing)}.")

    def _try(self, what: str, measure: Callable[[], None]) -> None:
        """Measure; skip a failure, such as a lack of memory, with a single warning instead of ending the run."""
        try:
            measure()
        except Exception as error:
            if what not in self._failed:
                rank_zero_warn(f"The watchdog cannot measure {what}: {type(error).__name__}: {error}")
            self._failed.add(what)

    @torch.no_grad()
    def _measure(self, trainer: Any, module: Any) -> tuple[dict[str, float], float | None]:
        """Return the signals that are available, and the number of classes of the real images."""
        values: dict[str, float] = {}
        if self._fid:
            values["fid"] = self._fid["last"] / max(self._fid["best"], 1e-12)
        for name in ("code_usage", "code_perplexity"):
            if (value := getattr(module, name, None)) is not None:
                values[name] = float(value)
        num = min(sum(len(images) for images, _ in self._real), self.num_samples)
        if num >= _FEWEST and getattr(module, "samples_are_trained", True):
            self._try("samples", lambda: self._compare(module, num, values))
        limits = self._most | self._least
        return {
            name: values[name] for name in MEANINGS if name in values and limits[name] is not None
        }, self._real_classes

    def _compare(self, module: Any, num: int, values: dict[str, float]) -> None:
        """Add the signals from samples and real images."""
        images = torch.cat([images.to(module.device) for images, _ in self._real])[-num:]
        fakes = samples.draw(self._sampler(module), num, seed=self.seed, ema=False)

        def distances() -> None:
            real, fake = nearness(images), nearness(fakes)
            values["spread"] = fake.spread / max(real.spread, 1e-12)
            near = fake.nearest <= self.duplicate_distance * real.nearest.median()
            values["duplicates"] = float(near.double().mean())

        def discriminator() -> None:
            real_labels, labels = None, None
            if (in_turn := samples.data_labels_in_turn(self._sampler(module), num)) is not None:
                labels = in_turn.to(module.device)  # labels of the samples
                real_labels = torch.cat([kept.to(module.device) for _, kept in self._real if kept is not None])[-num:]
            values["d_accuracy"] = d_accuracy(module, (images, real_labels), (fakes, labels))

        def classes() -> None:
            extractor = None if self._scorer is None else self._scorer.network
            if extractor is None or not extractor.class_names:  # other extractors are too slow for every check
                return
            extractor.to(module.device).eval()
            self._real_classes = self._real_classes or effective_classes(extractor(to_bytes(images))[1])
            if self._real_classes >= _FEWEST_CLASSES:
                values["classes"] = effective_classes(extractor(to_bytes(fakes))[1]) / self._real_classes

        self._try("spread and duplicates", distances)
        # A Wasserstein critic is trained to be ahead.
        judged = hasattr(module, "discriminator") and getattr(module, "loss", None) != "wasserstein"
        if self._most["d_accuracy"] is not None and judged:
            self._try("d_accuracy", discriminator)
        if self._least["classes"] is not None:
            self._try("classes", classes)

    def _fires(self, name: str, value: float) -> bool:
        """Return whether a signal has been beyond its threshold for long enough."""
        if name == "fid":
            rising = self._fid["rises"] >= self.fid_rises and value > 1.2
            return rising or self._wrong(name, value)
        self.streaks[name] = self.streaks.get(name, 0) + 1 if self._wrong(name, value) else 0
        return self.streaks[name] >= self.patience

    def _wrong(self, name: str, value: float) -> bool:
        most, least = self._most.get(name), self._least.get(name)
        return (most is not None and value > most) or (least is not None and value < least)

    def _against(self, name: str) -> str:
        """Return a signal's value and its threshold, as text."""
        against = f", below {self._least[name]:g}" if name in self._least else f", above {self._most.get(name):g}"
        if not self._wrong(name, self.values[name]):
            against = f" after {self._fid['rises']:.0f} rises in a row"
        return f"{self.values[name]:.3g}{against}"

    # --- what follows -------------------------------------------------------------------------------------

    def _act(self, trainer: Any, module: Any, reason: str) -> None:
        """Roll back, or stop."""
        best = _best(trainer)
        path = "" if best is None else trainer.strategy.broadcast(best.best_model_path)
        if self.action == "rollback" and path and self.rollbacks < self.max_rollbacks:
            step = everywhere(trainer.strategy, lambda: _roll_back(trainer, module, path, self.rollback_lr_factor))
            self.rollbacks += 1
            self.streaks, self.warned = {}, []
            if self._fid:
                self._fid |= {"last": self._fid["best"], "rises": 0}
            rank_zero_warn(
                f"{reason} The run continues from the weights of update {step:,} ({path}), with learning rates "
                f"multiplied by {self.rollback_lr_factor:g}; rollback {self.rollbacks} of {self.max_rollbacks}."
            )
            return
        trainer.should_stop = True
        why = ""
        if self.action == "rollback":
            why = f" after {self.rollbacks} rollbacks" if path else ": there is no best checkpoint yet"
        rank_zero_warn(f"{reason} The run stops here{why}.{f' Its best checkpoint is {path}.' if path else ''}")

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, the warnings, and the real images of the next check."""
        names = ("streaks", "warned", "rollbacks", "_fid", "_real_classes")
        real = [(images.cpu(), None if labels is None else labels.cpu()) for images, labels in self._real]
        return {name.strip("_"): getattr(self, name) for name in names} | {"real": real}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        with loading():
            self.streaks, self.warned = dict(state_dict["streaks"]), list(state_dict["warned"])
            self.rollbacks, self._fid = int(state_dict["rollbacks"]), dict(state_dict["fid"])
            self._real_classes = state_dict["real_classes"]
            self._real = [
                (torch.as_tensor(images), None if labels is None else torch.as_tensor(labels))
                for images, labels in state_dict["real"]
            ]


def _roll_back(trainer: Any, module: Any, path: str, lr_factor: float) -> int:
    """Restore weights, averages and optimizer moments, and lower the learning rates; all counters continue.

    The optimizers keep their current settings, and the schedules continue.

    Returns:
        The update after which the weights were saved.
    """
    checkpoint = read_tensors(path)
    module.load_weights(path)
    for optimizer, saved in zip(trainer.optimizers, checkpoint["optimizer_states"], strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
        for group in optimizer.param_groups:
            group |= {name: group[name] * lr_factor for name in ("lr", "initial_lr") if name in group}
    for config in trainer.lr_scheduler_configs:
        if hasattr(config.scheduler, "base_lrs"):  # the schedule multiplies these
            config.scheduler.base_lrs = [lr * lr_factor for lr in config.scheduler.base_lrs]
    return int(checkpoint["global_step"])


def _best(trainer: Any) -> Any:
    """Return the callback that saves the best checkpoint, or None."""
    found = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint))
    return next((callback for callback in found if callback.monitor is not None and callback.save_top_k), None)
