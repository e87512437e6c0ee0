"""The one place from which the package takes Lightning, whose two names are two packages.

``import lightning as L`` and ``import pytorch_lightning as pl`` give classes of the same names that do not know each
other. The package uses the one that was imported first, ``pytorch_lightning`` if neither was; the environment variable
``LIGHTNING_GANS_NAMESPACE`` (``lightning`` or ``pytorch_lightning``) decides otherwise.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from lightning_gans.errors import check_choice

__all__ = [
    "NAMESPACE",
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
    "TorchCheckpointIO",
    "TrainerFn",
    "csv_logger_settings",
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
TorchCheckpointIO = pl.plugins.TorchCheckpointIO
TrainerFn = pl.trainer.states.TrainerFn
rank_zero_info = pl.utilities.rank_zero_info
rank_zero_only = pl.utilities.rank_zero_only
rank_zero_warn = pl.utilities.rank_zero_warn


def warn_of_both_families() -> None:
    """Warn if Lightning's other family is imported too: its ``Trainer`` does not accept our models.

    Its error says only that the model is not a ``LightningModule``, before anything of ours is asked.
    """
    other = "pytorch_lightning" if NAMESPACE == "lightning.pytorch" else "lightning.pytorch"
    if other in sys.modules:
        ours, theirs = NAMESPACE.split(".")[0], other.split(".")[0]
        warnings.warn(
            f"lightning_gans uses the classes of `{ours}`, and `{theirs}` is imported too: its Trainer does not accept "
            f"them. Take the Trainer from `{ours}`, or import `{theirs}` before lightning_gans, or set "
            f"LIGHTNING_GANS_NAMESPACE={theirs}.",
            stacklevel=3,
        )


# --- private and undocumented parts of Lightning, each with its reason; tests pin what they do ---------------------


def set_logger_step(trainer: Any, step: int) -> None:
    """Set the axis of what Lightning hands to loggers.

    The logger connector uses the epoch loop's count of batches (``_batches_that_stepped``), not ``global_step``, and
    increments it after each batch.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def restore_loader_place(trainer: Any) -> None:
    """Hand the loader the state that a checkpoint has for it.

    If ``configure_optimizers`` asks for ``estimated_stepping_batches``, Lightning makes the loader before it reads the
    checkpoint, and then never restores it.
    """
    loop = trainer.fit_loop
    if getattr(loop, "_combined_loader_states_to_load", None):
        loop._load_combined_loader_states()


def set_max_steps(trainer: Any, max_steps: int) -> None:
    """Change ``max_steps`` during a fit: a run that has reached it would skip the validation that is still due."""
    trainer.fit_loop.epoch_loop.max_steps = max_steps


def validates_by_time(trainer: Any) -> bool:
    """Return whether ``val_check_interval`` is a time; Lightning keeps it apart from the number of batches."""
    return getattr(trainer, "_val_check_time_interval", None) is not None


def validates_now(trainer: Any, batches: dict[str, Any], epoch: int) -> bool:
    """Return whether Lightning validates after a batch, by its own rule (``_should_check_val_fx``).

    Args:
        trainer: The trainer.
        batches: The batch progress of a checkpoint.
        epoch: The epoch's number, from 1.
    """
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every is not None and epoch % every):
        return False
    if trainer.val_check_batch in (None, float("inf")):
        return bool(batches["is_last_batch"])
    done = batches["total" if every is None else "current"]["processed"]
    return bool(done > 0 and done % trainer.val_check_batch == 0)


def synchronizes_batch_norm(strategy: Any) -> bool:
    """Return whether ``sync_batchnorm`` is on; the trainer keeps it only in the strategy's ``_layer_sync``."""
    return getattr(strategy, "_layer_sync", None) is not None


def has_static_graph(strategy: Any) -> bool:
    """Return whether DDP is to assume a static graph; Lightning keeps DDP's arguments in ``_ddp_kwargs`` only."""
    return bool(getattr(strategy, "_ddp_kwargs", {}).get("static_graph"))


def trainer_of(module: Any) -> Any:
    """Return a module's trainer, or None; the public property raises where there is none."""
    return getattr(module, "_trainer", None)


def settle_place(checkpoint: dict[str, Any], trainer: Any, validated: bool) -> None:
    """Change a checkpoint's loop counters to one of two places from which Lightning resumes exactly.

    Lightning resumes exactly after an update with everything that follows still to be done, or between two epochs; but
    not from the last batch of an epoch, from within a validation, or from an epoch's end under ``max_steps``.

    Args:
        checkpoint: As Lightning has made it, within a fit or after one.
        trainer: The trainer.
        validated: Whether the validation that may be due after the last update is done.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    validation = loops["epoch_loop.val_loop.batch_progress"]
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"]
    begun, done = epochs["current"]["ready"], batches["current"]["processed"]
    if begun == 0:
        return
    # Lightning ends an epoch early at max_steps, or when it is told to stop; a longer run would not have.
    cut_short = not batches["is_last_batch"] and done < trainer.num_training_batches
    if epochs["current"]["processed"] == begun and not cut_short:
        _finish(epochs)
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False
        validation["total"] = dict.fromkeys(validation["total"], 0)
        return
    _finish(epochs, but=1)
    for key in ("total", "current"):
        batches[key] = dict.fromkeys(batches[key], batches[key]["processed"])
        validation[key] = dict.fromkeys(validation[key], 0)
    if not validated and validates_now(trainer, batches, epochs["current"]["ready"]):
        # To Lightning a validation that was interrupted in its first batch: it begins again, if one is due.
        validation["total"].update(ready=1, started=1)


def validation_is_pending(checkpoint: dict[str, Any]) -> bool:
    """Return whether :func:`settle_place` has left a validation to be done."""
    validation = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
    return bool(validation["ready"] == 1 and validation["processed"] == 0)


def _finish(progress: dict[str, Any], but: int = 0) -> None:
    """Call everything that was begun finished, but for the last."""
    for counts in (progress["total"], progress["current"]):
        counts.update(processed=counts["ready"] - but, completed=counts["ready"] - but)


def csv_logger_settings(logger: Any) -> dict[str, Any]:
    """Return the arguments that a CSVLogger was made with.

    Its public ``version`` chooses the next free number, and its prefix and flush interval have no public name.
    """
    return {
        "save_dir": logger.save_dir,
        "name": logger.name,
        "version": logger._version,
        "prefix": logger._prefix,
        "flush_logs_every_n_steps": logger._flush_logs_every_n_steps,
    }


def state_key(callback: Callback, **options: Any) -> str:
    """Return the key of a callback's state in a checkpoint; Lightning has no public function for it.

    ``Callback._generate_state_key`` makes the key of ``ModelCheckpoint`` from all its settings
    (pytorch_lightning/callbacks/model_checkpoint.py, ``state_key``).
    """
    key: str = callback._generate_state_key(**options)
    return key


def forget_sigterm(trainer: Any) -> None:
    """Clear the SIGTERM that Lightning has received; otherwise it exits after the next batch without saving."""
    trainer._signal_connector.received_sigterm = False


def cluster_environment(trainer: Any) -> Any:
    """Return the cluster environment, or None; the strategy of a single process does not know it."""
    return getattr(trainer._accelerator_connector, "cluster_environment", None)


def loaded_checkpoint(trainer: Any) -> dict[str, Any]:
    """Return the checkpoint that a run is resumed from; Lightning shows callbacks only one that has their states."""
    loaded: dict[str, Any] = trainer._checkpoint_connector._loaded_checkpoint
    return loaded
