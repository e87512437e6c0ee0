"""Data modules: data sets as batches ``(images, labels)``, or pairs of images ``(source, target)``."""

from lightning_gans.datamodules.arrays import ArrayDataModule
from lightning_gans.datamodules.base import ImageDataModule
from lightning_gans.datamodules.cifar import CIFAR10DataModule, CIFAR100DataModule
from lightning_gans.datamodules.digits import DigitsDataModule
from lightning_gans.datamodules.dsprites import DSpritesDataModule
from lightning_gans.datamodules.image_folder import ImageFolderDataModule
from lightning_gans.datamodules.mnist import FashionMNISTDataModule, MNISTDataModule
from lightning_gans.datamodules.paired_folder import PairedFolderDataModule
from lightning_gans.datamodules.rotated_mnist import RotatedMNISTDataModule
from lightning_gans.datamodules.sequences import SequenceDataModule
from lightning_gans.datamodules.sines import SinesDataModule
from lightning_gans.datamodules.stacked_mnist import StackedMNISTDataModule
from lightning_gans.datamodules.unpaired_folder import UnpairedFolderDataModule

__all__ = [
    "ArrayDataModule",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DSpritesDataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "MNISTDataModule",
    "PairedFolderDataModule",
    "RotatedMNISTDataModule",
    "SequenceDataModule",
    "SinesDataModule",
    "StackedMNISTDataModule",
    "UnpairedFolderDataModule",
]
