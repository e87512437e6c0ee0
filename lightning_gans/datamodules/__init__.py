"""Data modules: image sets as batches ``(images, labels)``."""

from lightning_gans.datamodules.base import ImageDataModule
from lightning_gans.datamodules.digits import DigitsDataModule
from lightning_gans.datamodules.mnist import FashionMNISTDataModule, MNISTDataModule

__all__ = ["DigitsDataModule", "FashionMNISTDataModule", "ImageDataModule", "MNISTDataModule"]
