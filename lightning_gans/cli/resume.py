"""``lightning-gans resume``: continue a run in its own folder, with the model of its checkpoint."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_gans._lightning import rank_zero_warn
from lightning_gans.cli.arguments import is_given
from lightning_gans.cli.config_check import check_config
from lightning_gans.cli.run_folder import RunFolder
from lightning_gans.errors import DataError, SettingError, printable
from lightning_gans.models import GenerativeModule
from lightning_gans.training import allowed_classes, arguments
from lightning_gans.training import checkpoint_format as checkpoints


def words_to_fit(words: Sequence[str]) -> tuple[list[str], RunFolder]:
    """Return the ``fit`` command line for ``RUN [options]``, and the run.

    The run resumes from the checkpoint that ``RUN`` names instead of a folder, from ``--ckpt_path``, or from
    ``last.ckpt``. A run that was stopped before its first checkpoint starts from the beginning.
    """
    if not words or words[0].startswith("-"):
        message = "resume needs the folder of a run, as in `lightning-gans resume runs/quickstart/version_0`."
        raise SettingError(message, setting="RUN")
    if len(words) > 1 and not words[1].startswith("-"):
        raise SettingError(f"resume takes one run, but got {words[0]} and {words[1]}.", setting="RUN", value=words[1])
    run = RunFolder.find(words[0])
    run.check_content()
    settings = run.settings()
    check_config(run.config, settings)
    fit = ["fit", "-c", str(run.config), *words[1:]]
    named = ["--ckpt_path", words[0]] if words[0].endswith(".ckpt") else []
    chosen = is_given("--ckpt_path", words)
    if named and chosen:
        message = f"resume takes one checkpoint: use either {words[0]} or --ckpt_path."
        raise SettingError(message, setting="ckpt_path", value=words[0])
    if named or chosen:
        return [*fit, *named], run
    section = settings.get("checkpoint")
    dirpath = section.get("dirpath") if isinstance(section, dict) else None
    run = RunFolder(run.path, None if dirpath is None else str(dirpath))
    if run.last.is_file():
        return [*fit, "--ckpt_path", str(run.last)], run
    _check_untrained(run, elsewhere=dirpath is not None)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(printable(f"{run.path} has no checkpoint yet: starting from the beginning."))
    return fit, run


def _check_untrained(run: RunFolder, elsewhere: bool) -> None:
    """Raise :class:`DataError` if a run without ``last.ckpt`` holds results, which a new start would overwrite."""
    others = sorted(run.checkpoints.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if others:
        how = f"lightning-gans resume {shlex.quote(str(others[-1]))}"
        message = f"{run.last} does not exist: choose a checkpoint to resume from, as in `{how}`."
        raise DataError(message, setting=str(run.last))
    # A run that was killed before its first checkpoint may have logged.
    traces = [run.record, *run.all_scores(), *([run.metrics] if elsewhere else [])]
    if any(trace.is_file() for trace in traces):
        place = " (set by checkpoint.dirpath)" if elsewhere else ""
        raise DataError(
            f"{run.last}{place} does not exist, but {run.path} has trained before: choose a checkpoint with "
            f"--ckpt_path, or start a new run with `lightning-gans fit -c {shlex.quote(str(run.config))}`.",
            setting=str(run.last),
        )


def adopt_model(config: Any, checkpoint: str | Path, words: Sequence[str], resumed: bool = False) -> dict[str, Any]:
    """Replace the model of a parsed configuration with the checkpoint's, and return the checkpoint's description.

    Raises:
        SettingError: The command line, or the run that is ``resumed``, has another model; the message names both.
        DataError: The checkpoint cannot be read, or its class is not available.
    """
    about = checkpoints.description(checkpoints.read(checkpoint), checkpoint)
    stored_class = checkpoints.find_model(about, checkpoint, GenerativeModule)
    check_config(checkpoint, about["arguments"])  # the parser imports what a string names
    given = _model_settings(words)
    model = config.model
    named = arguments.plain(model.init_args.as_dict()) if model.get("init_args") is not None else {}
    asked_class, own_class = (path.rpartition(".")[2] for path in (model.class_path, about["class"]))
    if asked_class != own_class:
        if "class_path" in given or resumed:
            raise _conflict("model", asked_class, own_class, checkpoint)
        rank_zero_warn(f"The recipe has a {asked_class}, but {checkpoint} holds a {own_class}, which is used instead.")
    for name, stored in about["arguments"].items():
        if name in given and name in named and _comparable(named[name]) != _comparable(stored):
            raise _conflict(f"model.{name}", named[name], stored, checkpoint)
    full_name = model.class_path if "." in model.class_path else f"lightning_gans.{model.class_path}"
    if allowed_classes.find_class(full_name) is not stored_class:
        model.class_path, model.init_args = about["class"], type(config)()
    passed = arguments.arguments_to_pass(stored_class, about["arguments"])
    for name, stored in about["arguments"].items():
        if name in passed or name in model.init_args:
            model.init_args[name] = _as_config(stored, type(config))
    return about


def _conflict(name: str, given: Any, stored: Any, checkpoint: str | Path) -> SettingError:
    return SettingError(
        f"{name} is {given!r}, but it is {stored!r} in {checkpoint}, which is resumed unchanged.\n"
        "Remove the setting, choose another checkpoint, or start a new run from those weights with --init_from.",
        setting=name,
        value=given,
        allowed=stored,
    )


def _model_settings(words: Sequence[str]) -> set[str]:
    """Return the names of the model's settings on a command line, with ``class_path`` for the model itself."""
    names = set()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        key, assigned, value = word.partition("=")
        if key in ("--model", "--model.init_args"):
            names |= _names_in(value if assigned else following)
        if key in ("--model", "--model.class_path"):
            names.add("class_path")
        elif key.startswith("--model."):
            names.add(key.removeprefix("--model.").removeprefix("init_args.").split(".")[0].rstrip("+"))
    return names


def _names_in(value: str) -> set[str]:
    """Return the settings in a mapping given as one word: ``{class_path, init_args}`` or ``init_args`` alone."""
    try:
        given = yaml.safe_load(value)
    except yaml.YAMLError:
        return set()
    if not isinstance(given, dict):
        return set()
    return set(given.get("init_args") or {}) if "class_path" in given else set(given)


def _comparable(value: Any) -> Any:
    """Return a value with lists instead of tuples, as in YAML, and without unset entries."""
    if isinstance(value, Mapping):
        return {key: _comparable(item) for key, item in value.items() if item is not None}
    return [_comparable(item) for item in value] if isinstance(value, (list, tuple)) else value


def _as_config(value: Any, namespace: type) -> Any:
    """Return a network's ``{class_path, init_args}`` as the parser's namespaces, and anything else unchanged."""
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    arguments = {name: _as_config(item, namespace) for name, item in (value.get("init_args") or {}).items()}
    return namespace(**{**value, "init_args": namespace(**arguments)})


def continue_loggers(config: Any, about: Mapping[str, Any]) -> None:
    """Give the configured loggers the run ids in a checkpoint's description."""
    ids = {state["class"]: state.get("version") for state in about.get("loggers", [])}
    loggers = config.trainer.logger
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        name = str(getattr(logger, "class_path", "")).rpartition(".")[2]
        key = {
            "WandbLogger": "id",
            "TensorBoardLogger": "version",
            "MLFlowLogger": "run_id",
            "CometLogger": "experiment_key",
        }.get(name)
        if key is not None and ids.get(name) is not None and logger.init_args.get(key) is None:
            logger.init_args[key] = ids[name]
