"""Models as ``LightningModule``s."""

from collections.abc import Iterable
from typing import Any

from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import GenerativeModule
from lightning_gans.models.conditional_gan import ConditionalGAN
from lightning_gans.models.dcgan import DCGAN
from lightning_gans.models.gan import GAN
from lightning_gans.models.r3gan import R3GAN
from lightning_gans.models.recurrent_gan import RecurrentGAN
from lightning_gans.models.resnet_gan import ResNetGAN
from lightning_gans.models.vae import VAE
from lightning_gans.models.vae_gan import VAEGAN

__all__ = [
    "DCGAN",
    "GAN",
    "R3GAN",
    "VAE",
    "VAEGAN",
    "AdversarialModule",
    "ConditionalGAN",
    "GenerativeModule",
    "RecurrentGAN",
    "ResNetGAN",
    "load",
]


def load(path: Any, map_location: Any = "cpu", imports: Iterable[str] = (), **overrides: Any) -> GenerativeModule:
    """Rebuild the model of a checkpoint, whatever its class; see :meth:`GenerativeModule.load_from_checkpoint`."""
    return GenerativeModule.load_from_checkpoint(path, map_location, imports=imports, **overrides)
