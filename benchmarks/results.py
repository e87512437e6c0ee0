"""Write RESULTS.md from run folders: mean and standard deviation over the seeds, and how the runs were made.

    python benchmarks/results.py runs/dcgan_mnist/version_* runs/cgan_mnist/version_* --output RESULTS.md

A run folder is written by ``lightning-gans fit`` or ``test``: ``config.yaml`` and ``metrics/step=….json``, which have
scores with their protocol. Optional files are read too: ``metrics.csv`` (the monitored score of each validation),
``run.json`` (how the run was made; command and seconds are "-" if a part of it was killed and has no entry), and the
JSON of other measurements: ``mnist_score.json``, ``augment_trial.json``, ``sines_score.json`` and ``modes.json``.

Scores of different protocols never share a table. Runs of one recipe are averaged if only their seeds differ. The same
files give the same bytes. Exit codes: 0 written, 1 a file is missing or damaged, 2 invalid options.
"""

import argparse
import csv
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightning_gans import DataError, LightningGansError
from lightning_gans.io.files import check_writable, replacing
from lightning_gans.metrics.protocol import read_scores

ORDER = (  # of the columns; others follow by their names
    *("fid", "kid", "inception_score", "precision", "recall", "density", "coverage", "label_accuracy"),
    *("modes", "mode_kl", "elbo", "iw_bound", "reconstruction", "kl", "bits_per_dim", "distance", "ratio"),
)
LIKELIHOODS = {"elbo", "iw_bound", "bits_per_dim"}
# Settings that affect a result, other than the seed; paths and the use of the machine do not.
SETTINGS = {"model", "data", "trainer", "init_from"}
TRAINING = {"max_epochs", "max_steps", "max_time", "devices", "num_nodes", "precision"}
TRAINING |= {"limit_train_batches", "overfit_batches"}
NO_EFFECT = {"data_dir", "download", "device_resident"}
SECTIONS = {
    "Samples": "Scores of samples at the end of each run; `best` is the value by which best.ckpt was chosen.",
    "Likelihoods": "Log-likelihoods in nats per image, higher is better.",
    "Modes": "Modes that the samples cover.",
    "MNIST score": "`benchmarks/mnist_score.py`: the distance as a share of a plain reference GAN's; label accuracy is "
    "GAN-test.",
    "Augmentation": "`lightning-gans augment-trial`: accuracy on real test images of classifiers that were trained on "
    "real images, with classical augmentation, with samples, and on samples alone.",
    "Sequences": "`benchmarks/sines_score.py`: two-sample tests against held-out sequences.",
}


@dataclass
class Score:
    """The scores of a run under one protocol."""

    section: str
    protocol: dict[str, Any]
    values: dict[str, float]
    best: tuple[str, float] | None = None  # the monitored score and its best value over the run
    real: tuple[str, dict[str, float]] | None = None  # a label and the scores of real images


@dataclass
class Run:
    """A run folder; ``settings`` are those that affect a result, by their dotted names."""

    folder: Path
    recipe: str
    seed: int | None
    data: str
    settings: dict[str, Any]
    scores: list[Score] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------- reading


def read_run(folder: Path) -> Run:
    """Read all files of a run.

    Raises:
        DataError: A file is missing or damaged, or a score is not finite.
    """
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        records = [read_scores(path) for path in sorted((folder / "metrics").glob("step=*.json"))]
        data = str(config["data"].get("class_path", "-")).rsplit(".", 1)[-1]
        run = Run(folder, folder.resolve().parent.name, config.get("seed_everything"), data, dict(flat(config)))
        if records and all(record["stage"] == "test" for record in records):  # the seed and trainer are the test's
            run.seed = records[-1].get("run_seed", run.seed)
            run.settings = {key: value for key, value in run.settings.items() if not key.startswith("trainer.")}
        run.scores = evaluations(folder, config.get("checkpoint") or {}, records)
        for name, adapt in ATTACHED.items():
            if (path := folder / f"{name}.json").is_file():
                run.scores.append(adapt(json.loads(path.read_text(encoding="utf-8"))))
        run.about = about(folder, records)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, IndexError, AttributeError, csv.Error) as error:
        message = f"{folder} is not a run folder, or a file in it is damaged: {type(error).__name__} {error}."
        raise DataError(message, setting=str(folder)) from None
    if not run.scores or not all(math.isfinite(value) for score in run.scores for value in score.values.values()):
        raise DataError(f"{folder} has no scores, or one that is not finite.", setting=str(folder))
    return run


