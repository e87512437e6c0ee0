"""What a fit leaves behind when it ends: how it was made, in ``run.json``, and where everything is, in a few lines."""

from __future__ import annotations

import contextlib
import json
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import lightning_gans
from lightning_gans._lightning import pl
from lightning_gans.cli.parsing import PROGRAM
from lightning_gans.io.files import replacing

NAME = "run.json"


def write_record(trainer: pl.Trainer, words: Sequence[str], seconds: float, from_step: int, commit: str | None) -> None:
    """Append how a run was made to its folder's ``run.json``: one entry for the fit, and one each time it went on.

    Args:
        trainer: Of the fit that has just ended.
        words: Its command line.
        seconds: How long it took.
        from_step: Where it went on from: a fit that was killed leaves no entry, and is to be missed. From 0 the file
            is begun anew, as one that is damaged is.
        commit: What :func:`find_commit` said when it began: the repository may have moved since.
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
        "version": lightning_gans.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = folder_of(trainer) / NAME
    before = []
    if from_step > 0 and path.is_file():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            before = list(json.loads(path.read_text(encoding="utf-8"))["fits"])
    with replacing(path) as file:
        file.write((json.dumps({"format": 1, "fits": [*before, fit]}, indent=2) + "\n").encode())


def hardware(device: torch.device) -> str:
    """Name what computes: the GPU, or the processor with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # Linux says more there
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}"


def find_commit() -> str | None:
    """Return the commit of a package that is run from its repository, with ``-dirty`` after it where it is changed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def print_summary(trainer: pl.Trainer, callbacks: Mapping[str, Any], seconds: float, finished: bool) -> None:
    """Say where everything is, and what to do next.

    Args:
        trainer: Of the fit that has just ended.
        callbacks: Ours, by their keys in recipes.
        seconds: How long it took.
        finished: Whether it came to its end, so that it needs more room to go on.
    """
    model: Any = trainer.lightning_module
    print(f"\n{trainer.global_step:,} updates, {model.images_seen:,} images, {seconds / 60:.1f} minutes")
    checkpoint = callbacks["checkpoint"]
    folder = Path(checkpoint.dirpath or ".")
    places = {
        "last checkpoint": folder / "last.ckpt",
        "best checkpoint": folder / "best.ckpt",
        "samples": callbacks["samples"].last_path,
        "reconstructions": callbacks["reconstructions"].last_path,
        "scores": callbacks["metrics"].last_path,
        "losses": folder_of(trainer) / "metrics.csv",
    }
    monitored = {
        "last checkpoint": trainer.callback_metrics.get(checkpoint.monitor or ""),
        "best checkpoint": checkpoint.best_model_score,
    }
    found = {what: shown(path) for what, path in places.items() if path is not None and path.is_file()}
    for what, path in found.items():
        value = monitored.get(what)
        score = "" if value is None else f"   {checkpoint.monitor} {float(value):.4g}"
        print(f"  {what:16} {path}{score}")
    last = found.get("last checkpoint")
    if last is None:
        return
    output = "samples.png" if model.makes_pictures else "samples.npz"
    more = _more(trainer) if finished else ""
    print(f"Sample:  {PROGRAM} sample {shlex.quote(last)} --num_samples 64 --output {output}")
    print(f"Go on:   {PROGRAM} resume {shlex.quote(shown(folder_of(trainer)))} {more}".rstrip())


def _more(trainer: pl.Trainer) -> str:
    """Return the flag that gives a finished run room to go on."""
    if trainer.max_steps != -1:
        return f"--trainer.max_steps {2 * trainer.max_steps}"
    return f"--trainer.max_epochs {2 * (trainer.max_epochs or 1)}"


def folder_of(trainer: pl.Trainer) -> Path:
    """Return the run's folder, which Lightning's ``trainer.log_dir`` gives only to all processes together."""
    return Path((trainer.loggers[0].log_dir if trainer.loggers else None) or trainer.default_root_dir)


def shown(path: str | Path) -> str:
    """Return a path as short as it can be written."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path)
