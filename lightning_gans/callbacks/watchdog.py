"""A collapse noticed while it happens: a warning, the end of the run, or the way back to the best checkpoint."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_gans._lightning import Callback, TrainerFn, pl, rank_zero_info, rank_zero_warn
from lightning_gans.callbacks.checkpoint import Checkpoint
from lightning_gans.callbacks.collapse_signals import MEANINGS, d_accuracy, nearness, num_classes
from lightning_gans.callbacks.scores import GenerativeMetrics
from lightning_gans.errors import SettingError, check_choice, check_counts, check_positive, is_number
from lightning_gans.io.files import read_tensors
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics.processes import everywhere, on_first_process
from lightning_gans.models.base import GenerativeModule

_FID = "val/fid"
_FEWEST = 16  # images of which a share or a mean still says something
_FEWEST_CLASSES = 4  # that the extractor has to see in real images: with fewer it does not know these data


class CollapseWatchdog(Callback):
    """Watch cheap signals of a collapse, warn of them, and on request stop the run or roll it back.

    Every ``every_n_steps`` updates of the generator, ``num_samples`` samples of the weights in training (not of
    their average) are compared with as many real images of the batches just seen. A signal fires once it was
    beyond its threshold in ``patience`` such checks in a row; a threshold of None leaves it out, and so does a
    model or a run that it has no meaning for. The values go to the loggers as ``watchdog/<signal>``:

    ``d_accuracy``: Share of the pairs of a real image and a sample in which the discriminator's logit of the real
    one is the greater: 0.5 is chance. Not for the loss ``wasserstein``, whose critic is meant to be ahead.
    ``spread``: Mean distance between two samples, as a share of that between two real images.
    ``duplicates``: Share of the samples that have another one nearer than ``duplicate_distance`` times the
    typical (median) distance of a real image from its nearest neighbour; equal ones always count.
    ``classes``: How many classes the samples are of, as a share of that of real images, both as the exponential
    of the entropy of the classes' shares. Where :class:`GenerativeMetrics` has an extractor with classes
    (``mnist``, ``stacked_mnist``) that finds four or more in the real images.
    ``fid``: The last ``val/fid`` as a multiple of the best, from the validations.

    Distances are between pixels. The first process measures, and all act on its numbers alike. No random number
    of the training is drawn, and as long as nothing is rolled back it trains to the same bits as without. A
    resumed run goes on with what was counted, and with the real images that the next check needs.

    ``rollback`` brings weights, averages and the optimizers' moments back from ``best.ckpt``, and lowers the
    learning rates. All that counts goes on: updates, epochs, images seen, schedules, the loggers' axis. As noise
    and shuffling are functions of the update and the epoch, the run does not meet again what it failed on.

    Args:
        action: What follows when a signal fires: ``warn`` (once, until it has recovered), ``stop`` (the run ends as
            if it had come to its end), or ``rollback``, which needs ``checkpoint.monitor``.
        every_n_steps: Updates of the generator between two checks. A check takes about as long as one update of
            the default networks, and as several of very small ones.
        num_samples: Samples and real images in a check; fewer where the batches before it hold fewer.
        patience: Checks in a row in which a value has to be wrong.
        max_d_accuracy: Greatest ``d_accuracy``; 1 allows all.
        min_spread: Smallest ``spread``.
        max_duplicates: Greatest share of ``duplicates``.
        duplicate_distance: How near another sample makes a duplicate, see above.
        min_classes: Smallest ``classes``.
        max_fid_ratio: Greatest ``fid``; it fires at once, without patience.
        fid_rises: It fires as well where ``val/fid`` has risen in so many validations in a row, to more than 1.2
            times the best.
        rollback_lr_factor: What each rollback multiplies all learning rates by.
        max_rollbacks: The signal after so many rollbacks stops the run.
        seed: Seed of the samples.

    Raises:
        SettingError: A setting is out of its range, or there is no checkpoint that could be gone back to.
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
        check_choice("watchdog.action", action, ("warn", "stop", "rollback"))
        counts: dict[str, Any] = {
            "every_n_steps": every_n_steps,
            "num_samples": num_samples,
            "patience": patience,
            "fid_rises": fid_rises,
            "max_rollbacks": max_rollbacks,
        }
        check_counts(**{f"watchdog.{name}": value for name, value in counts.items()})
        positive = {"duplicate_distance": duplicate_distance, "rollback_lr_factor": rollback_lr_factor}
        check_positive(**{f"watchdog.{name}": value for name, value in positive.items()})
        if num_samples < _FEWEST:
            raise SettingError(f"watchdog.num_samples is {num_samples}: it must be {_FEWEST} or more.")
        if rollback_lr_factor > 1:
            raise SettingError(f"watchdog.rollback_lr_factor is {rollback_lr_factor}: it must be 1 or less.")
        shares = {
            "max_d_accuracy": max_d_accuracy,
            "min_spread": min_spread,
            "max_duplicates": max_duplicates,
            "min_classes": min_classes,
        }
        for name, value in shares.items():
            if value is not None and not (is_number(value) and 0 <= value <= 1):
                raise SettingError(f"watchdog.{name} is {value!r}: it is a share, between 0 and 1, or null.")
        if max_fid_ratio is not None and not (is_number(max_fid_ratio) and max_fid_ratio > 1):
            raise SettingError(f"watchdog.max_fid_ratio is {max_fid_ratio!r}: it must be greater than 1, or null.")
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
        self._begin()

    def _begin(self) -> None:
        """Forget what was seen of a run before."""
        self.streaks: dict[str, int] = {}
        self.warned: list[str] = []
        self.rollbacks = 0
        self._fid: dict[str, float] = {}
        self._real_classes: float | None = None
        self._real: list[tuple[Tensor, Tensor | None]] = []
        self._scorer: GenerativeMetrics | None = None

    # --- when ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin a new run; what a resumed one has counted is loaded after this."""
        if not isinstance(pl_module, GenerativeModule):
            raise SettingError(f"CollapseWatchdog needs a GenerativeModule, not a {type(pl_module).__name__}.")
        if stage == "fit":
            self._begin()
            self._scorer = next((c for c in trainer.callbacks if isinstance(c, GenerativeMetrics)), None)  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Refuse to promise a way back where nothing will be kept; the checkpoints know by now what is measured."""
        if self.action == "rollback" and not trainer.fast_dev_run and _best(trainer) is None:
            raise SettingError(
                "watchdog.action is 'rollback', which needs a best checkpoint: set checkpoint.monitor to a score that "
                "is measured, such as val/fid; or choose from warn, stop."
            )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep the last real images before a check, and check."""
        left = -trainer.global_step % self.every_n_steps
        if trainer.is_global_zero:
            images = batch[0] if isinstance(batch, (tuple, list)) else batch
            if left * len(images) < self.num_samples:
                images, labels = pl_module.images_and_labels(batch)
                kept = slice(-self.num_samples, None)
                self._real.append((images[kept], None if labels is None else labels[kept]))
        if left == 0:
            self._check(trainer, pl_module)
            if sum(len(images) for images, _ in self._real) >= _FEWEST:  # fewer wait for the next check
                self._real.clear()

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Note the score, if this validation has measured it; the next check judges it."""
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

    def _check(self, trainer: Any, model: GenerativeModule) -> None:
        """Measure, log, judge and act; all processes come to the same."""
        self.values, self._real_classes = on_first_process(trainer, lambda: self._measure(trainer, model))
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
            rank_zero_info(f"Watchdog, {step}: {name} has recovered, to {self.values[name]:.3g}.")
        for name in [name for name in firing if name not in self.warned]:
            self.warned.append(name)
            meaning, remedy = MEANINGS[name]
            rank_zero_warn(f"Watchdog, {step}: {name} is {self._against(name)}: {meaning}. Try {remedy}.")
        if firing and self.action != "warn":
            self._act(trainer, model, f"Watchdog, {step}: {', '.join(firing)}.")

    @torch.no_grad()
    def _measure(self, trainer: Any, model: Any) -> tuple[dict[str, float], float | None]:
        """Return the signals that have a meaning here, and how many classes the real images are of."""
        values: dict[str, float] = {}
        if self._fid:
            values["fid"] = self._fid["last"] / max(self._fid["best"], 1e-12)
        images = torch.cat([images.to(model.device) for images, _ in self._real])[-self.num_samples :]
        if len(images) < _FEWEST:
            return values, self._real_classes
        num = len(images)
        samples = model.sample(num, seed=self.seed, ema=False)
        real, fake = nearness(images), nearness(samples)
        values["spread"] = fake.spread / max(real.spread, 1e-12)
        near = fake.nearest <= self.duplicate_distance * real.nearest.median()
        values["duplicates"] = float(near.double().mean())
        # A Wasserstein critic is trained to be ahead, which its loss can bear.
        judged = hasattr(model, "discriminator") and getattr(model, "loss", None) != "wasserstein"
        if self._most["d_accuracy"] is not None and judged:
            real_labels, labels = None, None
            if model.num_classes > 0:
                real_labels = torch.cat([kept.to(model.device) for _, kept in self._real if kept is not None])[-num:]
                labels = torch.arange(num, device=model.device) % model.num_classes  # those that sample has taken
            values["d_accuracy"] = d_accuracy(model, (images, real_labels), (samples, labels))
        extractor = None if self._scorer is None or self._least["classes"] is None else self._scorer.network
        classes = self._real_classes
        if extractor is not None and extractor.class_names:  # the others are too slow to look this often
            extractor.to(model.device).eval()
            classes = classes or num_classes(extractor(to_bytes(images))[1])
            if classes >= _FEWEST_CLASSES:
                values["classes"] = num_classes(extractor(to_bytes(samples))[1]) / classes
        limits = self._most | self._least
        return {name: values[name] for name in MEANINGS if name in values and limits[name] is not None}, classes

    def _fires(self, name: str, value: float) -> bool:
        """Whether a signal has been beyond its threshold for long enough."""
        if name == "fid":
            rising = self._fid["rises"] >= self.fid_rises and value > 1.2
            return rising or self._wrong(name, value)
        self.streaks[name] = self.streaks.get(name, 0) + 1 if self._wrong(name, value) else 0
        return self.streaks[name] >= self.patience

    def _wrong(self, name: str, value: float) -> bool:
        most, least = self._most.get(name), self._least.get(name)
        return (most is not None and value > most) or (least is not None and value < least)

    def _against(self, name: str) -> str:
        """Return a signal's value beside its threshold, for reading."""
        value = f"{self.values[name]:.3g}"
        if name in self._least:
            return f"{value}, below {self._least[name]:g}"
        if self._wrong(name, self.values[name]):
            return f"{value}, above {self._most[name]:g}"
        return f"{value} after {self._fid['rises']:.0f} rises in a row"

    # --- what follows -------------------------------------------------------------------------------------

    def _act(self, trainer: Any, model: GenerativeModule, reason: str) -> None:
        """Roll back, or stop."""
        best = _best(trainer)
        path = "" if best is None else trainer.strategy.broadcast(best.best_model_path)
        if self.action == "rollback" and path and self.rollbacks < self.max_rollbacks:
            step = everywhere(trainer, lambda: roll_back(trainer, model, path, self.rollback_lr_factor))
            self.rollbacks += 1
            self.streaks, self.warned = {}, []
            if self._fid:
                self._fid |= {"last": self._fid["best"], "rises": 0}
            rank_zero_warn(
                f"{reason} The run goes on with the weights of update {step:,} ({path}), and with learning rates "
                f"multiplied by {self.rollback_lr_factor:g}; rollback {self.rollbacks} of {self.max_rollbacks}."
            )
            return
        trainer.should_stop = True
        why = ""
        if self.action == "rollback":
            why = f" after {self.rollbacks} rollbacks" if path else ": there is no best checkpoint yet to go back to"
        rank_zero_warn(f"{reason} The run stops here{why}.{f' Its best checkpoint is {path}.' if path else ''}")

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted, and what was said."""
        names = ("streaks", "warned", "rollbacks", "_fid", "_real_classes")
        real = [(images.cpu(), None if labels is None else labels.cpu()) for images, labels in self._real]
        return {name.strip("_"): getattr(self, name) for name in names} | {"real": real}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was counted."""
        self.streaks, self.warned = dict(state_dict["streaks"]), list(state_dict["warned"])
        self.rollbacks, self._fid = state_dict["rollbacks"], dict(state_dict["fid"])
        self._real_classes, self._real = state_dict["real_classes"], list(state_dict["real"])


def roll_back(trainer: Any, model: GenerativeModule, path: str, lr_factor: float) -> int:
    """Bring weights, averages and the optimizers' moments back, and lower the learning rates; nothing is counted back.

    The optimizers' settings stay those of now, as schedules go on from where they are.

    Returns:
        The update that the weights were saved after.
    """
    checkpoint = read_tensors(path)
    model.load_weights(path)
    for optimizer, saved in zip(trainer.optimizers, checkpoint["optimizer_states"], strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
        for group in optimizer.param_groups:
            group |= {name: group[name] * lr_factor for name in ("lr", "initial_lr") if name in group}
    for config in trainer.lr_scheduler_configs:
        if hasattr(config.scheduler, "base_lrs"):  # what a schedule multiplies
            config.scheduler.base_lrs = [lr * lr_factor for lr in config.scheduler.base_lrs]
    return int(checkpoint["global_step"])


def _best(trainer: Any) -> Checkpoint | None:
    """Return the callback that keeps the best checkpoint, or None."""
    found = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Checkpoint))
    return next((callback for callback in found if callback.monitor is not None and callback.save_top_k), None)
