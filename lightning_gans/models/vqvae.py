"""The autoencoder with discrete codes, and a prior that generates them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gans import randomness
from lightning_gans.errors import (
    check_adam,
    check_counts,
    check_not_negative,
    check_positive,
    check_repeats,
    check_share,
    invalid,
)
from lightning_gans.losses import full_precision
from lightning_gans.models.base import GenerativeModule, check_sizes, tried
from lightning_gans.networks.code_prior import CodePrior
from lightning_gans.networks.vqvae import VectorQuantizer, VQDecoder, VQEncoder
from lightning_gans.randomness import Stream
from lightning_gans.training.compiled import uncompiled
from lightning_gans.training.processes import mean_over_processes
from lightning_gans.training.sampling import evaluating
from lightning_gans.training.step import TrainingStep


class VQVAE(GenerativeModule):
    r"""Autoencoder with a grid of discrete codes (van den Oord et al. 2017, https://arxiv.org/abs/1711.00937).

    The encoder maps an image to a grid of vectors :math:`z`, each is replaced by the nearest vector :math:`e` of a
    codebook, and the decoder maps these to the image. The gradient passes from the decoder to the encoder as if nothing
    were replaced (straight-through), and the encoder also minimizes the distance to the codes:
    :math:`\|x - \tilde x\|^2 + \beta \|z - \mathrm{sg}(e)\|^2`, both means. The codebook follows the vectors as their
    moving average, from the batch of all processes.

    After ``prior_start`` of the run, the autoencoder stays as it is, and a Transformer learns the distribution of the
    codes, from which images are sampled. Labels condition only this prior.

    ``train/mse`` is the mean squared error on the images' scale, ``train/perplexity`` the exponential of the entropy of
    a batch's codes, and ``train/code_usage`` the fraction of the codebook that occurs in the batch. ``train/code_nll``
    is the prior's loss, in nats per image.

    Args:
        image_shape: ``(C, H, W)`` of the images; H and W are multiples of 2 to the power of ``downsamplings``.
        num_classes: Number of labels; 0 makes it unconditional.
        encoder: Replaces the encoder; ``encoder(images)`` returns vectors ``(N, code_dim, h, w)``.
        decoder: Replaces the decoder; ``decoder(vectors)`` returns images, which are cut off at -1 and 1.
        num_codes: Number of codes.
        code_dim: Length of their vectors.
        width: Number of channels of the encoder and of the decoder.
        downsamplings: How often the encoder halves the size.
        commitment: Weight :math:`\beta` of the distance to the codes.
        decay: Decay rate of the codebook's moving averages, per update.
        revive_below: A code whose average use is below this fraction of the mean is moved to a vector of the batch,
            chosen at random; 0 never moves a code.
        prior_start: Fraction of the run after which the prior is trained instead of the autoencoder.
        prior_width: Length of the vectors in the prior, a multiple of ``prior_heads``.
        prior_layers: Number of its layers.
        prior_heads: Number of its attention heads.
        encoder_lr: Adam's learning rate for the encoder.
        decoder_lr: Adam's learning rate for the decoder.
        prior_lr: Adam's learning rate for the prior.
        betas: Adam's decay rates, for all.
        weight_decay: Adam's L2 penalty, for all.
        **options: See :class:`GenerativeModule`.

    Attributes:
        code_shape: ``(h, w)`` of an image's codes.
        code_usage: ``train/code_usage`` of the last update; None before the first.
        code_perplexity: ``train/perplexity`` of the last update; None before the first.

    Example:
        >>> model = VQVAE(width=4, prior_width=8, prior_layers=1)
        >>> model.codes_of(torch.zeros(2, 1, 28, 28)).shape, model.sample(2, seed=0).shape
        (torch.Size([2, 7, 7]), torch.Size([2, 1, 28, 28]))
    """

    trained_networks = ("encoder", "decoder", "prior")
    averaged_networks = ("encoder", "decoder", "quantizer", "prior")

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        num_classes: int = 0,
        *,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        num_codes: int = 512,
        code_dim: int = 64,
        width: int = 128,
        downsamplings: int = 2,
        commitment: float = 0.25,
        decay: float = 0.99,
        revive_below: float = 0.1,
        prior_start: float = 0.5,
        prior_width: int = 128,
        prior_layers: int = 4,
        prior_heads: int = 4,
        encoder_lr: float = 1e-3,
        decoder_lr: float = 1e-3,
        prior_lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        check_sizes(image_shape, num_classes)
        check_share(prior_start=prior_start)
        check_counts(prior_width=prior_width, prior_heads=prior_heads)
        check_repeats(prior_layers=prior_layers)
        if prior_width % prior_heads:
            raise invalid("prior_width", prior_width, f"a multiple of prior_heads, {prior_heads}")
        check_not_negative(commitment=commitment)
        check_positive(encoder_lr=encoder_lr, decoder_lr=decoder_lr, prior_lr=prior_lr)
        check_adam(betas, weight_decay)
        made = encoder or VQEncoder(image_shape, code_dim, width, downsamplings)
        vectors = tried("encoder", made, image_shape)
        if vectors.dim() != 4 or vectors.shape[1] != code_dim:
            raise invalid("the output of the encoder", list(vectors.shape), f"vectors (N, {code_dim}, h, w)")
        code_shape = vectors.shape[2:]
        length = code_shape.numel()
        super().__init__(image_shape, length, num_classes, **options)
        self.encoder = made
        self.decoder = decoder or VQDecoder(image_shape, code_dim, width, downsamplings)
        self.quantizer = VectorQuantizer(num_codes, code_dim, decay, revive_below)
        self.prior = CodePrior(num_codes, length, prior_width, prior_layers, prior_heads, num_classes)
        self.code_shape = tuple(code_shape)
        self.commitment = commitment
        self.prior_start = prior_start
        self.encoder_lr = encoder_lr
        self.decoder_lr = decoder_lr
        self.prior_lr = prior_lr
        self.betas = betas
        self.weight_decay = weight_decay
        self.code_usage: Tensor | None = None
        self.code_perplexity: Tensor | None = None
        self.check_networks("encoder", "decoder")
        self.create_ema()

    # --- training -----------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update the encoder, the decoder and the codebook; or, in the second part of the run, the prior."""
        optimizers = self.optimizers_of("encoder", "decoder", "prior")
        with self.step(batch) as step:
            if self.samples_are_trained:
                self.train_prior(step, optimizers[2])
            else:
                self.train_autoencoder(step, *optimizers[:2])

    @property
    def samples_are_trained(self) -> bool:
        """Whether this is the second part of a run, in which the prior is trained; only then samples mean anything."""
        return self.prior_start < 1 and self.progress() >= self.prior_start

    def train_autoencoder(self, step: TrainingStep, encoder_optimizer: Any, decoder_optimizer: Any) -> None:
        """Update the encoder and the decoder together, then the codebook."""
        statistics = []
        for images, _ in step.batches():
            vectors = self.encoder(images)
            codes = self.quantizer.nearest(vectors)
            loss, terms = self.loss_terms(images, vectors, codes)
            step.update(loss, encoder_optimizer, decoder_optimizer, counted=True)
            step.log(**terms)
            statistics.append(self.quantizer.statistics(vectors, codes, self.places(step, codes.numel())))
        if statistics:
            mean = mean_over_processes(self.trainer.strategy, torch.stack(statistics).sum(0))
            self.quantizer.move(mean * self.trainer.world_size)
            shares = mean[:, 0] / mean[:, 0].sum()
            usage, perplexity = (shares > 0).float().mean(), torch.special.entr(shares).sum().exp()
            self.code_usage, self.code_perplexity = usage, perplexity
            step.log(code_usage=usage, perplexity=perplexity)

    def loss_terms(self, images: Tensor, vectors: Tensor, codes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the encoder and the decoder, and what is logged of it.

        Args:
            images: Values in [-1, 1], shape ``(N, C, H, W)``.
            vectors: The encoder's output, ``(N, code_dim, h, w)``, with its graph.
            codes: The nearest codes, ``(N, h, w)``.
        """
        quantized = self.quantizer(codes).to(vectors.dtype)
        made = self.decoder(vectors + (quantized - vectors).detach())  # straight-through
        self.check_made(made)
        mse = (full_precision(made) - full_precision(images)).square().mean()
        distance = (full_precision(vectors) - full_precision(quantized)).square().mean()
        return mse + self.commitment * distance, {"mse": mse, "commitment": distance}

    def places(self, step: TrainingStep, num: int) -> Tensor:
        """Draw the row of this batch's ``num`` vectors that each code may be moved to, ``(num_codes,)``.

        Rows are drawn from the global batch, so those of other batches and processes are outside of 0 to num - 1.
        """
        total = num * self.accumulate_batches * self.trainer.world_size
        key = (self.run_seed, Stream.CODE, step.global_step)
        uniforms = randomness.rand((len(self.quantizer.codebook),), *key, device=self.device)
        return (uniforms.double() * total).long() - step.first_row(num)

    def train_prior(self, step: TrainingStep, optimizer: Any) -> None:
        """Update the prior; the autoencoder gives the codes."""
        for images, labels in step.batches():
            with torch.no_grad(), evaluating(self.encoder):
                codes = self.quantizer.nearest(self.encoder(images))
            nll = self.prior.nll(codes.flatten(1), labels).mean()
            step.update(nll, optimizer, counted=True)
            step.log(code_nll=nll)

    def configure_optimizers(self) -> Any:
        """Return an Adam optimizer per network: encoder, decoder, prior."""
        rates = {"encoder": self.encoder_lr, "decoder": self.decoder_lr, "prior": self.prior_lr}
        return [
            self.make_optimizer(getattr(self, name).parameters(), lr, self.betas, self.weight_decay)
            for name, lr in rates.items()
        ]

    # --- codes and images ---------------------------------------------------------------------------------------

    def codes_of(self, images: Tensor, *, ema: bool = True) -> Tensor:
        """Map images ``(N, C, H, W)`` in [-1, 1] to their codes, int64 ``(N, h, w)``."""
        nearest: Tensor = self.averaged("quantizer", ema).nearest(self.averaged("encoder", ema)(images))
        return nearest

    def images_of(self, codes: Tensor, *, ema: bool = True) -> Tensor:
        """Map codes, int64 ``(N, h, w)``, to images ``(N, C, H, W)`` in [-1, 1]."""
        images: Tensor = self.averaged("decoder", ema)(self.averaged("quantizer", ema)(codes).to(self.dtype))
        return images.clamp(-1, 1)

    def decode(self, latents: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Map standard normal numbers ``(N, h w)`` to images in [-1, 1].

        Each number chooses one code, by the distribution that the prior gives it after the codes before it.
        """
        uniforms = torch.special.ndtr(full_precision(latents))
        codes = self.averaged("prior", ema).generate(uniforms, labels)
        return self.images_of(codes.unflatten(1, self.code_shape), ema=ema)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the reconstructions of images, both ``(N, C, H, W)`` in [-1, 1]; labels are not needed."""
        return self.images_of(self.codes_of(images))

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Return the reconstructions of images, both ``(N, C, H, W)`` in [-1, 1]; labels are not needed."""
        with self.evaluating():
            return self.images_of(self.codes_of(images.to(self.device).to(self.dtype), ema=ema), ema=ema).float()

    # --- evaluation ---------------------------------------------------------------------------------------------

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure the reconstructions and the prior on held-out images."""
        self._measure(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure the reconstructions and the prior on test images."""
        self._measure(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the reconstructions of a batch, ``(N, C, H, W)`` in [-1, 1]."""
        return self.reconstruct(self.images_and_labels(batch)[0])

    def _measure(self, batch: Any, stage: str) -> None:
        """Add a batch to the means of the squared error and of the prior's loss, each image with the same weight."""
        images, labels = self.images_and_labels(batch)
        with uncompiled(self):
            codes = self.codes_of(images)
            mse = (full_precision(self.images_of(codes)) - full_precision(images)).square().mean()
            nll = self.averaged("prior").nll(codes.flatten(1), labels).mean()
        measured = {f"{stage}/mse": mse, f"{stage}/code_nll": nll}
        self.log_dict(measured, on_epoch=True, sync_dist=True, batch_size=len(images))
