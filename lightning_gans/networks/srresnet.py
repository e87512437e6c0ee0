"""The super-resolution network of SRGAN (Ledig et al. 2017, https://arxiv.org/abs/1609.04802, figure 4)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from lightning_gans.errors import check_counts, check_repeats, invalid
from lightning_gans.networks.normalization import Norm, make_norm


class ResidualBlock(nn.Module):
    """Add two 3x3 convolutions with normalization, and a PReLU between them, to the input."""

    def __init__(self, width: int, norm: Norm = "batch") -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            make_norm(norm, width),
            nn.PReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            make_norm(norm, width),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, width, H, W)`` to the same shape."""
        result: Tensor = images + self.layers(images)
        return result


class SRResNet(nn.Module):
    """Enlarge images with residual blocks at the input size, followed by sub-pixel convolutions (Shi et al. 2016).

    The output is linear, as in the paper, so single pixels may leave [-1, 1]. Images may have any size.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        scale: Factor by which height and width grow, a power of 2: 1, 2, 4, 8 …
        num_blocks: Number of residual blocks.
        width: Channels of all blocks.
        norm: Normalization of the blocks: ``batch``, ``instance`` or ``none``.

    Raises:
        SettingError: A setting is invalid.

    Example:
        >>> import torch
        >>> SRResNet(num_blocks=1, width=4, scale=4)(torch.zeros(1, 3, 6, 10)).shape
        torch.Size([1, 3, 24, 40])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        scale: int = 4,
        num_blocks: int = 16,
        width: int = 64,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, out_channels=out_channels)
        check_counts(scale=scale, width=width)
        check_repeats(num_blocks=num_blocks)
        if scale & (scale - 1):
            raise invalid("scale", scale, "a power of 2")
        self.scale = scale
        self.first = nn.Sequential(nn.Conv2d(in_channels, width, 9, padding=4), nn.PReLU())
        blocks = [ResidualBlock(width, norm) for _ in range(num_blocks)]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(width, width, 3, padding=1), make_norm(norm, width))
        doublings: list[nn.Module] = []
        for _ in range(int(math.log2(scale))):
            doublings += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()]
        self.last = nn.Sequential(*doublings, nn.Conv2d(width, out_channels, 9, padding=4))

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, in_channels, H, W)`` to images ``(N, out_channels, scale * H, scale * W)``."""
        features = self.first(images)
        pixels: Tensor = self.last(features + self.blocks(features))
        return pixels
