"""A run that is told to stop ends its update, saves, and says how to go on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, cast

import torch

from lightning_gans._lightning import (
    Callback,
    LightningEnvironment,
    SIGTERMException,
    SLURMEnvironment,
    pl,
    rank_zero_warn,
)
from lightning_gans.callbacks.checkpoint import Checkpoint
from lightning_gans.metrics.processes import on_first_process
from lightning_gans.models.base import GenerativeModule


class Stopped(SystemExit):
    """The run was told to stop; the code is 128 + the signal's number."""


class GracefulStop(Callback):
    """At SIGINT (Ctrl-C), SIGTERM and SLURM's requeue signal: finish the update, save ``last.ckpt``, and exit.

    All processes stop after the same update, whichever of them got the signal. In a validation one process
    stops at once, several at its end; what is saved is the state of the last update, and the resumed run
    validates again. The exit code is 128 + the signal's number, 130 for Ctrl-C. A second Ctrl-C stops at once and
    saves nothing. Under SLURM the requeue signal puts the job back into the queue after the save; Lightning's own
    handler, which may save between the two updates of a step, is replaced.
    """

    def __init__(self) -> None:
        self._trainer: Any = None
        self._signal: int | None = None
        self._requeue_signal: int | None = None
        self._arriving: tuple[torch.Tensor, torch.cuda.Event] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which gives back those of before at the end of the fit."""
        self._trainer, self._signal, self._arriving = trainer, None, None
        if trainer.received_sigterm:  # while the run was being set up
            self._signal = signal.SIGTERM
            trainer._signal_connector.received_sigterm = False  # or Lightning leaves after the first update, unsaved
        # The strategy of a single process does not tell where it runs.
        environment = getattr(trainer._accelerator_connector, "cluster_environment", None)
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue_signal = environment.requeue_signal or signal.SIGUSR1
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread do it
            for number in (signal.SIGINT, signal.SIGTERM, self._requeue_signal):
                if number is not None:
                    signal.signal(number, self._receive)

    def _receive(self, number: int, _: Any) -> None:
        """Note a signal; act on it at once only where no update can be under way."""
        if self._signal is not None:
            if number == signal.SIGINT:
                os._exit(128 + number)
            return
        self._signal = number
        if self._trainer is not None and self._trainer.validating and self._trainer.world_size == 1:
            raise Stopped(128 + number)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Vote for a stop; the votes are counted in the generator's update."""
        if self._signal is not None:
            pl_module.stop_vote.fill_(1)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop if any process wants to."""
        if self._is_agreed(trainer, pl_module):
            self._stop(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop if any process wants to: several processes meet here, and not within a validation."""
        if self._trainer is None or trainer.world_size == 1:
            return
        if trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False):
            self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave what comes after the training alone: the run is complete."""
        self._trainer = None

    def _is_agreed(self, trainer: pl.Trainer, model: GenerativeModule) -> bool:
        """Whether a vote for a stop has been counted, without making the host wait for an accelerator."""
        if trainer.world_size == 1:
            return self._signal is not None
        vote = cast(torch.Tensor, model.stop_vote)
        if vote.device.type != "cuda":
            return bool(vote)
        # Read one update late, when the number has long arrived.
        arriving = torch.empty((), pin_memory=True).copy_(vote, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        before, self._arriving = self._arriving, (arriving, event)
        if before is None:
            return False
        before[1].synchronize()
        return bool(before[0])

    def _stop(self, trainer: pl.Trainer) -> None:
        """Leave the fit on all processes with the same signal."""
        device = trainer.strategy.root_device
        number = trainer.strategy.reduce(torch.tensor(self._signal or 0, device=device), reduce_op="max")
        self._signal = int(number)
        raise Stopped(128 + self._signal)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save, say how to go on, and put a SLURM job back into the queue."""
        if isinstance(exception, SIGTERMException):  # Lightning's, before the first update: nothing to save
            exception.code = 128 + signal.SIGTERM
        if not isinstance(exception, Stopped) or self._signal is None:
            return
        path = _save(trainer)
        if trainer.is_global_zero:
            name = signal.Signals(self._signal).name
            print(
                f"\nStopped by {name} after update {trainer.global_step:,}. {_how_to_go_on(trainer, path)}", flush=True
            )
        if self._signal == self._requeue_signal:
            on_first_process(trainer.strategy, _requeue)
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if isinstance(environment, LightningEnvironment) and trainer.local_rank > 0:
            # Where Lightning has started the processes, it kills the first one if another fails before it is gone.
            exception.code = 0


def _save(trainer: pl.Trainer) -> Path | None:
    """Save ``last.ckpt`` where the run's checkpoints are; return its path, or None where the run keeps none."""
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


def _how_to_go_on(trainer: pl.Trainer, path: Path | None) -> str:
    """Return the sentence that tells how to resume."""
    if path is None:
        return "Nothing was saved, as the run keeps no checkpoints."
    run = trainer.loggers[0].log_dir if trainer.loggers else None
    if run is not None and (Path(run) / "config.yaml").is_file():
        return f"Go on:  lightning-gans resume {run}"
    return f"Go on:  trainer.fit(model, ckpt_path={str(path)!r})"


def slurm_job() -> str | None:
    """Return the name of the SLURM job that this is, with its task where it is an array; None if it is none."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return os.environ.get("SLURM_JOB_ID") if array is None else f"{array}_{task}"


def _requeue() -> None:
    """Put this SLURM job back into the queue."""
    job = str(slurm_job())
    program = shutil.which("scontrol")
    if program is None:
        rank_zero_warn(f"scontrol is not to be found: the job {job} was not put back into the queue.")
        return
    result = subprocess.run([program, "requeue", job], capture_output=True, text=True)
    if result.returncode:
        rank_zero_warn(f"scontrol requeue {job} failed: {result.stderr.strip()}")
    else:
        print(f"Put job {job} back into the queue.", flush=True)
