"""Networks as plain ``nn.Module``s, usable without Lightning."""

from lightning_gans.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_gans.networks.mlp import MLPDiscriminator, MLPGenerator
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
]