def flat(settings: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the settings that affect a result, by their dotted names."""
    for name, value in settings.items():
        if name in NO_EFFECT or (not prefix and name not in SETTINGS):
            continue
        if prefix == "trainer." and name not in TRAINING:
            continue
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}".replace("init_args.", ""), value


def evaluations(folder: Path, checkpoint: dict[str, Any], records: list[dict[str, Any]]) -> list[Score]:
    """Return a score for each protocol and stage: that of the last step, with the best of all steps."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(f"{record['stage']} {key_of(record['protocol'])}", []).append(record)
    scores = []
    for group in groups.values():
        last = max(group, key=lambda record: record["step"])
        section = "Likelihoods" if LIKELIHOODS & set(last["scores"]) else "Samples"
        floor = last.get("floor") or {}
        real = (f"real images, {floor['split']} split", floor["scores"]) if floor else None
        score = Score(section, last["protocol"], last["scores"], real=real)
        if last["stage"] == "val":
            alone = sum(record["stage"] == "val" for record in records) == len(group)
            score.best = best_of(folder, checkpoint, group, alone)
        scores.append(score)
    return scores


def best_of(
    folder: Path, checkpoint: dict[str, Any], group: list[dict[str, Any]], alone: bool
) -> tuple[str, float] | None:
    """Return the score that best.ckpt was saved by, also from metrics.csv if one protocol made all of it."""
    monitor = str(checkpoint.get("monitor") or "")
    name = monitor.removeprefix("val/")
    found = {record["step"]: record["scores"][name] for record in group if name in record["scores"]}
    if found and alone and (path := folder / "metrics.csv").is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = {int(row["step"]): float(row[monitor]) for row in csv.DictReader(file) if row.get(monitor)}
        found = rows | found  # the records are exact, the file rounds
    best = max if checkpoint.get("mode") == "max" else min
    return (name, best(found.values())) if found else None


def about(folder: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how the run was made, as far as its files say."""
    last = max(records, key=lambda record: (record["step"], record.get("date", "")), default={})
    versions, fits = last.get("versions", {}), [{}]
    if (path := folder / "run.json").is_file():
        fits = json.loads(path.read_text(encoding="utf-8"))["fits"]
    # Each fit starts where the one before ended, up to the last scores, unless one was killed.
    steps = [0, *(fit.get("step") for fit in fits)]
    whole = all(fit.get("from_step", step) == step for fit, step in zip(fits, steps, strict=False))
    whole = whole and (steps[-1] is None or last.get("step", 0) <= steps[-1])
    seconds = [fit.get("seconds") for fit in fits]
    hardware = sorted({str(fit["hardware"]) for fit in fits if fit.get("hardware")})
    commits = sorted({str(fit["commit"]).replace(str(fit["commit"])[9:40], "") for fit in fits if fit.get("commit")})
    version = versions.get("lightning_gans") or fits[-1].get("version")
    version = " ".join(["lightning_gans", version, *commits]) if version else None
    return {
        "images": fits[-1].get("images_seen", last.get("images_seen")),
        "minutes": sum(seconds) / 60 if whole and None not in seconds else None,
        "hardware": "; ".join(hardware) or last.get("hardware"),
        "version": f"{version}, torch {versions['torch']}" if version and "torch" in versions else version,
        "date": str(last.get("date") or fits[-1].get("date") or "")[:10] or None,
        # Without the options that name paths, which differ from reader to reader.
        "command": re.sub(rf" --data\.({'|'.join(NO_EFFECT)})[= ]\S+", "", fits[0].get("command") or "") * whole
        or None,
    }


# ------------------------------------------------------------------------------------ attached files


def from_mnist_score(report: dict[str, Any]) -> Score:
    (row,) = report["files"]
    names = ("distance", "ratio", "precision", "recall", "label_accuracy")
    protocol = {
        "metric": "mnist_score",
        "version": report["recipe"],
        "scorer_sha256": report["scorer"]["sha256"],
        "num_samples": row["num_samples"],
        "neighbors": report["neighbors"],
        "reference_distance": report["reference"]["mean"],
    }
    return Score("MNIST score", protocol, {name: float(row[name]) for name in names if row[name] is not None})


def from_sines_score(report: dict[str, Any]) -> Score:
    def of_tests(tests: dict[str, Any]) -> dict[str, float]:
        return {f"{name} {key}": tests[name][key] for name in sorted(tests) for key in ("statistic", "p_value")}

    values = of_tests(report["tests"]) | {"residual": report["residual"]["samples"][0]}
    real = ("other real sequences", of_tests(report["floor"]) | {"residual": report["residual"]["data"][0]})
    return Score("Sequences", report["protocol"], values, real=real)


ATTACHED: dict[str, Callable[[dict[str, Any]], Score]] = {
    "mnist_score": from_mnist_score,
    "augment_trial": lambda report: Score("Augmentation", report["protocol"], report["scores"]),
    "sines_score": from_sines_score,
    "modes": lambda report: Score("Modes", report["protocol"], report["scores"]),
}

# ------------------------------------------------------------------------------------------- writing


def key_of(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def name_runs(runs: list[Run]) -> dict[str, list[Run]]:
    """Group the runs that differ only in their seeds, by the recipe and the settings that distinguish its groups."""
    named: dict[str, list[Run]] = {}
    for recipe in sorted({run.recipe for run in runs}):
        group = [run for run in runs if run.recipe == recipe]
        values: dict[str, set[str]] = {}
        for run in group:
            for key, value in run.settings.items():
                values.setdefault(key, set()).add(key_of(value))
        for run in group:
            settings = [f"{key} {run.settings[key]}" for key in sorted(run.settings) if len(values[key]) > 1]
            named.setdefault(f"{recipe} ({', '.join(settings)})" if settings else recipe, []).append(run)
    for group in named.values():
        group.sort(key=lambda run: (run.seed is None, run.seed or 0, str(run.folder)))
    return named


def spread(values: Sequence[float], of: int) -> str:
    """Write mean and standard deviation, and the number of values if some runs have none."""
    if not values:
        return "-"
    mean = statistics.fmean(values)
    decimals = 4 if abs(mean) < 1 else 3 if abs(mean) < 10 else 2
    text = f"{mean:.{decimals}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{decimals}f}"
    return text if len(values) == of else f"{text} (n = {len(values)})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (list(heads), ["---"] * len(heads), *cells)]


def score_tables(named: dict[str, list[Run]]) -> list[str]:
    """Write a table for each protocol of each section."""
    sections: dict[str, dict[str, dict[str, list[tuple[Run, Score]]]]] = {}
    for name, runs in named.items():
        for run in runs:
            for score in run.scores:
                rows = sections.setdefault(score.section, {}).setdefault(key_of(score.protocol), {})
                rows.setdefault(name, []).append((run, score))
    lines = []
    for section in (name for name in SECTIONS if name in sections):
        lines += [f"## {section}", "", SECTIONS[section], ""]
        for number, (protocol, rows) in enumerate(sorted(sections[section].items()), 1):
            if len(sections[section]) > 1:
                lines += [f"### Protocol {number}", ""]
            texts = {name: str(value) for name, value in json.loads(protocol).items()}
            said = (f"{k} {v[:16] if len(v) == 64 and ' ' not in v else v}" for k, v in texts.items())  # hashes
            lines += [*score_table(rows), "", f"Protocol: {'; '.join(said)}.", ""]
    return lines


def score_table(rows: dict[str, list[tuple[Run, Score]]]) -> list[str]:
    """Write the scores of one protocol: the final ones, and the best of the monitored one."""
    pairs = [pair for row in rows.values() for pair in row]
    names = {name for _, score in pairs for name in score.values if "/" not in name and name != "kid_std"}
    columns = sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    monitored = sorted({score.best[0] for _, score in pairs if score.best})
    heads = ["model", "data", "n", *columns[:1], *(f"{name}, best" for name in monitored), *columns[1:]]
    lines = []
    for name, row in sorted(rows.items()):
        seeds = [run.seed for run, _ in row if run.seed is not None]
        if len(set(seeds)) < len(seeds):
            raise DataError(f"Two runs of {name} have the same seed: seeds are {seeds}.", setting=name, value=seeds)

        scores = [score for _, score in row]
        best = [spread([s.best[1] for s in scores if s.best and s.best[0] == key], len(row)) for key in monitored]
        cells = [spread([s.values[name] for s in scores if name in s.values], len(row)) for name in columns]
        lines.append([name, row[0][0].data, str(len(row)), *cells[:1], *best, *cells[1:]])
    real = {key_of(score.real): score.real for _, score in pairs if score.real}
    for what, values in (real[key] for key in sorted(real)):
        cells = [spread([values[name]] if name in values else [], 1) for name in columns]
        lines.append([what, "", "", *cells[:1], *("" for _ in monitored), *cells[1:]])
    return table(heads, lines)


def run_table(named: dict[str, list[Run]]) -> list[str]:
    """Write how the runs were made."""
    rows = []
    for name, runs in sorted(named.items()):
        found = {key: [run.about[key] for run in runs if run.about[key] is not None] for key in runs[0].about}
        row = [
            name,
            ", ".join(dict.fromkeys(str("-" if run.seed is None else run.seed) for run in runs)),
            ", ".join(f"{count:,}" for count in sorted(set(found["images"]))),
            f"{statistics.fmean(found['minutes']):.1f} min" if found["minutes"] else "",
            *("; ".join(sorted(set(map(str, found[key])))) for key in ("hardware", "version", "date")),
            f"`{found['command'][0]}`" if found["command"] else "",
        ]
        rows.append([cell or "-" for cell in row])
    heads = ["model", "seeds", "images seen", "wall time", "hardware", "version", "date", "command"]
    about = "Wall time is the mean of the runs; the command is that of the first seed."
    return ["## Runs", "", about, "", *table(heads, rows)]


def make_page(runs: list[Run]) -> str:
    named = name_runs(runs)
    about = (
        "Made by `benchmarks/results.py` from run folders. Mean ± standard deviation over n runs that differ in their "
        "seed alone; one run stands without ±. Each table has one protocol; numbers of two tables do not compare."
    )
    return "\n".join(["# Results", "", about, "", *score_tables(named), *run_table(named)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, runs/<recipe>/version_N")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.md", help="the page")
    options = parser.parse_args(arguments)
    try:
        check_writable(options.output)
        folders = {folder.resolve(): folder for folder in options.runs}  # once each
        page = make_page([read_run(folder) for folder in sorted(folders.values())])
        with replacing(options.output) as file:
            file.write(page.encode())
    except LightningGansError as error:
        print("error: " + " ".join(str(error).splitlines()), file=sys.stderr)
        return 1
    print(f"{len(folders)} runs: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
