"""Callbacks: scores and pictures of a run, its checkpoints, its progress, and stopping it."""

from __future__ import annotations

import warnings
from typing import Any

from lightning_gans.callbacks.checkpoint import Checkpoint
from lightning_gans.callbacks.graceful_stop import GracefulStop
from lightning_gans.callbacks.grids import Reconstructions, SampleGrid
from lightning_gans.callbacks.nearest_neighbors import NearestNeighbors
from lightning_gans.callbacks.progress_bar import ProgressBar
from lightning_gans.callbacks.scores import GenerativeMetrics
from lightning_gans.callbacks.watchdog import CollapseWatchdog
from lightning_gans.training.acceleration import Acceleration
from lightning_gans.training.clipping import ClipGradients
from lightning_gans.training.exact_resume import ExactResume

__all__ = [
    "Acceleration",
    "Checkpoint",
    "ClipGradients",
    "CollapseWatchdog",
    "ExactResume",
    "GenerativeMetrics",
    "GracefulStop",
    "NearestNeighbors",
    "ProgressBar",
    "Reconstructions",
    "SampleGrid",
]


def __getattr__(name: str) -> Any:
    """Return a class under its deprecated name."""
    if name == "NearestNeighbours":
        warnings.warn("NearestNeighbours is deprecated: use NearestNeighbors.", FutureWarning, stacklevel=2)
        return NearestNeighbors
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
