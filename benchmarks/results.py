"""Make RESULTS.md from run folders: mean and standard deviation over the seeds, and how the runs were made.

    python benchmarks/results.py runs/dcgan_mnist/version_* runs/cgan_mnist/version_* --output RESULTS.md

A run folder is what ``lightning-gans fit`` or ``test`` leaves: ``config.yaml`` and ``metrics/step=….json``, which hold
scores with the protocol they were made under. What else lies in it is taken along: ``metrics.csv`` (the monitored
score of each validation), ``run.json`` (command, seconds, hardware, commit; "-" without it, and command and seconds
are "-" too where a part of the run was killed and has left no entry), and the JSON of the scripts here under the names
``mnist_score.json``, ``gan_train.json``, ``sines_score.json`` and ``modes.json``.

Scores of two protocols never stand in one table, by the rule of ``lightning-gans compare``: all of the protocol is
equal, or it is another one. Runs of one recipe are averaged if nothing but their seeds differs. The same files give the
same bytes. Exit codes: 0 written, 1 a file is missing or damaged, 2 wrong options.
"""

import argparse
import csv
import json
import math
import shlex
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
    *("modes", "mode_kl", "elbo", "iw_bound", "reconstruction", "kl", "bits_per_dim", "distance", "ratio", "accuracy"),
)
LIKELIHOODS = {"elbo", "iw_bound", "bits_per_dim"}
# What makes a difference to a result, other than the seed; where files lie, and how the machine is used, does not.
SETTINGS = {"model", "data", "trainer", "init_from"}
TRAINING = {"max_epochs", "max_steps", "max_time", "devices", "num_nodes", "precision"}
TRAINING |= {"limit_train_batches", "overfit_batches"}
NO_DIFFERENCE = {"data_dir", "download", "device_resident"}


@dataclass
class Score:
    """What one file says of a run.

    Attributes:
        section: The heading that it belongs under.
        protocol: All that has to be equal for two to compare.
        values: The scores by name.
        best: The best value of the monitored score over the run, its name and its step, where they are known.
        real: The scores of real images beside it, and what they are called.
    """

    section: str
    protocol: dict[str, Any]
    values: dict[str, float]
    step: int | None = None
    best: tuple[str, float, int] | None = None
    real: tuple[str, dict[str, float]] | None = None


@dataclass
class Run:
    """A run folder.

    Attributes:
        folder: Where it is.
        recipe: What the run goes by, the name of the folder above.
        seed: That of the training; None where it was drawn.
        settings: Those that make a difference, by their dotted names.
        config: All of them.
        is_test: Whether this is the folder of ``lightning-gans test``, which says nothing of the training.
        scores: All that was measured.
        about: How the run was made, as far as its files say.
    """

    folder: Path
    recipe: str
    seed: int | None
    settings: dict[str, Any]
    config: dict[str, Any]
    is_test: bool = False
    scores: list[Score] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------- reading


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged: it is no JSON object.")
    return content


def read_run(folder: Path) -> Run:
    """Read all that a run folder says of its run."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{folder} is no run folder: config.yaml cannot be read ({error.strerror}).") from None
    except yaml.YAMLError:
        config = None
    if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in ("model", "data")):
        raise DataError(f"{folder / 'config.yaml'} is damaged: it names no model and data.")
    seed = config.get("seed_everything")
    seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else None
    run = Run(folder, folder.resolve().parent.name, seed, dict(flat(config)), config)
    records = [read_record(path) for path in sorted((folder / "metrics").glob("step=*.json"))]
    run.is_test = bool(records) and all(record["stage"] == "test" for record in records)
    if run.is_test:  # its configuration has the seed of the test
        run.seed = records[-1].get("run_seed", seed)
    run.scores = evaluations(run, records)
    for name, adapt in ATTACHED.items():
        path = folder / f"{name}.json"
        if path.is_file():
            try:
                run.scores.append(adapt(read_json(path)))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise DataError(f"{path} is no file of {name}: {type(error).__name__} {error}.") from None
    if not run.scores:
        raise DataError(f"{folder} has no scores: neither metrics/step=….json nor {', '.join(ATTACHED)}.json.")
    for score in run.scores:
        wrong = [name for name, value in score.values.items() if not math.isfinite(value)]
        if wrong:
            raise DataError(f"{folder} has a {score.section} score that is not a finite number: {wrong[0]}.")
    run.about = about(run, records)
    return run


def read_record(path: Path) -> dict[str, Any]:
    record = read_scores(path)
    numbers = all(isinstance(value, int | float) for value in record["scores"].values())
    if not numbers or not isinstance(record.get("step"), int) or "stage" not in record:
        raise DataError(f"{path} is damaged: it has no step, no stage, or scores that are no numbers.")
    return record


def flat(settings: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the settings that make a difference to a result, by their dotted names."""
    for name, value in settings.items():
        if name in NO_DIFFERENCE or (not prefix and name not in SETTINGS):
            continue
        if prefix == "trainer." and name not in TRAINING:
            continue
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}".replace("init_args.", ""), value


