"""Networks that turn images into features."""

from __future__ import annotations

from torch import nn

from lightning_gans.errors import SettingError
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


def make_extractor(
    extractor: str | nn.Module, image_shape: tuple[int, ...], weights_path: str | None = None
) -> Extractor:
    """Return the extractor that a setting names.

    Args:
        extractor: ``mnist``, ``inception``, ``stacked_mnist``, ``auto`` (``mnist`` for grey images unless there
            is a ``weights_path``, else ``inception``), or a network of your own.
        image_shape: ``(C, H, W)`` of the images it will be shown.
        weights_path: The file of the ``inception`` weights.

    Raises:
        SettingError: There is no such extractor, or it does not take such images.
        DataError: Its weights are missing or damaged.
    """
    if isinstance(extractor, Extractor):
        return extractor
    if isinstance(extractor, nn.Module):
        return ModuleExtractor(extractor)
    if extractor == "auto":
        extractor = "mnist" if image_shape[0] == 1 and weights_path is None else "inception"
    if extractor == "mnist":
        if image_shape[0] != 1:
            raise SettingError(
                f"metrics.extractor is 'mnist', which takes grey images, but these are {list(image_shape)}: "
                "use 'inception', or a network of yours."
            )
        return MNISTExtractor()
    if extractor == "stacked_mnist":
        if image_shape[0] != 3:
            raise SettingError(
                "metrics.extractor is 'stacked_mnist', which takes RGB images, a digit in each channel, but these "
                f"are {list(image_shape)}."
            )
        return StackedMNISTExtractor()
    if extractor == "inception":
        if image_shape[0] not in (1, 3):
            raise SettingError(
                f"metrics.extractor is 'inception', which takes grey or RGB images, but these are {list(image_shape)}."
            )
        return InceptionExtractor(weights_path)
    raise SettingError(
        f"metrics.extractor is {extractor!r}: choose from auto, mnist, inception, stacked_mnist, or give a network "
        "by its class_path."
    )
