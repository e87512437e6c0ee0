"""The only module that imports Lightning, which exists as two packages.

``import lightning as L`` and ``import pytorch_lightning as pl`` provide unrelated classes with the same names. This
package uses the one that was imported first, or ``pytorch_lightning`` if neither was; the environment variable
``LIGHTNING_GANS_NAMESPACE`` (``lightning`` or ``pytorch_lightning``) overrides this choice.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
import warnings
from collections.abc import Callable
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
    "Timer",
    "TorchCheckpointIO",
    "TrainerFn",
    "claim_version",
    "csv_logger_settings",
    "drop_anonymous",
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
    from pytorch_lightning.core import optimizer as optimizer_parser
    from pytorch_lightning.core.saving import save_hparams_to_yaml
    from pytorch_lightning.utilities.seed import isolate_rng
else:
    pl = importlib.import_module(NAMESPACE)
    fabric = importlib.import_module("lightning.fabric" if NAMESPACE == "lightning.pytorch" else "lightning_fabric")
    optimizer_parser = importlib.import_module(f"{NAMESPACE}.core.optimizer")
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
Timer = pl.callbacks.Timer
TorchCheckpointIO = pl.plugins.TorchCheckpointIO
TrainerFn = pl.trainer.states.TrainerFn
rank_zero_info = pl.utilities.rank_zero_info
rank_zero_only = pl.utilities.rank_zero_only
rank_zero_warn = pl.utilities.rank_zero_warn


def warn_of_both_families() -> None:
    """Warn if the other Lightning package is imported too: its ``Trainer`` does not accept our models.

    That trainer's error says only that the model is not a ``LightningModule``, and no code of ours runs before it.
    """
    other = "pytorch_lightning" if NAMESPACE == "lightning.pytorch" else "lightning.pytorch"
    if other in sys.modules:
        ours, theirs = NAMESPACE.split(".")[0], other.split(".")[0]
        warnings.warn(
            f"lightning_gans uses the classes of `{ours}`, but `{theirs}` is imported too, and its Trainer does not "
            f"accept them. Use the Trainer of `{ours}`, import `{theirs}` before lightning_gans, or set "
            f"LIGHTNING_GANS_NAMESPACE={theirs}.",
            stacklevel=3,
        )


# --- private and undocumented parts of Lightning, each with its reason; tests pin what they do ---------------------


def set_logger_step(trainer: Any, step: int) -> None:
    """Set the step (the x-axis) of what Lightning passes to loggers.

    The logger connector uses the epoch loop's count of batches (``_batches_that_stepped``), not ``global_step``, and
    increments it after each batch.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def restore_loader_place(trainer: Any) -> None:
    """Give the loader its state from the checkpoint.

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
    """Return whether ``val_check_interval`` is a time, which Lightning stores separately from a number of batches."""
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
    """Return whether DDP assumes a static graph; Lightning keeps DDP's arguments only in ``_ddp_kwargs``."""
    return bool(getattr(strategy, "_ddp_kwargs", {}).get("static_graph"))


def trainer_of(module: Any) -> Any:
    """Return a module's trainer, or None; the public property raises where there is none."""
    return getattr(module, "_trainer", None)


def settle_place(checkpoint: dict[str, Any], trainer: Any, validated: bool) -> None:
    """Move a checkpoint's loop counters to one of the two positions from which Lightning resumes exactly.

    These are right after an update, with everything that follows still to be done, and between two epochs. Lightning
    does not resume exactly from the last batch of an epoch, from within a validation, or from the end of an epoch that
    ``max_steps`` has cut short.

    Args:
        checkpoint: The checkpoint as Lightning made it, during a fit or after one.
        trainer: The trainer.
        validated: Whether the validation that may be due after the last update is done.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    validation = loops["epoch_loop.val_loop.batch_progress"]
    begun, done = epochs["current"]["ready"], batches["current"]["processed"]
    if begun == 0:
        return
    # Lightning ends an epoch early at max_steps, or on a request to stop; a longer run would not have ended it there.
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
        # This looks like a validation that was interrupted in its first batch, which Lightning starts again.
        validation["total"].update(ready=1, started=1)


def set_logger_step_of(checkpoint: dict[str, Any]) -> None:
    """Set a checkpoint's step of what Lightning passes to loggers; see :func:`set_logger_step`."""
    loops = checkpoint["loops"]["fit_loop"]
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"]


