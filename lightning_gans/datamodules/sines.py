"""Sine waves: sequences whose distribution is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_gans import randomness
from lightning_gans.datamodules.base import ImageDataModule, Split, check_fits
from lightning_gans.errors import check_counts, check_whole, invalid, is_number
from lightning_gans.randomness import Stream


class SinesDataModule(ImageDataModule):
    """Sine waves of random frequency, amplitude and phase (Esteban et al. 2017, arXiv:1706.02633, section 4.1).

    Channel c of a sequence is ``a_c sin(2 pi f t / num_steps + p_c)`` at t = 0, 1, …: the channels of one
    sequence share a frequency. Each parameter is uniform in its range. Sequence k of a split depends only on (seed,
    split, k). Batches are as in :class:`SequenceDataModule`.

    Args:
        num_sequences: Number of training sequences, of which ``val_size`` are for validation.
        num_test: Number of test sequences.
        num_steps: Length of a sequence.
        num_channels: Number of waves in a sequence.
        frequencies: Range of the frequencies, in periods per sequence; at most half of ``num_steps``.
        amplitudes: Range of the amplitudes, within 0 to 1.
        phases: Range of the phases, in radians.
        num_classes: Number of frequency bands of equal width, which are the labels; 0 for no labels.
        seed: Seed of the sequences.
        **options: As in :class:`ImageDataModule`.
    """

    def __init__(
        self,
        num_sequences: int = 10_000,
        num_test: int = 2_000,
        num_steps: int = 32,
        num_channels: int = 1,
        frequencies: tuple[float, float] = (1.0, 5.0),
        amplitudes: tuple[float, float] = (0.1, 0.9),
        phases: tuple[float, float] = (-math.pi, math.pi),
        num_classes: int = 0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_counts(num_sequences=num_sequences, num_test=num_test, num_steps=num_steps, num_channels=num_channels)
        num_bytes = 16 * num_channels * num_steps
        check_fits(num_bytes, num_steps=num_steps)
        check_fits(num_bytes * num_sequences, num_sequences=num_sequences)
        check_fits(num_bytes * num_test, num_test=num_test)
        limits = {"frequencies": (0.0, num_steps / 2), "amplitudes": (0.0, 1.0), "phases": (-math.inf, math.inf)}
        for name, given in {"frequencies": frequencies, "amplitudes": amplitudes, "phases": phases}.items():
            least, most = limits[name]
            pair = isinstance(given, Sequence) and len(given) == 2 and all(map(is_number, given))
            if not pair or not least <= given[0] <= given[1] <= most:
                raise invalid(name, given, f"[lowest, highest], between {least:g} and {most:g}")
        check_counts(least=0, num_classes=num_classes)
        check_whole(seed=seed)
        self.num_sequences = num_sequences
        self.num_test = num_test
        self.image_shape = (num_channels, num_steps)
        self.frequencies = frequencies
        self.amplitudes = amplitudes
        self.phases = phases
        self.seed = seed
        self._num_classes = num_classes

    @property
    def class_names(self) -> Sequence[str]:
        """The bands of frequencies."""
        low, high = self.frequencies
        edges = [low + (high - low) * k / max(self._num_classes, 1) for k in range(self._num_classes + 1)]
        return [f"{edges[k]:.3g} to {edges[k + 1]:.3g}" for k in range(self._num_classes)]

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Draw the training or the test sequences."""
        if split == "val":
            return None
        num = self.num_sequences if split == "train" else self.num_test
        channels, steps = self.image_shape
        key = (self.seed, Stream.SEQUENCE, int(split == "test"))
        uniform = randomness.rand_at(torch.arange(num), 1 + 2 * channels, *key)
        shares = uniform[:, 0]
        amplitudes = _within(self.amplitudes, uniform[:, 1 : 1 + channels, None])
        phases = _within(self.phases, uniform[:, 1 + channels :, None])
        turns = 2 * math.pi * torch.arange(steps) / steps
        sequences = amplitudes * torch.sin(_within(self.frequencies, shares)[:, None, None] * turns + phases)
        return sequences, (shares * self._num_classes).long()


def _within(limits: tuple[float, float], shares: Tensor) -> Tensor:
    """Map numbers in [0, 1) to a range."""
    low, high = limits
    return low + (high - low) * shares
