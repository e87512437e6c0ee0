"""Networks that map images to features."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lightning_gans.errors import check_choice, invalid
from lightning_gans.metrics.extractors.base import Extractor, ModuleExtractor
from lightning_gans.metrics.extractors.inception import InceptionExtractor
from lightning_gans.metrics.extractors.mnist import MNISTExtractor
from lightning_gans.metrics.extractors.stacked import StackedMNISTExtractor

__all__ = [
    "Extractor",
    "InceptionExtractor",
    "MNISTExtractor",
    "ModuleExtractor",
    "StackedMNISTExtractor",
    "make_extractor",
]

_BUILT_IN: dict[str, tuple[Callable[[str | None], Extractor], tuple[int, ...]]] = {
    "mnist": (lambda _: MNISTExtractor(), (1,)),
    "stacked_mnist": (lambda _: StackedMNISTExtractor(), (3,)),
    "inception": (InceptionExtractor, (1, 3)),
}
"""The constructor of each extractor, which takes ``weights_path``, and the numbers of channels that it accepts."""


def make_extractor(
    extractor: str | nn.Module, image_shape: tuple[int, ...], weights_path: str | None = None
) -> Extractor:
    """Return the extractor of a setting.

    Args:
        extractor: ``mnist``, ``inception``, ``stacked_mnist``, ``auto`` (``mnist`` for grayscale images without a
            ``weights_path``, else ``inception``), or a custom network.
        image_shape: ``(C, H, W)`` of the images.
        weights_path: File of the ``inception`` weights.

    Raises:
        SettingError: The extractor is unknown, or does not accept such images.
        DataError: Its weights are missing or damaged.
    """
    if isinstance(extractor, Extractor):
        return extractor
    if isinstance(extractor, nn.Module):
        return ModuleExtractor(extractor)
    check_choice("metrics.extractor", extractor, ("auto", *_BUILT_IN))
    if extractor == "auto":
        extractor = "mnist" if image_shape[0] == 1 and weights_path is None else "inception"
    make, channels = _BUILT_IN[extractor]
    if image_shape[0] not in channels:
        wanted = " or ".join(map(str, channels))
        allowed = f"an extractor of images with {image_shape[0]} channels, and this one takes {wanted}"
        raise invalid("metrics.extractor", extractor, allowed)
    return make(weights_path)