def evaluations(run: Run, records: list[dict[str, Any]]) -> list[Score]:
    """Return one score a protocol and stage: that of the last step, with the best of all steps."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(f"{record['stage']} {key_of(record['protocol'])}", []).append(record)
    scores = []
    for group in groups.values():
        last = max(group, key=lambda record: record["step"])
        section = "Likelihoods" if LIKELIHOODS & set(last["scores"]) else "Samples"
        floor = last.get("floor") or {}
        real = (f"real images, {floor['split']} split", floor["scores"]) if floor else None
        score = Score(section, last["protocol"], last["scores"], last["step"], real=real)
        if last["stage"] == "val":
            alone = sum(record["stage"] == "val" for record in records) == len(group)
            score.best = best_of(run, group, alone)
        scores.append(score)
    return scores


def best_of(run: Run, group: list[dict[str, Any]], whole: bool) -> tuple[str, float, int] | None:
    """Return the score that best.ckpt was saved by; from metrics.csv too, where one protocol made all of it."""
    checkpoint = run.config.get("checkpoint") or {}
    monitor = str(checkpoint.get("monitor") or "")
    name = monitor.removeprefix("val/")
    found = [(record["scores"][name], record["step"]) for record in group if name in record["scores"]]
    path = run.folder / "metrics.csv"
    if found and whole and path.is_file():
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [(float(row[monitor]), int(row["step"])) for row in csv.DictReader(file) if row.get(monitor)]
        except (KeyError, TypeError, ValueError, csv.Error):
            raise DataError(f"{path} is damaged: a row has no step or a {monitor} that is no number.") from None
        steps = {step for _, step in found}  # the records are exact, the file rounds
        found += [(value, step) for value, step in rows if step not in steps]
    if not found:
        return None
    sign = -1 if checkpoint.get("mode") == "max" else 1
    value, step = min(found, key=lambda pair: (sign * pair[0], pair[1]))
    return name, value, step


def portable(command: str | None) -> str | None:
    """Return a command without the options that say where files lie, which is another place for every reader."""
    if command is None:
        return None
    words = shlex.split(command)
    for name in NO_DIFFERENCE:
        option = f"--data.{name}"
        words = [word for word in words if not word.startswith(f"{option}=")]
        while option in words:
            place = words.index(option)
            del words[place : place + 2]
    return shlex.join(words)


def about(run: Run, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how the run was made, as far as its files say."""
    last = max(records, key=lambda record: (record["step"], record.get("date", "")), default={})
    versions = last.get("versions", {})
    path = run.folder / "run.json"
    fits = [{}]
    if path.is_file():
        fits = read_json(path).get("fits")
        if not isinstance(fits, list) or not fits or not all(isinstance(one, dict) for one in fits):
            raise DataError(f"{path} is damaged: it has no list of fits.")
    seconds = [one.get("seconds") for one in fits]
    whole = goes_on(fits, last.get("step", 0))
    hardware = sorted({str(one["hardware"]) for one in fits if one.get("hardware")})
    commits = sorted({short(str(one["commit"])) for one in fits if one.get("commit")})
    version = versions.get("lightning_gans") or fits[-1].get("version")
    version = " ".join(["lightning_gans", version, *commits]) if version else None
    return {
        "images": fits[-1].get("images_seen", last.get("images_seen")),
        "minutes": sum(seconds) / 60 if whole and None not in seconds else None,
        "hardware": "; ".join(hardware) or last.get("hardware"),
        "version": f"{version}, torch {versions['torch']}" if version and "torch" in versions else version,
        "date": str(last.get("date") or fits[-1].get("date") or "")[:10] or None,
        "command": portable(fits[0].get("command")) if whole else None,
    }


def goes_on(fits: list[dict[str, Any]], scored: int) -> bool:
    """Whether each fit starts where the one before ended, up to the last scores: one that was killed left no entry."""
    step: int | None = 0
    for one in fits:
        if one.get("from_step", step) != step:
            return False
        step = one.get("step")
    return step is None or scored <= step


