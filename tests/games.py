"""Adversarial games that the package does not have, written as a user would: subclasses of 40 lines at most.

They use public names only, and get updates over processes, mixed precision, moving averages, penalties, exact resume
and the log from :class:`lightning_gans.GenerativeModule`.
"""

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from lightning_gans import AdversarialModule, GenerativeModule, penalties
from lightning_gans.training.regularizers import R1, Regularizer

SHAPE = (1, 8, 8)


def convolutions(*widths, out=nn.Identity):
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.SiLU())), nn.Conv2d(widths[-1], 1, 1), out())


class CycleGame(GenerativeModule):
    """Two generators and two discriminators with patch logits; source and target images (Zhu et al. 2017)."""

    trained_networks = ("to_target", "to_source", "d_target", "d_source")
    averaged_networks = ("to_target", "to_source")
    batch_kind = "pairs"

    def __init__(self, cycle_weight=10.0, **options):
        super().__init__(SHAPE, latent_dim=1, **options)
        self.cycle_weight = cycle_weight
        self.to_target, self.to_source = convolutions(1, 4, out=nn.Tanh), convolutions(1, 4, out=nn.Tanh)
        self.d_target, self.d_source = convolutions(1, 4), convolutions(1, 4)
        self.create_ema()

    def training_step(self, batch, batch_idx):
        g_optimizer, d_optimizer = self.optimizers()
        with self.step(batch) as step:
            for source, target in step.batches():
                fake_target, fake_source = self.to_target(source), self.to_source(target)
                d_loss = 0.05 * penalties.r1(lambda images: self.d_target(images).mean((1, 2, 3)), target)
                for d, real, fake in ((self.d_target, target, fake_target), (self.d_source, source, fake_source)):
                    d_loss = d_loss + (d(real) - 1).square().mean() + d(fake.detach()).square().mean()
                step.update(d_loss, d_optimizer)
                cycle = F.l1_loss(self.to_source(fake_target), source) + F.l1_loss(self.to_target(fake_source), target)
                g_loss = (self.d_target(fake_target) - 1).square().mean() + self.cycle_weight * cycle
                g_loss = g_loss + (self.d_source(fake_source) - 1).square().mean()
                step.update(g_loss, g_optimizer, counted=True)
                step.log(d_loss=d_loss, g_loss=g_loss, cycle=cycle)

    def configure_optimizers(self):
        adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
        g_parameters = [*self.to_target.parameters(), *self.to_source.parameters()]
        return [adam(g_parameters), adam([*self.d_target.parameters(), *self.d_source.parameters()])]


class BEGAN(GenerativeModule):
    """A discriminator that reconstructs, and a balance that is kept over the steps (Berthelot et al. 2017)."""

    trained_networks = ("generator", "discriminator")
    averaged_networks = ("generator",)

    def __init__(self, gamma=0.5, **options):
        super().__init__(SHAPE, latent_dim=4, **options)
        self.gamma = gamma
        self.register_buffer("balance", torch.zeros(()))
        self.generator = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, SHAPE))
        self.discriminator = convolutions(1, 4)
        self.create_ema()

    def energy(self, images):
        return (self.discriminator(images) - images).abs().mean((1, 2, 3)).float()

    def training_step(self, batch, batch_idx):
        g_optimizer, d_optimizer = self.optimizers()
        with self.step(batch) as step:
            for real, _ in step.batches():
                fake = self.generator(step.noise(len(real)))
                of_real, of_fake = self.energy(real).mean(), self.energy(fake.detach()).mean()
                d_loss = of_real - self.balance * of_fake + 0.1 * penalties.r1(self.energy, real)
                step.update(d_loss, d_optimizer)
                g_loss = self.energy(fake).mean()
                self.balance = (self.balance + 0.01 * (self.gamma * of_real - g_loss).detach()).clamp(0, 1)
                step.update(g_loss, g_optimizer, counted=True)
                step.log(d_loss=d_loss, g_loss=g_loss)

    def decode(self, latents, labels=None, *, ema=True):
        return self.averaged("generator", ema)(latents)

    def configure_optimizers(self):
        return [torch.optim.Adam(network.parameters(), 1e-3) for network in (self.generator, self.discriminator)]


