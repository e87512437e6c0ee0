"""Kill a training run at random moments, resume it, and compare its end with that of an uninterrupted run.

    python benchmarks/kill_resume.py --kills 20
    python benchmarks/kill_resume.py --kills 5 --recipe cyclegan_folder --data.data_dir=DIR --data.target_dir=DIR …

Each trial starts `lightning-gans fit`, sends it SIGKILL, checks the files on the disk, runs `lightning-gans resume` to
the end, and compares every file of the run folder: checkpoints entry by entry, the others byte by byte. The first trial
is killed before its first checkpoint, a third of the others while a checkpoint is written. TMPDIR is on another file
system if there is one. Other words go to `lightning-gans fit`. Prints JSON; the exit code is 1 unless all trials end
equal.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

TEMPORARY = ".*.tmp"  # a killed run may leave them, and saves after more than an hour remove them
FIRST, SAVE, OTHER = "before the first checkpoint", "inside a save", "elsewhere"


def fit_words(args):
    """Return the command line of a run that saves, logs and validates often."""
    return [
        *("fit", "-c", args.recipe, "--trainer.accelerator", "cpu", "--trainer.max_epochs", str(args.epochs)),
        *("--trainer.check_val_every_n_epoch", "2", "--trainer.log_every_n_steps", "5", "--model.width", "16"),
        *("--metrics.num_samples", "100", "--metrics.every_n_epochs", "2", "--checkpoint.every_n_steps", "10"),
        *("--trainer.devices", str(args.devices), *(["--trainer.strategy", "ddp"] if args.devices > 1 else [])),
        *args.words,
    ]


def start(words, folder, environment):
    """Start a command in its own process group."""
    command = [sys.executable, "-m", "lightning_gans", *words]
    with open(folder / "log.txt", "a") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def wait_for(condition, process, seconds=120):
    """Wait until a condition holds or the process ends."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.00005)


def is_saving(run):
    return any((run / "checkpoints").glob(TEMPORARY))


def strike(process, run, kind, duration, chance):
    """Kill a run at a moment of a kind; return the kind that it was, or None if the run has ended."""
    checkpoint = run / "checkpoints" / "last.ckpt"
    if kind == FIRST:
        wait_for((run / "config.yaml").is_file, process)
        time.sleep(chance.uniform(0, 0.3))
    else:
        wait_for(checkpoint.is_file, process)
        time.sleep(chance.uniform(0, duration * 0.9))
        if kind == SAVE:
            wait_for(lambda: is_saving(run), process)
    if process.poll() is not None:
        return None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if not checkpoint.is_file() and not (run / "checkpoints" / "best.ckpt").is_file():
        return FIRST
    return SAVE if is_saving(run) else OTHER


def unreadable(run):
    """Return the files of a run that cannot be read, except temporary ones."""
    wrong = []
    for path in (path for path in run.rglob("*") if path.is_file() and not path.match(TEMPORARY)):
        try:
            if path.suffix == ".ckpt":
                torch.load(path, weights_only=True)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".png":
                Image.open(path).load()
        except Exception as error:
            wrong.append(f"{path.name}: {error}")
    return wrong


def differences(first, second, place=""):
    """Return the places where two nests of dicts, lists and tensors differ in a bit."""
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            return [f"{place}: {sorted(map(str, first.keys() ^ second.keys()))}"]
        return [d for key in first for d in differences(first[key], second[key], f"{place}/{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [d for index, (a, b) in pairs for d in differences(a, b, f"{place}/{index}")]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if first.dtype == second.dtype and first.equal(second) else [place]
    return [] if first == second else [f"{place}: {first!r} {second!r}"]


def compare(run, reference):
    """Return the differences between two run folders."""
    found = [[path for path in r.rglob("*") if path.is_file() and not path.match(TEMPORARY)] for r in (run, reference)]
    names = [{str(path.relative_to(r)) for path in paths} for paths, r in zip(found, (run, reference), strict=True)]
    wrong = [f"only in one: {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if name.endswith(".ckpt"):
            pair = [torch.load(folder / name, weights_only=True) for folder in (run, reference)]
            wrong += [f"{name}{place}" for place in differences(*pair)]
        elif name == "run.json":  # each part of the run has its command, date and seconds
            ends = [json.loads((folder / name).read_text())["fits"][-1] for folder in (run, reference)]
            wrong += [f"{name}/{key}" for key in ("step", "images_seen") if ends[0][key] != ends[1][key]]
        elif name.endswith(".json"):  # with the date and the seconds
            scores = [json.loads((folder / name).read_text())["scores"] for folder in (run, reference)]
            wrong += [name] if scores[0] != scores[1] else []
        elif (run / name).read_bytes() != (reference / name).read_bytes():
            wrong.append(name)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--devices", type=int, default=1, help="processes")
    parser.add_argument("--recipe", default="quickstart")
    args, args.words = parser.parse_known_args()
    place = Path("runs", Path(args.recipe).stem, "version_0")
    chance = random.Random(args.seed)
    base, shared = Path(tempfile.mkdtemp(prefix="kill_resume_")), Path("/dev/shm")
    elsewhere = shared.is_dir() and os.stat(shared).st_dev != os.stat(base).st_dev
    temporary = Path(tempfile.mkdtemp(prefix="kill_resume_", dir=shared if elsewhere else None))
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}

    reference = base / "reference"
    reference.mkdir()
    process = start(fit_words(args), reference, environment)
    wait_for((reference / place / "checkpoints" / "last.ckpt").is_file, process)
    began = time.monotonic()
    assert process.wait() == 0, (reference / "log.txt").read_text()[-2000:]
    duration = time.monotonic() - began

    trials, saves = [], 0
    while len(trials) < args.kills:
        folder = base / f"trial_{len(trials):02d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        kind = FIRST if not trials else SAVE if saves < max(5, args.kills // 3) else OTHER
        moment = strike(start(fit_words(args), folder, environment), folder / place, kind, duration, chance)
        if moment is None or (not trials and moment != kind):
            continue
        saves += moment == SAVE
        wrong = unreadable(folder / place)
        code = start(["resume", str(place)], folder, environment).wait()
        found = compare(folder / place, reference / place) if code == 0 else [f"exit code {code}"]
        trials.append({"moment": moment, "unreadable": wrong, "differences": found})
        print(f"trial {len(trials)}: killed {moment}: {found or 'equal'}", file=sys.stderr, flush=True)

    moments = [trial["moment"] for trial in trials]
    equal = sum(not trial["differences"] for trial in trials)
    report = vars(args) | {
        "kills": len(trials),
        "equal": equal,
        "moments": {moment: moments.count(moment) for moment in sorted(set(moments))},
        "unreadable_files": sum(len(trial["unreadable"]) for trial in trials),
        "left_in_TMPDIR": sorted(path.name for path in temporary.iterdir()),
        "trials": [trial for trial in trials if trial["differences"] or trial["unreadable"]],
    }
    print(json.dumps(report, indent=2))
    shutil.rmtree(temporary, ignore_errors=True)
    if equal < len(trials):
        sys.exit(f"The folders are in {base}.")
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
