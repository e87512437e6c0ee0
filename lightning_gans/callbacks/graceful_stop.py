"""Stop a run on a signal: finish the update, save, and print how to resume."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch

from lightning_gans import _lightning
from lightning_gans._lightning import (
    Callback,
    LightningEnvironment,
    SIGTERMException,
    SLURMEnvironment,
    pl,
    rank_zero_warn,
)
from lightning_gans.callbacks.checkpoint import Checkpoint
from lightning_gans.errors import printable
from lightning_gans.metrics.processes import on_first_process


class Stopped(SystemExit):
    """A signal stopped the run; the exit code is 128 + the signal's number."""


_fitting: WeakSet[GracefulStop] = WeakSet()


def _spare_worker() -> None:
    """Ignore SIGINT in a process that is forked during a fit: a terminal sends Ctrl-C to the workers of loaders too."""
    if _fitting:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_spare_worker)


class GracefulStop(Callback):
    """On SIGINT (Ctrl-C), SIGTERM and SLURM's requeue signal, finish the step, save ``last.ckpt``, and exit.

    Works with any ``LightningModule``. All processes stop after the same step, no matter which of them receives the
    signal. During a validation, a run on one process stops immediately, and a run on several processes at the end of
    the validation; the resumed run validates again. The exit code is 128 + the signal's number, 130 for Ctrl-C. A
    second Ctrl-C stops immediately without saving, and so does a Ctrl-C before training starts. Under SLURM, the
    requeue signal requeues the job after the save. This replaces Lightning's handler, which may save between the two
    updates of a step.
    """

    def __init__(self) -> None:
        self._trainer: Any = None
        self._process = 0
        self._signal: int | None = None
        self._requeue_signal: int | None = None
        self._arriving: tuple[torch.Tensor, torch.cuda.Event] | None = None
        self._last_step = 0
        self._began = False
        self._can_stop = True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep signals away from the loaders' workers, which start before training."""
        _fitting.add(self)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop keeping signals away from the loaders' workers."""
        _fitting.discard(self)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers; Lightning restores the previous ones when the fit ends."""
        self._trainer, self._process, self._signal, self._arriving = trainer, os.getpid(), None, None
        self._last_step, self._began, self._can_stop = trainer.global_step, False, True
        if trainer.received_sigterm:  # while the run was being set up
            self._signal = signal.SIGTERM
            _lightning.forget_sigterm(trainer)
        environment = _lightning.cluster_environment(trainer)
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue_signal = environment.requeue_signal or signal.SIGUSR1
        if threading.current_thread() is threading.main_thread():  # Python allows no other
            for number in (signal.SIGINT, signal.SIGTERM, self._requeue_signal):
                if number is not None:
                    signal.signal(number, self._receive)

    def _receive(self, number: int, _: Any) -> None:
        """Record a signal; act on it immediately only before the first batch or in a validation between two steps."""
        if os.getpid() != self._process:  # a DataLoader's worker inherits the handler, but must serve the last step
            signal.signal(number, signal.SIG_DFL)
            return
        if self._signal is not None:
            if number == signal.SIGINT:
                os._exit(128 + number)
            return
        self._signal = number
        trainer = self._trainer
        if trainer is None or trainer.world_size > 1:
            return
        if not self._began or (trainer.validating and self._can_stop):
            raise Stopped(128 + number)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Vote for a stop; a counted update averages the votes over the processes."""
        self._began, self._can_stop = True, False
        if self._signal is not None and hasattr(pl_module, "stop_vote"):
            pl_module.stop_vote.fill_(1)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop after a step if any process has voted for it."""
        stepped = trainer.global_step != self._last_step
        self._last_step = trainer.global_step
        self._can_stop = stepped or trainer.is_last_batch  # an unfinished step ends with the epoch
        if stepped and self._is_agreed(trainer, pl_module):
            self._stop(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop if any of several processes received a signal; they cannot agree within a validation."""
        if self._trainer is None or trainer.world_size == 1 or not self._can_stop:
            return
        if trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False):
            self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ignore later signals: the run is complete."""
        self._trainer = None

    def _is_agreed(self, trainer: pl.Trainer, pl_module: Any) -> bool:
        """Return whether any process has voted for a stop, without waiting for an accelerator if possible."""
        if trainer.world_size == 1:
            return self._signal is not None
        vote: torch.Tensor | None = getattr(pl_module, "stop_vote", None)
        if vote is None:
            return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)
        if vote.device.type != "cuda":
            return bool(vote)
        # Read the vote one step late, when the copy is done.
        arriving = torch.empty((), pin_memory=True).copy_(vote, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        before, self._arriving = self._arriving, (arriving, event)
        if before is None:
            return False
        before[1].synchronize()
        return bool(before[0])

    def _stop(self, trainer: pl.Trainer) -> None:
        """Leave the fit on all processes, with the same signal."""
        device = trainer.strategy.root_device
        number = trainer.strategy.reduce(torch.tensor(self._signal or 0, device=device), reduce_op="max")
        self._signal = int(number)
        raise Stopped(128 + self._signal)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save, print how to resume, and requeue a SLURM job."""
        if isinstance(exception, SIGTERMException):  # raised by Lightning before training: nothing to save
            exception.code = 128 + signal.SIGTERM
        self._trainer = None
        # If the same signal has killed a DataLoader's worker, the loader raises another error.
        if self._signal is None or not (isinstance(exception, Stopped) or self._can_stop):
            return
        path = _save(trainer) if self._began else None
        if trainer.is_global_zero:
            outcome = "Nothing was saved: no batch has been trained on."
            if self._began:
                outcome = _how_to_resume(trainer, path)
            name = signal.Signals(self._signal).name
            print(f"\nStopped by {name} after update {trainer.global_step:,}. {outcome}", flush=True)
        if self._signal == self._requeue_signal:
            on_first_process(trainer.strategy, _requeue)
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if isinstance(exception, Stopped) and isinstance(environment, LightningEnvironment) and trainer.local_rank > 0:
            # If Lightning started the processes, it kills the first one when another fails before the first has exited.
            exception.code = 0


