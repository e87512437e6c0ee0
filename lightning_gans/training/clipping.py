"""Gradient clipping under manual optimization, where the trainer's own flag is not allowed."""

from __future__ import annotations

from typing import Any

import torch

from lightning_gans._lightning import Callback, pl


class ClipGradients(Callback):
    """Clips the gradient norm of each optimizer's parameters.

    At this hook gradients are unscaled, and averaged over batches and processes.

    Args:
        max_norm: Largest norm.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Clip one optimizer's gradients."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
