"""Networks of the VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937): encoder, codebook and decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gans.errors import check_counts, check_repeats, check_share, invalid
from lightning_gans.losses import full_precision


class _Residual(nn.Module):
    """ReLU, 3x3 convolution, ReLU and 1x1 convolution, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, width, h, w)`` to the same shape."""
        result: Tensor = features + self.layers(features)
        return result


def _check_size(image_shape: Sequence[int], downsamplings: int) -> None:
    if any(size % 2**downsamplings for size in image_shape[1:]):
        allowed = f"a height and a width that are multiples of {2**downsamplings}, as downsamplings is {downsamplings}"
        raise invalid("image_shape", list(image_shape), allowed)


class VQEncoder(nn.Module):
    """Map images to a grid of vectors: strided convolutions and residual blocks, without normalization (section 4.1).

    Args:
        image_shape: ``(C, H, W)`` of the images; H and W are multiples of 2 to the power of ``downsamplings``.
        code_dim: Length of the vectors.
        width: Number of channels.
        downsamplings: How often the size is halved.
        blocks: Number of residual blocks.

    Raises:
        SettingError: A setting is invalid.
    """

    def __init__(
        self, image_shape: Sequence[int], code_dim: int = 64, width: int = 128, downsamplings: int = 2, blocks: int = 2
    ) -> None:
        super().__init__()
        check_counts(code_dim=code_dim, width=width)
        check_repeats(downsamplings=downsamplings, blocks=blocks)
        _check_size(image_shape, downsamplings)
        self.image_shape = tuple(image_shape)
        layers: list[nn.Module] = []
        channels = image_shape[0]
        for _ in range(downsamplings):
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.ReLU()]
            channels = width
        layers += [nn.Conv2d(width, width, 3, padding=1), *(_Residual(width) for _ in range(blocks))]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, code_dim, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to vectors ``(N, code_dim, h, w)``."""
        vectors: Tensor = self.layers(images)
        return vectors


class VQDecoder(nn.Module):
    """Map a grid of vectors to images, the mirror image of :class:`VQEncoder`, without an output activation.

    Args:
        image_shape: ``(C, H, W)`` of the images; H and W are multiples of 2 to the power of ``downsamplings``.
        code_dim: Length of the vectors.
        width: Number of channels.
        downsamplings: How often the size is doubled.
        blocks: Number of residual blocks.

    Raises:
        SettingError: A setting is invalid.
    """

    def __init__(
        self, image_shape: Sequence[int], code_dim: int = 64, width: int = 128, downsamplings: int = 2, blocks: int = 2
    ) -> None:
        super().__init__()
        check_counts(code_dim=code_dim, width=width)
        check_repeats(downsamplings=downsamplings, blocks=blocks)
        _check_size(image_shape, downsamplings)
        self.image_shape = tuple(image_shape)
        layers: list[nn.Module] = [nn.Conv2d(code_dim, width, 3, padding=1), *(_Residual(width) for _ in range(blocks))]
        for k in range(downsamplings):
            channels = image_shape[0] if k + 1 == downsamplings else width
            layers += [nn.ReLU(), nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors ``(N, code_dim, h, w)`` to images ``(N, C, H, W)``."""
        images: Tensor = self.layers(vectors)
        return images


class VectorQuantizer(nn.Module):
    """A codebook whose vectors are moving averages of the vectors that they stand for (appendix A.1).

    A code that is not used for some time is moved to a vector of the batch (Dhariwal et al. 2020, arXiv:2005.00341,
    section 3.2). Since all codes count as unused at first, the codebook starts from vectors of the first batch.

    Args:
        num_codes: Number K of codes.
        code_dim: Length D of their vectors.
        decay: Decay rate of the moving averages, per update.
        revive_below: A code is unused if its moving average of uses is below this fraction of the mean over all codes;
            0 never moves a code.

    Raises:
        SettingError: A setting is invalid.
    """

    same_on_processes = True
    """Excludes the buffers from averaging over processes: all processes move them by the same statistics."""

    codebook: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self, num_codes: int = 512, code_dim: int = 64, decay: float = 0.99, revive_below: float = 0.1
    ) -> None:
        super().__init__()
        check_counts(num_codes=num_codes, code_dim=code_dim)
        check_share(decay=decay, revive_below=revive_below)
        self.decay = decay
        self.revive_below = revive_below
        self.register_buffer("codebook", torch.randn(num_codes, code_dim))
        self.register_buffer("counts", torch.zeros(num_codes))
        self.register_buffer("sums", torch.zeros(num_codes, code_dim))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the code that is nearest to each vector: ``(N, D, h, w)`` becomes int64 ``(N, h, w)``."""
        with torch.autocast(vectors.device.type, enabled=False):
            rows, codebook = full_precision(_rows(vectors.detach())), full_precision(self.codebook)
            # The square of the vector itself is the same for all codes.
            distances = codebook.square().sum(1) - 2 * rows @ codebook.T
        return distances.argmin(1).view(len(vectors), *vectors.shape[2:])

    def forward(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes: int64 ``(N, h, w)`` becomes ``(N, D, h, w)``."""
        return self.codebook[codes].movedim(-1, 1)

    def statistics(self, vectors: Tensor, codes: Tensor, places: Tensor) -> Tensor:
        """Return what :meth:`move` needs to know of vectors, ``(K, 1 + 2 D)``; those of parts of a batch are added.

        For each code: the number of its vectors, their sum, and the vector that it is moved to if it is unused.

        Args:
            vectors: The vectors, ``(N, D, h, w)``.
            codes: Their codes, ``(N, h, w)``.
            places: For each code, the row of the vector that it may be moved to, ``(K,)``; the vectors of one image are
                consecutive rows. Rows outside of these vectors belong to another part of the batch.
        """
        rows = full_precision(_rows(vectors.detach()))
        counted = torch.cat([torch.ones_like(rows[:, :1]), rows], 1)
        totals = counted.new_zeros(len(places), counted.shape[1]).index_add_(0, codes.flatten(), counted)
        here = (places >= 0) & (places < len(rows))
        candidates = rows[places.clamp(0, len(rows) - 1)] * here[:, None]
        return torch.cat([totals, candidates], 1)

    @torch.no_grad()
    def move(self, statistics: Tensor) -> None:
        """Move the codebook by the statistics of the whole batch."""
        dim = self.codebook.shape[1]
        counts, sums, candidates = torch.split(statistics.to(self.counts.dtype), [1, dim, dim], 1)
        self.counts.lerp_(counts[:, 0], 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        least = self.revive_below * self.counts.mean()
        unused = self.counts < least
        # Twice the least, so that a code that is not used in its new place either is soon moved again.
        self.counts.copy_(torch.where(unused, 2 * least, self.counts))
        self.sums.copy_(torch.where(unused[:, None], candidates * 2 * least, self.sums))
        known = self.counts[:, None] > 0
        self.codebook.copy_(torch.where(known, self.sums / self.counts.clamp(min=1e-30)[:, None], self.codebook))


def _rows(vectors: Tensor) -> Tensor:
    """Return vectors ``(N, D, h, w)`` as rows ``(N h w, D)``, those of an image one after the other."""
    return vectors.movedim(1, -1).flatten(0, -2)
