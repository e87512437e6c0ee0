"""A CSV file that a resumed run continues."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_gans._lightning import (
    CSVLogger,
    TrainerFn,
    claim_version,
    rank_zero_experiment,
    rank_zero_only,
    save_hparams_to_yaml,
)
from lightning_gans.errors import DataError, UnwritableError
from lightning_gans.io.files import make_folder, reading, replacing


class RunLogger(CSVLogger):
    """``metrics.csv`` with the rows of one run, even if it is stopped and resumed.

    A checkpoint of this package's models notes how many rows there were. A run that resumes from it in the same folder
    drops the later rows, which it will write again, and appends; with any other module, it keeps the rows before the
    first step that it logs. A new run in the folder of an old one replaces the old rows with its first write.

    Args:
        save_dir: The folder of all runs.
        name: The folder inside ``save_dir`` for runs of this kind.
        version: The run's own folder inside ``name``: a number or a name; by default the next number.
        **options: As in Lightning's ``CSVLogger``.
    """

    @property
    def version(self) -> int | str:
        """The run's own folder; the first process claims the next number by making the folder."""
        if getattr(rank_zero_only, "rank", 0) == 0:
            claim_version(self, self._make_folder)
        return super().version

    def _make_folder(self, number: int) -> int:
        """Make the folder of the next number that no other process has made, and return the number."""
        root = make_folder(self.root_dir)
        while True:
            try:
                (root / f"version_{number}").mkdir()
                return number
            except FileExistsError:
                number += 1

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The file, from the first process."""
        if self._experiment is None:
            self._experiment = _Rows(Path(self.log_dir))  # type: ignore[assignment]
        return self._experiment

    @rank_zero_only
    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Keep the rows that the file has if a fit is resumed or a checkpoint is evaluated.

        Lightning calls this before the first step; it is the only call that gives a logger access to the trainer.
        """
        if model.trainer.state.fn != TrainerFn.FITTING:
            self.experiment.takes_over = "all"
        elif model.trainer.ckpt_path is not None:
            self.experiment.takes_over = "earlier"

    @rank_zero_only
    def state_dict(self) -> dict[str, Any]:
        """Return how many rows there are; they are on the disk when this returns."""
        self.experiment.save()
        return {"rows": self.experiment.sync()}

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep that many rows of the file, if there is one; without a number, those up to ``step``."""
        self.experiment.metrics = []
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
        self.takes_over: Literal["", "earlier", "all"] = ""  # rows of the file, if it holds none of this run
        make_folder(folder)

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Collect a row until the next :meth:`save`."""
        values = {key: value.item() if isinstance(value, torch.Tensor) else value for key, value in metrics.items()}
        self.metrics.append({**values, "step": step})

    def log_hparams(self, params: Mapping[str, Any]) -> None:
        """Collect the model's arguments until the next :meth:`save`."""
        self.hparams.update(params)

    def save(self) -> None:
        """Write the collected rows: append them, or rewrite the whole file if there is a new column.

        Raises:
            DataError: The file or its folder has been removed during the run.
        """
        for path in (self.folder, self.path) if self._is_ours else (self.folder,):
            if not path.exists():
                raise DataError(f"{path} was removed during the run.", setting=str(path))
        if self.hparams:
            save_hparams_to_yaml(self.folder / "hparams.yaml", self.hparams)
            self.hparams = {}
        if not self.metrics:
            return
        if not self._is_ours and self.takes_over:
            earlier = min(row["step"] for row in self.metrics) - 1
            self.keep(None, earlier if self.takes_over == "earlier" else sys.maxsize)
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
        """Keep the first rows of an existing file, or its rows up to a step, and drop the others."""
        found = self._read() if self.path.is_file() else []
        if rows is None:
            kept = [row for row in found if str(row["step"]).isdigit() and int(row["step"]) <= step]
        else:
            kept = found[:rows]
        if kept:
            self._replace(kept, sorted({key for row in kept for key, value in row.items() if value != ""}))
        self._written, self._is_ours = len(kept), bool(kept)

    def _read(self) -> list[dict[str, Any]]:
        with reading(self.path, "a table of metrics"), open(self.path, newline="") as file:
            rows = list(csv.DictReader(file))
            return [row for row in rows if None not in row and row.get("step") is not None]  # cut off or edited

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
