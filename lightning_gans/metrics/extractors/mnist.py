"""Classifiers of grayscale 28x28 digits, whose features need no download."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gans.errors import DataError
from lightning_gans.metrics.extractors.base import Extractor

_WEIGHTS = Path(__file__).parent / "weights"


class DigitNetwork(nn.Module):
    """A small convolutional classifier: by default 105,000 weights, 5.6 million multiplications per image.

    ``forward`` maps grayscale images ``(N, 1, 28, 28)`` in [0, 1] to features ``(N, num_features)`` before their ReLU,
    and to the logits of the ten digits, ``(N, 10)``.

    Args:
        widths: Channels of the four convolutions.
        num_features: Length of a feature vector.
    """

    def __init__(self, widths: Sequence[int] = (24, 32, 48, 64), num_features: int = 96) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out, stride in zip((1, *widths), widths, (1, 2, 1, 2), strict=False):
            layers += [
                nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten())
        self.features = nn.Linear(widths[-1] * 3 * 3, num_features)
        self.classifier = nn.Linear(num_features, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and the logits."""
        features = self.features(self.layers(images * 2 - 1))
        return features, self.classifier(F.relu(features))


class MNISTExtractor(Extractor):
    """The digit classifier of this package: 96 features and the logits of ten digits, without a download.

    It was trained on MNIST by ``python benchmarks/train_mnist_extractor.py``. Its distances are on their own scale and
    not comparable with an Inception FID.

    Raises:
        DataError: The weights in the package are missing or damaged.
    """

    name = "mnist"
    num_features = 96
    resize = "bilinear, antialiased, to 28x28"
    weights_sha256 = "797fdcab214a1c006820027d94f119b27dc90abce4f48419a25708e78a17c661"
    class_names = tuple("0123456789")
    weights = _WEIGHTS / "mnist.safetensors"
    widths: tuple[int, ...] = (24, 32, 48, 64)

    def __init__(self) -> None:
        super().__init__()
        try:
            content = self.weights.read_bytes()
        except OSError as error:
            message = f"{self.weights} cannot be read ({error.strerror}): reinstall lightning_gans."
            raise DataError(message, setting=str(self.weights)) from None
        if hashlib.sha256(content).hexdigest() != self.weights_sha256:
            raise DataError(f"{self.weights} is damaged: reinstall lightning_gans.", setting=str(self.weights))
        self.network = DigitNetwork(self.widths, self.num_features)
        self.network.load_state_dict(load_safetensors(content))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of grayscale images, uint8 ``(N, 1, H, W)``."""
        grey = images.float() / 255
        if grey.shape[-2:] != (28, 28):
            grey = F.interpolate(grey, (28, 28), mode="bilinear", antialias=True, align_corners=False)
        features, logits = self.network(grey)
        return features, logits


class DigitsExtractor(MNISTExtractor):
    """A classifier of scikit-learn's digits: 64 features and the logits of ten digits, without a download.

    MNIST's classifier was not trained on these 8x8 digits. This one was trained on the training split of
    :class:`~lightning_gans.DigitsDataModule` by ``python benchmarks/train_digits_extractor.py``. Its distances are on
    their own scale, too.

    Raises:
        DataError: The weights in the package are missing or damaged.
    """

    name = "digits"
    num_features = 64
    weights_sha256 = "756ca2e27bb24c263fb82575b97a8b9507a03fe7618a5761575cb67557994896"
    weights = _WEIGHTS / "digits.safetensors"
    widths = (16, 24, 32, 48)