def _save(trainer: pl.Trainer) -> Path | None:
    """Save ``last.ckpt`` in the folder of the run's checkpoints and return its path; None if the run saves none."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, Checkpoint):
            return callback.write_last(trainer)
        if getattr(callback, "dirpath", None):
            path = Path(callback.dirpath) / "last.ckpt"  # type: ignore[attr-defined]
            trainer.save_checkpoint(path, weights_only=False)
            return path
    return None


def _how_to_resume(trainer: pl.Trainer, path: Path | None) -> str:
    """Return the sentence that says what was saved, or how to resume."""
    if path is None:
        return "Nothing was saved: the run has no checkpoints."
    run = getattr(trainer.loggers[0], "log_dir", None) if trainer.loggers else None
    if run is not None and (Path(run) / "config.yaml").is_file():
        return f"Saved {printable(str(path))}."  # the command line prints how to resume, with all options
    return f"Resume with:  trainer.fit(model, ckpt_path={str(path)!r})"


def slurm_job() -> str | None:
    """Return the id of this SLURM job, with the task of an array job; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return os.environ.get("SLURM_JOB_ID") if array is None else f"{array}_{task}"


def _requeue() -> None:
    """Requeue this SLURM job."""
    job = str(slurm_job())
    program = shutil.which("scontrol")
    if program is None:
        rank_zero_warn(f"scontrol not found; SLURM job {job} was not requeued.")
        return
    result = subprocess.run([program, "requeue", job], capture_output=True, text=True)
    if result.returncode:
        rank_zero_warn(f"scontrol requeue {job} failed: {result.stderr.strip()}")
    else:
        print(f"Requeued SLURM job {job}.", flush=True)
