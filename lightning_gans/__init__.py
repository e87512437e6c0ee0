"""GANs and VAEs for PyTorch Lightning."""

__version__ = "0.1.1"

from lightning_gans.callbacks import (
    Checkpoint,
    CollapseWatchdog,
    GenerativeMetrics,
    GracefulStop,
    NearestNeighbours,
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
    SequenceDataModule,
    SinesDataModule,
    StackedMNISTDataModule,
)
from lightning_gans.errors import DataError, DivergedError, LightningGansError, SettingError
from lightning_gans.models import (
    DCGAN,
    GAN,
    R3GAN,
    VAE,
    VAEGAN,
    AdversarialModule,
    ConditionalGAN,
    GenerativeModule,
    RecurrentGAN,
    ResNetGAN,
    load,
)
from lightning_gans.pictures import grid
from lightning_gans.plugins import AtomicCheckpointIO, RunLogger

__all__ = [
    "DCGAN",
    "GAN",
    "R3GAN",
    "VAE",
    "VAEGAN",
    "AdversarialModule",
    "AtomicCheckpointIO",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "Checkpoint",
    "CollapseWatchdog",
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
    "NearestNeighbours",
    "ProgressBar",
    "Reconstructions",
    "RecurrentGAN",
    "ResNetGAN",
    "RunLogger",
    "SampleGrid",
    "SequenceDataModule",
    "SettingError",
    "SinesDataModule",
    "StackedMNISTDataModule",
    "__version__",
    "grid",
    "load",
]
