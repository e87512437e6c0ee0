"""GANs and VAEs for PyTorch Lightning."""

__version__ = "0.1.0"

from lightning_gans.callbacks import Checkpoint, GenerativeMetrics, ProgressBar, Reconstructions, SampleGrid
from lightning_gans.datamodules import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    ImageDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
)
from lightning_gans.errors import DataError, LightningGansError, SettingError
from lightning_gans.models import DCGAN, GAN, VAE, AdversarialModule, ConditionalGAN, GenerativeModule, load

__all__ = [
    "DCGAN",
    "GAN",
    "VAE",
    "AdversarialModule",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "Checkpoint",
    "ConditionalGAN",
    "DataError",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "GenerativeMetrics",
    "GenerativeModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "LightningGansError",
    "MNISTDataModule",
    "ProgressBar",
    "Reconstructions",
    "SampleGrid",
    "SettingError",
    "__version__",
    "load",
]
