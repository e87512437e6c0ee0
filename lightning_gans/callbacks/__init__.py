"""Callbacks: scores and pictures of a run, its checkpoints, its progress, and how it stops."""

from lightning_gans.callbacks.checkpoint import Checkpoint
from lightning_gans.callbacks.graceful_stop import GracefulStop
from lightning_gans.callbacks.grids import Reconstructions, SampleGrid
from lightning_gans.callbacks.nearest_neighbors import NearestNeighbours
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
    "NearestNeighbours",
    "ProgressBar",
    "Reconstructions",
    "SampleGrid",
]
