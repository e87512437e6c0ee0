"""Exponential moving average (EMA) of weights, used for sampling."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_gans.training.schedules import cosine


class EMA(nn.ModuleDict):
    """Moving averages of networks, by name; always in evaluation mode.

    Works in any ``LightningModule``: create it in ``__init__``, call :meth:`average` after each update, and sample with
    ``self.ema["generator"]``.

    Args:
        networks: The networks by name; they are copied.
        half_life: Half-life of the average, in images, greater than 0.
        ramp: Caps the half-life at this fraction of the images seen so far, so that the average forgets the first
            steps (Karras et al. 2020, arXiv:2006.06676).
        start: Fraction of the half-life at the start of the schedule, up to 1; it rises to 1 along a cosine.

    Example:
        >>> network = nn.Linear(1, 1, bias=False)
        >>> ema = EMA({"generator": network}, half_life=100, ramp=1.0)
        >>> _ = network.weight.data.add_(1.0)
        >>> ema.average({"generator": network}, batch_images=10, images_seen=10)
        >>> (network.weight - ema["generator"].weight).item()
        0.5
    """

    same_on_processes = True
    """Excludes the moving averages from averaging over processes, which they do not need."""

    def __init__(
        self, networks: Mapping[str, nn.Module], half_life: float = 10_000, ramp: float = 0.05, start: float = 1.0
    ) -> None:
        super().__init__({name: copy.deepcopy(network) for name, network in networks.items()})
        self.requires_grad_(False).eval()
        self.half_life, self.ramp, self.start = half_life, ramp, start
        self._pairs: tuple[Any, ...] = ()

    @torch.no_grad()
    def average(
        self, networks: Mapping[str, nn.Module], batch_images: int, images_seen: int, progress: float = 1.0
    ) -> None:
        """Move the averages towards the weights; copy the buffers (BatchNorm's statistics).

        Args:
            networks: The networks by the same names.
            batch_images: Images since the last update, on all processes.
            images_seen: Images since the start of training, on all processes.
            progress: Progress of the half-life's schedule, between 0 and 1.
        """
        half_life = self.half_life * (cosine(self.start, 1.0, progress) if self.start < 1 else 1.0)
        half_life = max(min(half_life, self.ramp * images_seen), 1e-8)
        move = get_ema_multi_avg_fn(0.5 ** (batch_images / half_life))  # type: ignore[no-untyped-call]
        sources = [networks[name] for name in self]
        if not self._pairs or any(known is not source for known, source in zip(self._pairs[0], sources, strict=True)):
            self._pairs = sources, _tensors_of(list(self.values())), _tensors_of(sources)
        _, (targets, of_targets), (parameters, modules) = self._pairs
        move(targets, parameters, None)
        if modules:  # a module may have replaced its buffers since, so they are collected each time
            pairs = [[b for module in side for b in module.buffers(recurse=False)] for side in (of_targets, modules)]
            torch._foreach_copy_(pairs[0], pairs[1])

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the cached tensors; a copy collects its own."""
        return {**self.__dict__, "_pairs": ()}


def _tensors_of(networks: Sequence[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """Return the parameters of networks and their modules with buffers; collecting takes longer than averaging."""
    modules = [module for network in networks for module in network.modules()]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return parameters, [module for module in modules if any(True for _ in module.buffers(recurse=False))]
