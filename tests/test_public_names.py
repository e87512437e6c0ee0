"""Names that users have written down stay: of what is imported, of commands and their options, of what is logged.

The files in ``snapshots/`` are rewritten, each test then being skipped, by

    LIGHTNING_GANS_WRITE_SNAPSHOTS=1 python -m pytest -n0 tests/test_public_names.py

The names of what is logged come from the traces of ``test_traces.py``, which are rewritten before.
"""

import contextlib
import importlib
import inspect
import io
import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest

import lightning_gans

HERE = Path(__file__).parent
SNAPSHOTS, TRACES = HERE / "snapshots", HERE / "traces"
WRITE = "LIGHTNING_GANS_WRITE_SNAPSHOTS" in os.environ

MODULES = ("", ".callbacks", ".datamodules", ".latents", ".metrics", ".models", ".networks")
WITHOUT_LIST = (".augment", ".losses", ".penalties")  # where no __all__ says what is public
MODELS = (
    *("DCGAN", "GAN", "R3GAN", "VAE", "VAEGAN", "VQVAE", "ConditionalGAN", "FastGAN", "InfoGAN", "RecurrentGAN"),
    *("ResNetGAN", "CycleGAN", "Pix2Pix", "SRGAN"),
)
DATA = tuple(name for name in lightning_gans.__all__ if name.endswith("DataModule"))
OF_LIGHTNING = ("fit", "validate", "test", "predict")
OURS = (
    "resume",
    "sample",
    "interpolate",
    "walk",
    "traverse",
    "reconstruct",
    "invert",
    "translate",
    "export",
    "push",
    "demo",
    "score",
    "augment-trial",
    "report",
    "compare",
    "recipes",
)
HELP = ("--help", *(f"{command} --help" for command in OURS))


def check(name, found):
    """Compare with a snapshot, or write it."""
    path = SNAPSHOTS / name
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
        pytest.skip("the snapshot is written anew")
    assert found == path.read_text(encoding="utf-8")


def as_text(lists):
    """Return lists of names as JSON, a line for each name."""
    return json.dumps(lists, indent=1) + "\n"


def program(*words):
    """Run the program in this process, as ``python -m`` does, and return what it prints, without wrapping lines."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "1000")
        patch.setenv("NO_COLOR", "1")
        patch.setattr(sys, "argv", ["lightning-gans", *words])
        patch.setattr(sys, "path", list(sys.path))
        try:
            runpy.run_module("lightning_gans", run_name="__main__")
        except SystemExit as stop:
            assert stop.code in (None, 0), printed.getvalue()
    return printed.getvalue()


def options(*words):
    """Return the options in a text of help; those of Lightning's trainer change with its version."""
    found = set(re.findall(r"(?<![\w-])--[a-zA-Z][\w.]*\w", program(*words)))
    return sorted(option for option in found if not option.startswith("--trainer."))


def public_names(module):
    """Return the names that a module without ``__all__`` has of its own: no module, and nothing imported."""
    found = []
    for name, value in vars(module).items():
        owner = getattr(value, "__module__", None)
        own = owner.startswith(module.__name__) if isinstance(owner, str) else name.isupper()
        if own and not name.startswith("_") and not inspect.ismodule(value):
            found.append(name)
    return sorted(found)


def test_the_public_names_are_the_same():
    modules = {f"lightning_gans{name}": importlib.import_module(f"lightning_gans{name}") for name in MODULES}
    assert all(hasattr(module, name) for module in modules.values() for name in module.__all__)
    check("names.json", as_text({name: sorted(module.__all__) for name, module in modules.items()}))


def test_the_functions_are_there():
    modules = {f"lightning_gans{name}": importlib.import_module(f"lightning_gans{name}") for name in WITHOUT_LIST}
    if WRITE:
        check("functions.json", as_text({name: public_names(module) for name, module in modules.items()}))
    wanted = json.loads((SNAPSHOTS / "functions.json").read_text())
    assert set(wanted) == set(modules) and all(wanted.values())
    missing = [f"{name}.{word}" for name, words in wanted.items() for word in words if not hasattr(modules[name], word)]
    assert missing == []


def test_the_help_is_the_same():
    texts = [f"$ lightning-gans {words}\n{program(*words.split())}" for words in HELP]
    check("help.txt", "\n".join(texts))


def test_every_command_is_looked_at():
    commands = re.findall(r"^  ([\w-]+)  ", program("--help"), re.MULTILINE)
    assert sorted(commands) == sorted((*OF_LIGHTNING, *OURS))


def test_the_options_of_commands_that_train_and_evaluate_are_the_same():
    check("options.json", as_text({command: options(command, "--help") for command in OF_LIGHTNING}))


def test_the_settings_of_models_and_data_are_the_same():
    found = {name: options("fit", f"--model.help={name}") for name in MODELS}
    found |= {name: options("fit", f"--data.help={name}") for name in DATA}
    assert all(len(words) > 3 for words in found.values())
    check("settings.json", as_text(found))


def test_what_is_logged_has_the_same_names():
    found = {}
    for path in sorted(TRACES.glob("*.json")):
        keys = {key for case in json.loads(path.read_text()).values() for key in case}
        found[path.stem] = sorted(key for key in keys if key.startswith(("train/", "val/")))
    assert sorted(found) == sorted(MODELS)
    check("logged.json", as_text(found))


def test_another_text_than_the_snapshot_is_found(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "WRITE", False)
    with pytest.raises(AssertionError):
        check("names.json", as_text({"lightning_gans": ["DCGAN"]}))
