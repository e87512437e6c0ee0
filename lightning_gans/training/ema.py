"""The moving average of the weights (EMA), with which samples are made."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_gans.training.acceleration import AcceleratedModule
from lightning_gans.training.update import cosine


class AveragedModule(AcceleratedModule):
    """Keeps an average of the networks named in ``averaged_networks``, under their names with ``_ema``."""

    ema_half_life: float
    ema_ramp: float
    ema_start: float

    _averaging: Any = None
    """What an update of the averages touches, once a fit has looked for it."""

    def create_ema(self) -> None:
        """Copy the networks; to be called once they are all there."""
        if self.ema_half_life > 0:
            for name in self.averaged_networks:
                self.add_module(f"{name}_ema", copy.deepcopy(getattr(self, name)).requires_grad_(False).eval())

    def averaged(self, name: str, ema: bool = True) -> Any:
        """Return the moving average of a network, or the network itself where there is none or ``ema`` is off."""
        return getattr(self, f"{name}_ema" if ema and hasattr(self, f"{name}_ema") else name)

    def start_averaging(self) -> None:
        """Look for the tensors anew; to be called at the start of a fit."""
        self._averaging = None

    @torch.no_grad()
    def update_ema(self, batch_images: int) -> None:
        """Move the averages towards the weights; copy the buffers (BatchNorm's statistics)."""
        if self.ema_half_life == 0:
            return
        half_life = self.ema_half_life
        if self.ema_start < 1:
            half_life *= cosine(self.ema_start, 1.0, self.progress())
        half_life = max(min(half_life, self.ema_ramp * self.images_seen), 1e-8)
        average = get_ema_multi_avg_fn(0.5 ** (batch_images / half_life))  # type: ignore[no-untyped-call]
        if self._averaging is None:
            networks = [getattr(self, name) for name in self.averaged_networks]
            averages = [self.averaged(name) for name in self.averaged_networks]
            self._averaging = _tensors_of(averages), _tensors_of(networks)
        (targets, of_targets), (parameters, modules) = self._averaging
        average(targets, parameters, None)
        if modules:
            # A module may have put other tensors in the place of its buffers since.
            targets, buffers = (
                [b for module in side for b in module.buffers(recurse=False)] for side in (of_targets, modules)
            )
            torch._foreach_copy_(targets, buffers)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the networks; the averages always stay in evaluation mode."""
        super().train(mode)
        for name in self.averaged_networks:
            if hasattr(self, f"{name}_ema"):
                getattr(self, f"{name}_ema").eval()
        return self


def _tensors_of(networks: Sequence[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """Return the parameters of networks, and the modules in them that have buffers; looking takes longer than using."""
    modules = [module for network in networks for module in network.modules()]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return parameters, [module for module in modules if any(True for _ in module.buffers(recurse=False))]
