"""GANs and VAEs for PyTorch Lightning."""

__version__ = "0.1.0"

from lightning_gans.callbacks import (
    Checkpoint,
    GenerativeMetrics,
    GracefulStop,
    ProgressBar,
    Reconstructions,
    SampleGrid,
)
from lightning_gans.datamodules import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    ImageDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
)
from lightning_gans.errors import DataError, DivergedError, LightningGansError, SettingError
from lightning_gans.models import DCGAN, GAN, VAE, AdversarialModule, ConditionalGAN, GenerativeModule, load
from lightning_gans.plugins import AtomicCheckpointIO, RunLogger

__all__ = [
    "DCGAN",
    "GAN",
    "VAE",
    "AdversarialModule",
    "AtomicCheckpointIO",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "Checkpoint",
    "ConditionalGAN",
    "DataError",
    "DigitsDataModule",
    "DivergedError",
    "FashionMNISTDataModule",
    "GenerativeMetrics",
    "GenerativeModule",
    "GracefulStop",
    "ImageDataModule",
    "ImageFolderDataModule",
    "LightningGansError",
    "MNISTDataModule",
    "ProgressBar",
    "Reconstructions",
    "RunLogger",
    "SampleGrid",
    "SettingError",
    "__version__",
    "load",
]
