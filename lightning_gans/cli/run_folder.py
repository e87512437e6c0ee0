"""The files in a run's folder; only this module knows their names."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from lightning_gans.cli.recipe_yaml import load_yaml
from lightning_gans.errors import DataError, SettingError
from lightning_gans.io.files import make_folder
from lightning_gans.io.score_files import parsed

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None  # type: ignore[assignment]


class RunFolder:
    """The folder of one run, by default ``runs/<recipe>/version_N``.

    Args:
        path: The folder.
        dirpath: The folder of the checkpoints, ``checkpoint.dirpath`` in the settings; by default ``checkpoints``.
    """

    def __init__(self, path: str | Path, dirpath: str | Path | None = None) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"  # all settings
        self.hparams = self.path / "hparams.yaml"  # the arguments of the model
        self.record = self.path / "run.json"  # how the run was made, with an entry for each fit
        self.metrics = self.path / "metrics.csv"  # the logged values
        self.report = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints" if dirpath is None else Path(dirpath)
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"

    @classmethod
    def find(cls, name: str) -> RunFolder:
        """Return the run that a folder, or a checkpoint in it, names; raise :class:`DataError` if it is not one."""
        path = Path(name)
        run = cls(path.parent.parent if path.suffix == ".ckpt" else path)
        run.check_folder()
        if not run.config.is_file():
            inside = sorted(str(config.parent) for config in run.path.glob(f"**/{run.config.name}"))
            hint = f" Runs in it: {', '.join(inside[-3:])}." if inside else ""
            message = f"{run.path} is not the folder of a run: {run.config.name} is missing.{hint}"
            raise DataError(message, setting=str(run.path))
        return run

    @classmethod
    def of_checkpoint(cls, checkpoint: str | Path) -> RunFolder | None:
        """Return the run whose ``checkpoints`` hold a checkpoint, or None."""
        run = cls(Path(checkpoint).parent.parent)
        return run if Path(checkpoint).parent.name == run.checkpoints.name and run.config.is_file() else None

    @classmethod
    def of_trainer(cls, trainer: Any, dirpath: str | None = None) -> RunFolder:
        """Return the folder that a trainer logs to; unlike ``trainer.log_dir``, this involves no other process."""
        return cls((trainer.loggers[0].log_dir if trainer.loggers else None) or trainer.default_root_dir, dirpath)

    def check_folder(self) -> None:
        """Raise :class:`DataError` if there is no such folder."""
        if not self.path.is_dir():
            message = f"{self.path} is not a folder: name the folder of a run, such as runs/quickstart/version_0."
            raise DataError(message, setting=str(self.path))

    def settings(self) -> dict[str, Any]:
        """Read the settings of the run; raise :class:`DataError` if the file is not valid."""
        try:
            found = load_yaml(self.config.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError, SettingError) as error:
            found = " ".join(str(error).split())
        if not isinstance(found, dict):
            message = f"{self.config} is not a valid recipe, which is a mapping of settings: {found}"
            raise DataError(message, setting=str(self.config))
        return found

    def predictions(self, rank: int | None = None) -> Path:
        """Return the file of predictions; with several processes, each has its own."""
        return self.path / f"predictions{'' if rank is None else f'_rank{rank}'}.npz"

    def scores(self, step: int) -> Path:
        """Return the file of the scores after an update."""
        return self.path / "metrics" / f"step={step:07d}.json"

    def evaluation(self, step: int, ema: bool | None) -> dict[str, Any] | None:
        """Return the record of scores of the weights after an update, or None.

        Args:
            step: The update.
            ema: Whether the scores must be those of the moving averages; None if the model has no moving averages.
        """
        found = read_json(self.scores(step))
        try:
            protocol = found["protocol"]
            scored = {protocol[name] for name in ("ema", "likelihood_ema") if name in protocol} or {True}
            complete = "stage" in found and "scores" in found
        except (KeyError, TypeError):
            return None
        return found if complete and (ema is None or scored == {ema}) else None

    def all_scores(self) -> list[Path]:
        """Return the files of scores, by step."""
        return self._by_step("metrics", "json")

    def pictures(self, kind: str) -> list[Path]:
        """Return the pictures of ``samples``, ``reconstructions`` or ``neighbors``, by step."""
        before = kind.replace("neighbor", "neighbour")  # the name in 0.1
        return self._by_step(kind if (self.path / kind).is_dir() else before, "png")

    def explorations(self) -> list[Path]:
        """Return the pictures that ``walk`` and ``traverse`` wrote into the folder, by their names."""
        found = (path for pattern in ("walk*.gif", "walk*.png", "traverse*.png") for path in self.path.glob(pattern))
        return sorted(path for path in found if self.holds(path))

    def _by_step(self, folder: str, suffix: str) -> list[Path]:
        found = (self.path / folder).glob(f"step=*.{suffix}")
        return sorted(path for path in found if re.fullmatch(r"step=[0-9]+", path.stem) and self.holds(path))

    def holds(self, path: Path) -> bool:
        """Return whether a file exists in the run's folder, and no link leads out of the folder."""
        return path.is_file() and path.resolve().is_relative_to(self.path.resolve())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run and its checkpoints.

        Raises:
            DataError: Another process is training there, or the folder's content is invalid.
        """
        self.check_content()
        with ExitStack() as held:
            held.enter_context(_locked(self.path / ".lock"))
            if not self.checkpoints.absolute().is_relative_to(self.path.absolute()):
                held.enter_context(_locked(self.checkpoints / ".lock"))
            yield

    def check_content(self) -> None:
        """Raise :class:`DataError` for a link that leads out of the folder, a pipe, or a folder instead of a file."""
        for path in (self.config, self.hparams, self.record, self.metrics):
            if path.is_dir():
                raise DataError(f"{path} is a folder instead of a file: remove it.", setting=str(path))
        for path in self.path.glob("*"):
            if path.is_symlink() and not path.resolve().is_relative_to(self.path.resolve()):
                message = f"{path} is a link out of the run's folder: replace it, or set checkpoint.dirpath instead."
                raise DataError(message, setting=str(path))
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise DataError(f"{path} is neither a file nor a folder: remove it.", setting=str(path))

    def missing(self) -> list[Path]:
        """Return the files and folders that a command creates before its first batch and that do not exist yet."""
        samples = self.path / "samples"
        early = (self.config, self.hparams, self.checkpoints, samples / "step=0000000.png", samples)
        return [path for path in early if not os.path.exists(path)]

    def remove(self, made: Sequence[Path]) -> None:
        """Remove files and empty folders, then the run's folder and those above it if they are empty."""
        here = Path.cwd()
        above = [path for path in (self.path, *self.path.parents[:2]) if not here.is_relative_to(path.absolute())]
        for path in (*made, *above):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock; the system releases it if the process is killed."""
    make_folder(path.parent)
    with open(path, "a+", encoding="utf-8", opener=_open_no_link) as file:
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samefile(path, file.fileno()):  # its holder has ended and removed it
                    raise BlockingIOError
        except (BlockingIOError, PermissionError, FileNotFoundError):
            file.seek(0)
            holder = file.read() or "another process"
            message = f"{path.parent} is in use by {holder}: wait until it ends, or stop it."
            raise DataError(message, setting=str(path.parent), value=holder) from None
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def step_of(path: Path) -> int:
    """Return the update after which a file of scores or a picture was written."""
    return int(path.stem.removeprefix("step="))


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that may be missing, damaged or edited by hand; return an empty dict instead of an error."""
    try:
        found = parsed(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
