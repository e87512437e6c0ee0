"""The files in a run's folder: this module alone knows their names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from lightning_gans.errors import DataError


class RunFolder:
    """The folder of one run, by default ``runs/<recipe>/version_N``.

    Args:
        path: The folder.
        dirpath: The folder of the checkpoints, ``checkpoint.dirpath`` in the settings; by default ``checkpoints``.
    """

    def __init__(self, path: str | Path, dirpath: str | Path | None = None) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"  # all settings
        self.record = self.path / "run.json"  # how the run was made, with an entry for each fit
        self.metrics = self.path / "metrics.csv"  # what was logged
        self.report = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints" if dirpath is None else Path(dirpath)
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"

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
        """Return the folder that a trainer logs to; unlike ``trainer.log_dir``, this needs no other process."""
        return cls((trainer.loggers[0].log_dir if trainer.loggers else None) or trainer.default_root_dir, dirpath)

    def check_folder(self) -> None:
        """Raise :class:`DataError` if there is no such folder."""
        if not self.path.is_dir():
            message = f"{self.path} is not a folder: name the folder of a run, such as runs/quickstart/version_0."
            raise DataError(message, setting=str(self.path))

    def settings(self) -> dict[str, Any]:
        """Read the settings of the run.

        Raises:
            DataError: The file is not valid YAML, or not a mapping.
        """
        try:
            found = yaml.safe_load(self.config.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            found = " ".join(str(error).split())
        if not isinstance(found, dict):
            message = f"{self.config} is not a valid recipe, which is a mapping of settings: {found}"
            raise DataError(message, setting=str(self.config))
        return found

    def predictions(self, rank: int | None = None) -> Path:
        """Return the file of predictions; where there are several processes, each has its own."""
        return self.path / f"predictions{'' if rank is None else f'_rank{rank}'}.npz"

    def scores(self, step: int) -> Path:
        """Return the file of the scores after an update."""
        return self.path / "metrics" / f"step={step:07d}.json"

    def all_scores(self) -> list[Path]:
        """Return the files of scores, by step."""
        return self._by_step("metrics", "json")

    def pictures(self, kind: str) -> list[Path]:
        """Return the pictures of ``samples``, ``reconstructions`` or ``neighbours``, by step."""
        return self._by_step(kind, "png")

    def _by_step(self, folder: str, suffix: str) -> list[Path]:
        found = (self.path / folder).glob(f"step=*.{suffix}")
        return sorted(path for path in found if re.fullmatch(r"step=[0-9]+", path.stem) and path.is_file())

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
