"""Models as ``LightningModule``s."""

from typing import Any

from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import GenerativeModule
from lightning_gans.models.conditional_gan import ConditionalGAN
from lightning_gans.models.dcgan import DCGAN
from lightning_gans.models.gan import GAN
from lightning_gans.models.vae import VAE

__all__ = ["DCGAN", "GAN", "VAE", "AdversarialModule", "ConditionalGAN", "GenerativeModule", "load"]


def load(path: Any, map_location: Any = "cpu", **overrides: Any) -> GenerativeModule:
    """Make the model of a checkpoint again, whatever its class; see :meth:`GenerativeModule.load_from_checkpoint`."""
    return GenerativeModule.load_from_checkpoint(path, map_location, **overrides)
