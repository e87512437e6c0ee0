"""A CSV file that a resumed run continues."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_gans._lightning import CSVLogger, rank_zero_experiment, rank_zero_only, save_hparams_to_yaml
from lightning_gans.errors import UnwritableError
from lightning_gans.io.files import make_folder, replacing


class RunLogger(CSVLogger):
    """``metrics.csv`` with the rows of one run, also when it was stopped and resumed in between.

    A checkpoint of a model of this package notes how many rows there were. A run that is resumed from it in
    the same folder drops the later rows, which it will write again, and appends. A new run in the folder
    of an old one replaces the old rows with its first.

    Args:
        save_dir: The folder of all runs.
        name: The folder in it for runs of this kind.
        version: The run's own folder in that: a number, or a name; by default the next number.
        **options: As in Lightning's ``CSVLogger``.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The file, from the first process."""
        if self._experiment is None:
            self._experiment = _Rows(Path(self.log_dir))  # type: ignore[assignment]
        return self._experiment

    @rank_zero_only
    def state_dict(self) -> dict[str, Any]:
        """Return how many rows there are; they are on the disk when this returns."""
        self.experiment.save()
        return {"rows": self.experiment.sync()}

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep that many rows of the file, if there is one; without a number, those up to ``step``."""
        self.experiment.keep(state.get("rows"), state.get("step", 0))


class _Rows:
    """The rows of ``metrics.csv``: what Lightning's loggers call an experiment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "metrics.csv"
        self.keys: list[str] = []
        self.metrics: list[dict[str, Any]] = []  # not written yet
        self.hparams: dict[str, Any] = {}
        self._written = 0
        self._is_ours = False  # whether the file holds rows of this run
        make_folder(folder)

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Note a row."""
        values = {key: value.item() if isinstance(value, torch.Tensor) else value for key, value in metrics.items()}
        self.metrics.append({**values, "step": step})

    def log_hparams(self, params: Mapping[str, Any]) -> None:
        """Note the model's arguments."""
        self.hparams.update(params)

    def save(self) -> None:
        """Write what is not written yet: append it, or write a whole new file if a column is new."""
        if self.hparams:
            save_hparams_to_yaml(self.folder / "hparams.yaml", self.hparams)
            self.hparams = {}
        if not self.metrics:
            return
        keys = sorted({*self.keys, *(key for row in self.metrics for key in row)})
        if self._is_ours and keys == self.keys:
            try:
                with open(self.path, "a", newline="") as file:
                    file.write(_as_csv(self.metrics, keys, header=False))
            except OSError as error:
                raise UnwritableError(self.path, error) from error
        else:
            self._replace((self._read() if self._is_ours else []) + self.metrics, keys)
        self._written += len(self.metrics)
        self.metrics = []

    def sync(self) -> int:
        """Put the rows on the disk and return their number."""
        if self._is_ours:
            with open(self.path, "a") as file:
                os.fsync(file.fileno())
        return self._written

    def keep(self, rows: int | None, step: int = 0) -> None:
        """Take over the first rows of the file that is there, or those up to a step, and drop the others."""
        self.metrics = []
        found = self._read() if self.path.is_file() else []
        if rows is None:
            kept = [row for row in found if str(row["step"]).isdigit() and int(row["step"]) <= step]
        else:
            kept = found[:rows]
        if kept:
            self._replace(kept, sorted({key for row in kept for key, value in row.items() if value != ""}))
        self._written, self._is_ours = len(kept), bool(kept)

    def _read(self) -> list[dict[str, Any]]:
        with open(self.path, newline="") as file:
            return list(csv.DictReader(file))

    def _replace(self, rows: Sequence[Mapping[str, Any]], keys: list[str]) -> None:
        with replacing(self.path) as file:
            file.write(_as_csv(rows, keys, header=True).encode())
        self.keys, self._is_ours = keys, True


def _as_csv(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], header: bool) -> str:
    """Return rows as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
