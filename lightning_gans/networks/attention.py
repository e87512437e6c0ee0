"""Self-attention between the places of a feature map (SAGAN, Zhang et al. 2019, https://arxiv.org/abs/1805.08318)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import are_counts, check_counts, invalid


class SelfAttention(nn.Module):
    r"""Add to each place of a feature map a weighted mean of the values of all places.

    The weights are the softmax of :math:`q^\top k` over the places. Queries, keys and values are 1x1 convolutions
    without biases, of ``channels / 8``, ``channels / 8`` and ``channels / 2`` channels. As in BigGAN (Brock et al.
    2019, arXiv:1809.11096), keys and values are max-pooled 2x2. The means pass another 1x1 convolution and are
    multiplied by a gain that starts at 0, so that a new layer is the identity.

    Args:
        channels: Number of channels, at least 8.

    Raises:
        SettingError: There are fewer channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_counts(channels=channels)
        if channels < 8:
            raise invalid("channels", channels, "at least 8 with self-attention")
        self.query = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.key = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.value = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.output = nn.Conv2d(channels // 2, channels, 1, bias=False)
        # A module, which comes after these layers: FreezeLayers counts a parameter with the layer before it.
        self.gain = nn.ParameterList([torch.zeros(())])

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)``, H and W at least 2, to the same shape."""
        queries = self.query(images).flatten(2)
        keys, values = (F.max_pool2d(layer(images), 2).flatten(2) for layer in (self.key, self.value))
        # Not scaled_dot_product_attention, whose fast kernels cannot be differentiated twice, as penalties need.
        weights = (queries.transpose(1, 2) @ keys).softmax(2)
        found = (values @ weights.transpose(1, 2)).unflatten(2, images.shape[2:])
        result: Tensor = images + self.gain[0] * self.output(found)
        return result


def check_attention(attention: Sequence[int], sizes: Sequence[int]) -> None:
    """Raise :class:`SettingError` unless ``attention`` is a list of sizes of feature maps that a network has."""
    if not are_counts(attention) or not set(attention) <= set(sizes):
        raise invalid("attention", attention, f"a list of sizes of feature maps, from {sorted(sizes)}")