def short(commit: str) -> str:
    """Shorten a commit; what follows it after a dash (``-dirty``) stays."""
    number, dash, rest = commit.partition("-")
    return number[:9] + dash + rest


# ------------------------------------------------------------------------------------ attached files


def numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}


def from_mnist_score(report: dict[str, Any]) -> Score:
    """Read what ``mnist_score.py`` found in the one file of this run."""
    (row,) = report["files"]
    names = ("distance", "ratio", "precision", "recall", "label_accuracy")
    protocol = {
        "metric": "mnist_score",
        "version": report["recipe"],
        "scorer_sha256": report["scorer"]["sha256"],
        "num_samples": row["num_samples"],
        "neighbours": report["neighbours"],
        "reference_distance": report["reference"]["mean"],
    }
    return Score("MNIST score", protocol, numbers({name: row[name] for name in names}))


def from_gan_train(report: dict[str, Any]) -> Score:
    """Read a ``gan_train.py`` report; its accuracy is the mean over the classifier's seeds."""
    ceiling = report.get("ceiling")
    real = ("real training images", numbers({"accuracy": ceiling["accuracy"]})) if ceiling else None
    return Score("GAN-train", dict(report["protocol"]), numbers({"accuracy": report["accuracy"]}), real=real)


def from_sines_score(report: dict[str, Any]) -> Score:
    """Read the two-sample tests of ``sines_score.py``."""

    def of_tests(tests: dict[str, Any]) -> dict[str, float]:
        return {f"{name} {key}": tests[name][key] for name in sorted(tests) for key in ("statistic", "p_value")}

    values = of_tests(report["tests"]) | {"residual": report["residual"]["samples"][0]}
    real = ("other real sequences", of_tests(report["floor"]) | {"residual": report["residual"]["data"][0]})
    return Score("Sequences", dict(report["protocol"]), numbers(values), real=real)


def from_modes(report: dict[str, Any]) -> Score:
    """Read counted modes, written as scores with their protocol."""
    return Score("Modes", dict(report["protocol"]), numbers(report["scores"]))


ATTACHED: dict[str, Callable[[dict[str, Any]], Score]] = {
    "mnist_score": from_mnist_score,
    "gan_train": from_gan_train,
    "sines_score": from_sines_score,
    "modes": from_modes,
}


# ------------------------------------------------------------------------------------------- writing


