"""Detect a collapse during training: warn, stop, or roll back to the best checkpoint."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_gans._lightning import Callback, TrainerFn, pl, rank_zero_info, rank_zero_warn
from lightning_gans.callbacks.base import images_and_labels
from lightning_gans.callbacks.checkpoint import Checkpoint
from lightning_gans.callbacks.collapse_signals import MEANINGS, d_accuracy, nearness, num_classes
from lightning_gans.callbacks.scores import GenerativeMetrics
from lightning_gans.errors import (
    SettingError,
    check_choice,
    check_counts,
    check_positive,
    check_share,
    invalid,
    is_number,
)
from lightning_gans.io.files import read_tensors
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics import samples
from lightning_gans.metrics.processes import everywhere, on_first_process

_FID = "val/fid"
_FEWEST = 16  # images for a meaningful fraction or mean
_FEWEST_CLASSES = 4  # in real images; with fewer, the extractor does not know the data


class CollapseWatchdog(Callback):
    """Watch cheap signals of a collapse, and warn, stop the run, or roll it back.

    Every ``every_n_steps`` generator updates, ``num_samples`` samples of the current weights (not of their moving
    average) are compared with as many real images of the last batches. A signal fires after ``patience`` checks in a
    row beyond its threshold. A threshold of None disables it, and so does a model or a run without it. The values are
    logged as ``watchdog/<signal>``:

    ``d_accuracy``: Fraction of pairs in which the discriminator's logit of the real image is greater than that of the
    sample; 0.5 is chance. Not for the loss ``wasserstein``, whose critic should be ahead.
    ``spread``: Mean distance between two samples, relative to that between two real images.
    ``duplicates``: Fraction of samples with another sample closer than ``duplicate_distance`` times the median distance
    of a real image from its nearest neighbor; equal samples always count.
    ``classes``: Effective number of classes of the samples, relative to that of real images (the exponential of the
    entropy of the class shares). Only if :class:`GenerativeMetrics` has an extractor with classes (``mnist``,
    ``stacked_mnist``) that finds four or more in the real images.
    ``fid``: The last ``val/fid``, relative to the best.

    Distances are between pixels. The first process measures, and all processes act on its numbers. Training's random
    numbers stay unchanged, and so do the bits of a run that is not rolled back. A resumed run restores the state of the
    watchdog.

    ``rollback`` restores weights, averages and optimizer moments from ``best.ckpt``, and lowers the learning rates.
    Updates, epochs, images seen, schedules and the loggers' axis continue. Noise and shuffling are functions of the
    update and the epoch, so the run does not repeat the data that it failed on.

    The module needs a method ``sample(n)``; see :func:`lightning_gans.metrics.samples.draw` for what it may take.
    ``rollback`` needs a method ``load_weights(path)``.

    Args:
        action: What a signal causes: ``warn`` (once, until it recovers), ``stop`` (the run ends normally), or
            ``rollback``, which needs ``checkpoint.monitor``.
        every_n_steps: Generator updates between two checks. A check takes about as long as one update of the default
            networks.
        num_samples: Samples and real images per check; fewer if the batches before it hold fewer.
        patience: Checks in a row beyond a threshold.
        max_d_accuracy: Largest ``d_accuracy``.
        min_spread: Smallest ``spread``.
        max_duplicates: Largest ``duplicates``.
        duplicate_distance: Distance of a duplicate; see above.
        min_classes: Smallest ``classes``.
        max_fid_ratio: Largest ``fid``, without patience.
        fid_rises: ``fid`` also fires after this many rises of ``val/fid`` in a row, to more than 1.2 times the best.
        rollback_lr_factor: Factor of all learning rates at each rollback.
        max_rollbacks: The signal after this many rollbacks stops the run.
        seed: Seed of the samples.

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
    ) -> None:
        counts: dict[str, Any] = {
            "every_n_steps": every_n_steps,
            "num_samples": num_samples,
            "patience": patience,
            "fid_rises": fid_rises,
            "max_rollbacks": max_rollbacks,
        }
        shares = {
            "max_d_accuracy": max_d_accuracy,
            "min_spread": min_spread,
            "max_duplicates": max_duplicates,
            "min_classes": min_classes,
            "rollback_lr_factor": rollback_lr_factor,
        }
        positive = {"duplicate_distance": duplicate_distance, "rollback_lr_factor": rollback_lr_factor}
        check_choice("watchdog.action", action, ("warn", "stop", "rollback"))
        check_counts(**{f"watchdog.{name}": value for name, value in counts.items()})
        check_positive(**{f"watchdog.{name}": value for name, value in positive.items()})
        check_share(**{f"watchdog.{name}": value for name, value in shares.items() if value is not None})
        if num_samples < _FEWEST:
            raise invalid("watchdog.num_samples", num_samples, f"{_FEWEST} or more")
        if max_fid_ratio is not None and not (is_number(max_fid_ratio) and max_fid_ratio > 1):
            raise invalid("watchdog.max_fid_ratio", max_fid_ratio, "greater than 1, or null")
        self.action = action
        self.every_n_steps = every_n_steps
        self.num_samples = num_samples
        self.patience = patience
        self.duplicate_distance = duplicate_distance
        self.fid_rises = fid_rises
        self.rollback_lr_factor = rollback_lr_factor
        self.max_rollbacks = max_rollbacks
        self.seed = seed
        self._most = {"d_accuracy": max_d_accuracy, "duplicates": max_duplicates, "fid": max_fid_ratio}
        self._least = {"spread": min_spread, "classes": min_classes}
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

    # --- when ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start a new run; the state of a resumed one is loaded afterwards."""
        samples.check_sampler(pl_module, type(self).__name__)
        if stage == "fit":
            self._reset()
            self._scorer = next((c for c in trainer.callbacks if isinstance(c, GenerativeMetrics)), None)  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Check that a rollback is possible; the checkpoints know by now what is measured."""
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
            images = batch[0] if isinstance(batch, (tuple, list)) else batch
            if left * len(images) < self.num_samples:
                images, labels = images_and_labels(pl_module, batch)
                kept = slice(-self.num_samples, None)
                labelled = labels is not None and samples.num_classes(pl_module) > 0
                self._real.append((images[kept], labels[kept] if labels is not None and labelled else None))
        if left == 0 and stepped:  # a step may take several batches
            self._check(trainer, pl_module)
            if sum(len(images) for images, _ in self._real) >= _FEWEST:  # fewer wait for the next check
                self._real.clear()

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Record the FID, if this validation measured it; the next check judges it."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or self._most["fid"] is None:
            return
        scored = self._scorer is None or self._scorer.last_scored_step == trainer.global_step
        measured = trainer.callback_metrics.get(_FID)
        value = trainer.strategy.broadcast(float(measured) if scored and measured is not None else None)
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

    @torch.no_grad()
    def _measure(self, trainer: Any, module: Any) -> tuple[dict[str, float], float | None]:
        """Return the signals that are available, and the number of classes of the real images."""
        values: dict[str, float] = {}
        if self._fid:
            values["fid"] = self._fid["last"] / max(self._fid["best"], 1e-12)
        images = torch.cat([images.to(module.device) for images, _ in self._real])[-self.num_samples :]
        num, classes = len(images), samples.num_classes(module)
        if num < _FEWEST:
            return values, self._real_classes
        fakes = samples.draw(module, num, seed=self.seed, ema=False)
        real, fake = nearness(images), nearness(fakes)
        values["spread"] = fake.spread / max(real.spread, 1e-12)
        near = fake.nearest <= self.duplicate_distance * real.nearest.median()
        values["duplicates"] = float(near.double().mean())
        # A Wasserstein critic is trained to be ahead.
        judged = hasattr(module, "discriminator") and getattr(module, "loss", None) != "wasserstein"
        if self._most["d_accuracy"] is not None and judged:
            real_labels, labels = None, None
            if classes:
                labels = torch.arange(num, device=module.device) % classes  # of the samples
                real_labels = torch.cat([kept.to(module.device) for _, kept in self._real if kept is not None])[-num:]
            values["d_accuracy"] = d_accuracy(module, (images, real_labels), (fakes, labels))
        extractor = None if self._scorer is None or self._least["classes"] is None else self._scorer.network
        found = self._real_classes
        if extractor is not None and extractor.class_names:  # other extractors are too slow for every check
            extractor.to(module.device).eval()
            found = found or num_classes(extractor(to_bytes(images))[1])
            if found >= _FEWEST_CLASSES:
                values["classes"] = num_classes(extractor(to_bytes(fakes))[1]) / found
        limits = self._most | self._least
        return {name: values[name] for name in MEANINGS if name in values and limits[name] is not None}, found

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
        value = f"{self.values[name]:.3g}"
        if name in self._least:
            return f"{value}, below {self._least[name]:g}"
        if self._wrong(name, self.values[name]):
            return f"{value}, above {self._most[name]:g}"
        return f"{value} after {self._fid['rises']:.0f} rises in a row"

    # --- what follows -------------------------------------------------------------------------------------

    def _act(self, trainer: Any, module: Any, reason: str) -> None:
        """Roll back, or stop."""
        best = _best(trainer)
        path = "" if best is None else trainer.strategy.broadcast(best.best_model_path)
        if self.action == "rollback" and path and self.rollbacks < self.max_rollbacks:
            step = everywhere(trainer.strategy, lambda: roll_back(trainer, module, path, self.rollback_lr_factor))
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
        self.streaks, self.warned = dict(state_dict["streaks"]), list(state_dict["warned"])
        self.rollbacks, self._fid = state_dict["rollbacks"], dict(state_dict["fid"])
        self._real_classes, self._real = state_dict["real_classes"], list(state_dict["real"])


def roll_back(trainer: Any, module: Any, path: str, lr_factor: float) -> int:
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
        if hasattr(config.scheduler, "base_lrs"):  # which a schedule multiplies
            config.scheduler.base_lrs = [lr * lr_factor for lr in config.scheduler.base_lrs]
    return int(checkpoint["global_step"])


def _best(trainer: Any) -> Checkpoint | None:
    """Return the callback that saves the best checkpoint, or None."""
    found = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Checkpoint))
    return next((callback for callback in found if callback.monitor is not None and callback.save_top_k), None)
