"""Data modules: image sets as batches ``(images, labels)``."""

from lightning_gans.datamodules.base import ImageDataModule
from lightning_gans.datamodules.digits import DigitsDataModule

__all__ = ["DigitsDataModule", "ImageDataModule"]
