"""Directions of the latent space that a generator's first layer amplifies most."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_gans.errors import SettingError, check_counts, invalid
from lightning_gans.models import GenerativeModule
from lightning_gans.training.sampling import check_latents

_LAYERS = (nn.Linear, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def sefa_directions(model: GenerativeModule, num: int | None = None, *, ema: bool = True) -> Tensor:
    """Return the directions along which the generator's first layer changes most (SeFa).

    They are the eigenvectors of AᵀA with the largest eigenvalues, where A is the matrix that the layer applies to the
    latents (Shen & Zhou 2021, https://arxiv.org/abs/2007.06600). Neither training nor samples are needed.
    The first layer is the first linear layer, or the first transposed convolution of a 1x1 input, that is called with
    the latents, alone or followed by other numbers such as labels.

    Args:
        model: Any model with latents and such a layer.
        num: Number of directions; by default as many as latents.
        ema: Whether to use the moving average of the weights, where the model has one.

    Returns:
        Orthonormal vectors, float32 ``(num, latent_dim)``, on the CPU, the most amplified first. The largest component
        of each is positive.

    Raises:
        SettingError: The model has no latents or no such layer, or ``num`` is not from 1 to ``latent_dim``.

    Example:
        >>> from lightning_gans import GAN
        >>> sefa_directions(GAN((1, 8, 8), latent_dim=4), 2).shape
        torch.Size([2, 4])
    """
    check_latents(model)
    num = model.latent_dim if num is None else num
    check_counts(num=num)
    if num > model.latent_dim:
        raise invalid("num", num, f"at most {model.latent_dim}, the number of latents")
    matrix = first_layer_matrix(model, ema=ema)
    _, vectors = torch.linalg.eigh(matrix.T @ matrix)  # in ascending order
    directions = vectors.T.flip(0)[:num]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    signed: Tensor = directions * largest.sign()
    return signed.float()


@torch.no_grad()
def first_layer_matrix(model: Any, *, ema: bool = True) -> Tensor:
    """Return the matrix that the generator's first layer applies to the latents, float64 ``(outputs, latent_dim)``.

    Raises:
        SettingError: No linear layer or transposed convolution is called with the latents.
    """
    latents = model.latents(2, seed=0).to(model.device).to(model.dtype)
    labels = torch.zeros(2, dtype=torch.long, device=model.device) if model.num_classes > 0 else None
    calls: list[tuple[nn.Module, torch.Size]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs and inputs[0].dim() > 1 and inputs[0].flatten(1)[:, : model.latent_dim].equal(latents):
            calls.append((layer, inputs[0].shape[1:]))

    hooks = [layer.register_forward_pre_hook(note) for layer in model.modules() if isinstance(layer, _LAYERS)]
    with model.evaluating():
        try:
            model.decode(latents, labels, ema=ema)
        finally:
            for hook in hooks:
                hook.remove()
        if not calls:
            message = f"no linear layer or transposed convolution of {type(model).__name__} is called with the latents."
            raise SettingError(message, setting="directions", value="sefa")
        layer, shape = calls[0]
        # The layer's bias and its settings do not matter: see what it makes of each latent alone, and of none.
        inputs = torch.eye(model.latent_dim + 1, shape.numel(), device=latents.device, dtype=latents.dtype)
        inputs[-1] = 0
        outputs: Tensor = layer(inputs.view(-1, *shape)).flatten(1).double().cpu()
    return (outputs[:-1] - outputs[-1]).T
