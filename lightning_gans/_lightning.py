"""The one place from which the package takes Lightning, whose two names are two packages.

``import lightning as L`` and ``import pytorch_lightning as pl`` give classes of the same names that do not know each
other. The package uses the one that was imported first, ``pytorch_lightning`` if neither was; the environment variable
``LIGHTNING_GANS_NAMESPACE`` (``lightning`` or ``pytorch_lightning``) decides otherwise.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from lightning_gans.errors import check_choice

__all__ = [
    "NAMESPACE",
    "AcceleratorRegistry",
    "CSVLogger",
    "Callback",
    "CheckpointIO",
    "LambdaCallback",
    "LightningDataModule",
    "LightningEnvironment",
    "MisconfigurationException",
    "ModelCheckpoint",
    "RichProgressBar",
    "SIGTERMException",
    "SLURMEnvironment",
    "StrategyRegistry",
    "TorchCheckpointIO",
    "TrainerFn",
    "isolate_rng",
    "pl",
    "rank_zero_experiment",
    "rank_zero_info",
    "rank_zero_only",
    "rank_zero_warn",
    "save_hparams_to_yaml",
    "state_key",
]


def _choose() -> str:
    """Return the name of the package that holds ``LightningModule`` and the rest."""
    asked = os.environ.get("LIGHTNING_GANS_NAMESPACE")
    if asked is not None:
        check_choice("LIGHTNING_GANS_NAMESPACE", asked, ("lightning", "pytorch_lightning"))
    else:
        imported = (name for name in sys.modules if name in ("lightning", "pytorch_lightning"))  # in their order
        asked = next(imported, "pytorch_lightning")
    return "lightning.pytorch" if asked == "lightning" else asked


NAMESPACE = _choose()

if TYPE_CHECKING:
    import lightning_fabric as fabric
    import pytorch_lightning as pl
    from lightning_fabric.loggers.logger import rank_zero_experiment
    from pytorch_lightning.core.saving import save_hparams_to_yaml
    from pytorch_lightning.utilities.seed import isolate_rng
else:
    pl = importlib.import_module(NAMESPACE)
    fabric = importlib.import_module("lightning.fabric" if NAMESPACE == "lightning.pytorch" else "lightning_fabric")
    rank_zero_experiment = importlib.import_module(f"{fabric.__name__}.loggers.logger").rank_zero_experiment
    save_hparams_to_yaml = importlib.import_module(f"{NAMESPACE}.core.saving").save_hparams_to_yaml
    isolate_rng = importlib.import_module(f"{NAMESPACE}.utilities.seed").isolate_rng

AcceleratorRegistry = pl.accelerators.AcceleratorRegistry
Callback = pl.callbacks.Callback
CheckpointIO = pl.plugins.CheckpointIO
CSVLogger = pl.loggers.CSVLogger
LambdaCallback = pl.callbacks.LambdaCallback
LightningDataModule = pl.LightningDataModule
LightningEnvironment = fabric.plugins.environments.LightningEnvironment  # type: ignore[attr-defined]
MisconfigurationException = pl.utilities.exceptions.MisconfigurationException  # type: ignore[attr-defined]
ModelCheckpoint = pl.callbacks.ModelCheckpoint
RichProgressBar = pl.callbacks.RichProgressBar
SIGTERMException = pl.utilities.exceptions.SIGTERMException
SLURMEnvironment = fabric.plugins.environments.SLURMEnvironment  # type: ignore[attr-defined]
StrategyRegistry = pl.strategies.StrategyRegistry
TorchCheckpointIO = pl.plugins.TorchCheckpointIO
TrainerFn = pl.trainer.states.TrainerFn
rank_zero_info = pl.utilities.rank_zero_info
rank_zero_only = pl.utilities.rank_zero_only
rank_zero_warn = pl.utilities.rank_zero_warn


def state_key(callback: Callback, **options: Any) -> str:
    """Return the key of a callback's state in a checkpoint; Lightning has no public function for it.

    ``Callback._generate_state_key`` makes the key of ``ModelCheckpoint`` from all its settings
    (pytorch_lightning/callbacks/model_checkpoint.py, ``state_key``).
    """
    key: str = callback._generate_state_key(**options)
    return key
