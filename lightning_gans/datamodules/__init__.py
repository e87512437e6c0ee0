"""Data modules: image sets as batches ``(images, labels)``."""

from lightning_gans.datamodules.base import ImageDataModule
from lightning_gans.datamodules.cifar import CIFAR10DataModule, CIFAR100DataModule
from lightning_gans.datamodules.digits import DigitsDataModule
from lightning_gans.datamodules.image_folder import ImageFolderDataModule
from lightning_gans.datamodules.mnist import FashionMNISTDataModule, MNISTDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "MNISTDataModule",
]
