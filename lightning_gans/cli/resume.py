"""``lightning-gans resume``: a run goes on in its own folder, with the model of its checkpoint."""

from __future__ import annotations

import importlib.util
import os
import pydoc
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_gans.errors import DataError, SettingError
from lightning_gans.models import GenerativeModule
from lightning_gans.training import checkpoint_format as checkpoints

CONFIG, RECORD, LAST = "config.yaml", "run.json", Path("checkpoints") / "last.ckpt"

_ALLOWED = (
    "lightning_gans",
    "torch.nn",
    "torch.optim",
    *(
        f"{package}.{room}"
        for package in ("pytorch_lightning", "lightning.pytorch")
        for room in ("callbacks", "loggers", "strategies", "profilers", "plugins", "accelerators")
    ),
)
"""What a run's configuration may name without ``--import``: nothing here loads a pickle or takes a function."""

_OF_THE_MACHINE = ("compile_mode", "channels_last", "matmul_precision")
"""Settings of the model that say how it is computed, not what."""


def find_run(name: str) -> Path:
    """Return the run's folder; a checkpoint in it names it as well.

    Raises:
        DataError: It is not the folder of a run.
    """
    run = Path(name)
    if run.suffix == ".ckpt":
        run = run.parent.parent
    if not run.is_dir():
        raise DataError(f"{run} is no folder: name that of a run, as in runs/quickstart/version_0.")
    if not (run / CONFIG).is_file():
        inside = sorted(path.parent for path in run.glob(f"**/{CONFIG}"))
        hint = f" Runs in it: {', '.join(map(str, inside[-3:]))}." if inside else ""
        raise DataError(f"{run} is no run's folder: it has no {CONFIG}.{hint}")
    return run


def words_to_fit(words: Sequence[str]) -> tuple[list[str], Path]:
    """Return ``RUN [options]`` as the words of the ``fit`` that goes on, and the run's folder.

    It goes on from ``last.ckpt``, or from what ``--ckpt_path`` names. A run that was stopped before its first
    checkpoint starts afresh.

    Raises:
        SettingError: The words do not begin with one run.
        DataError: It is none, or its checkpoints are not where it has kept them.
    """
    if not words or words[0].startswith("-"):
        raise SettingError("resume needs the folder of a run, as in `lightning-gans resume runs/quickstart/version_0`.")
    if len(words) > 1 and not words[1].startswith("-"):
        raise SettingError(f"resume takes one run, but after {words[0]} stands {words[1]}.")
    run = find_run(words[0])
    check_config(run / CONFIG)
    fit = ["fit", "-c", str(run / CONFIG), *words[1:]]
    if any(word.partition("=")[0] == "--ckpt_path" for word in words):
        return fit, run
    last = last_checkpoint(run, _dirpath(run))
    if last.is_file():
        return [*fit, "--ckpt_path", str(last)], run
    # To start afresh would write over what there is.
    others = sorted(last.parent.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if others:
        raise DataError(f"{last} does not exist: name a checkpoint to go on from, as in --ckpt_path {others[-1]}.")
    elsewhere = last != run / LAST
    traces = [run / RECORD, *run.glob("metrics/*.json"), *([run / "metrics.csv"] if elsewhere else [])]
    if any(trace.is_file() for trace in traces):
        place = ", where checkpoint.dirpath says that it is" if elsewhere else ""
        raise DataError(
            f"{last} does not exist{place}, though {run} has trained before: name a checkpoint with --ckpt_path, or "
            f"begin a new run with `lightning-gans fit -c {run / CONFIG}`."
        )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"{run} has no checkpoint yet: it starts afresh.")
    return fit, run


def check_config(path: Path) -> None:
    """Refuse a run's configuration that names code which is neither on the allow-list nor trusted.

    Parsing a configuration imports what it names and calls it, and a run's folder may come from somebody else. So
    every string that could be read as the dotted name of something importable is checked, under whatever key.

    Raises:
        DataError: It names something else, or is not YAML.
    """
    for name in _dotted_names(_settings(path)):
        if not _is_allowed(name):
            module = name.rpartition(".")[0]
            raise DataError(
                f"{path} names {name}, which is not run on the word of a file: add `--import {module}` if you trust it."
            )


def _is_allowed(name: str) -> bool:
    """Return whether a run's configuration may name this: a class of the allow-list, or no object at all."""
    if checkpoints.is_below(name, checkpoints.trusted_modules()):
        return True
    if not checkpoints.is_below(name, _ALLOWED):
        return False
    found: Any = pydoc.locate(
        name
    )  # also finds what a module has merely imported, as in lightning_gans.cli.main.os.system
    return found is None or (isinstance(found, type) and checkpoints.is_below(found.__module__, _ALLOWED))


def _dotted_names(value: Any) -> Iterator[str]:
    """Yield each string in a configuration that begins with the name of a module that can be imported."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _dotted_names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _dotted_names(item)
    elif isinstance(value, str) and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value):
        root = value.partition(".")[0]
        if root in sys.modules or importlib.util.find_spec(root) is not None:
            yield value


def last_checkpoint(run: Path, dirpath: str | None) -> Path:
    """Return where a run keeps its last checkpoint, ``checkpoint.dirpath`` being what its configuration says."""
    return run / LAST if dirpath is None else Path(dirpath) / LAST.name


def _dirpath(run: Path) -> str | None:
    """Return the ``checkpoint.dirpath`` of a run's configuration."""
    section = _settings(run / CONFIG).get("checkpoint")
    dirpath = section.get("dirpath") if isinstance(section, dict) else None
    return None if dirpath is None else str(dirpath)


