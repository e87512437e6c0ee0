"""Frozen lower layers of discriminators, for transfer to few images (FreezeD)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from lightning_gans._lightning import Callback, pl, rank_zero_info
from lightning_gans.errors import check_counts, invalid


class FreezeLayers(Callback):
    """Freezes the lower layers of discriminators (FreezeD, Mo et al. 2020, https://arxiv.org/abs/2002.10964).

    A layer is a part of the network that has a weight matrix or a kernel of its own, in the order in which the parts
    are defined. A normalization between two layers belongs to the lower one; its scale and shift are frozen, but its
    running statistics are not.

    Args:
        num_layers: Number of layers to freeze.
        networks: Names of the networks; by default those of the module's ``trained_networks`` with ``discriminator`` in
            their names.

    Raises:
        SettingError: The number is below 1, or a network does not have more layers.
    """

    def __init__(self, num_layers: int, networks: tuple[str, ...] | None = None) -> None:
        check_counts(freeze_layers=num_layers)
        self.num_layers, self.networks = num_layers, networks

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Freeze the layers before a fit, and say how many weights are frozen."""
        if stage != "fit":
            return
        names = self.networks or [name for name in pl_module.trained_networks if "discriminator" in name]
        for name in names:
            layers = list(_layers(getattr(pl_module, name)))
            places = [place for place, layer in enumerate(layers) if any(p.dim() > 1 for p in layer)]
            if self.num_layers >= len(places):
                allowed = f"below {len(places)}, the number of layers of the {name}"
                raise invalid("freeze_layers", self.num_layers, allowed)
            frozen = [parameter for layer in layers[: places[self.num_layers]] for parameter in layer]
            for parameter in frozen:
                parameter.requires_grad_(False)
            count = sum(parameter.numel() for parameter in frozen)
            rank_zero_info(f"Frozen: {self.num_layers} of {len(places)} layers of the {name}, {count:,} weights.")


def _layers(network: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters of each part of a network, without those of the parts within it."""
    for name, part in network.named_modules():
        if "parametrizations" not in name.split("."):
            within = part.parametrizations.parameters() if is_parametrized(part) else ()
            yield [*part.parameters(recurse=False), *within]
