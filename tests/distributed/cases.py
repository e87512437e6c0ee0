"""Models that several processes train."""

import torch
import torch.nn.functional as F
from torch import nn

from lightning_gans import DCGAN, GAN, VAE, ConditionalGAN
from lightning_gans.training.regularizers import Regularizer
from tests.toys import LATENT_DIM, NUM_CLASSES, SHAPE, tiny


class WithPenaltyOnReal(GAN):
    """R1: the squared norm of the discriminator's gradient at the real images."""

    def discriminator_loss(self, real, fake, labels):
        real = real.requires_grad_()
        (gradient,) = torch.autograd.grad(self.logits(real, labels).sum(), real, create_graph=True)
        return super().discriminator_loss(real, fake, labels) + gradient.square().sum((1, 2, 3)).mean()


class Between(Regularizer):
    """WGAN-GP by hand, at places of the images' own: how far the norm of the gradient is from 1."""

    def __call__(self, turn):
        share = turn.uniform(1, 1000, turn.step.number)[:, :, None, None].to(turn.real.dtype)
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
        if labels is not None:
            noise = torch.cat([noise, F.one_hot(labels, self.num_classes).to(noise)], 1)
        return self.layers(noise).tanh().view(-1, *SHAPE)


def gan(cls=GAN, num_classes=0, **options):
    return tiny(cls, generator=Plain(num_classes), generator_lr=1e-3, discriminator_lr=1e-3, **options)


def conditional(**options):
    return gan(ConditionalGAN, NUM_CLASSES, mismatch_weight=0.5, **options)


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
    "conditional": conditional,
    "bernoulli": lambda: tiny(VAE),
    "gaussian": lambda: tiny(VAE, likelihood="gaussian"),
    "importance": lambda: tiny(VAE, importance_samples=3),
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
    "accumulated_mismatch": lambda count: conditional(accumulate_batches=count),
    "accumulated_vae": lambda count: tiny(VAE, accumulate_batches=count, gradient_clip_val=1.0),
}

# With layers that mix the batch or draw numbers of their own.
ALIKE = {
    "gan": lambda: tiny(GAN, dropout=0.5),
    "dcgan": lambda: tiny(DCGAN, d_steps=2),
    "conditional_mlp": lambda: tiny(ConditionalGAN, dropout=0.3, mismatch_weight=0.5),
    "conditional_conv": lambda: tiny(ConditionalGAN, architecture="conv", width=4),
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
