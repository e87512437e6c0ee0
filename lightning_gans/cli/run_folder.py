"""The files in a run's folder: this module alone knows their names."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_gans.errors import DataError

CONFIG = "config.yaml"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, by default ``runs/<recipe>/version_N``.

    Args:
        path: The folder.
        dirpath: The folder of the checkpoints, ``checkpoint.dirpath`` in the settings; by default ``checkpoints``.
    """

    path: Path
    dirpath: str | None = None

    @classmethod
    def find(cls, name: str) -> RunFolder:
        """Return the run that a folder, or a checkpoint in its ``checkpoints``, names.

        Raises:
            DataError: It is not the folder of a run.
        """
        path = Path(name)
        run = cls(path.parent.parent if path.suffix == ".ckpt" else path)
        run.check_folder()
        if not run.config.is_file():
            inside = sorted(str(config.parent) for config in run.path.glob(f"**/{CONFIG}"))
            hint = f" Runs in it: {', '.join(inside[-3:])}." if inside else ""
            raise DataError(f"{run.path} is not the folder of a run: {CONFIG} is missing.{hint}", setting=str(run.path))
        return run

    @classmethod
    def of_checkpoint(cls, checkpoint: str | Path) -> RunFolder | None:
        """Return the run whose ``checkpoints`` hold a checkpoint, or None."""
        folder = Path(checkpoint).parent
        run = cls(folder.parent)
        return run if folder.name == "checkpoints" and run.config.is_file() else None

    @classmethod
    def of_trainer(cls, trainer: Any, dirpath: str | None = None) -> RunFolder:
        """Return the folder that a trainer logs to; unlike ``trainer.log_dir``, this needs no other process."""
        return cls(Path((trainer.loggers[0].log_dir if trainer.loggers else None) or trainer.default_root_dir), dirpath)

    def check_folder(self) -> None:
        """Raise :class:`DataError` if there is no such folder."""
        if not self.path.is_dir():
            message = f"{self.path} is not a folder: name the folder of a run, such as runs/quickstart/version_0."
            raise DataError(message, setting=str(self.path))

    @property
    def config(self) -> Path:
        """The settings of the run."""
        return self.path / CONFIG

    @property
    def record(self) -> Path:
        """How the run was made, with an entry for each fit."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """What was logged."""
        return self.path / "metrics.csv"

    @property
    def report(self) -> Path:
        """The page that ``lightning-gans report`` writes."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints" if self.dirpath is None else Path(str(self.dirpath))

    @property
    def last(self) -> Path:
        """The last checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best score."""
        return self.checkpoints / "best.ckpt"

    def predictions(self, rank: int | None = None) -> Path:
        """What ``lightning-gans predict`` writes, one file for each process where there are several."""
        return self.path / f"predictions{'' if rank is None else f'_rank{rank}'}.npz"

    def scores(self, step: int) -> Path:
        """The scores after an update, with the protocol."""
        return self.path / "metrics" / f"step={step:07d}.json"

    def all_scores(self) -> list[Path]:
        """The files of scores, by step."""
        return self._by_step("metrics", "json")

    def pictures(self, kind: str) -> list[Path]:
        """The pictures of ``samples``, ``reconstructions`` or ``neighbours``, by step."""
        return self._by_step(kind, "png")

    def _by_step(self, folder: str, suffix: str) -> list[Path]:
        found = (self.path / folder).glob(f"step=*.{suffix}")
        return sorted(path for path in found if re.fullmatch(r"step=[0-9]+", path.stem) and path.is_file())

    def settings(self) -> dict[str, Any]:
        """Read the settings of the run.

        Raises:
            DataError: The file is not valid YAML, or not a mapping.
        """
        try:
            found = yaml.safe_load(self.config.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.config} is not a valid recipe: {reason}.", setting=str(self.config)) from error
        if not isinstance(found, dict):
            message = f"{self.config} is not a valid recipe: it is a {type(found).__name__}, not a mapping of settings."
            raise DataError(message, setting=str(self.config))
        return found

    def remove_temporary_files(self) -> None:
        """Remove what a killed process left half written."""
        for path in self.path.rglob(".*.tmp"):
            path.unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """Return the update after which a file of scores or a picture was written."""
    return int(path.stem.removeprefix("step="))


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that may be missing, damaged or edited by hand; return an empty dict instead of an error."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
