"""The digit classifier on each channel of an RGB image, for Stacked MNIST."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gans.metrics.extractors.base import Extractor
from lightning_gans.metrics.extractors.mnist import MNISTExtractor


class StackedMNISTExtractor(Extractor):
    """:class:`MNISTExtractor` on red, green and blue: 288 features and the logits of the 1,000 triples of digits.

    The features of the channels are concatenated. The logit of a triple is the sum of the log-probabilities of its
    digits, as for independent channels. Class 100 a + 10 b + c is named ``abc``, as in ``StackedMNISTDataModule``.

    Raises:
        DataError: The weights in the package are missing or damaged.
    """

    name = "stacked_mnist"
    num_features = 3 * MNISTExtractor.num_features
    resize = MNISTExtractor.resize
    weights_sha256 = MNISTExtractor.weights_sha256
    class_names = tuple(f"{number:03}" for number in range(1000))

    def __init__(self) -> None:
        super().__init__()
        self.digits = MNISTExtractor()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of RGB images, uint8 ``(N, 3, H, W)``."""
        # One channel at a time fits into the processor's cache, which is a third faster.
        features, logits = zip(*(self.digits(channel.unsqueeze(1)) for channel in images.unbind(1)), strict=True)
        red, green, blue = (some.log_softmax(1) for some in logits)
        joint = red[:, :, None, None] + green[:, None, :, None] + blue[:, None, None, :]
        return torch.cat(features, dim=1), joint.flatten(1)
