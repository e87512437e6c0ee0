"""The patch discriminator (PatchGAN) of Pix2Pix (Isola et al. 2017, https://arxiv.org/abs/1611.07004)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import SettingError, check_counts, check_repeats
from lightning_gans.networks.dcgan import initialize
from lightning_gans.networks.normalization import Norm, make_norm


class PatchDiscriminator(nn.Module):
    """Map images to a logit for each of their overlapping patches, ``(N, 1, h, w)``.

    Patches have 70 x 70 pixels with ``num_layers=3``, 34 x 34 with 2 and 16 x 16 with 1 (section 6.1.2). The network
    pads with zeros only and takes images of any size; for 256 x 256 pixels it returns 30 x 30 logits.

    Args:
        in_channels: Channels of the images and, in a conditional discriminator, of the condition together.
        num_layers: Convolutions that halve the size; two more keep it.
        width: Channels at half the image size; each further layer doubles them, up to 8 times as many.
        norm: Normalization after all convolutions except the first and the last: ``batch``, ``instance`` or ``none``.
            The first and the last have a bias; the others have one unless ``norm`` is ``batch``. BatchNorm mixes the
            images of a batch, so do not use it with gradient penalties.

    Raises:
        SettingError: A setting is invalid; in ``forward``, the channels do not match, or the images are too small.

    Example:
        >>> PatchDiscriminator(2, width=4)(torch.zeros(1, 1, 64, 96), torch.zeros(1, 1, 64, 96)).shape
        torch.Size([1, 1, 6, 10])
    """

    def __init__(self, in_channels: int = 6, num_layers: int = 3, width: int = 64, norm: Norm = "batch") -> None:
        super().__init__()
        check_counts(in_channels=in_channels, width=width)
        check_repeats(num_layers=num_layers)
        self.in_channels = in_channels
        self.smallest = 3 * 2**num_layers
        bias = norm != "batch"
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        inputs = width
        for layer in range(1, num_layers + 1):
            outputs, stride = width * 2 ** min(layer, 3), 2 if layer < num_layers else 1
            convolution = nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1, bias=bias)
            layers += [convolution, make_norm(norm, outputs), nn.LeakyReLU(0.2)]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 4, padding=1))
        initialize(self, normalized=norm != "none")

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, 1, h, w)``.

        Args:
            images: The images.
            condition: Images ``(N, D, H, W)`` that they belong to; resized if they have another height or width.
        """
        if condition is not None:
            if condition.shape[2:] != images.shape[2:]:
                condition = F.interpolate(condition, images.shape[2:], mode="bilinear")
            images = torch.cat([images, condition], 1)
        if images.shape[1] != self.in_channels:
            message = f"in_channels of the discriminator is {self.in_channels}, but its input has {images.shape[1]}."
            raise SettingError(message, setting="in_channels", value=self.in_channels, allowed=images.shape[1])
        if min(images.shape[2:]) < self.smallest:
            raise SettingError(
                f"the discriminator needs images of at least {self.smallest} x {self.smallest} pixels, not of "
                f"{images.shape[2]} x {images.shape[3]}: use fewer layers (num_layers).",
                setting="num_layers",
                value=tuple(images.shape[2:]),
                allowed=self.smallest,
            )
        logits: Tensor = self.layers(images)
        return logits
