"""The generator of CycleGAN (Zhu et al. 2017, https://arxiv.org/abs/1703.10593, section 7.2; Johnson et al. 2016)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import check_counts, check_repeats
from lightning_gans.networks.dcgan import initialize
from lightning_gans.networks.normalization import Norm, make_norm
from lightning_gans.networks.unet import check_divisible


class ResidualBlock(nn.Module):
    """Add two 3x3 convolutions with reflection padding and normalization, and a ReLU between them, to the input."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()

        def convolution() -> list[nn.Module]:
            layer = nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect", bias=norm != "batch")
            return [layer, make_norm(norm, width)]

        self.layers = nn.Sequential(*convolution(), nn.ReLU(), *convolution())

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, width, H, W)`` to the same shape."""
        result: Tensor = images + self.layers(images)
        return result


class LearnedAffine(nn.Module):
    """Resample all images by one learned affine map, the identity at first (Jaderberg et al. 2015).

    See https://arxiv.org/abs/1506.02025. Pixels from outside of an image are -1. Each entry of the map differs from the
    identity's by less than a half, so that images stay in view. An update changes the map 50 times as much as it
    changes the parameters: otherwise convolutions would adapt before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        affine = torch.eye(2, 3, dtype=self.shift.dtype, device=images.device) + torch.tanh(100 * self.shift) / 2
        num, channels, height, width = images.shape
        # affine_grid, and a grid for each image, would fix the sizes of an exported network.
        y, x = ((torch.arange(side).to(affine) + 0.5) * 2 / side - 1 for side in (height, width))
        columns, rows = torch.meshgrid(x, y, indexing="xy")
        places = torch.stack([columns, rows, torch.ones_like(rows)], 2)
        grid = (places @ affine.T).to(images.dtype)
        flat = images.reshape(1, num * channels, height, width)
        return (F.grid_sample(flat + 1, grid[None], align_corners=False) - 1).view(images.shape)


class ResNetTranslator(nn.Module):
    """Map images to images in [-1, 1] of the same size with residual blocks on smaller feature maps.

    The paper has 6 blocks for 128 x 128 pixels and 9 for 256 x 256 and more. Images may have any size that can be
    halved ``depth`` times.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        num_blocks: Number of residual blocks.
        width: Channels at the image size; each halving doubles them.
        depth: How often the size is halved before the blocks.
        norm: ``batch``, ``instance`` or ``none``. Convolutions have a bias unless it is ``batch``.
        affine: Whether an affine map of the images, learned with the weights, comes first. It shifts, rotates and
            resizes whole images, which convolutions do at the expense of their content.

    Attributes:
        multiple: Height and width of images must be multiples of it.

    Raises:
        SettingError: A setting is invalid; in ``forward``, the image cannot be halved ``depth`` times.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        num_blocks: int = 9,
        width: int = 64,
        depth: int = 2,
        norm: Norm = "instance",
        affine: bool = False,
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, out_channels=out_channels, width=width)
        check_repeats(num_blocks=num_blocks)
        check_repeats(least=0, depth=depth)
        self.depth, self.multiple = depth, 2**depth
        bias = norm != "batch"
        first = nn.Conv2d(in_channels, width, 7, padding=3, padding_mode="reflect", bias=bias)
        layers = [*([LearnedAffine()] if affine else []), first, make_norm(norm, width), nn.ReLU()]
        for _ in range(depth):
            halved = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias)
            layers += [halved, make_norm(norm, 2 * width), nn.ReLU()]
            width *= 2
        layers += [ResidualBlock(width, norm) for _ in range(num_blocks)]
        for _ in range(depth):
            doubled = nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1, bias=bias)
            layers += [doubled, make_norm(norm, width // 2), nn.ReLU()]
            width //= 2
        last = nn.Conv2d(width, out_channels, 7, padding=3, padding_mode="reflect")
        self.layers = nn.Sequential(*layers, last, nn.Tanh())
        initialize(self, normalized=norm != "none")

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, in_channels, H, W)`` to images ``(N, out_channels, H, W)``."""
        check_divisible(
            images.shape[1:], self.multiple, f"the network halves them {self.depth} times", "an image's shape"
        )
        pixels: Tensor = self.layers(images)
        return pixels
