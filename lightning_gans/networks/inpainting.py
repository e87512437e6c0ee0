"""Networks that fill holes and leave the rest of an image alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Inpainter(nn.Module):
    """Use a network's output within holes, and the input outside of them, bit for bit.

    Args:
        network: Maps ``(N, C + 1, H, W)`` to ``(N, C, H, W)``. The last channel of its input is positive in holes, as
            the task ``inpaint`` makes it.

    Attributes:
        multiple: Height and width of images must be multiples of it, if the network says so.

    Example:
        >>> image, hole = torch.rand(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
        >>> Inpainter(nn.Conv2d(4, 3, 1))(torch.cat([image, -hole], 1)).equal(image)
        True
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.multiple: int = getattr(network, "multiple", 1)

    def forward(self, source: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)``."""
        return torch.where(source[:, -1:] > 0, self.network(source), source[:, :-1])
