"""Networks as plain ``nn.Module``s, usable without Lightning."""

from lightning_gans.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_gans.networks.mlp import MLPDiscriminator, MLPGenerator
from lightning_gans.networks.r3gan import R3GANDiscriminator, R3GANGenerator
from lightning_gans.networks.recurrent import RecurrentDiscriminator, RecurrentGenerator
from lightning_gans.networks.resnet import ResNetDiscriminator, ResNetGenerator
from lightning_gans.networks.vae import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder

__all__ = [
    "ConvDecoder",
    "ConvEncoder",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "MLPDecoder",
    "MLPDiscriminator",
    "MLPEncoder",
    "MLPGenerator",
    "R3GANDiscriminator",
    "R3GANGenerator",
    "RecurrentDiscriminator",
    "RecurrentGenerator",
    "ResNetDiscriminator",
    "ResNetGenerator",
]