class InfoLoss(Regularizer):
    """The code that the images were made from, recovered from them, in the generator's loss (Chen et al. 2016)."""

    name = "info"
    players = ("generator",)

    def __init__(self, weight, model):
        super().__init__(weight)
        self.model = model

    def __call__(self, turn):
        return F.mse_loss(self.model.recognizer(turn.fake.flatten(1)).float(), self.model.code.float())


class CodesGAN(AdversarialModule):
    """A GAN whose last latents are a code that a third network recovers."""

    trained_networks = ("generator", "discriminator", "recognizer")

    def __init__(self, code_dim=2, **options):
        generator = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, SHAPE))
        discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.SiLU(), nn.Linear(16, 1))
        options = {"penalties": {"r1": 0.1}, **options}
        super().__init__(SHAPE, 4, generator=generator, discriminator=discriminator, **options)
        self.code_dim = code_dim
        self.recognizer = nn.Linear(64, code_dim)
        self.regularizers.append(InfoLoss(0.5, self))

    def generate(self, noise, labels):
        self.code = noise[:, -self.code_dim :]
        return super().generate(noise, labels)

    def configure_optimizers(self):
        g_parameters = [*self.generator.parameters(), *self.recognizer.parameters()]
        return [torch.optim.Adam(g_parameters, 1e-3), torch.optim.Adam(self.discriminator.parameters(), 1e-3)]


class ClippedWGAN(AdversarialModule):
    """The first Wasserstein GAN: RMSprop, five critic updates, weights clipped after each (Arjovsky et al. 2017)."""

    def __init__(self, clip=0.05, **options):
        generator = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, SHAPE))
        discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.SiLU(), nn.Linear(16, 1))
        rmsprop = partial(torch.optim.RMSprop, lr=1e-3)
        options = {"loss": "wasserstein", "d_steps": 2, "regularizers": [R1(0.01)], **options}
        optimizers = {"generator_optimizer": rmsprop, "discriminator_optimizer": rmsprop}
        super().__init__(SHAPE, 4, generator=generator, discriminator=discriminator, **optimizers, **options)
        self.clip = clip

    def discriminator_loss(self, real, fake, labels):
        with torch.no_grad():
            for weight in self.discriminator.parameters():
                weight.clamp_(-self.clip, self.clip)
        return super().discriminator_loss(real, fake, labels)


class VectorGAN(AdversarialModule):
    """A GAN conditioned on a vector of floats, which both networks take beside their input."""

    batch_kind = "vectors"

    class Beside(nn.Module):
        """Concatenates the flat input and the condition."""

        def __init__(self, size, condition_dim, *layers):
            super().__init__()
            self.first, self.rest = nn.Linear(size + condition_dim, 16), nn.Sequential(nn.SiLU(), *layers)

        def forward(self, inputs, condition):
            return self.rest(self.first(torch.cat([inputs.flatten(1), condition], 1)))

    def __init__(self, condition_dim=3, **options):
        generator = self.Beside(4, condition_dim, nn.Linear(16, 64), nn.Tanh(), nn.Unflatten(1, SHAPE))
        discriminator = self.Beside(64, condition_dim, nn.Linear(16, 1))
        options = {"penalties": {"r1": 0.1}, **options}
        super().__init__(SHAPE, 4, generator=generator, discriminator=discriminator, **options)


GAMES = (CycleGame, BEGAN, CodesGAN, ClippedWGAN, VectorGAN)


def batches_for(game, count, size=8, seed=0):
    """Make batches of the kind that a game takes, float32."""
    source = torch.Generator().manual_seed(seed)
    images = [torch.rand(size, *SHAPE, generator=source) * 2 - 1 for _ in range(2 * count)]
    first, second = images[:count], images[count:]
    if game.batch_kind == "images":
        return first
    second = second if game.batch_kind == "pairs" else [image.flatten(1)[:, :3] for image in second]
    return list(zip(first, second, strict=True))
