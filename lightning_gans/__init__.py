"""GANs and VAEs for PyTorch Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightning_gans._version import __version__

if TYPE_CHECKING:
    from lightning_gans.callbacks import (
        Acceleration,
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
        ArrayDataModule,
        CIFAR10DataModule,
        CIFAR100DataModule,
        DigitsDataModule,
        DSpritesDataModule,
        FashionMNISTDataModule,
        ImageDataModule,
        ImageFolderDataModule,
        MNISTDataModule,
        PairedFolderDataModule,
        RotatedMNISTDataModule,
        SequenceDataModule,
        SinesDataModule,
        StackedMNISTDataModule,
        UnpairedFolderDataModule,
    )
    from lightning_gans.errors import DataError, DivergedError, LightningGansError, SettingError
    from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
    from lightning_gans.io.csv_logger import RunLogger
    from lightning_gans.io.pictures import grid
    from lightning_gans.models import (
        DCGAN,
        GAN,
        R3GAN,
        SRGAN,
        VAE,
        VAEGAN,
        VQVAE,
        AdversarialModule,
        ConditionalGAN,
        CycleGAN,
        FastGAN,
        GenerativeModule,
        InfoGAN,
        Pix2Pix,
        RecurrentGAN,
        ResNetGAN,
        TranslationModule,
        load,
    )
    from lightning_gans.scoring import score
    from lightning_gans.training.augmentation import ADA, Affine
    from lightning_gans.training.ema import EMA
    from lightning_gans.training.regularizers import Regularizer

__all__ = [
    "ADA",
    "DCGAN",
    "EMA",
    "GAN",
    "R3GAN",
    "SRGAN",
    "VAE",
    "VAEGAN",
    "VQVAE",
    "Acceleration",
    "AdversarialModule",
    "Affine",
    "ArrayDataModule",
    "AtomicCheckpointIO",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "Checkpoint",
    "CollapseWatchdog",
    "ConditionalGAN",
    "CycleGAN",
    "DSpritesDataModule",
    "DataError",
    "DigitsDataModule",
    "DivergedError",
    "FashionMNISTDataModule",
    "FastGAN",
    "GenerativeMetrics",
    "GenerativeModule",
    "GracefulStop",
    "ImageDataModule",
    "ImageFolderDataModule",
    "InfoGAN",
    "LightningGansError",
    "MNISTDataModule",
    "NearestNeighbors",
    "PairedFolderDataModule",
    "Pix2Pix",
    "ProgressBar",
    "Reconstructions",
    "RecurrentGAN",
    "Regularizer",
    "ResNetGAN",
    "RotatedMNISTDataModule",
    "RunLogger",
    "SampleGrid",
    "SequenceDataModule",
    "SettingError",
    "SinesDataModule",
    "StackedMNISTDataModule",
    "TranslationModule",
    "UnpairedFolderDataModule",
    "__version__",
    "grid",
    "load",
    "score",
]

_NAMES = {
    "callbacks": (
        "Acceleration Checkpoint CollapseWatchdog GenerativeMetrics GracefulStop NearestNeighbors ProgressBar "
        "Reconstructions SampleGrid"
    ),
    "datamodules": (
        "ArrayDataModule CIFAR10DataModule CIFAR100DataModule DSpritesDataModule DigitsDataModule "
        "FashionMNISTDataModule ImageDataModule ImageFolderDataModule MNISTDataModule PairedFolderDataModule "
        "RotatedMNISTDataModule SequenceDataModule SinesDataModule "
        "StackedMNISTDataModule UnpairedFolderDataModule"
    ),
    "errors": "DataError DivergedError LightningGansError SettingError",
    "io.checkpoint_io": "AtomicCheckpointIO",
    "io.csv_logger": "RunLogger",
    "io.pictures": "grid",
    "models": (
        "DCGAN GAN R3GAN SRGAN VAE VAEGAN VQVAE AdversarialModule ConditionalGAN CycleGAN FastGAN GenerativeModule "
        "InfoGAN Pix2Pix "
        "RecurrentGAN ResNetGAN TranslationModule load"
    ),
    "scoring": "score",
    "training.augmentation": "ADA Affine",
    "training.ema": "EMA",
    "training.regularizers": "Regularizer",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
_SUBMODULES = (
    *("augment", "callbacks", "datamodules", "errors", "io", "latents", "losses"),
    *("metrics", "models", "networks", "penalties", "randomness", "training"),
)


def __getattr__(name: str) -> Any:
    """Import a public name on first use: ``import lightning_gans`` alone imports neither torch nor Lightning."""
    if name in _SUBMODULES:
        return importlib.import_module(f"lightning_gans.{name}")
    if name == "NearestNeighbours":  # deprecated
        return getattr(importlib.import_module("lightning_gans.callbacks"), name)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f"lightning_gans.{_MODULE_OF[name]}"), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES, *__all__})
