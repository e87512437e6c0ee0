"""Models with an encoder and a decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_gans.models.base import GenerativeModule
from lightning_gans.training.batches import check_images
from lightning_gans.training.turn import call


class AutoencodingModule(GenerativeModule):
    """A decoder that maps latents to images, and an encoder that returns the posterior of an image's latents.

    A subclass creates the two networks, which are called with labels as well if ``num_classes`` is not 0.

    Attributes:
        encoder: ``encoder(images[, labels])`` returns the posterior's means and log-variances, ``(N, latent_dim)``
            each.
        decoder: ``decoder(latents[, labels])`` returns images ``(N, C, H, W)`` in [-1, 1], or values that the
            subclass's :meth:`decode` maps to such images.
    """

    trained_networks: tuple[str, ...] = ("encoder", "decoder")
    averaged_networks: tuple[str, ...] = ("encoder", "decoder")
    encoder: nn.Module
    decoder: nn.Module

    def encode(self, images: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> tuple[Tensor, Tensor]:
        """Map images ``(N, C, H, W)`` to the posterior's means and log-variances, ``(N, latent_dim)`` each."""
        mean, log_variance = call(self.averaged("encoder", ema), images, labels)
        return mean, log_variance

    def decode(self, latents: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Map latents ``(N, latent_dim)`` to images ``(N, C, H, W)`` in [-1, 1]."""
        images: Tensor = call(self.averaged("decoder", ema), latents, labels)
        return images

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the reconstructions of images, both ``(N, C, H, W)`` in [-1, 1]."""
        mean, _ = self.encode(images, labels)
        return self.decode(mean, labels)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Encode images and decode the posterior's mean; images and result are ``(N, C, H, W)`` in [-1, 1].

        Raises:
            SettingError: The images are not floats of ``image_shape``.
        """
        check_images(images, self.image_shape)
        with self.evaluating():
            images = images.to(self.device).to(self.dtype)
            mean, _ = self.encode(images, labels, ema=ema)
            return self.decode(mean, labels, ema=ema).float()

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the reconstructions of a batch, ``(N, C, H, W)`` in [-1, 1]."""
        images, labels = self.images_and_labels(batch)
        return self.reconstruct(images, labels)
