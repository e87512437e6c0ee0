"""Recurrent networks over the steps of a sequence (Esteban et al. 2017, arXiv:1706.02633).

A sequence ``(N, C, T)`` has T steps of C numbers. An image ``(N, C, H, W)`` is the sequence of its H rows, each a
step of ``C * W`` numbers. One-hot labels are appended to the input of each step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_gans.errors import check_choice, check_counts, check_repeats, invalid, is_whole
from lightning_gans.networks.conditioning import with_labels

Cell = Literal["gru", "lstm"]

_CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


def to_steps(images: Tensor) -> Tensor:
    """Reshape sequences ``(N, C, T)`` to ``(N, T, C)``, or images ``(N, C, H, W)`` to ``(N, H, C * W)``."""
    return images.transpose(1, 2).flatten(2)


def from_steps(steps: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Invert :func:`to_steps`."""
    channels, num_steps, *rest = image_shape
    return steps.reshape(steps.shape[0], num_steps, channels, *rest).transpose(1, 2)


def _recurrent(cell: Cell, in_features: int, hidden_dim: int, num_layers: int, **options: Any) -> nn.GRU | nn.LSTM:
    """Make recurrent layers, initialized so that the state persists over many steps.

    Hidden-to-hidden matrices are orthogonal (Saxe et al. 2014, arXiv:1312.6120), and the bias of an LSTM's forget gate
    is 1 (Jozefowicz et al. 2015, https://proceedings.mlr.press/v37/jozefowicz15.html).
    """
    check_choice("cell", cell, _CELLS)
    check_counts(hidden_dim=hidden_dim)
    check_repeats(num_layers=num_layers)
    layers = _CELLS[cell](in_features, hidden_dim, num_layers, batch_first=True, **options)
    for name, weight in layers.named_parameters():
        gates = weight.detach().chunk(len(weight) // hidden_dim)
        for gate in gates:
            if name.startswith("bias"):
                gate.zero_()
            else:
                (nn.init.orthogonal_ if name.startswith("weight_hh") else nn.init.xavier_uniform_)(gate)
        if name.startswith("bias_ih") and cell == "lstm":
            gates[1].fill_(1)
    return layers


class RecurrentGenerator(nn.Module):
    """Map noise to sequences or images in [-1, 1] with a recurrent network.

    The last ``steps * step_noise`` entries of a latent vector are split among the steps, ``step_noise`` each. The rest
    is shared: it gives the initial state and is input to every step, so it can encode properties of the whole
    sequence (a frequency, a digit). With ``latent_dim = steps * step_noise`` nothing is shared, as in Esteban et al.;
    with ``step_noise=0`` everything is.

    Args:
        image_shape: ``(C, T)`` of sequences, or ``(C, H, W)`` of images.
        latent_dim: Length of the noise vectors.
        hidden_dim: Number of hidden units of each layer.
        num_layers: Number of stacked recurrent layers.
        cell: ``gru`` or ``lstm``.
        step_noise: Length of the noise of each step.
        num_classes: Number of classes; 0 for an unconditional network.

    Raises:
        SettingError: A setting is invalid, or ``steps * step_noise`` exceeds ``latent_dim``.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dim: int = 64,
        num_layers: int = 1,
        cell: Cell = "lstm",
        step_noise: int = 0,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        channels, self.num_steps, *rest = self.image_shape
        most = latent_dim // self.num_steps
        if not is_whole(step_noise) or not 0 <= step_noise <= most:
            allowed = f"0 to {most} for {self.num_steps} steps and latent_dim {latent_dim}"
            raise invalid("step_noise", step_noise, allowed)
        self.step_noise = step_noise
        self.shared_noise = latent_dim - self.num_steps * step_noise
        in_features = self.shared_noise + num_classes
        self.recurrent = _recurrent(cell, in_features + step_noise, hidden_dim, num_layers)
        self.num_states = 2 if cell == "lstm" else 1  # an LSTM has a hidden state and a cell state
        self.first_state = nn.Linear(in_features, self.num_states * num_layers * hidden_dim) if in_features else None
        self.output = nn.Linear(hidden_dim, channels * math.prod(rest))

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map noise ``(N, latent_dim)`` to sequences ``(N, C, T)``, or to images ``(N, C, H, W)``."""
        shared = with_labels(noise[:, : self.shared_noise], labels, self.num_classes)
        own = noise[:, self.shared_noise :].reshape(noise.shape[0], self.num_steps, self.step_noise)
        inputs = torch.cat([shared.unsqueeze(1).expand(-1, self.num_steps, -1), own], dim=2)
        hidden, _ = _without_autocast(self.recurrent, inputs, self._first_state(shared))
        return from_steps(self.output(hidden).tanh(), self.image_shape)

    def _first_state(self, shared: Tensor) -> Any:
        """Return the initial state in the format of the recurrent layers; None means zeros."""
        if self.first_state is None:
            return None
        states = (
            self.first_state(shared).tanh().reshape(shared.shape[0], self.num_states, self.recurrent.num_layers, -1)
        )
        hidden, *cells = states.permute(1, 2, 0, 3).contiguous()
        return (hidden, *cells) if cells else hidden


class RecurrentDiscriminator(nn.Module):
    """Map sequences or images to one logit each, the mean of the logits of all steps of a recurrent network.

    Gradient penalties differentiate twice, which cuDNN's recurrent kernels do not support. With a penalty, the network
    therefore runs without these kernels on a GPU, which is slower.

    Args:
        image_shape: ``(C, T)`` of sequences, or ``(C, H, W)`` of images.
        hidden_dim: Number of hidden units of each layer and direction.
        num_layers: Number of stacked recurrent layers.
        cell: ``gru`` or ``lstm``.
        bidirectional: Whether the layers are bidirectional (Mogren 2016, arXiv:1611.09904).
        num_classes: Number of classes; 0 for an unconditional network.

    Raises:
        SettingError: A setting is invalid.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden_dim: int = 64,
        num_layers: int = 1,
        cell: Cell = "lstm",
        bidirectional: bool = True,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        channels, _, *rest = image_shape
        in_features = channels * math.prod(rest) + num_classes
        self.recurrent = _recurrent(cell, in_features, hidden_dim, num_layers, bidirectional=bidirectional)
        self.output = nn.Linear(hidden_dim * (2 if bidirectional else 1), 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map sequences ``(N, C, T)``, or images ``(N, C, H, W)``, to logits ``(N, 1)``."""
        steps = to_steps(images)
        inputs = with_labels(steps.transpose(1, 2), labels, self.num_classes).transpose(1, 2)
        with _twice_differentiable(images):
            hidden, _ = _without_autocast(self.recurrent, inputs)
        logits: Tensor = self.output(hidden).mean(dim=1)
        return logits


def _twice_differentiable(images: Tensor) -> AbstractContextManager[Any]:
    """Disable cuDNN if a gradient with respect to the images is required, as a penalty differentiates it again.

    The generator's loss requires that gradient too, without differentiating it; the two cannot be distinguished here.
    """
    if images.is_cuda and images.requires_grad and torch.is_grad_enabled():
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()


def _without_autocast(layers: nn.GRU | nn.LSTM, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Call recurrent layers; on a CPU without autocast, because torch lacks the kernels on some processors."""
    if inputs.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return layers(inputs, state)  # type: ignore[no-any-return]
    dtype = next(layers.parameters()).dtype
    with torch.autocast("cpu", enabled=False):
        if state is not None:
            state = state.to(dtype) if isinstance(state, Tensor) else tuple(part.to(dtype) for part in state)
        return layers(inputs.to(dtype), state)  # type: ignore[no-any-return]
