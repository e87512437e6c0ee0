"""Who may import whom: the floors of the house."""

import ast
import sys
from pathlib import Path

import pytest

import lightning_gans

ROOT = Path(lightning_gans.__file__).parent

FREE = {"errors", "files", "randomness"}  # everyone may import these
TORCH, LIGHTNING, METRICS = {"torch"}, {"pytorch_lightning"}, {"torchmetrics"}
PICTURES = {"pictures"}

# For each room the rooms of ours, beside itself and the free ones, and the libraries that it may import.
MAY_IMPORT = {
    "errors": (set(), set()),
    "randomness": (set(), TORCH),
    "files": (set(), TORCH),
    "losses": (set(), TORCH),
    "penalties": (set(), TORCH),
    "augment": (set(), TORCH),
    "networks": (set(), TORCH),
    "pictures": (set(), TORCH | {"numpy", "PIL"}),
    "models": ({"losses", "penalties", "augment", "networks"} | PICTURES, TORCH | LIGHTNING | METRICS),
    "datamodules": (PICTURES, None),
    "metrics": (set(), None),
    "plugins": (set(), None),
    "callbacks": ({"models.base", "metrics"} | PICTURES, None),
    "commands": ({"models", "metrics"} | PICTURES, None),
    "parsing": ({"callbacks", "commands", "datamodules", "models", "__init__"}, None),
    "trainer_settings": ({"models.distributed"}, LIGHTNING | {"lightning_fabric"}),
    "summary": ({"parsing", "__version__"}, None),
    "training_cli": (
        {"callbacks", "commands", "models", "parsing", "plugins", "summary", "trainer_settings"} | PICTURES,
        None,
    ),
    "cli": (None, None),
    "__main__": ({"cli"}, set()),
    "__init__": ({"callbacks", "datamodules", "metrics", "models", "plugins"} | PICTURES, set()),
}


def imports(source):
    """Return the full names of what a file imports, ``a.b.c`` for ``from a.b import c``."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out from the package's name"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def forbidden(room, source):
    """Return what a file of a room imports and may not."""
    ours, libraries = MAY_IMPORT[room]
    wrong = []
    for name in imports(source):
        top, _, rest = name.partition(".")
        if top == "lightning_gans":
            within = rest.split(".")[0]
            if within in FREE | {room, "__version__", ""}:
                continue
            if ours is not None and not any(f"{rest}.".startswith(f"{allowed}.") for allowed in ours):
                wrong.append(name)
        elif top not in sys.stdlib_module_names and libraries is not None and top not in libraries:
            wrong.append(name)
    return wrong


HEAVY = {"matplotlib", "sklearn", "tensorboard", "torch_fidelity", "wandb"}


def imported_at_once(source):
    """Return the libraries that importing a file imports: not those within functions, or for type checkers only."""
    body = [
        node for node in ast.parse(source).body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))
    ]
    outside = [node for node in body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return {name.partition(".")[0] for node in outside for name in imports(ast.unparse(node))}


FILES = sorted(ROOT.rglob("*.py"))


def room_of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_import_what_their_room_may(path):
    assert forbidden(room_of(path), path.read_text()) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_imported_when_they_are_used(path):
    assert imported_at_once(path.read_text()) & HEAVY == set()


def test_a_heavy_import_is_found():
    source = "import torch\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import wandb\n"
    late = "def draw():\n    import matplotlib\n"
    assert imported_at_once(source + late) & HEAVY == set()
    assert imported_at_once(source + "from sklearn.datasets import load_digits") & HEAVY == {"sklearn"}
    assert imported_at_once("try:\n    import wandb\nexcept ImportError:\n    wandb = None") & HEAVY == {"wandb"}


def test_the_files_are_found():
    assert {"losses", "networks", "models", "datamodules", "callbacks", "commands", "cli"} <= {
        room_of(path) for path in FILES
    }


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("losses", "import pytorch_lightning"),
        ("losses", "from lightning_gans.models import base"),
        ("losses", "import numpy as np"),
        ("networks", "from lightning_gans import losses"),
        ("networks", "import torchmetrics.image"),
        ("randomness", "def draw():\n    import lightning_gans.models"),
        ("pictures", "from lightning_gans.models.base import GenerativeModule"),
        ("models", "from lightning_gans.callbacks import SampleGrid"),
        ("models", "from lightning_gans.datamodules.base import ImageDataModule"),
        ("models", "import wandb"),
        ("datamodules", "from lightning_gans import models"),
        ("callbacks", "from lightning_gans.models.vae import VAE"),
        ("callbacks", "from lightning_gans.models import VAE"),
        ("callbacks", "from lightning_gans import cli"),
        ("commands", "from lightning_gans.cli import main"),
        ("commands", "import lightning_gans.cli"),
        ("__init__", "from lightning_gans.cli import main"),
    ],
)
def test_a_forbidden_import_is_found(room, source):
    assert len(forbidden(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("losses", "import math\nimport torch.nn.functional as F\nfrom lightning_gans.errors import SettingError"),
        ("networks", "from lightning_gans.networks.mlp import hidden_layers"),
        ("models", "from lightning_gans import losses, randomness\nfrom lightning_gans import __version__"),
        ("callbacks", "from lightning_gans.models.base import GenerativeModule\nimport numpy"),
        ("cli", "import lightning_gans\nfrom lightning_gans.commands import recipes"),
    ],
)
def test_other_imports_are_free(room, source):
    assert forbidden(room, source) == []
