"""Fully connected networks (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from lightning_gans.errors import check_share, check_widths
from lightning_gans.networks import conditioning
from lightning_gans.networks.conditioning import with_labels


def hidden_layers(
    in_features: int,
    hidden_dims: Sequence[int],
    *,
    batch_norm: bool = False,
    dropout: float = 0.0,
    num_classes: int = 0,
) -> nn.Sequential:
    """Stack linear layers, each followed by optional BatchNorm, LeakyReLU(0.2) and optional dropout.

    With ``num_classes``, BatchNorm is conditional; call the layers through :func:`conditioning.call_layers`.

    Raises:
        SettingError: There are no layers, or a width is below 1.
    """
    check_widths(hidden_dims=hidden_dims)
    layers: list[nn.Module] = []
    for out_features in hidden_dims:
        layers.append(nn.Linear(in_features, out_features, bias=not batch_norm))
        if batch_norm:
            layers.append(conditioning.make_batch_norm(out_features, num_classes, dims=1))
        layers.append(nn.LeakyReLU(0.2))
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        in_features = out_features
    return nn.Sequential(*layers)


class MLPGenerator(nn.Module):
    """Map noise to images in [-1, 1] with hidden layers and BatchNorm.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: Length of the noise vectors.
        hidden_dims: Widths of the hidden layers, from the noise to the image; at least one.
        num_classes: Number of classes; 0 for an unconditional network.

    Raises:
        SettingError: There are no hidden layers, or a width is below 1.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (256, 512, 1024),
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.hidden = hidden_layers(latent_dim + num_classes, hidden_dims, batch_norm=True)
        self.output = nn.Linear(hidden_dims[-1], math.prod(self.image_shape))

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)``."""
        hidden = self.hidden(with_labels(noise, labels, self.num_classes))
        images: Tensor = self.output(hidden).tanh().unflatten(1, self.image_shape)
        return images


class MLPDiscriminator(nn.Module):
    """Map images to one logit each with hidden layers and dropout.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        hidden_dims: Widths of the hidden layers, from the image to the logit.
        dropout: Probability of dropping a hidden unit during training.
        num_classes: Number of classes; 0 for an unconditional network.

    Raises:
        SettingError: There are no hidden layers, a width is below 1, or ``dropout`` is not between 0 and 1.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden_dims: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.3,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        check_share(dropout=dropout)
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.hidden = hidden_layers(math.prod(image_shape) + num_classes, hidden_dims, dropout=dropout)
        self.output = nn.Linear(hidden_dims[-1], 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, 1)``."""
        logits: Tensor = self.output(self.hidden(with_labels(images.flatten(1), labels, self.num_classes)))
        return logits
