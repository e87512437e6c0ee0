"""Lightning's command line, from the same package as everything else of Lightning's."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lightning_gans._lightning import NAMESPACE

if TYPE_CHECKING:
    from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
else:
    _cli = importlib.import_module(f"{NAMESPACE}.cli")
    LightningArgumentParser = _cli.LightningArgumentParser
    LightningCLI = _cli.LightningCLI
    SaveConfigCallback = _cli.SaveConfigCallback

__all__ = ["LightningArgumentParser", "LightningCLI", "SaveConfigCallback"]
