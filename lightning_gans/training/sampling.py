"""Latents and labels of samples: a picture is a function of the seed, of its index and of its label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_gans.errors import SettingError
from lightning_gans.training.acceleration import uncompiled

SAMPLE_BLOCK = 50
"""Samples are generated in blocks of this size by their global index, and the last block is padded, so that the bits of
a picture do not depend on how many are asked for at once."""


def checked_sample_labels(
    labels: Tensor | Sequence[int] | None, num_samples: int, num_classes: int, start: int = 0
) -> Tensor | None:
    """Return the labels of samples, int64 ``(num_samples,)``: those given, or the classes in turn.

    Args:
        labels: What the caller asks for; None stands for the classes in turn.
        num_samples: How many there have to be.
        num_classes: Number of classes; 0 for an unconditional model, which gets None.
        start: Index of the first sample.

    Raises:
        SettingError: They do not fit the model or their number.
    """
    if num_classes == 0:
        if labels is not None:
            message = "labels were given, but the model is unconditional: leave them out."
            raise SettingError(message, setting="labels", value=labels)
        return None
    if labels is None:
        return torch.arange(start, start + num_samples) % num_classes
    chosen = torch.as_tensor(labels, dtype=torch.long).cpu()
    if chosen.shape != (num_samples,):
        message = f"labels has the shape {list(chosen.shape)}: give one label for each of {num_samples}."
        raise SettingError(message, setting="labels", value=list(chosen.shape), allowed=[num_samples])
    for label in chosen.tolist():
        if not 0 <= label < num_classes:
            message = f"labels contains {label}: the model knows 0 to {num_classes - 1}."
            raise SettingError(message, setting="labels", value=label, allowed=range(num_classes))
    return chosen


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode inside the block, uncompiled; every child gets its own mode back."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with uncompiled(module):
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode


def truncated(noise: Tensor, limit: float) -> Tensor:
    """Map standard normal numbers to the standard normal distribution truncated at ``±limit``, in order.

    Brock et al. 2019, https://arxiv.org/abs/1809.11096, section 3.1.
    """
    below = torch.special.ndtr(torch.tensor(-limit, dtype=torch.float64))
    shares = below + torch.special.ndtr(noise.double()) * (1 - 2 * below)
    cut: Tensor = torch.special.ndtri(shares)
    return cut.clamp(-limit, limit).to(noise.dtype)


def slerp(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Interpolate along the arc between two latents; normal vectors lie near a sphere (White 2016, arXiv:1609.04468).

    Args:
        start: Shape ``(latent_dim,)``.
        end: The same shape.
        shares: Positions along the arc, 0 (``start``) to 1 (``end``), shape ``(N,)``.

    Returns:
        Shape ``(N, latent_dim)``; the lengths change linearly between the two.

    Example:
        >>> slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([0.5])).norm().round()
        tensor(2.)
    """
    one, other, at = start.double(), end.double(), shares.double()[:, None]
    lengths = one.norm(), other.norm()
    unit = torch.stack([one, other]) / torch.stack(lengths).clamp_min(1e-12)[:, None]
    angle = (unit[0] @ unit[1]).clamp(-1, 1).arccos()
    if angle.sin() < 1e-6:  # parallel or opposite: no arc is shorter than another
        return torch.lerp(one, other, at).to(start.dtype)
    directions = (((1 - at) * angle).sin() * unit[0] + (at * angle).sin() * unit[1]) / angle.sin()
    return (directions * torch.lerp(*lengths, at)).to(start.dtype)
