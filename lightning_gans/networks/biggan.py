"""Generator of BigGAN (Brock et al. 2019, https://arxiv.org/abs/1809.11096, appendix B).

With ``latent_dim=80``, ``width=384``, ten classes and ``attention=[16]``, it is the one that is used for CIFAR-10. Its
discriminator is a :class:`~lightning_gans.networks.ResNetDiscriminator` of ``width=192`` with the same attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lightning_gans.errors import check_counts, invalid
from lightning_gans.networks.attention import check_attention
from lightning_gans.networks.conditioning import check_labels, look_up
from lightning_gans.networks.dcgan import levels
from lightning_gans.networks.resnet import UpBlock, initialize_orthogonally, normalize_spectra, sizes_up


class LinearBatchNorm2d(nn.Module):
    """BatchNorm whose scale and shift are linear functions of a vector.

    Args:
        num_features: Number of channels.
        condition_dim: Length of the vectors.
    """

    def __init__(self, num_features: int, condition_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, affine=False)
        self.scale = nn.Linear(condition_dim, num_features, bias=False)
        self.shift = nn.Linear(condition_dim, num_features, bias=False)

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """Normalize ``(N, C, H, W)``; a condition ``(N, condition_dim)`` of zeros gives scale 1 and shift 0."""
        scale, shift = (layer(condition)[:, :, None, None] for layer in (self.scale, self.shift))
        return torch.addcmul(shift, self.norm(images), 1 + scale)


class BigGANGenerator(nn.Module):
    """Map noise to images in [-1, 1] with residual blocks, one per doubling of the size.

    The noise is split into chunks: the first is the input of the first layer, and each block gets one of the others.
    Together with an embedding of the labels, which all blocks share, it sets the scale and shift of the block's
    BatchNorm layers.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Length of the noise vectors, a multiple of the number of chunks: 4 for 32 pixels, 5 for 64.
        width: Number of channels of all blocks.
        num_classes: Number of classes; 0 for an unconditional network.
        attention: Sizes of the feature maps, by their shorter sides, that have a self-attention layer.
        spectral_norm: As for :class:`ResNetDiscriminator`; the embedding is not normalized.
        embedding_dim: Length of the embedding of a label.

    Raises:
        SettingError: A setting is invalid.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int = 80,
        width: int = 384,
        num_classes: int = 0,
        attention: Sequence[int] = (),
        spectral_norm: bool = True,
        embedding_dim: int = 128,
    ) -> None:
        super().__init__()
        check_counts(latent_dim=latent_dim, width=width, embedding_dim=embedding_dim)
        smallest, doublings = levels(image_shape)
        if latent_dim % (doublings + 1):
            allowed = (
                f"a multiple of {doublings + 1}, as each of {doublings} blocks and the first layer get a part of it"
            )
            raise invalid("latent_dim", latent_dim, allowed)
        sizes = sizes_up(image_shape)
        check_attention(attention, sizes)
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        chunk_dim = latent_dim // (doublings + 1)
        self.embedding = nn.Embedding(num_classes, embedding_dim) if num_classes > 0 else None
        condition_dim = chunk_dim + (embedding_dim if num_classes > 0 else 0)
        make_norm = partial(LinearBatchNorm2d, condition_dim=condition_dim)
        first = nn.Linear(chunk_dim, width * math.prod(smallest))
        self.input = nn.Sequential(first, nn.Unflatten(1, (width, *smallest)))
        self.blocks = nn.ModuleList([UpBlock(width, make_norm, attention=size in attention) for size in sizes])
        self.output = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, image_shape[0], 3, padding=1))
        initialize_orthogonally(self)
        if spectral_norm:
            normalize_spectra(self, nn.Conv2d, nn.Linear)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)``."""
        check_labels(labels, self.num_classes)
        first, *chunks = noise.chunk(len(self.blocks) + 1, dim=1)
        if self.embedding is not None and labels is not None:
            embedded = look_up(self.embedding, labels)
            chunks = [torch.cat([embedded, chunk], dim=1) for chunk in chunks]
        features = self.input(first)
        for block, condition in zip(self.blocks, chunks, strict=True):
            features = block(features, condition)
        images: Tensor = self.output(features).tanh()
        return images
