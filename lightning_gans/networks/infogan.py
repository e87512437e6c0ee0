"""The discriminator of InfoGAN (Chen et al. 2016, https://arxiv.org/abs/1606.03657)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_gans.networks.dcgan import downsampling, initialize
from lightning_gans.networks.mlp import hidden_layers


class InfoGANDiscriminator(nn.Module):
    """Map images to a logit and to the parameters of the codes, with two heads on DCGAN's convolutions.

    The recognition head Q predicts the codes that an image was generated from. The paper's networks for MNIST have
    ``width=64`` and ``dense_dims=[1024]``.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels` for the sizes.
        width: Number of channels at half the image size.
        num_classes: Number of values of the categorical code; 0 for none.
        continuous_dim: Number of continuous codes.
        batch_norm: Whether to use BatchNorm. It mixes the images of a batch, so use ``False`` with gradient penalties.
        dense_dims: Widths of fully connected layers between the convolutions and both heads.
        recognition_dims: Widths of the hidden layers of the recognition head.

    Raises:
        SettingError: A setting is invalid.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        width: int = 64,
        num_classes: int = 10,
        continuous_dim: int = 2,
        batch_norm: bool = True,
        dense_dims: Sequence[int] = (1024,),
        recognition_dims: Sequence[int] = (128,),
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.continuous_dim = continuous_dim
        self.layers, num_features = downsampling(image_shape, image_shape[0], width, batch_norm, dense_dims)
        self.recognition = nn.Sequential(
            hidden_layers(num_features, recognition_dims, batch_norm=batch_norm),
            nn.Linear(recognition_dims[-1], num_classes + 2 * continuous_dim),
        )
        self.output = nn.Linear(num_features, 1)
        initialize(self, normalized=batch_norm)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images ``(N, C, H, W)`` to logits ``(N, 1)`` and the codes' parameters.

        The latter are ``(N, num_classes + 2 * continuous_dim)``: the class logits, then the means and the log-variances
        of the continuous codes.
        """
        features = self.layers(images)
        return self.output(features), self.recognition(features)
