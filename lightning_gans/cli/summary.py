"""What a fit leaves behind: how it was made, in ``run.json``, and a summary of where everything is."""

from __future__ import annotations

import contextlib
import json
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lightning_gans._lightning import ModelCheckpoint, pl
from lightning_gans._version import __version__
from lightning_gans.cli.arguments import PROGRAM
from lightning_gans.cli.run_folder import RunFolder, read_json
from lightning_gans.io.files import replacing


def write_record(trainer: pl.Trainer, words: Sequence[str], seconds: float, from_step: int, commit: str | None) -> None:
    """Append an entry for a fit to ``run.json`` in the run's folder.

    Args:
        trainer: The trainer, after the fit.
        words: The command line.
        seconds: How long the fit took.
        from_step: The update it started from. From 0 the file is started over, as is a damaged one. A fit that was
            killed leaves no entry, which shows as a gap.
        commit: What :func:`find_commit` returned at the start; the repository may have changed since.
    """
    model: Any = trainer.lightning_module
    fit = {
        "command": shlex.join([PROGRAM, *words]),
        "from_step": from_step,
        "step": trainer.global_step,
        "images_seen": model.images_seen,
        "seconds": round(seconds, 1),
        "hardware": hardware(trainer.strategy.root_device),
        "processes": trainer.world_size,
        "commit": commit,
        "version": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = RunFolder.of_trainer(trainer).record
    before = read_json(path).get("fits") if from_step > 0 else None
    fits = [*(before if isinstance(before, list) else []), fit]
    with replacing(path) as file:
        file.write((json.dumps({"format": 1, "fits": fits}, indent=2) + "\n").encode())


def hardware(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # more detailed on Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}"


def find_commit() -> str | None:
    """Return the commit of a package that runs from its repository, with ``-dirty`` if it has changes."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def print_summary(trainer: pl.Trainer, seconds: float, finished: bool) -> None:
    """Print where everything is, and what to do next.

    Args:
        trainer: The trainer, after the fit.
        seconds: How long the fit took.
        finished: Whether the fit reached its end, so that resuming needs a larger limit.
    """
    model: Any = trainer.lightning_module
    print(f"\n{trainer.global_step:,} updates, {model.images_seen:,} images, {seconds / 60:.1f} minutes")
    checkpoint: Any = next((c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), None)
    run = RunFolder.of_trainer(trainer, getattr(checkpoint, "dirpath", None))
    places = {
        "last checkpoint": run.last,
        "best checkpoint": run.best,
        "samples": _latest(run.pictures("samples")),
        "reconstructions": _latest(run.pictures("reconstructions")),
        "scores": _latest(run.all_scores()),
        "losses": run.metrics,
    }
    monitored = {}
    if checkpoint is not None and checkpoint.monitor:
        monitored["last checkpoint"] = trainer.callback_metrics.get(checkpoint.monitor)
        monitored["best checkpoint"] = checkpoint.best_model_score
    for what, path in places.items():
        if path is not None and path.is_file():
            value = monitored.get(what)
            score = "" if value is None else f"   {checkpoint.monitor} {float(value):.4g}"
            print(f"  {what:16} {_shown(path)}{score}")
    if not run.last.is_file():
        return
    output = "samples.png" if model.makes_pictures else "samples.npz"
    more = f" {_larger_limit(trainer)}" if finished else ""
    print(f"Sample:  {PROGRAM} sample {shlex.quote(_shown(run.last))} --num_samples 64 --output {output}")
    print(f"Resume:  {PROGRAM} resume {shlex.quote(_shown(run.path))}{more}")


def _latest(paths: Sequence[Path]) -> Path | None:
    return paths[-1] if paths else None


def _larger_limit(trainer: pl.Trainer) -> str:
    """Return the option that lets a finished run continue."""
    if trainer.max_steps != -1:
        return f"--trainer.max_steps {2 * trainer.max_steps}"
    return f"--trainer.max_epochs {2 * (trainer.max_epochs or 1)}"


def _shown(path: Path) -> str:
    """Return a path relative to the working folder where it is inside."""
    return str(path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path)
