"""Networks as plain ``nn.Module``s, usable without Lightning."""

from lightning_gans.networks.attention import SelfAttention
from lightning_gans.networks.biggan import BigGANGenerator
from lightning_gans.networks.code_prior import CodePrior
from lightning_gans.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_gans.networks.efficientnet import EfficientNetLite0
from lightning_gans.networks.fastgan import FastGANDiscriminator, FastGANGenerator
from lightning_gans.networks.infogan import InfoGANDiscriminator
from lightning_gans.networks.inpainting import Inpainter
from lightning_gans.networks.mlp import MLPDiscriminator, MLPGenerator
from lightning_gans.networks.patch import PatchDiscriminator
from lightning_gans.networks.r3gan import R3GANDiscriminator, R3GANGenerator
from lightning_gans.networks.recurrent import RecurrentDiscriminator, RecurrentGenerator
from lightning_gans.networks.resnet import ResNetDiscriminator, ResNetGenerator
from lightning_gans.networks.resnet_translator import ResNetTranslator
from lightning_gans.networks.srgan import SRGANDiscriminator
from lightning_gans.networks.srresnet import SRResNet
from lightning_gans.networks.unet import UNet
from lightning_gans.networks.vae import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from lightning_gans.networks.vqvae import VectorQuantizer, VQDecoder, VQEncoder

__all__ = [
    "BigGANGenerator",
    "CodePrior",
    "ConvDecoder",
    "ConvEncoder",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "EfficientNetLite0",
    "FastGANDiscriminator",
    "FastGANGenerator",
    "InfoGANDiscriminator",
    "Inpainter",
    "MLPDecoder",
    "MLPDiscriminator",
    "MLPEncoder",
    "MLPGenerator",
    "PatchDiscriminator",
    "R3GANDiscriminator",
    "R3GANGenerator",
    "RecurrentDiscriminator",
    "RecurrentGenerator",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "ResNetTranslator",
    "SRGANDiscriminator",
    "SRResNet",
    "SelfAttention",
    "UNet",
    "VQDecoder",
    "VQEncoder",
    "VectorQuantizer",
]
