"""Networks that map images to features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from lightning_gans.errors import DataError, check_choice, invalid
from lightning_gans.metrics.extractors.base import Extractor, ModuleExtractor, NoExtractor
from lightning_gans.metrics.extractors.efficientnet import EfficientNetExtractor
from lightning_gans.metrics.extractors.fidelity import CLIP, DINOV2, FidelityExtractor
from lightning_gans.metrics.extractors.inception import InceptionExtractor, hub_path
from lightning_gans.metrics.extractors.mnist import DigitsExtractor, MNISTExtractor
from lightning_gans.metrics.extractors.stacked import StackedMNISTExtractor
from lightning_gans.networks.efficientnet import is_installed

__all__ = [
    "DigitsExtractor",
    "EfficientNetExtractor",
    "Extractor",
    "FidelityExtractor",
    "InceptionExtractor",
    "MNISTExtractor",
    "ModuleExtractor",
    "NoExtractor",
    "StackedMNISTExtractor",
    "make_extractor",
]

BUILT_IN: dict[str, tuple[Callable[[str | None], Extractor], tuple[int, ...]]] = {
    "mnist": (lambda _: MNISTExtractor(), (1,)),
    "digits": (lambda _: DigitsExtractor(), (1,)),
    "stacked_mnist": (lambda _: StackedMNISTExtractor(), (3,)),
    "inception": (InceptionExtractor, (1, 3)),
    "efficientnet": (lambda _: EfficientNetExtractor(), (1, 3)),
    **{name: (partial(FidelityExtractor, name), (1, 3)) for name in (*DINOV2, *CLIP)},
}
"""The constructor of each extractor, which takes ``weights_path``, and the numbers of channels that it accepts."""

_WITHOUT_A_FILE = ("mnist", "digits", "stacked_mnist", "efficientnet")


def make_extractor(
    extractor: str | nn.Module,
    image_shape: tuple[int, ...] | None,
    weights_path: str | None = None,
    preferred: str | None = None,
) -> Extractor:
    """Return the extractor of a setting.

    Args:
        extractor: ``mnist``, ``digits``, ``stacked_mnist``, ``inception``, ``efficientnet``, ``dinov2-vit-l-14`` or
            another size, ``clip-vit-b-32`` or another size, ``auto``, or a custom network. ``auto`` is ``inception``
            with a ``weights_path``, or else the extractor that the data set prefers, or else ``mnist`` for grayscale
            images and ``inception`` for color images. It uses ``efficientnet`` for color images if that is installed
            and Inception's weights are not on this machine. Only custom networks take other numbers of channels than 1
            and 3.
        image_shape: ``(C, H, W)`` of the images; None skips the check and counts as color.
        weights_path: File of the weights of ``inception`` or of a ``clip`` network.
        preferred: The extractor that the data set prefers, as in ``ImageDataModule.default_extractor``.

    Raises:
        SettingError: The extractor is unknown, or does not accept such images or a ``weights_path``.
        DataError: Its weights are missing or damaged, or ``auto`` finds none for such images.
    """
    if isinstance(extractor, Extractor):
        return extractor
    if isinstance(extractor, nn.Module):
        return ModuleExtractor(extractor)
    check_choice("extractor", extractor, ("auto", *BUILT_IN))
    if extractor == "auto":
        if image_shape and image_shape[0] not in (1, 3):
            message = f"images have {image_shape[0]} channels, and the extractors take 1 or 3: set extractor to "
            raise DataError(f"{message}a network of your own.", setting="extractor", value=extractor)
        chosen = preferred or _choose(image_shape[0] if image_shape else 3)
        extractor = "inception" if weights_path is not None else chosen
    make, channels = BUILT_IN[extractor]
    if image_shape is not None and image_shape[0] not in channels:
        wanted = " or ".join(map(str, channels))
        allowed = f"an extractor of images with {image_shape[0]} channels, and this one takes {wanted}"
        raise invalid("extractor", extractor, allowed)
    if weights_path is not None and extractor in _WITHOUT_A_FILE:
        raise invalid("weights_path", str(weights_path), f"omitted: {extractor} does not read such a file")
    return make(weights_path)


def _choose(channels: int) -> str:
    """Return the extractor that ``auto`` stands for."""
    if channels == 1:
        return "mnist"
    return "efficientnet" if is_installed() and not hub_path().is_file() else "inception"
