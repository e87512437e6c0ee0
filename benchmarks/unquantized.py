"""A VQ-VAE without its codebook: the control of ``vqvae_quality.py``."""

import torch

from lightning_gans import VQVAE


class Unquantized(VQVAE):
    """The autoencoder of a VQ-VAE whose decoder gets the encoder's vectors themselves; it has no prior of them."""

    def loss_terms(self, images, vectors, codes):
        mse = (self.decoder(vectors) - images).square().mean()
        return mse, {"mse": mse}

    @torch.no_grad()
    def reconstruct(self, images, labels=None, *, ema=True):
        with self.evaluating():
            return self.averaged("decoder", ema)(self.averaged("encoder", ema)(images)).clamp(-1, 1)
