"""A classifier of grayscale 28x28 digits, whose features need no download."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gans.errors import DataError
from lightning_gans.metrics.extractors.base import Extractor

WEIGHTS = Path(__file__).parent / "weights" / "mnist.safetensors"
SHA256 = "797fdcab214a1c006820027d94f119b27dc90abce4f48419a25708e78a17c661"


class DigitNetwork(nn.Module):
    """A small convolutional classifier: 105,000 weights, 5.6 million multiplications per image.

    ``forward`` maps grayscale images ``(N, 1, 28, 28)`` in [0, 1] to features ``(N, 96)`` before their ReLU, and to
    the logits of the ten digits, ``(N, 10)``.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out, stride in ((1, 24, 1), (24, 32, 2), (32, 48, 1), (48, 64, 2)):
            layers += [
                nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten())
        self.features = nn.Linear(64 * 3 * 3, 96)
        self.classifier = nn.Linear(96, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and the logits."""
        features = self.features(self.layers(images * 2 - 1))
        return features, self.classifier(F.relu(features))


class MNISTExtractor(Extractor):
    """The digit classifier of this package: 96 features, the logits of ten digits, no download.

    It was trained on MNIST by ``python benchmarks/train_mnist_extractor.py``. Its distances have their own scale: they
    are not comparable with an Inception FID.

    Raises:
        DataError: The weights in the package are missing or damaged.
    """

    name = "mnist"
    num_features = 96
    resize = "bilinear, antialiased, to 28x28"
    weights_sha256 = SHA256
    class_names = tuple("0123456789")

    def __init__(self) -> None:
        super().__init__()
        try:
            content = WEIGHTS.read_bytes()
        except OSError as error:
            message = f"{WEIGHTS} cannot be read ({error.strerror}): reinstall lightning_gans."
            raise DataError(message, setting=str(WEIGHTS)) from None
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise DataError(f"{WEIGHTS} is damaged: reinstall lightning_gans.", setting=str(WEIGHTS))
        self.network = DigitNetwork()
        self.network.load_state_dict(load_safetensors(content))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of grayscale images, uint8 ``(N, 1, H, W)``."""
        grey = images.float() / 255
        if grey.shape[-2:] != (28, 28):
            grey = F.interpolate(grey, (28, 28), mode="bilinear", antialias=True, align_corners=False)
        features, logits = self.network(grey)
        return features, logits
