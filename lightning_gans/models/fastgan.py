"""FastGAN: a light GAN for few images, whose discriminator also reconstructs them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans import losses
from lightning_gans.errors import check_choice, check_counts, check_not_negative, invalid
from lightning_gans.models.adversarial import AdversarialModule, Loss
from lightning_gans.models.base import check_sizes, check_unconditional
from lightning_gans.networks import EfficientNetLite0, FastGANDiscriminator, FastGANGenerator
from lightning_gans.randomness import Stream
from lightning_gans.training.augmentation import Augmentation
from lightning_gans.training.regularizers import Regularizer, checked_regularizers
from lightning_gans.training.turn import Turn

Distance = Literal["l1", "efficientnet"]


class FastGAN(AdversarialModule):
    """GAN for few images, of 32 to 1024 pixels (Liu et al. 2021, arXiv:2101.04775).

    Args:
        image_shape: ``(C, H, W)`` of the images; see :mod:`lightning_gans.networks.fastgan`.
        latent_dim: Length of the noise vectors.
        generator: Replaces the generator; ``generator(noise)`` returns images in [-1, 1].
        discriminator: Replaces the discriminator; without ``reconstruction_weight`` it can be any that returns logits.
        width: Channels of the generator at 128 pixels, and of the discriminator at 64; 64 in the paper.
        discriminator_width: The discriminator's width, if it differs.
        reconstruction_weight: Weight of the distance between real images and the discriminator's reconstructions.
        reconstruction_loss: That distance: ``l1``, or ``efficientnet``, the mean squared difference of the feature maps
            of :class:`~lightning_gans.networks.EfficientNetLite0`, for images with 1 or 3 channels. The paper's is
            LPIPS, which is of the second kind. The network belongs to training only.
        loss: See :class:`AdversarialModule`.
        augment: See there; the paper's policies by default.
        regularizers: See there.
        **options: See :class:`AdversarialModule` and :class:`GenerativeModule`.

    Example:
        >>> FastGAN((3, 64, 64), latent_dim=8, width=2).sample(2, seed=0).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 256, 256),
        latent_dim: int = 256,
        *,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        width: int = 64,
        discriminator_width: int | None = None,
        reconstruction_weight: float = 1.0,
        reconstruction_loss: Distance = "l1",
        loss: Loss = "hinge",
        augment: Sequence[str] | Augmentation = ("color", "translation"),
        regularizers: Sequence[Regularizer] = (),
        **options: Any,
    ) -> None:
        check_unconditional(type(self).__name__, options)
        check_sizes(image_shape, latent_dim=latent_dim)
        if reconstruction_loss == "efficientnet" and image_shape[0] not in (1, 3):
            allowed = f"l1, as EfficientNet takes 1 or 3 channels and images have {image_shape[0]}"
            raise invalid("reconstruction_loss", reconstruction_loss, allowed)
        check_not_negative(reconstruction_weight=reconstruction_weight)
        reconstruction = Reconstruction(reconstruction_weight, reconstruction_loss)
        reconstructs = discriminator is None or isinstance(discriminator, FastGANDiscriminator)
        if reconstruction_weight > 0 and not reconstructs:
            allowed = "0 for a discriminator that is not a FastGANDiscriminator"
            raise invalid("reconstruction_weight", reconstruction_weight, allowed)
        if discriminator_width is not None:
            check_counts(discriminator_width=discriminator_width)
        super().__init__(
            image_shape=image_shape,
            latent_dim=latent_dim,
            num_classes=0,
            generator=generator or FastGANGenerator(image_shape, latent_dim, width),
            discriminator=discriminator or FastGANDiscriminator(image_shape, discriminator_width or width),
            loss=loss,
            augment=augment,
            regularizers=[reconstruction, *checked_regularizers(regularizers)],
            **options,
        )
        self.reconstruction_weight = reconstruction_weight

    def not_compiled(self) -> dict[str, str]:
        """Exclude a discriminator that reconstructs: a hook reads its features."""
        reason = {"discriminator": "its features are read."} if self.reconstruction_weight > 0 else {}
        return super().not_compiled() | reason


class Reconstruction(Regularizer):
    """Distance of real images to their reconstructions by the discriminator, whole and in part (section 3.2).

    They are reconstructed as the discriminator has seen them, with augmentation.

    Args:
        weight: Weight of the term.
        distance: ``l1`` or ``efficientnet``; see :class:`FastGAN`.
    """

    def __init__(self, weight: float, distance: Distance = "l1") -> None:
        super().__init__(weight)
        check_choice("reconstruction_loss", distance, get_args(Distance))
        self.distance = distance

    def feature_layer_of(self, discriminator: nn.Module) -> nn.Module:
        """Return the layer whose input has the images and the features."""
        return discriminator.get_submodule("head")

    def __call__(self, turn: Turn) -> Tensor:
        """Return the unweighted term, a scalar."""
        turn.logits(turn.real)
        discriminator: Any = turn.discriminator
        known: Any = turn.calls.on(turn.real)
        pairs = discriminator.reconstruct(known.features[discriminator.head], turn.uniform(2, Stream.CROP))
        return torch.stack([self.between(made, target) for made, target in pairs]).sum()

    def between(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the mean distance of images ``(N, C, H, W)`` to their targets."""
        if self.distance == "l1":
            return F.l1_loss(losses.full_precision(images), losses.full_precision(targets))
        network = self.network.to(images)
        with torch.no_grad():
            wanted = network(targets)
        return losses.feature_distance(network(images), wanted).mean()

    @cached_property
    def network(self) -> nn.Module:
        """The frozen network of the distance."""
        return EfficientNetLite0()
