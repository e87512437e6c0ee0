"""Decide which errors are shown as a message instead of a traceback, mostly by where they were raised."""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
from pathlib import Path
from types import FrameType

from lightning_gans.errors import DataError, LightningGansError, SettingError

_LIGHTNING = ("pytorch_lightning.", "lightning_fabric.", "lightning.")
_BELOW = (
    "torch.nn.",
    "torch.optim.",
    "torch.utils.tensorboard.",
    "tensorboard.",
    "lightning_utilities.",
    "jsonargparse.",
)
"""What Lightning calls while it builds or runs callbacks and loggers; custom code in workers fails elsewhere."""

_MEMORY = r"allocate memory|not enough memory|out of memory|Unable to allocate|[Ss]torage size|[Oo]verflow|too large"


def known_error(error: BaseException) -> LightningGansError | None:
    """Return the error to show without a traceback, or None.

    Known errors are the package's own, even as the cause of others; errors that Lightning raises while it builds or
    runs what was configured; and errors of the system or for lack of memory, unless custom code was running.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SystemExit):
        module = next((_module_of(frame) for frame in frames if frame.f_code.co_name == "<module>"), "")
        return SettingError(f"the module {module} exits the program when it is imported.") if module else None
    own = own_error(error)
    if own is not None:
        return own
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    if type(error).__module__.startswith("wandb.") and re.search("api.key", message, re.IGNORECASE):
        return SettingError("Weights & Biases has no API key: run `wandb login`, or set WANDB_MODE=offline.")
    if not any(map(_is_custom, frames)):
        if isinstance(error, OSError) and error.errno is not None:
            return DataError(f"{error.filename or 'the output'}: {error.strerror}.", setting=str(error.filename or ""))
        too_large = re.search(rf"(\w.*)?({_MEMORY}).*", str(error))
        if isinstance(error, MemoryError) or too_large:
            return SettingError(f"a size does not fit into memory: {too_large[0] if too_large else message}")
        optimizers = [type(frame.f_locals.get("self")).__name__ for frame in frames if _is_of_optimizer(frame)]
        if optimizers and _is_of_optimizer(frames[-1]):
            return SettingError(f"the optimizer {optimizers[0]} fails: {message}", value=optimizers[0])
    return _of_lightning(frames, error, message)


def own_error(error: BaseException | None) -> LightningGansError | None:
    """Return the first of the package's errors in a chain of causes."""
    while error is not None and not isinstance(error, LightningGansError):
        error = error.__cause__ or error.__context__
    return error


def _module_of(frame: FrameType) -> str:
    """Return the name of a frame's module."""
    return str(frame.f_globals.get("__name__", ""))


def _is_of_optimizer(frame: FrameType) -> bool:
    return _module_of(frame).startswith("torch.optim.")


def _is_custom(frame: FrameType) -> bool:
    """Return whether a frame runs code that belongs neither to this package nor to a library."""
    file, places = Path(frame.f_code.co_filename), sysconfig.get_paths()
    libraries = (places[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    package = _module_of(frame).startswith("lightning_gans.") and file.is_relative_to(Path(__file__).parents[1])
    return not package and file.is_absolute() and not any(map(file.is_relative_to, libraries))


def _of_lightning(frames: list[FrameType], error: BaseException, message: str) -> LightningGansError | None:
    """Return the error for an exception of Lightning while no code of a model, data or our callbacks was running."""
    modules = [f"{_module_of(frame)}." for frame in frames]
    below = (*_BELOW, *(f"{name}." for name in sys.stdlib_module_names))
    while modules and modules[-1].startswith(below):
        modules.pop()
    alone = all(module.startswith((*_LIGHTNING, *below, "lightning_gans.cli.")) for module in modules)
    if not alone or not modules or not modules[-1].startswith(_LIGHTNING):
        return None
    users = [type(frame.f_locals.get("self")) for frame in frames]
    callbacks = [user.__name__ for user in users if "Callback" in {base.__name__ for base in user.__mro__}]
    if callbacks:
        return SettingError(f"{callbacks[-1]}: {message}", setting="trainer.callbacks", value=callbacks[-1])
    from lightning_gans.cli.parsing import readable

    if "Does not validate against any of the Union subtypes" in message:
        return readable(str(error))
    return SettingError(f"Lightning rejects a setting: {message}")
