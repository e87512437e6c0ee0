"""Models as ``LightningModule``s."""

from lightning_gans.models.adversarial import AdversarialModule
from lightning_gans.models.base import GenerativeModule
from lightning_gans.models.conditional_gan import ConditionalGAN
from lightning_gans.models.dcgan import DCGAN
from lightning_gans.models.gan import GAN
from lightning_gans.models.vae import VAE

__all__ = ["DCGAN", "GAN", "VAE", "AdversarialModule", "ConditionalGAN", "GenerativeModule"]
