"""Statistics of BatchNorm that belong to the samples of the current weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gans.errors import SettingError, check_counts
from lightning_gans.training.sampling import check_latents, labels_in_turn

_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


@contextmanager
def standing_statistics(
    model: Any,
    num_batches: int = 100,
    *,
    batch_size: int = 64,
    seed: int = 0,
    truncation: float | None = None,
    ema: bool = True,
) -> Iterator[None]:
    """Replace the statistics of the generator's BatchNorm layers inside the block (Brock et al. 2019, appendix).

    The statistics from training are a moving average over changing weights, while samples come from the last weights or
    from an average of them. Standing statistics (https://arxiv.org/abs/1809.11096) are the means, over batches of fresh
    noise, of each batch's mean and variance under the weights that are sampled from. They depend only on the arguments.
    After the block, the layers have their own statistics again.

    Args:
        model: Any model with latents whose ``decode`` calls BatchNorm layers.
        num_batches: Number of batches; the paper uses 100.
        batch_size: Samples in each batch, at least 2, such as the batch size of the training.
        seed: Seed of the noise. In a conditional model, the classes take turns.
        truncation: See :meth:`GenerativeModule.latents`; use the one that you sample with.
        ema: Whether to sample from the moving average of the weights, where the model has one.

    Raises:
        SettingError: The model has no latents or no such layers, or a setting is out of range.

    Example:
        >>> from lightning_gans import GAN
        >>> model = GAN((1, 8, 8), latent_dim=4)
        >>> with standing_statistics(model, num_batches=10):
        ...     images = model.sample(16, seed=1)
    """
    check_latents(model)
    check_counts(num_batches=num_batches)
    check_counts(least=2, batch_size=batch_size)

    def decode(start: int) -> None:
        more = {} if truncation is None else {"truncation": truncation}
        latents = model.latents(batch_size, seed=seed, start=start, **more).to(model.device).to(model.dtype)
        labels = labels_in_turn(model, batch_size, start)
        with torch.no_grad():
            model.decode(latents, None if labels is None else labels.to(model.device), ema=ema)

    with model.evaluating():
        norms = _called(model, lambda: decode(0))
    if not norms:
        message = f"standing statistics: no BatchNorm layer makes the samples of this {type(model).__name__}."
        raise SettingError(message, setting="standing_statistics")
    before = [(norm, norm.momentum, _copies(norm)) for norm in norms]
    try:
        with model.evaluating():
            for norm in norms:
                norm.momentum = None  # the mean of all batches
                norm.reset_running_stats()
                norm.train()
            for batch in range(num_batches):
                decode(batch * batch_size)
        yield
    finally:
        for norm, momentum, buffers in before:
            norm.momentum = momentum
            for name, values in buffers.items():
                norm.get_buffer(name).copy_(values)


def _called(model: nn.Module, function: Any) -> list[_Norm]:
    """Return the BatchNorm layers with running statistics that a function calls."""
    found: dict[_Norm, None] = {}
    norms = [module for module in model.modules() if isinstance(module, _Norm) and module.running_mean is not None]
    hooks = [norm.register_forward_pre_hook(lambda norm, _: found.setdefault(norm)) for norm in norms]
    try:
        function()
    finally:
        for hook in hooks:
            hook.remove()
    return list(found)


def _copies(norm: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)}
