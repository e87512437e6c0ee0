"""Models as folders of safetensors and JSON, on the disk or on the Hugging Face Hub."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from lightning_gans.errors import DataError, are_counts, first_line, missing_extra
from lightning_gans.io.files import expanded, reading

PREFIX = "hf:"
"""Prefix of the name of a model on the Hub: ``hf:USER/NAME``, or ``hf:USER/NAME@REVISION``."""

CARD, WEIGHTS = "config.json", "model.safetensors"


def is_pushed(place: Any) -> bool:
    """Return whether a place is a folder or on the Hub, rather than the file of a checkpoint."""
    return str(place).startswith(PREFIX) or expanded(place).is_dir()


def read_pushed(place: Any) -> dict[str, Any]:
    """Return the card of a pushed model, and its weights as ``state_dict``, like the content of a checkpoint.

    Raises:
        DataError: The model cannot be downloaded, a file is missing or damaged, or the Hub's package is not installed.
    """
    folder = _downloaded(str(place)) if str(place).startswith(PREFIX) else expanded(place)
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file() and not (folder / CARD).exists():
        raise DataError(f"{folder} is the folder of a run: give its checkpoint, {last}.", setting=str(folder))
    with reading(folder / CARD, "the card of a model"):
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if not isinstance(card, dict) or not are_counts([card.get("global_step")], 0):
            raise ValueError("it has no global_step")
    with reading(folder / WEIGHTS, "a file of weights"):
        return {**card, "state_dict": load_file(folder / WEIGHTS)}


def write_pushed(folder: Path, card: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write what :func:`read_pushed` reads into an empty folder."""
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (folder / WEIGHTS).write_bytes(save({name: value.contiguous().clone() for name, value in weights.items()}))


def upload(folder: Path, place: str) -> None:
    """Upload a folder to the Hub as one commit; raise :class:`DataError` if that fails."""
    api = hub().HfApi()
    with _reaching(place):
        api.create_repo(place.removeprefix(PREFIX), exist_ok=True)
        message = "Upload a model of lightning_gans"
        api.upload_folder(repo_id=place.removeprefix(PREFIX), folder_path=folder, commit_message=message)


def hub() -> Any:
    """Return the Hub's package; raise :class:`DataError` if it is not installed."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise missing_extra("the Hugging Face Hub", "hub") from None


def _downloaded(place: str) -> Path:
    """Return the folder of a model on the Hub, downloaded unless it is in the cache of the Hub's package."""
    name, _, revision = place.removeprefix(PREFIX).partition("@")
    package = hub()
    with _reaching(place):
        return Path(package.snapshot_download(name, revision=revision or None, allow_patterns=[CARD, WEIGHTS]))


@contextmanager
def _reaching(place: str) -> Iterator[None]:
    """Turn any error of the Hub's package, such as for a missing model or network, into one :class:`DataError`."""
    try:
        yield
    except Exception as error:
        raise DataError(
            f"{place} cannot be reached on the Hugging Face Hub: {first_line(error)}.", setting=place
        ) from error
