"""Models that several processes train."""

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from lightning_gans import ADA, DCGAN, GAN, VAE, VQVAE, ConditionalGAN, FastGAN, InfoGAN
from lightning_gans.augment.pipeline import TRANSFORMS
from lightning_gans.networks import InfoGANDiscriminator, ResNetDiscriminator
from lightning_gans.networks.conditioning import with_labels
from lightning_gans.networks.fastgan import Noise
from lightning_gans.training.regularizers import BCR, ZCR, LeCam, Regularizer, ZCRDiversity
from tests.toys import LATENT_DIM, NUM_CLASSES, SHAPE, tiny, tiny_biggan


class WithPenaltyOnReal(GAN):
    """R1: the squared norm of the discriminator's gradient at the real images."""

    def discriminator_loss(self, real, fake, labels):
        real = real.requires_grad_()
        (gradient,) = torch.autograd.grad(self.logits(real, labels).sum(), real, create_graph=True)
        return super().discriminator_loss(real, fake, labels) + gradient.square().sum((1, 2, 3)).mean()


class Between(Regularizer):
    """WGAN-GP by hand, at places of the images' own: how far the norm of the gradient is from 1."""

    def __call__(self, turn):
        share = turn.uniform(1, 1000, turn.step.update_index)[:, :, None, None].to(turn.real.dtype)
        between = (share * turn.real + (1 - share) * turn.fake).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(turn.call(between).sum(), between, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


class Plain(nn.Module):
    """A generator without BatchNorm."""

    def __init__(self, num_classes=0):
        super().__init__()
        self.num_classes = num_classes
        self.layers = nn.Sequential(nn.Linear(LATENT_DIM + num_classes, 6), nn.LeakyReLU(0.2), nn.Linear(6, 64))

    def forward(self, noise, labels=None):
        return self.layers(with_labels(noise, labels, self.num_classes)).tanh().view(-1, *SHAPE)


def consistent():
    return [BCR(10.0, every=2), ZCR(5.0), ZCRDiversity(0.5)]


def attentive():
    """Make a discriminator with self-attention, which reaches the logits from the first update on."""
    network = ResNetDiscriminator(SHAPE, 8, attention=[4])
    nn.init.constant_(network.blocks[0].attention.gain[0], 0.5)
    return network


def adaptive(images):
    return ADA(TRANSFORMS, -0.5, interval=3, ramp_images=images, fakes_as_real=True)


def gan(cls=GAN, num_classes=0, **options):
    return tiny(cls, generator=Plain(num_classes), generator_lr=1e-3, discriminator_lr=1e-3, **options)


def conditional(**options):
    return gan(ConditionalGAN, NUM_CLASSES, mismatch_weight=0.5, **options)


def infogan(**options):
    discriminator = InfoGANDiscriminator(SHAPE, 4, NUM_CLASSES, 2, False, (6,), (5,))
    return InfoGAN(SHAPE, LATENT_DIM, NUM_CLASSES, generator=Plain(NUM_CLASSES), discriminator=discriminator, **options)


def vqvae(**options):
    sizes = {"width": 4, "code_dim": 3, "num_codes": 8, "prior_width": 8, "prior_layers": 1, "prior_heads": 2}
    return VQVAE(SHAPE, NUM_CLASSES, **sizes, decay=0.7, prior_start=0.6, **options)


def fastgan(**options):
    """Make a FastGAN whose layers treat each image alone."""
    model = FastGAN((1, 32, 32), 3, width=1, **options)
    for network in (model.generator, model.discriminator, model.ema):
        for module in list(network.modules()):
            if is_parametrized(module):  # spectral normalization moves with every pass
                remove_parametrizations(module, "weight")
            for name, part in module.named_children():
                if isinstance(part, nn.BatchNorm2d):
                    setattr(module, name, nn.InstanceNorm2d(part.num_features))
                elif isinstance(part, Noise):
                    setattr(module, name, nn.Identity())
    return model


# Neither dropout nor BatchNorm: how the batch is divided makes no difference.
REGULARIZED = {
    "loss": "relativistic",
    "penalties": {"r1": 0.5, "r2": 0.5, "wgan_gp": 1.0},
    "penalty_interval": 2,
    "penalty_end": 0.1,
    "augment": ["color", "translation", "cutout"],
    "beta2_end": 0.9,
    "ema_start": 0.0,
}
EQUAL = {
    "regularized": lambda: gan(d_steps=2, **REGULARIZED),
    "nonsaturating": gan,
    "minimax": lambda: gan(loss="minimax"),
    "d_steps": lambda: gan(d_steps=2),
    "penalty_on_real": lambda: gan(WithPenaltyOnReal),
    "custom_regularizer": lambda: gan(regularizers=[Between(10.0)]),
    "lecam": lambda: gan(d_steps=2, regularizers=[LeCam(0.3, decay=0.9)]),
    "consistency": lambda: gan(d_steps=2, regularizers=consistent()),
    "ada": lambda: gan(d_steps=2, loss="hinge", augment=adaptive(500)),
    "attention": lambda: gan(d_steps=2, discriminator=attentive()),
    "frozen_layers": lambda: gan(freeze_layers=1, penalties={"r1": 0.5}),
    "conditional": conditional,
    "infogan": lambda: infogan(d_steps=2),
    "attributes": lambda: tiny(ConditionalGAN, num_classes=2, generator=Plain(2), mismatch_weight=0.5),
    "bernoulli": lambda: tiny(VAE),
    "gaussian": lambda: tiny(VAE, likelihood="gaussian"),
    "importance": lambda: tiny(VAE, importance_samples=3),
    "kl_warmup": lambda: tiny(VAE, kl_warmup_images=400, encoder_steps=2),
    "free_bits": lambda: tiny(VAE, free_bits=0.05),
    "total_correlation": lambda: tiny(VAE, tc_weight=5.0),
    "vamp": lambda: tiny(VAE, prior="vamp", prior_components=5),
    "mixture": lambda: tiny(VAE, prior="mixture", prior_components=2),
    "vqvae": vqvae,
    "fastgan": fastgan,
    "encoder_steps": lambda: tiny(VAE, encoder_steps=2),
    "conditional_vae": lambda: tiny(VAE, num_classes=NUM_CLASSES),
    "clipped": lambda: gan(gradient_clip_val=0.02),
    "decayed": lambda: gan(weight_decay=0.1),
    "scheduled": lambda: tiny(VAE, lr_schedule="cosine", lr_end=0.1),
}
# With several batches an update on several processes, against one batch on one.
ACCUMULATED = {
    "accumulated": lambda count: gan(accumulate_batches=count, d_steps=2),
    "accumulated_penalties": lambda count: gan(accumulate_batches=count, **REGULARIZED),
    "accumulated_lecam": lambda count: gan(accumulate_batches=count, regularizers=[LeCam(0.3, decay=0.9)]),
    "accumulated_consistency": lambda count: gan(accumulate_batches=count, regularizers=consistent()),
    "accumulated_ada": lambda count: gan(accumulate_batches=count, loss="relativistic", augment=adaptive(300)),
    "accumulated_mismatch": lambda count: conditional(accumulate_batches=count),
    "accumulated_fastgan": lambda count: fastgan(accumulate_batches=count),
    "accumulated_infogan": lambda count: infogan(accumulate_batches=count, penalties={"r1": 0.5}),
    "accumulated_vqvae": lambda count: vqvae(accumulate_batches=count),
    "accumulated_vae": lambda count: tiny(VAE, accumulate_batches=count, gradient_clip_val=1.0),
}

# With layers that mix the batch or draw numbers of their own.
ALIKE = {
    "gan": lambda: tiny(GAN, dropout=0.5),
    "dcgan": lambda: tiny(DCGAN, d_steps=2),
    "conditional_mlp": lambda: tiny(ConditionalGAN, dropout=0.3, mismatch_weight=0.5),
    "conditional_conv": lambda: tiny(ConditionalGAN, architecture="conv", width=4),
    "fastgan": lambda: FastGAN((1, 32, 32), 3, width=1),
    "biggan": lambda: tiny_biggan(d_steps=2),
    "vae": lambda: tiny(VAE, encoder_steps=2),
    "vae_conv": lambda: tiny(VAE, architecture="conv", width=4),
    "conditional_vae": lambda: tiny(VAE, num_classes=NUM_CLASSES, likelihood="gaussian"),
}

COUNTED = {
    "gan": lambda: tiny(GAN),
    "dcgan": lambda: tiny(DCGAN),
    "dcgan_d_steps": lambda: tiny(DCGAN, d_steps=2),
    "dcgan_accumulated": lambda: tiny(DCGAN, accumulate_batches=2),
    "vae": lambda: tiny(VAE, architecture="conv", width=4, encoder_steps=2),
}


def all_at_once():
    """Make a model all of whose weights take part in every backward pass."""
    return tiny(VAE, likelihood="gaussian")


def resumed():
    """Make a model with dropout and BatchNorm, to be stopped and resumed."""
    return tiny(GAN, dropout=0.5, lr_schedule="linear")
