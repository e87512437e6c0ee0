"""Modules that know nothing of this package, as their users have them."""

import importlib
import math
import os

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

pl = importlib.import_module(os.environ.get("FAMILY", "pytorch_lightning"))


class TutorialGAN(pl.LightningModule):
    """The GAN of Lightning's tutorial, smaller: manual optimization, no method ``sample``."""

    def __init__(self, latent_dim=16):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(latent_dim, 64), nn.ReLU(), nn.Linear(64, 784), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Linear(784, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1), nn.Sigmoid())

    def forward(self, z):
        return self.generator(z).view(-1, 1, 28, 28)

    def training_step(self, batch):
        imgs, _ = batch
        optimizer_g, optimizer_d = self.optimizers()
        z = torch.randn(imgs.shape[0], self.hparams.latent_dim).type_as(imgs)

        self.toggle_optimizer(optimizer_g)
        valid, fake = torch.ones(imgs.size(0), 1).type_as(imgs), torch.zeros(imgs.size(0), 1).type_as(imgs)
        g_loss = F.binary_cross_entropy(self.discriminator(self(z).flatten(1)), valid)
        self.log("g_loss", g_loss, prog_bar=True)
        self.manual_backward(g_loss)
        optimizer_g.step()
        optimizer_g.zero_grad()
        self.untoggle_optimizer(optimizer_g)

        self.toggle_optimizer(optimizer_d)
        real_loss = F.binary_cross_entropy(self.discriminator(imgs.flatten(1)), valid)
        fake_loss = F.binary_cross_entropy(self.discriminator(self(z).detach().flatten(1)), fake)
        d_loss = (real_loss + fake_loss) / 2
        self.log("d_loss", d_loss, prog_bar=True)
        self.manual_backward(d_loss)
        optimizer_d.step()
        optimizer_d.zero_grad()
        self.untoggle_optimizer(optimizer_d)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return [
            torch.optim.Adam(self.generator.parameters(), lr=2e-4),
            torch.optim.Adam(self.discriminator.parameters(), lr=2e-4),
        ], []


class DDPM(pl.LightningModule):
    """Denoising diffusion in 50 steps (Ho et al. 2020): automatic optimization, images in [0, 1]."""

    value_range = (0.0, 1.0)

    def __init__(self, num_steps=50, width=16):
        super().__init__()
        self.register_buffer("alphas", torch.cumprod(1 - torch.linspace(1e-3, 0.2, num_steps), 0))
        self.network = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1), nn.SiLU(), nn.BatchNorm2d(width), nn.Conv2d(width, 1, 3, padding=1)
        )

    def predict(self, noisy, steps):
        times = (steps / len(self.alphas)).view(-1, 1, 1, 1).expand_as(noisy)
        return self.network(torch.cat([noisy, times], 1))

    def training_step(self, batch, batch_idx):
        images = batch[0] * 2 - 1
        steps = torch.randint(len(self.alphas), (len(images),), device=self.device)
        noise, kept = torch.randn_like(images), self.alphas[steps].view(-1, 1, 1, 1)
        loss = F.mse_loss(self.predict(kept.sqrt() * images + (1 - kept).sqrt() * noise, steps), noise)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.mse_loss(self.predict(batch[0], torch.zeros(len(batch[0]))), batch[0]))

    @torch.no_grad()
    def sample(self, n):
        images = torch.randn(n, 1, 28, 28, device=self.device)
        for step in reversed(range(len(self.alphas))):
            kept, before = self.alphas[step], self.alphas[step - 1] if step else torch.ones((), device=self.device)
            noise = self.predict(images, torch.full((n,), step, device=self.device))
            clean = ((images - (1 - kept).sqrt() * noise) / kept.sqrt()).clamp(-1, 1)
            variance = (1 - before) / (1 - kept) * (1 - kept / before)
            images = before.sqrt() * clean + (1 - before - variance).clamp(min=0).sqrt() * noise
            images = images + variance.clamp(min=0).sqrt() * torch.randn_like(images)
        return (images.clamp(-1, 1) + 1) / 2

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class RealNVP(pl.LightningModule):
    """Affine coupling layers (Dinh et al. 2017): automatic optimization with a scheduler, uint8 samples."""

    def __init__(self, num_layers=4, width=32):
        super().__init__()
        nets = [nn.Sequential(nn.Linear(392, width), nn.Tanh(), nn.Linear(width, 784)) for _ in range(num_layers)]
        self.couplings = nn.ModuleList(nets)

    def training_step(self, batch, batch_idx):
        images, _ = batch
        flat, log_det = images.flatten(1) + torch.rand_like(images.flatten(1)) / 128, 0.0
        for index, coupling in enumerate(self.couplings):
            halves = flat.chunk(2, 1)
            kept, changed = halves[:: 1 if index % 2 else -1]
            scale, shift = coupling(kept).chunk(2, 1)
            changed, log_det = changed * scale.tanh().exp() + shift, log_det + scale.tanh().sum(1)
            flat = torch.cat([kept, changed][:: 1 if index % 2 else -1], 1)
        loss = (0.5 * flat.square().sum(1) + 392 * math.log(2 * math.pi) - log_det).mean() / 784
        self.log("nll", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        pass

    @torch.no_grad()
    def draw(self, count):
        flat = torch.randn(count, 784, device=self.device)
        for index, coupling in reversed(list(enumerate(self.couplings))):
            halves = flat.chunk(2, 1)
            kept, changed = halves[:: 1 if index % 2 else -1]
            scale, shift = coupling(kept).chunk(2, 1)
            changed = (changed - shift) / scale.tanh().exp()
            flat = torch.cat([kept, changed][:: 1 if index % 2 else -1], 1)
        return ((flat.clamp(-1, 1) + 1) * 127.5).byte().view(-1, 1, 28, 28)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


def loader(low, num, start=0):
    """Return a plain DataLoader of scikit-learn's digits, enlarged to 28 x 28, with values in [low, 1]."""
    digits = load_digits()
    images = F.interpolate(torch.tensor(digits.images[start:][:num, None] / 16).float(), (28, 28))
    return DataLoader(TensorDataset(images * (1 - low) + low, torch.tensor(digits.target[start:][:num])), 20)
