"""Data modules: data sets as batches ``(images, labels)``."""

from lightning_gans.datamodules.base import ImageDataModule
from lightning_gans.datamodules.cifar import CIFAR10DataModule, CIFAR100DataModule
from lightning_gans.datamodules.digits import DigitsDataModule
from lightning_gans.datamodules.image_folder import ImageFolderDataModule
from lightning_gans.datamodules.mnist import FashionMNISTDataModule, MNISTDataModule
from lightning_gans.datamodules.sequences import SequenceDataModule
from lightning_gans.datamodules.sines import SinesDataModule
from lightning_gans.datamodules.stacked_mnist import StackedMNISTDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "MNISTDataModule",
    "SequenceDataModule",
    "SinesDataModule",
    "StackedMNISTDataModule",
]
