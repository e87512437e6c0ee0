"""GANs and VAEs for PyTorch Lightning."""

from lightning_gans import callbacks
from lightning_gans._version import __version__
from lightning_gans.callbacks import (
    Checkpoint,
    CollapseWatchdog,
    GenerativeMetrics,
    GracefulStop,
    NearestNeighbors,
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
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.io.csv_logger import RunLogger
from lightning_gans.io.pictures import grid
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
    "NearestNeighbors",
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


def __getattr__(name: str) -> object:
    """Return a class under its deprecated name."""
    if name == "NearestNeighbours":
        return getattr(callbacks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
