"""Lightning's command line, from the package that ``lightning_gans._lightning`` chose."""

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

__all__ = ["LightningArgumentParser", "SafeLightningCLI", "SaveConfigCallback"]


class SafeLightningCLI(LightningCLI):
    """LightningCLI that imports nothing named in a checkpoint.

    Lightning 2.6 reads ``ckpt_path`` in ``_parse_ckpt_path`` and imports the class that its ``hyper_parameters`` name.
    """

    def _parse_ckpt_path(self) -> None:
        """Do not read the checkpoint."""
