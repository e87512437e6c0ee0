"""The U-Net of Pix2Pix (Isola et al. 2017, https://arxiv.org/abs/1611.07004, section 6.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_gans.errors import SettingError, check_choice, check_counts, check_repeats, check_share
from lightning_gans.networks.dcgan import initialize
from lightning_gans.networks.normalization import Norm, make_norm

Upsampling = Literal["transposed", "nearest"]

DEEPEST = 8
"""Halvings in the paper's network, which is for 256 x 256 pixels."""


def halvings(image_shape: Sequence[int]) -> int:
    """Return how often height and width can be halved, at most :data:`DEEPEST` times.

    Raises:
        SettingError: A side is odd.

    Example:
        >>> halvings((3, 256, 256)), halvings((1, 28, 28)), halvings((5, 96, 160))
        (8, 2, 5)
    """
    depth = 0
    while depth < DEEPEST and all(side % 2 ** (depth + 1) == 0 for side in image_shape[1:]):
        depth += 1
    check_divisible(image_shape, 2 ** max(depth, 1), "a U-Net halves them")
    return depth


def check_divisible(image_shape: Sequence[int], factor: int, reason: str, what: str = "image_shape") -> None:
    """Raise :class:`SettingError` if height or width is not a multiple of a factor."""
    if any(side % factor for side in image_shape[1:]):
        raise SettingError(
            f"{what} is {list(image_shape)}: its height and width must be multiples of {factor}, as {reason}.",
            setting="image_shape",
            value=tuple(image_shape),
            allowed=f"multiples of {factor}",
        )


class UNet(nn.Module):
    """Map images to images in [-1, 1] of the same size with convolutions that halve it and as many that double it.

    The features before each halving are concatenated to the features that are doubled back to their size. With 8
    halvings this is the paper's network for 256 x 256 pixels; the innermost features then have one pixel. Images may
    have any height and width that can be halved ``depth`` times. The first three doublings have dropout, the paper's
    only noise.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        depth: How often the size is halved.
        width: Channels at half the image size; each halving doubles them, up to 8 times as many.
        norm: ``batch``, ``instance`` or ``none``. Convolutions have a bias unless it is ``batch``.
        dropout: Share of the features that dropout sets to zero.
        upsampling: How the size is doubled: ``transposed`` convolutions, as in the paper, or the ``nearest`` pixel and
            a 3x3 convolution, which avoids checkerboards (Odena et al. 2016, https://doi.org/10.23915/distill.00003).
        input_skip: Whether the input is concatenated as well, to features of the image size from which two 3x3
            convolutions make the output, as in the first U-Net (Ronneberger et al. 2015, arXiv:1505.04597). An
            output can then be as sharp as the input where the two agree.

    Attributes:
        multiple: Height and width of images must be multiples of it.

    Raises:
        SettingError: A setting is invalid; in ``forward``, the image cannot be halved ``depth`` times.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        depth: int = DEEPEST,
        width: int = 64,
        norm: Norm = "batch",
        dropout: float = 0.5,
        upsampling: Upsampling = "transposed",
        input_skip: bool = False,
    ) -> None:
        super().__init__()
        check_choice("upsampling", upsampling, get_args(Upsampling))
        check_counts(in_channels=in_channels, out_channels=out_channels, width=width)
        check_repeats(depth=depth)
        check_share(dropout=dropout)
        self.depth, self.multiple = depth, 2**depth
        bias = norm != "batch"

        def doubled(inputs: int, outputs: int, bias: bool) -> list[nn.Module]:
            if upsampling == "nearest":
                return [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)]
            return [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)]

        widths = [width * 2 ** min(level, 3) for level in range(depth)]
        self.down = nn.ModuleList([nn.Conv2d(in_channels, width, 4, stride=2, padding=1, bias=bias)])
        self.up = nn.ModuleList()  # from the inside to the outside
        for level in range(1, depth):
            outer, inner, innermost = widths[level - 1], widths[level], level == depth - 1
            halved = nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=bias)
            # The innermost features may have one pixel, which BatchNorm of a single image would set to zero.
            norms = [] if innermost else [make_norm(norm, inner)]
            self.down.append(nn.Sequential(nn.LeakyReLU(0.2), halved, *norms))
            inputs = inner if innermost else 2 * inner
            noise = [nn.Dropout(dropout)] if level >= depth - 3 else []
            self.up.insert(0, nn.Sequential(nn.ReLU(), *doubled(inputs, outer, bias), make_norm(norm, outer), *noise))
        inputs = width if depth == 1 else 2 * width
        self.up.append(nn.Sequential(nn.ReLU(), *doubled(inputs, width if input_skip else out_channels, bias=True)))
        self.output: nn.Module | None = None
        if input_skip:
            first = nn.Conv2d(width + in_channels, width, 3, padding=1)
            self.output = nn.Sequential(first, nn.LeakyReLU(0.2), nn.Conv2d(width, out_channels, 3, padding=1))
        initialize(self, normalized=norm != "none")

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, in_channels, H, W)`` to images ``(N, out_channels, H, W)``."""
        check_divisible(
            images.shape[1:], self.multiple, f"the U-Net halves them {self.depth} times", "an image's shape"
        )
        features, skipped = images, []
        for layer in self.down:
            features = layer(features)
            skipped.append(features)
        features = skipped.pop()
        for layer in self.up[:-1]:
            features = torch.cat([layer(features), skipped.pop()], 1)
        pixels: Tensor = self.up[-1](features)
        if self.output is not None:
            pixels = self.output(torch.cat([pixels, images], 1))
        return pixels.tanh()
