"""What the callbacks share: when they run, where they write, and how they read a batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
from PIL import Image
from torch import Tensor

from lightning_gans._lightning import Callback, TrainerFn, pl, rank_zero_info, rank_zero_warn
from lightning_gans.errors import SettingError
from lightning_gans.metrics.samples import normalized


def is_due(trainer: Any, every_n_epochs: int) -> bool:
    """Return whether to act at the end of this epoch: after every n-th and the last epoch, and always outside a fit."""
    if trainer.sanity_checking or trainer.fast_dev_run:
        return False
    epochs = trainer.current_epoch + 1
    return bool(
        trainer.state.fn != TrainerFn.FITTING
        or epochs % every_n_epochs == 0
        or epochs == trainer.max_epochs
        or trainer.should_stop
        or trainer.global_step == trainer.max_steps
    )


def weights_step(trainer: Any, module: Any) -> int:
    """Return the step that a module's weights belong to: that of their checkpoint, outside of a fit."""
    step = trainer.global_step
    return step if trainer.state.fn == TrainerFn.FITTING else int(getattr(module, "weights_step", step))


_FOLDERS: WeakKeyDictionary[Any, tuple[Path, Path]] = WeakKeyDictionary()
"""For each trainer, the folder that its logger or its settings name, and the one that it writes to."""

_RESTARTED: WeakSet[Any] = WeakSet()
"""The trainers whose folder holds the beginning of their own run."""


def run_folder(trainer: Any) -> Path:
    """Return the folder of the run; call this on the first process, once a checkpoint is loaded.

    It is ``save_dir/name/version`` of the first logger, as for Lightning's checkpoints, or ``default_root_dir``. If
    another run has written there, it is a new ``version_N`` inside that. A run from a checkpoint keeps its folder.
    """
    named = Path(trainer.default_root_dir)
    if trainer.loggers:
        logger = trainer.loggers[0]
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        named = Path(logger.save_dir or named, str(logger.name), version)
    if _FOLDERS.get(trainer, ("",))[0] != named:
        _FOLDERS[trainer] = named, named if trainer.fast_dev_run else _own_folder(named, trainer)
    return _FOLDERS[trainer][1]


def keep_folder(trainer: Any) -> None:
    """Let a run that was killed before its first checkpoint start again in its folder, which may contain pictures."""
    _RESTARTED.add(trainer)


class WritesIntoRun(Callback):
    """Find the run's folder before the run writes anything to it."""

    def on_fit_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Find the folder; by now it is known whether the run is resumed."""
        if trainer.is_global_zero:
            run_folder(trainer)


def _own_folder(named: Path, trainer: Any) -> Path:
    """Return a folder, or a new one inside it if another run has written there."""
    if trainer.ckpt_path is not None:
        of_checkpoint = Path(trainer.ckpt_path).absolute().parent.parent
        if trainer.loggers or of_checkpoint == named.absolute():
            return named
        if of_checkpoint.parent == named.absolute():
            return of_checkpoint
    if trainer in _RESTARTED or not any(itertools.chain(named.glob("*/step=*"), named.glob("checkpoints/*.ckpt"))):
        return named
    for number in itertools.count():
        folder = named / f"version_{number}"
        with suppress(FileExistsError):
            folder.mkdir()
            break
    rank_zero_info(f"{named} contains another run: this one writes to {folder}.")
    return folder


def check_is_image(shape: Sequence[int], user: str, section: str) -> None:
    """Raise :class:`SettingError` if a shape, as in ``image_shape``, is not that of images.

    Args:
        shape: The shape.
        user: Name of the callback's class.
        section: The callback's key in a recipe.
    """
    if len(shape) != 3:
        message = f"{user} needs images (C, H, W), but image_shape is {list(shape)}: set {section}.enabled: false."
        raise SettingError(message, setting=f"{section}.enabled", value=list(shape), allowed="(C, H, W)")


def evaluated(trainer: Any) -> tuple[Any, float]:
    """Return the loader that is evaluated, and the number of its batches that this process evaluates."""
    if trainer.testing:
        return trainer.test_dataloaders, float(sum(trainer.num_test_batches))
    return trainer.val_dataloaders, float(sum(trainer.num_val_batches))


def stage_of(trainer: Any) -> Literal["val", "test"]:
    """Return the split that is evaluated."""
    return "test" if trainer.testing else "val"


def is_ours(loader: Any) -> bool:
    """Return whether a loader is from this package; ``trainer.datamodule`` may be left over from an earlier run."""
    return hasattr(loader, "source")


def warn_if_not_validated(trainer: Any, module: Any, user: str) -> None:
    """Warn at the start of a fit if Lightning will skip validation, and with it a callback's scores."""
    if trainer.enable_validation or trainer.limit_val_batches == 0:
        return
    name = type(module).__name__
    rank_zero_warn(
        f"{user} computes scores after each validation, but this fit has none. Validation needs a method "
        f"{name}.validation_step(self, batch, batch_idx), which may be empty (`pass`), and a validation loader or a "
        "data module with one."
    )


