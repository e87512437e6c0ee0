"""Models as ``LightningModule``s."""

from collections.abc import Iterable
from typing import Any

from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import GenerativeModule
from lightning_gans.models.conditional_gan import ConditionalGAN
from lightning_gans.models.cycle_gan import CycleGAN
from lightning_gans.models.dcgan import DCGAN
from lightning_gans.models.fastgan import FastGAN
from lightning_gans.models.gan import GAN
from lightning_gans.models.infogan import InfoGAN
from lightning_gans.models.pix2pix import Pix2Pix
from lightning_gans.models.r3gan import R3GAN
from lightning_gans.models.recurrent_gan import RecurrentGAN
from lightning_gans.models.resnet_gan import ResNetGAN
from lightning_gans.models.srgan import SRGAN
from lightning_gans.models.translation import TranslationModule
from lightning_gans.models.vae import VAE
from lightning_gans.models.vae_gan import VAEGAN
from lightning_gans.models.vqvae import VQVAE

__all__ = [
    "DCGAN",
    "GAN",
    "R3GAN",
    "SRGAN",
    "VAE",
    "VAEGAN",
    "VQVAE",
    "AdversarialModule",
    "ConditionalGAN",
    "CycleGAN",
    "FastGAN",
    "GenerativeModule",
    "InfoGAN",
    "Pix2Pix",
    "RecurrentGAN",
    "ResNetGAN",
    "TranslationModule",
    "load",
]


def load(path: Any, map_location: Any = "cpu", imports: Iterable[str] = (), **overrides: Any) -> GenerativeModule:
    """Rebuild the model of a checkpoint, whatever its class; see :meth:`GenerativeModule.load_from_checkpoint`.

    ``path`` may also be a folder that ``lightning-gans push`` wrote, or ``hf:USER/NAME`` on the Hugging Face Hub.
    """
    return GenerativeModule.load_from_checkpoint(path, map_location, imports=imports, **overrides)
