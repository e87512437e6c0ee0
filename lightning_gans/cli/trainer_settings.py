"""The trainer's settings: what Lightning refuses late, or not at all, and what it refuses said in a sentence."""

from __future__ import annotations

import re
import traceback
from typing import Any

from lightning_gans._lightning import AcceleratorRegistry, MisconfigurationException, StrategyRegistry
from lightning_gans.errors import SettingError, check_choice, check_positive, nearest
from lightning_gans.training.processes import check_strategy_name

_THEIRS, _CLI = (
    ("pytorch_lightning", "lightning_fabric", "lightning"),
    ("lightning_gans.cli.main", "lightning_gans.cli.training"),
)


def check_trainer(config: Any) -> None:
    """Refuse what cannot work before anything is built.

    Raises:
        SettingError: Names the setting, its value, and what to use.
    """
    if isinstance(config.strategy, str):
        _check_strategy(config.strategy)
    if isinstance(config.accelerator, str):
        _check_accelerator(config.accelerator)
    for name in ("check_val_every_n_epoch", "val_check_interval"):  # Lightning divides by them, when it is too late
        if isinstance(config.get(name), (int, float)):
            check_positive(**{f"trainer.{name}": config[name]})
    for flag, none, ours in (
        ("gradient_clip_val", 0, "gradient_clip_val"),
        ("accumulate_grad_batches", 1, "accumulate_batches"),
    ):
        if config.get(flag) not in (None, none):
            raise SettingError(f"trainer.{flag} is {config[flag]}: with two optimizers it is --model.{ours}.")


def check_seed(seed: Any) -> None:
    """Raise :class:`SettingError` for a seed that numpy has no place for."""
    if not 0 <= seed < 2**32:
        raise SettingError(f"seed_everything is {seed}: give a number from 0 to {2**32 - 1}.")


def _check_strategy(name: str) -> None:
    check_strategy_name(name)
    known = ["auto", *StrategyRegistry.available_strategies()]
    if name.lower() not in known:
        usual = [one for one in known if not one.startswith(("deepspeed", "fsdp")) and "_unused_" not in one]
        raise SettingError(f"trainer.strategy is {name!r}: choose from {', '.join(usual)}.{nearest(name, known)}")


def _check_accelerator(name: str) -> None:
    check_choice("trainer.accelerator", name, ["auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators())])
    kinds = {"auto": ("cpu",), "gpu": ("cuda", "mps")}.get(name, (name,))
    if not any(AcceleratorRegistry[kind]["accelerator"].is_available() for kind in kinds):
        raise SettingError(f"trainer.accelerator is {name}, but there is none here that torch can use: try auto.")


def refusal(error: Exception) -> SettingError | None:
    """Return in a sentence what Lightning, or a logger of its, refuses a setting with.

    It is None for an error in which code of a model, of data or of a callback has a part: its place is what
    tells where the mistake is.
    """
    said = str(error).strip()
    if type(error).__module__.startswith("wandb.") and re.search("api.key", said, re.IGNORECASE):
        return SettingError(
            "Weights & Biases has no API key: log in with `wandb login`, or set WANDB_MODE=offline in the environment."
        )
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [frame.f_globals.get("__name__", "").partition(".")[0] for frame in frames]
    own = [frame for frame, module in zip(frames, modules, strict=True) if module not in _THEIRS]
    if not modules or modules[-1] not in _THEIRS or any(frame.f_globals["__name__"] not in _CLI for frame in own):
        return None
    building = any(frame.f_code.co_name == "instantiate_trainer" for frame in own)
    more = (TypeError, ImportError, RuntimeError) if building else ()
    if not said or not isinstance(error, (MisconfigurationException, ValueError, *more)):
        return None
    return SettingError(f"Lightning refuses a setting: {said.splitlines()[0]}")