def key_of(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def name_runs(runs: list[Run]) -> dict[str, list[Run]]:
    """Group the runs that differ in their seeds alone, by the recipe and the settings that tell its groups apart.

    A test's folder says with what model and data, but not how that was trained: it goes with the one way that is given.
    """
    named: dict[str, list[Run]] = {}
    for recipe in sorted({run.recipe for run in runs}):
        ours = [run for run in runs if run.recipe == recipe]
        tests = [run for run in ours if run.is_test]
        shown = varying(ours)
        if tests:
            training = set(varying([run for run in ours if not run.is_test])) - set(filter(known_to_tests, shown))
            if training:
                raise DataError(
                    f"{tests[0].folder} is the folder of a test, and the runs of {recipe} differ in "
                    f"{', '.join(sorted(training))}: give those of one way of training only."
                )
            shown = list(filter(known_to_tests, shown))
        for run in ours:
            settings = ", ".join(f"{key} {run.settings.get(key)}" for key in shown)
            named.setdefault(f"{recipe} ({settings})" if settings else recipe, []).append(run)
    for group in named.values():
        group.sort(key=lambda run: (run.seed is None, run.seed or 0, str(run.folder)))
    return named


def known_to_tests(key: str) -> bool:
    """Whether a setting is of the model or the data, which a test's folder knows."""
    return key.startswith(("model.", "data."))


def varying(runs: list[Run]) -> list[str]:
    """Return the settings that are not the same in all runs."""
    keys = sorted({key for run in runs for key in run.settings})
    return [key for key in keys if len({key_of(run.settings.get(key)) for run in runs}) > 1]


def spread(values: Sequence[float], of: int) -> str:
    """Write mean and standard deviation; how many, where some of the runs have no such score."""
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
    """Lay out a table for each protocol of each section."""
    sections: dict[str, dict[str, dict[str, list[tuple[Run, Score]]]]] = {}
    for name, runs in named.items():
        for run in runs:
            for score in run.scores:
                rows = sections.setdefault(score.section, {}).setdefault(key_of(score.protocol), {})
                rows.setdefault(name, []).append((run, score))
    lines = []
    for section in sorted(sections, key=[*SECTIONS, *sections].index):
        lines += [f"## {section}", "", SECTIONS[section], ""]
        for number, (protocol, rows) in enumerate(sorted(sections[section].items()), 1):
            if len(sections[section]) > 1:
                lines += [f"### Protocol {number}", ""]
            said = (f"{name} {shortened(value)}" for name, value in json.loads(protocol).items())
            lines += [*score_table(rows), "", f"Protocol: {'; '.join(said)}.", ""]
    return lines


def shortened(value: Any) -> str:
    text = str(value)
    return text[:16] if len(text) == 64 and " " not in text else text  # a hash


def score_table(rows: dict[str, list[tuple[Run, Score]]]) -> list[str]:
    """Lay out the scores of one protocol: the final ones, and the best of the monitored one."""
    pairs = [pair for row in rows.values() for pair in row]
    names = {name for _, score in pairs for name in score.values if "/" not in name and name != "kid_std"}
    columns = sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    monitored = sorted({score.best[0] for _, score in pairs if score.best})
    heads = ["model", "data", "n", *columns[:1], *(f"{name}, best" for name in monitored), *columns[1:]]
    lines = []
    for name, row in sorted(rows.items()):
        seeds = [run.seed for run, _ in row if run.seed is not None]
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            folders = " and ".join(str(run.folder) for run, _ in row if run.seed == twice)
            raise DataError(f"{folders} are both seed {twice} of {name}: give one of them.")

        def cell(values: Iterable[float | None], of: int = len(row)) -> str:
            found = [value for value in values if value is not None]
            return spread(found, of) if found else "-"

        best = [
            cell(score.best[1] if score.best and score.best[0] == key else None for _, score in row)
            for key in monitored
        ]
        cells = [cell(score.values.get(column) for _, score in row) for column in columns]
        lines.append([name, data_of(row[0][0]), str(len(row)), *cells[:1], *best, *cells[1:]])
    real = {key_of(score.real): score.real for _, score in pairs if score.real}
    for what, values in (real[key] for key in sorted(real)):
        cells = [spread([values[column]], 1) if column in values else "-" for column in columns]
        lines.append([what, "", "", *cells[:1], *("" for _ in monitored), *cells[1:]])
    return table(heads, lines)


def data_of(run: Run) -> str:
    return str(run.config["data"].get("class_path", "-")).rsplit(".", 1)[-1]


def run_table(named: dict[str, list[Run]]) -> list[str]:
    """Lay out how the runs were made."""

    def joined(runs: list[Run], key: str) -> str:
        values = sorted({str(run.about[key]) for run in runs if run.about[key] is not None})
        return "; ".join(values) if values else "-"

    rows = []
    for name, runs in sorted(named.items()):
        images = sorted({run.about["images"] for run in runs if run.about["images"] is not None})
        minutes = [run.about["minutes"] for run in runs if run.about["minutes"] is not None]
        command = next((run.about["command"] for run in runs if run.about["command"]), None)
        rows.append(
            [
                name,
                ", ".join(dict.fromkeys(str("-" if run.seed is None else run.seed) for run in runs)),
                ", ".join(f"{count:,}" for count in images) or "-",
                f"{statistics.fmean(minutes):.1f} min" if minutes else "-",
                *(joined(runs, key) for key in ("hardware", "version", "date")),
                f"`{command}`" if command else "-",
            ]
        )
    heads = ["model", "seeds", "images seen", "wall time", "hardware", "version", "date", "command"]
    return [
        "## Runs",
        "",
        "Wall time is the mean of the runs; the command is that of the first seed.",
        "",
        *table(heads, rows),
    ]


SECTIONS = {
    "Samples": "Scores of samples at the end of each run; `best` is the value by which best.ckpt was chosen.",
    "Likelihoods": "Log-likelihoods in nats per image, higher is better.",
    "Modes": "Modes that the samples cover.",
    "MNIST score": "`benchmarks/mnist_score.py`: the distance as a share of a plain reference GAN's; label accuracy is "
    "GAN-test.",
    "GAN-train": "`benchmarks/gan_train.py`: accuracy on real test digits of a classifier that was trained on samples.",
    "Sequences": "`benchmarks/sines_score.py`: two-sample tests against held-out sequences.",
}


def make_page(runs: list[Run]) -> str:
    """Lay out the whole page."""
    named = name_runs(runs)
    lines = [
        "# Results",
        "",
        "Made by `benchmarks/results.py` from run folders. Mean ± standard deviation over n runs that differ in their "
        "seed alone; one run stands without ±. Each table has one protocol; numbers of two tables do not compare.",
        "",
    ]
    return "\n".join([*lines, *score_tables(named), *run_table(named)]) + "\n"


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
