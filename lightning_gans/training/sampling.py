"""Latents and labels of samples: a picture is a function of the seed, its index and its label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import SettingError, invalid
from lightning_gans.io.attributes import Attributes
from lightning_gans.training.compiled import uncompiled

SAMPLE_BLOCK = 50
"""Samples are generated in blocks of this size by their global index, and the last block is padded, so that the bits of
a picture do not depend on how many are asked for at once."""


def check_latents(model: Any) -> None:
    """Raise :class:`SettingError` if a model has no latents."""
    if model.latent_dim == 0:
        message = f"{type(model).__name__} has no latents and cannot be sampled: use translate(images)."
        raise SettingError(message, setting="latent_dim", value=0)


def attributes_of(model: Any) -> Attributes | None:
    """Return what the numbers of a model's label vectors stand for; None if the model does not say, as for classes."""
    found = getattr(model, "attributes", None)  # a LightningModule may use this name for something else
    return found if isinstance(found, Attributes) else None


def labels_in_turn(model: Any, num: int, start: int = 0) -> Tensor | None:
    """Return labels for samples ``start`` to ``start + num - 1``; None for an unconditional model.

    They are the classes in turn, int64 ``(num,)``; or, if the labels of the training images are vectors, some of those
    in turn, float32 ``(num, num_classes)``.
    """
    if model.num_classes == 0:
        return None
    attributes = attributes_of(model)
    if attributes is not None:
        return attributes.in_turn(num, start)
    classes: Tensor = torch.arange(start, start + num) % model.num_classes
    return classes


def checked_sample_labels(
    model: Any, labels: Tensor | Sequence[Any] | None, num_samples: int, start: int = 0
) -> Tensor | None:
    """Return the labels of samples, int64 ``(num_samples,)`` or float32 ``(num_samples, num_classes)``.

    Args:
        model: The model; an unconditional one gets None.
        labels: The labels that the caller passes; None stands for :func:`labels_in_turn`.
        num_samples: Number of samples.
        start: Index of the first sample.

    Raises:
        SettingError: The labels do not match the model or the number of samples.
    """
    num_classes = model.num_classes
    if num_classes == 0:
        if labels is not None:
            message = "labels were given, but the model is unconditional: leave them out."
            raise SettingError(message, setting="labels", value=labels)
        return None
    if labels is None:
        return labels_in_turn(model, num_samples, start)
    try:
        chosen = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise invalid("labels", labels, f"class numbers from 0 to {num_classes - 1}, or floats") from None
    if chosen.is_floating_point() and chosen.dim() > 1:
        if chosen.shape != (num_samples, num_classes) or not chosen.isfinite().all():
            allowed = f"finite numbers of the shape [{num_samples}, {num_classes}]"
            raise invalid("labels", list(chosen.shape), allowed)
        return chosen.float()
    if chosen.shape != (num_samples,):
        message = f"labels has the shape {list(chosen.shape)}: give one label for each of {num_samples} samples."
        raise SettingError(message, setting="labels", value=list(chosen.shape), allowed=[num_samples])
    for label in chosen.tolist():
        if label not in range(num_classes):  # 2.0 is in it, 0.5 is not
            message = f"labels contains {label}: the model has the labels 0 to {num_classes - 1}."
            raise SettingError(message, setting="labels", value=label, allowed=range(num_classes))
    return chosen.long()


def in_blocks(model: Any, latents: Any, labels: Tensor | None, num_samples: int, start: int, ema: bool) -> Tensor:
    """Return samples ``start`` to ``start + num_samples``, float32 on the model's device; see :data:`SAMPLE_BLOCK`.

    Args:
        model: Has ``decode`` and ``check_made``, as a :class:`~lightning_gans.GenerativeModule` does.
        latents: ``latents(num, start=…)`` returns the latents of consecutive samples.
        labels: Labels of the samples, or None.
        num_samples: Number of samples.
        start: Index of the first sample.
        ema: Whether to use the moving average of the weights.
    """
    first, stop = start // SAMPLE_BLOCK * SAMPLE_BLOCK, start + num_samples
    beyond = start - first, -stop % SAMPLE_BLOCK
    padded = None if labels is None else F.pad(labels, (0, 0) * (labels.dim() - 1) + beyond).to(model.device)
    images = [torch.empty(0, *model.image_shape, device=model.device)]
    with model.evaluating():
        for block in range(first, stop, SAMPLE_BLOCK):
            some = latents(SAMPLE_BLOCK, start=block).to(model.device).to(model.dtype)
            made = model.decode(some, None if padded is None else padded[block - first :][:SAMPLE_BLOCK], ema=ema)
            model.check_made(made)
            images.append(made.float())
    return torch.cat(images)[start - first :][:num_samples]


@torch.no_grad()
def decoded(model: Any, latents: Tensor, labels: Tensor | None, ema: bool) -> Tensor:
    """Decode latents ``(N, latent_dim)`` in blocks; return float32 images ``(N, C, H, W)`` on the CPU.

    Args:
        model: A :class:`~lightning_gans.GenerativeModule`.
        latents: The latents, on any device.
        labels: Their labels, or class weights, if the model is conditional.
        ema: Whether to use the moving average of the weights.
    """
    images = [torch.empty(0, *model.image_shape)]
    with model.evaluating():
        for start in range(0, len(latents), SAMPLE_BLOCK):
            block = slice(start, start + SAMPLE_BLOCK)
            some = None if labels is None else labels[block].to(model.device)
            made = model.decode(latents[block].to(model.device).to(model.dtype), some, ema=ema)
            model.check_made(made)
            images.append(made.float().cpu())
    return torch.cat(images)


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
    """Map standard normal numbers to the standard normal distribution truncated at ``±limit``, keeping their order.

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