def validation_is_pending(checkpoint: dict[str, Any]) -> bool:
    """Return whether :func:`settle_place` has left a validation that is still to be run."""
    validation = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
    return bool(validation["ready"] == 1 and validation["processed"] == 0)


def _finish(progress: dict[str, Any], but: int = 0) -> None:
    """Mark everything that has started as finished, except for the last ``but`` items."""
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


def drop_anonymous(logger: Any) -> None:
    """Keep a WandbLogger from passing ``anonymous``, which wandb warns about in every run (loggers/wandb.py)."""
    options = getattr(logger, "_wandb_init", {})
    if options.get("anonymous") is None:
        options.pop("anonymous", None)


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
    """Return the cluster environment, or None; a single-process strategy does not have it."""
    return getattr(trainer._accelerator_connector, "cluster_environment", None)


def loaded_checkpoint(trainer: Any) -> dict[str, Any]:
    """Return the checkpoint that a run resumes from; Lightning gives callbacks only one that contains their states."""
    loaded: dict[str, Any] = trainer._checkpoint_connector._loaded_checkpoint
    return loaded


def scheduler_configs_of(module: Any) -> list[Any]:
    """Return a list that the next call of ``configure_optimizers`` fills with its schedulers and all their keys.

    Under manual optimization Lightning drops ``monitor``, ``strict`` and ``reduce_on_plateau``
    (``_configure_schedulers_manual_opt`` in core/optimizer.py), so its parser for automatic optimization is used.
    """
    configs: list[Any] = []
    own = vars(module).get("configure_optimizers")
    original = module.configure_optimizers

    def configure() -> Any:
        if own is None:
            del module.configure_optimizers
        else:
            module.configure_optimizers = own
        optimizers, schedulers, monitor = optimizer_parser._configure_optimizers(original())
        configs.extend(optimizer_parser._configure_schedulers_automatic_opt(schedulers, monitor))
        return optimizers, [config.scheduler for config in configs]

    module.configure_optimizers = configure
    return configs


def count_step(optimizer: Any) -> None:
    """Count a step in ``trainer.global_step`` without taking it: a frozen network has no gradients.

    Lightning counts in two closures that it attaches to its optimizer wrapper (loops/optimization/manual.py).
    """
    optimizer._on_before_step()
    optimizer._on_after_step()


def silence_eval_warning(trainer: Any) -> None:
    """Keep Lightning from warning about modules in evaluation mode: moving averages are (loops/fit_loop.py)."""
    trainer.fit_loop._warn_if_modules_in_eval_mode = _do_nothing


def _do_nothing() -> None:
    pass


def set_hyperparameters(module: Any, values: dict[str, Any]) -> None:
    """Set a module's hyperparameters, as ``save_hyperparameters`` does.

    ``save_hyperparameters`` itself compares all arguments of the constructors, which fails for arrays
    (utilities/parsing.py).
    """
    module._log_hyperparams = True
    module._set_hparams(values)
    module._hparams_initial = copy.deepcopy(module._hparams)


def saves_by_time(callback: Callback) -> bool:
    """Return whether a ModelCheckpoint has a ``train_time_interval``, which has no public name."""
    return getattr(callback, "_train_time_interval", None) is not None


def claim_version(logger: Any, claim: Callable[[int], int]) -> None:
    """Let ``claim`` choose the version of a CSVLogger that has none, starting from Lightning's next free number.

    Lightning chooses a number (``_get_next_version``) before it creates the folder, so two runs that start at the same
    time get the same one.
    """
    if logger._version is None:
        logger._version = claim(logger._get_next_version())
