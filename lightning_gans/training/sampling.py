"""Samples: a picture is a function of the seed, of its place and of its label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_gans import randomness
from lightning_gans.errors import SettingError, check_positive
from lightning_gans.randomness import Stream
from lightning_gans.training.ema import AveragedModule

SAMPLE_BLOCK = 50
"""Samples are generated in blocks of this many by their global index, the last one filled up: a picture's
bits then depend neither on how many are asked for at once nor on who asks."""


class SampledModule(AveragedModule):
    """A model that maps latents to images, and draws the latents itself."""

    image_shape: tuple[int, ...]
    latent_dim: int
    num_classes: int

    @property
    def makes_pictures(self) -> bool:
        """Whether samples are images ``(N, C, H, W)``, not sequences ``(N, C, T)``."""
        return len(self.image_shape) == 3

    def decode(self, latents: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Map latents ``(N, latent_dim)`` to images ``(N, C, H, W)`` in [-1, 1].

        Labels are int64 ``(N,)``; the package's own networks also take weights of the classes, ``(N, num_classes)``,
        which stand for what lies between them.
        """
        raise NotImplementedError

    def latents(self, num: int, *, seed: int, start: int = 0, truncation: float | None = None) -> Tensor:
        """Return the latents of samples ``start … start + num`` of a seed, float32 ``(num, latent_dim)``, on the CPU.

        Args:
            num: How many.
            seed: Seed of the noise.
            start: Place of the first of them in the endless row that the seed stands for.
            truncation: Largest absolute value, which makes samples more typical and more alike: the numbers follow the
                normal distribution cut off there (Brock et al. 2019, https://arxiv.org/abs/1809.11096, section 3.1).
                Each moves with the limit, so that a seed's picture stays recognisable.
        """
        noise = randomness.randn_rows(start, num, self.latent_dim, seed, Stream.SAMPLE)
        return noise if truncation is None else truncated(noise, truncation)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int | None = None,
        labels: Tensor | Sequence[int] | None = None,
        *,
        seed: int | None = None,
        start: int = 0,
        ema: bool = True,
        truncation: float | None = None,
    ) -> Tensor:
        """Generate images; picture k depends on (seed, start + k, its label) and on the truncation alone.

        Args:
            num_samples: How many; by default as many as there are labels, else 1.
            labels: One label for each image, in a conditional model; by default the classes in turn.
            seed: Seed of the noise; None draws one from torch's global stream.
            start: Index of the first picture in the endless row of pictures that the seed stands for.
            ema: Whether to use the moving average of the weights, where the model has one.
            truncation: See :meth:`latents`; None cuts nothing off.

        Returns:
            Float images in [-1, 1], shape ``(num_samples, C, H, W)``, on the model's device.

        Raises:
            SettingError: Labels do not fit the model or their number, a count is negative, the truncation is not above
                0, or a network of the user's own makes images of another shape.
        """
        if num_samples is None:
            num_samples = 1 if labels is None else len(labels)
        if num_samples < 0 or start < 0:
            raise SettingError(f"num_samples is {num_samples} and start is {start}: neither may be negative.")
        if truncation is not None:
            check_positive(truncation=truncation)
        all_labels = self._labels_for(num_samples, labels, start)
        if seed is None:
            seed = int(torch.randint(2**31, ()))
        first, stop = start // SAMPLE_BLOCK * SAMPLE_BLOCK, start + num_samples
        images = [torch.empty(0, *self.image_shape, device=self.device)]
        with self.evaluating():
            for block in range(first, stop, SAMPLE_BLOCK):
                latents = self.latents(SAMPLE_BLOCK, seed=seed, start=block, truncation=truncation)
                low, high = max(block, start), min(block + SAMPLE_BLOCK, stop)
                block_labels = None
                if all_labels is not None:
                    block_labels = torch.zeros(SAMPLE_BLOCK, dtype=torch.long, device=self.device)
                    block_labels[low - block : high - block] = all_labels[low - start : high - start]
                made = self.decode(latents.to(self.device).to(self.dtype), block_labels, ema=ema)
                self.check_made(made)
                images.append(made[low - block : high - block].float())
        return torch.cat(images)

    def check_made(self, images: Tensor) -> None:
        """Raise :class:`SettingError` for images that are not of the model's shape."""
        if images.shape[1:] != self.image_shape:
            raise SettingError(
                f"image_shape is {list(self.image_shape)}, but the network makes images {list(images.shape[1:])}: "
                "change one of them."
            )

    def _labels_for(self, num_samples: int, labels: Tensor | Sequence[int] | None, start: int) -> Tensor | None:
        """Check the labels asked for, or give the classes in turn."""
        if self.num_classes == 0:
            if labels is not None:
                raise SettingError("labels were given, but the model is unconditional: leave them out.")
            return None
        if labels is None:
            return (torch.arange(start, start + num_samples) % self.num_classes).to(self.device)
        chosen = torch.as_tensor(labels, dtype=torch.long).to(self.device)
        if chosen.shape != (num_samples,):
            raise SettingError(f"labels has the shape {list(chosen.shape)}: give one label for each of {num_samples}.")
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < self.num_classes:
            wrong = next(int(label) for label in chosen if not 0 <= label < self.num_classes)
            raise SettingError(f"labels contains {wrong}: the model knows 0 to {self.num_classes - 1}.")
        return chosen

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the model into evaluation mode inside the block, each module back into its own afterwards."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with self.uncompiled():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def truncated(noise: Tensor, limit: float) -> Tensor:
    """Map standard normal numbers to the standard normal distribution cut off at ``-limit`` and ``limit``, in order."""
    below = torch.special.ndtr(torch.tensor(-limit, dtype=torch.float64))
    shares = below + torch.special.ndtr(noise.double()) * (1 - 2 * below)
    cut: Tensor = torch.special.ndtri(shares)
    return cut.clamp(-limit, limit).to(noise.dtype)


def slerp(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Return points on the arc between two latents, as normal vectors lie near a sphere (White 2016, arXiv:1609.04468).

    Args:
        start: Shape ``(latent_dim,)``.
        end: The same shape.
        shares: Where on the way, 0 (``start``) to 1 (``end``), shape ``(N,)``.

    Returns:
        Shape ``(N, latent_dim)``. Their length changes evenly from the one's to the other's.

    Example:
        >>> slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([0.5])).norm().round()
        tensor(2.)
    """
    one, other, at = start.double(), end.double(), shares.double()[:, None]
    lengths = one.norm(), other.norm()
    unit = torch.stack([one, other]) / torch.stack(lengths).clamp_min(1e-12)[:, None]
    angle = (unit[0] @ unit[1]).clamp(-1, 1).arccos()
    if angle.sin() < 1e-6:  # the same direction, or the opposite, between which no arc is shorter than another
        return torch.lerp(one, other, at).to(start.dtype)
    directions = (((1 - at) * angle).sin() * unit[0] + (at * angle).sin() * unit[1]) / angle.sin()
    return (directions * torch.lerp(*lengths, at)).to(start.dtype)