def _settings(path: Path) -> dict[str, Any]:
    """Read a run's configuration."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no recipe: {' '.join(str(error).split())}.") from error
    if not isinstance(settings, dict):
        raise DataError(f"{path} is no recipe: it is a {type(settings).__name__}, not a mapping of settings.")
    return settings


def run_of(checkpoint: str | Path) -> Path | None:
    """Return the folder of the run that a checkpoint lies in, or None."""
    run = Path(checkpoint).parent.parent
    return run if Path(checkpoint).parent.name == LAST.parent.name and (run / CONFIG).is_file() else None


def adopt_model(config: Any, checkpoint: str | Path, words: Sequence[str]) -> dict[str, Any]:
    """Replace a configuration's model by the checkpoint's.

    Args:
        config: The parsed configuration of a command of Lightning's.
        checkpoint: The checkpoint.
        words: The command line; a setting of the model there has to be what the checkpoint has, but for the options
            for speed, which are the machine's.

    Returns:
        What the checkpoint says of its model and of its run.

    Raises:
        SettingError: The command line asks for another setting; names both values.
        DataError: The checkpoint cannot be read, or its class is not to be had.
    """
    about = checkpoints.description(checkpoints.read(checkpoint), checkpoint)
    stored_class = checkpoints.find_model(about, checkpoint, GenerativeModule)
    given = _settings_of_the_model(words)
    model = config.model
    named = checkpoints.plain(_as_dict(model.init_args)) if model.get("init_args") is not None else {}
    cls = f"{model.class_path.rpartition('.')[2]}"
    if "class_path" in given and cls != about["class"].rpartition(".")[2]:
        raise _conflict("model", cls, about["class"].rpartition(".")[2], checkpoint)
    chosen = {name: named[name] for name in _OF_THE_MACHINE if name in given and name in named}
    for name, stored in about["arguments"].items():
        if name in given and name in named and name not in chosen and _listed(named[name]) != _listed(stored):
            raise _conflict(f"model.{name}", named[name], stored, checkpoint)
    if checkpoints.find_class(_full_name(model.class_path)) is not stored_class:
        model.class_path, model.init_args = about["class"], type(config)()
    passed = checkpoints.arguments_to_pass(stored_class, about["arguments"])
    for name, stored in about["arguments"].items():
        if name in passed or name in model.init_args:
            model.init_args[name] = _as_config(chosen.get(name, stored), type(config))
    return about


def _conflict(name: str, given: Any, stored: Any, checkpoint: str | Path) -> SettingError:
    return SettingError(
        f"{name} is {given!r} on the command line, but {stored!r} in {checkpoint}, whose model goes on as it is.\n"
        "Leave the setting out; or begin a new run from those weights, with --init_from in the place of --ckpt_path."
    )


def _settings_of_the_model(words: Sequence[str]) -> set[str]:
    """Return the names of the model's settings that a command line sets, ``class_path`` for the model itself."""
    names = set()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        key, given, value = word.partition("=")
        if key in ("--model", "--model.init_args"):
            names |= _names_in(value if given else following)
        if key in ("--model", "--model.class_path"):
            names.add("class_path")
        elif key.startswith("--model."):
            names.add(key.removeprefix("--model.").removeprefix("init_args.").split(".")[0].rstrip("+"))
    return names


def _names_in(value: str) -> set[str]:
    """Return the settings in a mapping that is given as one word, ``{class_path, init_args}`` or the latter alone."""
    try:
        given = yaml.safe_load(value)
    except yaml.YAMLError:
        return set()
    if not isinstance(given, dict):
        return set()
    return set(given.get("init_args") or {}) if "class_path" in given else set(given)


def _full_name(class_path: str) -> str:
    """Return a class path with its module, where a recipe gives the bare name of a class of ours."""
    return class_path if "." in class_path else f"lightning_gans.{class_path}"


def _as_dict(value: Any) -> Any:
    return value.as_dict() if hasattr(value, "as_dict") else value


def _listed(value: Any) -> Any:
    """Return a value with lists for tuples, as YAML has them."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items() if item is not None}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def _as_config(value: Any, namespace: type) -> Any:
    """Return a network's ``{class_path, init_args}`` in the form that the parser keeps; other mappings as they are."""
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    arguments = {name: _as_config(item, namespace) for name, item in (value.get("init_args") or {}).items()}
    return namespace(**{**value, "init_args": namespace(**arguments)})


def continue_loggers(config: Any, about: Mapping[str, Any]) -> None:
    """Give the configured loggers the ids of the run that goes on, of which :func:`adopt_model` tells."""
    ids = {state["class"]: state.get("version") for state in about.get("loggers", [])}
    loggers = config.trainer.logger
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        name = str(getattr(logger, "class_path", "")).rpartition(".")[2]
        key = {"WandbLogger": "id", "TensorBoardLogger": "version"}.get(name)
        if key is not None and ids.get(name) is not None and logger.init_args.get(key) is None:
            logger.init_args[key] = ids[name]
