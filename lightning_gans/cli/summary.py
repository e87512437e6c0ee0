"""What a fit leaves behind: a record of how it was run, in ``run.json``, and a summary of where everything is."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lightning_gans._lightning import ModelCheckpoint, Timer, pl
from lightning_gans._version import __version__
from lightning_gans.callbacks import GenerativeMetrics
from lightning_gans.cli.arguments import PROGRAM
from lightning_gans.cli.config_check import imports_needed
from lightning_gans.cli.run_folder import RunFolder, read_json
from lightning_gans.errors import printable
from lightning_gans.io.files import replacing
from lightning_gans.metrics.samples import translates
from lightning_gans.training import checkpoint_format

_NOT_YET = "yet: no validation has computed them; see trainer.check_val_every_n_epoch and metrics.every_n_epochs"


def write_record(trainer: pl.Trainer, words: Sequence[str], seconds: float, from_step: int, commit: str | None) -> None:
    """Append an entry for a fit to ``run.json`` in the run's folder.

    A fit from update 0 starts a new file, and a damaged file is replaced. A fit that was killed leaves no entry, which
    shows as a gap. ``commit`` is the commit at the start; the repository may have changed since.
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


def describe_parameters(model: torch.nn.Module) -> str:
    """Return the number of trained parameters, in total and for each network."""
    counts = {
        name: sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        for name, network in model.named_children()
    }
    networks = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count > 0)
    return f"{type(model).__name__}: {sum(counts.values()):,} parameters ({networks})"


def print_summary(trainer: pl.Trainer, seconds: float, finished: bool, trained: bool = True) -> None:
    """Print where everything is and what to do next; the command that resumes a finished run raises its limit."""
    model: Any = trainer.lightning_module
    if finished and not trained:
        reached = " and ".join(word.removeprefix("--") for word in _larger_limits(trainer)[::2])
        why = f"the run had already reached {reached or 'its limit'}"
        if trainer.limit_train_batches == 0:
            why = "trainer.limit_train_batches is 0"
        print(f"\nNothing was trained: {why}.")
    print(f"\n{trainer.global_step:,} updates, {model.images_seen:,} images, {seconds / 60:.1f} minutes")
    checkpoint: Any = next((c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), None)
    run = RunFolder.of_trainer(trainer, getattr(checkpoint, "dirpath", None))
    places = {
        "last checkpoint": [run.last],
        "best checkpoint": [run.best],
        "samples": run.pictures("samples"),
        "reconstructions": run.pictures("reconstructions"),
        "scores": run.all_scores(),
        "losses": [run.metrics],
    }
    monitored = {}
    if checkpoint is not None and checkpoint.monitor:
        monitored["last checkpoint"] = trainer.callback_metrics.get(checkpoint.monitor)
        monitored["best checkpoint"] = checkpoint.best_model_score
    for what, paths in places.items():
        if paths and paths[-1].is_file():
            value = monitored.get(what)
            score = "" if value is None else f"   {checkpoint.monitor} {float(value):.4g}"
            print(f"  {what:16} {_shown(paths[-1])}{score}")
    if monitored and places["scores"]:
        print(*_comparison(checkpoint.monitor, read_json(places["scores"][-1])), sep="\n")
    scorer = next((callback for callback in trainer.callbacks if isinstance(callback, GenerativeMetrics)), None)  # type: ignore[attr-defined]
    if scorer is not None and not places["scores"]:
        lacking = (scorer.metrics or scorer.own) and scorer.network is None
        why = "without an extractor: see the warning at the start" if lacking else _NOT_YET
        print(f"  no scores {why}")
    if not run.last.is_file():
        return
    settings = run.settings() if run.config.is_file() else {}
    if translates(model):
        use = ["translate", _shown(run.last), "pictures", "--output", "translated"]
    else:
        output = "samples.png" if model.makes_pictures else "samples.npz"
        use = ["sample", _shown(run.last), "--num_samples", "64", "--output", output]
    described = settings.get("model", {})
    arguments = described.get("init_args", {}).items()
    kept = {name: value for name, value in arguments if not name.endswith(checkpoint_format.FOR_TRAINING)}
    use += _imports({**described, "init_args": kept})
    resume = ["resume", _shown(run.path), *(_larger_limits(trainer) if finished else []), *_imports(settings)]
    report = [["report", _shown(run.path)]] if run.metrics.is_file() else []
    print("Next:", *(shlex.join([PROGRAM, *words]) for words in (use, resume, *report)), sep="\n  ")
    if finished and model.lr_schedule != "constant":
        print(f"(When resumed, the {model.lr_schedule} schedule is stretched over the longer run.)")


def _imports(settings: Any) -> list[str]:
    """Return the options that import the custom modules which settings name."""
    return [f"--import={module}" for module in imports_needed(settings)]


def _comparison(monitor: str, record: dict[str, Any]) -> list[str]:
    """Return lines with a score, of how many images it is, and the score of real images, if the record has them."""
    name, protocol, floor = monitor.removeprefix("val/"), record.get("protocol", {}), record.get("floor") or {}
    found = [
        (record, "scores", f"{protocol.get('num_samples', 0):,} samples"),
        (floor, "samples", f"{floor.get('num_images', 0):,} samples"),
        (floor, "scores", f"{floor.get('num_images', 0):,} other real images"),
    ]
    against = f"against {protocol.get('num_real', 0):,} real images"
    return [
        f"    {name} of {what} {against}: {values[key][name]:.4g}"
        for values, key, what in found
        if "num_real" in protocol and name in values.get(key, {})
    ]


def _larger_limits(trainer: pl.Trainer) -> list[str]:
    """Return the options that double the limits which ended a run."""
    more: list[str] = []
    if 0 <= trainer.max_steps <= trainer.global_step:
        more += ["--trainer.max_steps", str(2 * trainer.max_steps)]
    if 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch:
        more += ["--trainer.max_epochs", str(2 * trainer.max_epochs)]  # type: ignore[operator]
    for timer in (c for c in trainer.callbacks if isinstance(c, Timer)):  # type: ignore[attr-defined]
        left = timer.time_remaining()
        if left is not None and left <= 0:
            minutes, seconds = divmod(math.ceil(2 * timer.time_elapsed()), 60)
            hours, minutes = divmod(minutes, 60)
            more += ["--trainer.max_time", f"{hours // 24:02}:{hours % 24:02}:{minutes:02}:{seconds:02}"]
    return more


def _shown(path: Path) -> str:
    """Return a path for printing, relative to the working folder if it is inside."""
    inside = path.is_absolute() and path.is_relative_to(Path.cwd())
    return printable(str(path.relative_to(Path.cwd()) if inside else path))