def length(loader: Any) -> int | None:
    """Return the number of batches of a loader, or of items of a data set; None if it is unknown."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):  # a DataLoader of an iterable data set has a __len__ that raises
        return None


def pairs_of(trainer: Any, module: Any, section: str) -> tuple[Any, bool]:
    """Return the pairs of the evaluated split, and whether their targets are what their sources should become.

    Args:
        trainer: Has a data module with ``split_pairs(split)``, and optionally ``paired``.
        module: The translator.
        section: The callback's key in a recipe.

    Raises:
        SettingError: The data are not pairs.
    """
    data = trainer.datamodule
    if hasattr(data, "split_pairs"):
        pairs = data.split_pairs(stage_of(trainer))
        if all(images.dim() == 4 for images in pairs[:1]):
            return pairs, getattr(data, "paired", True)
    what = "no data module with pairs" if data is None else f"a {type(data).__name__} without pairs"
    message = (
        f"{section} of a {type(module).__name__} needs pairs (source, target), but got {what}: set data.task, use "
        f"another data module, or set {section}.enabled: false."
    )
    raise SettingError(message, setting="data", allowed="a data module with split_pairs(split)")


def images_and_labels(module: Any, batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return a batch's images in [-1, 1] and its labels, by the module's own ``images_and_labels`` if it has one."""
    if hasattr(module, "images_and_labels"):
        pair: tuple[Tensor, Tensor | None] = module.images_and_labels(batch)
        return pair
    images, labels = (*batch, None, None)[:2] if isinstance(batch, (tuple, list)) else (batch, None)
    return normalized(module, images), labels


def is_stale(trainer: Any, key: str) -> bool:
    """Return whether a callback measures this score on its own schedule, and skipped the last validation."""
    scorers = [callback for callback in trainer.callbacks if hasattr(callback, "last_scored_step")]
    return any(scorer.measures(key) and scorer.last_scored_step != trainer.global_step for scorer in scorers)


def skip_stale(trainer: Any) -> None:
    """Let EarlyStopping, ModelCheckpoint and the like skip the validations that did not measure what they monitor.

    Otherwise they would raise an error, or compare a score with itself. :class:`~lightning_gans.Checkpoint` skips these
    validations itself.
    """
    for callback in trainer.callbacks:
        if isinstance(getattr(callback, "monitor", None), str) and not hasattr(callback, "write_last"):
            for hook in ("on_validation_end", "on_train_epoch_end"):
                setattr(callback, hook, partial(_unless_stale, callback, hook))


def _unless_stale(callback: Any, hook: str, trainer: Any, module: Any) -> None:
    if not is_stale(trainer, callback.monitor):
        getattr(type(callback), hook)(callback, trainer, module)


def log_picture(trainer: Any, key: str, picture: Image.Image, path: Path, step: int) -> None:
    """Log a picture to every logger that accepts pictures or their files."""
    for logger in trainer.loggers:
        _try(logger, "pictures", partial(_log_picture, logger, key, picture, path, step))


def _log_picture(logger: Any, key: str, picture: Image.Image, path: Path, step: int) -> None:
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(logger, "log_image"):  # Weights & Biases
        logger.log_image(key=key, images=[picture], caption=[f"step {step}"], step=step)
    elif hasattr(experiment, "add_image"):  # TensorBoard
        experiment.add_image(key, np.asarray(picture), step, dataformats="HWC")
    elif hasattr(experiment, "log_artifact") and hasattr(logger, "run_id"):  # MLflow
        experiment.log_artifact(logger.run_id, str(path), key)
    elif hasattr(experiment, "log_image"):  # Comet
        experiment.log_image(picture, name=key, step=step)


def log_evaluation(trainer: Any, record: dict[str, Any], step: int) -> None:
    """Log the scores of an evaluation next to those of real images, to every logger that accepts a table.

    Args:
        trainer: The trainer, which has the loggers.
        record: A record as in ``metrics/step=….json``.
        step: Position on the loggers' x-axis.
    """
    floor = record.get("floor") or {}
    columns = {"samples": record["scores"], "real images": floor.get("scores", {})}
    if "samples" in floor:
        columns[f"first {floor['num_images']} samples"] = floor["samples"]
    table = {
        "key": f"evaluation/{record['stage']}",
        "columns": ["score", *columns],
        "data": [[name, *(column.get(name) for column in columns.values())] for name in record["scores"]],
        "step": step,
    }
    for logger in trainer.loggers:
        if hasattr(logger, "log_table"):
            _try(logger, "tables", partial(logger.log_table, **table))


def _try(logger: Any, what: str, log: Callable[[], None]) -> None:
    """Log, and warn instead of ending the run if the logger fails."""
    try:
        log()
    except Exception as error:
        rank_zero_warn(
            f"{type(logger).__name__} cannot log {what} ({type(error).__name__}: {error}); the run continues."
        )
