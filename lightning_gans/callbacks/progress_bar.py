"""The progress of a run, as a bar or as lines: time left, images per second, losses and scores."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from rich import get_console
from rich.progress import ProgressColumn, Task
from rich.text import Text

from lightning_gans._lightning import RichProgressBar, Timer, TrainerFn, pl
from lightning_gans.callbacks.base import is_stale

_PER_SECOND = 2
_SECONDS_PER_LINE = 60
_BAR_WIDTH = 8


class _Description(ProgressColumn):
    """The epoch, or the name of another task."""

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__()
        self.bar = bar

    def render(self, task: Task) -> Text:
        """Return the description."""
        return Text(self.bar.epoch if task.description.startswith("Epoch ") else task.description)


class _Values(ProgressColumn):
    """The values of a task, on one line that is cut off at the terminal's width."""

    def render(self, task: Task) -> Text:
        """Return the values."""
        return Text(task.fields.get("values", ""), no_wrap=True, overflow="ellipsis")


class ProgressBar(RichProgressBar):
    """Rich progress bar on one line: time left in the run, images per second in the current epoch, and losses.

    It refreshes twice per second and costs nothing in between: reading the losses waits for the device, and a thread
    that draws more often takes time from training. In a notebook without ipywidgets, which Rich needs there, it prints
    a line that it overwrites. Without a terminal, as in a log file, it prints a line every minute and at the end, and
    the scores after each validation.
    """

    def __init__(self) -> None:
        console = get_console()
        self._in_log = not (console.is_terminal or console.is_jupyter)
        super().__init__(refresh_rate=0 if self._in_log else _PER_SECOND)  # 0 makes no bar
        self._overwrites = console.is_jupyter and find_spec("ipywidgets") is None
        self.seconds = _SECONDS_PER_LINE if self._in_log else 1 / _PER_SECOND
        self._drawn_at, self._drawn_batch = -math.inf, -1
        self._start = (0.0, 0.0)
        self._epoch = (0.0, 0)
        self._number = 1

    @property
    def epoch(self) -> str:
        """The epoch, counted from 1, and the last one if the run has one."""
        last = self.trainer.max_epochs or -1
        return f"Epoch {self._number}{f'/{last}' if last > 0 else ''}"

    @property
    def total_train_batches(self) -> int | float:
        """The batches of an epoch; Lightning takes the steps that are left before ``max_steps`` for batches."""
        return self.trainer.num_training_batches

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Return the columns: a short bar, and all values in one."""
        _, bar, batches, *_ = super().configure_columns(trainer)
        bar.bar_width = _BAR_WIDTH
        return [_Description(self), bar, batches, _Values()]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks of the run, and of an epoch that is resumed."""
        self._number = trainer.current_epoch + 1
        super().on_train_start(trainer, pl_module)
        if self.progress is not None:
            self.progress.columns = tuple(self.configure_columns(trainer))  # Lightning adds one, whose lines wrap
        self._start = (time.monotonic(), self._share(trainer, trainer.fit_loop.batch_idx))
        self._epoch = (time.monotonic(), getattr(pl_module, "images_seen", 0))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._number = trainer.current_epoch + 1
        super().on_train_epoch_start(trainer, pl_module)
        self._epoch = (time.monotonic(), getattr(pl_module, "images_seen", 0))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the progress, if enough time has passed."""
        now = time.monotonic()
        ends = batch_idx + 1 == self.total_train_batches and not self._in_log
        if now - self._drawn_at >= self.seconds or ends:
            self._drawn_at, self._drawn_batch = now, batch_idx
            self._draw(trainer, pl_module, batch_idx)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show where the epoch ended, which may be before its last batch."""
        if self._drawn_batch != trainer.fit_loop.batch_idx and not self._in_log:
            self._draw(trainer, pl_module, trainer.fit_loop.batch_idx)
        if self._overwrites and trainer.is_global_zero:
            print()
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print where the run ended in a log."""
        if self._in_log:
            self._draw(trainer, pl_module, trainer.fit_loop.batch_idx)
        super().on_train_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the scores of this validation in a log."""
        super().on_validation_end(trainer, pl_module)
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not (self._in_log and fitting and trainer.is_global_zero):
            return
        scores = [
            f"{name} {float(value):.4g}"
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/") and name.count("/") == 1 and not is_stale(trainer, name)
        ]
        if scores:
            print(f"{self.epoch}: {', '.join(scores)}", flush=True)

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch_idx: int) -> None:
        """Show the state of the epoch in the bar, in a log's next line, or over a notebook's previous line."""
        super().on_train_batch_end(trainer, pl_module, None, None, batch_idx)
        if not trainer.is_global_zero:
            return
        metrics = self.get_metrics(trainer, pl_module)
        speed = f"{metrics.pop('images/s')} img/s" if "images/s" in metrics else ""
        losses = [
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in metrics.items()
        ]
        values = " ".join(filter(None, [self._time_left(trainer, batch_idx), speed, *losses]))
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, values=values)
            self.refresh()
        line = f"{self.epoch}, batch {batch_idx + 1} of {self.total_train_batches}, {values}"
        if self._in_log:
            print(line, flush=True)
        elif self._overwrites:
            print(f"\r{line:100}", end="", flush=True)

    def _share(self, trainer: pl.Trainer, batch_idx: int) -> float:
        """Return how much of the run is done, by the limit that is reached first; 0 if there is none."""
        epochs, steps = trainer.max_epochs or -1, trainer.max_steps
        done = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        return max(done / epochs if epochs > 0 else 0.0, trainer.global_step / steps if steps > 0 else 0.0)

    def _time_left(self, trainer: Any, batch_idx: int) -> str:
        """Return the time left until the first limit; an empty string if there is none."""
        started, share = self._start
        done = self._share(trainer, batch_idx)
        timers: list[Any] = [timer for timer in trainer.callbacks if isinstance(timer, Timer)]
        left = [seconds for timer in timers if (seconds := timer.time_remaining()) is not None]
        if done > share:
            left.append((time.monotonic() - started) * (1 - done) / (done - share))
        return f"{timedelta(seconds=max(0, round(min(left))))} left".removeprefix("0:") if left else ""

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
        """Return the values to show, the losses first."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        names = sorted(items, key=lambda name: "loss" not in name)
        shown: dict[str, Any] = {name.removeprefix("train/"): items[name] for name in names}
        started, images = self._epoch
        if trainer.training and hasattr(pl_module, "images_seen"):
            shown["images/s"] = f"{(pl_module.images_seen - images) / (time.monotonic() - started):,.0f}"
        return shown
