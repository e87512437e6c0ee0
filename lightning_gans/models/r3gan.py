"""R3GAN: a relativistic loss with two gradient penalties, and residual networks without normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_gans.models.adversarial import AdversarialModule, Loss
from lightning_gans.models.base import check_sizes
from lightning_gans.networks import R3GANDiscriminator, R3GANGenerator

PENALTIES = {"r1": 0.05, "r2": 0.05}
"""The paper's initial gamma on CIFAR-10; it uses more for larger or more varied images."""


class R3GAN(AdversarialModule):
    """The "modern baseline" GAN, for images of 28, 64, 96 x 160 … pixels (Huang et al. 2024, arXiv:2501.05441).

    The networks default to those of the paper on CIFAR-10. A recipe sets the paper's schedules: cosines of the learning
    rate, of the penalties (``penalty_end``), of Adam's second decay rate (0.9 to 0.99, ``beta2_end``) and of the
    average's half-life (``ema_start``). Without a schedule, the second decay rate is constant at its final value.

    Args:
        image_shape: ``(C, H, W)`` of the images; see :func:`lightning_gans.networks.dcgan.levels`.
        latent_dim: Length of the noise vectors.
        num_classes: Number of labels; 0 makes it unconditional.
        generator: Replaces the generator; ``generator(noise[, labels])`` returns images that :meth:`decode` clamps.
        discriminator: Replaces the discriminator; ``discriminator(images[, labels])`` returns logits.
        widths: Channels of both networks in each stage; the stages double the size from 4 or 7 pixels to the full size.
        blocks: Residual blocks in each stage; a single number applies to every stage.
        group_width: Channels per group of the 3x3 convolutions; a single group if there are fewer channels.
        expansion: Ratio of the channels within a block to the channels between blocks.
        patch_size: Side of the patches of pixels that become one position of the largest stage; 1 in the paper; 2
            costs about a quarter as much.
        label_dim: Length of a label's embedding in the generator.
        loss: See :class:`AdversarialModule`.
        penalties: See :class:`AdversarialModule`; the paper uses the same gamma for both.
        betas: See :class:`AdversarialModule`.
        **options: See :class:`AdversarialModule` and :class:`GenerativeModule`.

    Example:
        >>> R3GAN((1, 28, 28), widths=(32, 16, 8), blocks=1).sample(4, seed=0).shape
        torch.Size([4, 1, 28, 28])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 32, 32),
        latent_dim: int = 64,
        num_classes: int = 0,
        *,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        widths: Sequence[int] = (768, 768, 768, 768),
        blocks: int | Sequence[int] = 2,
        group_width: int = 16,
        expansion: int = 2,
        patch_size: int = 1,
        label_dim: int = 64,
        loss: Loss = "relativistic",
        penalties: dict[str, float] | None = PENALTIES,
        betas: tuple[float, float] = (0.0, 0.99),
        **options: Any,
    ) -> None:
        check_sizes(image_shape, num_classes, latent_dim=latent_dim)
        sizes = (widths, blocks, group_width, expansion, patch_size, num_classes)
        super().__init__(
            image_shape=image_shape,
            latent_dim=latent_dim,
            num_classes=num_classes,
            generator=generator or R3GANGenerator(image_shape, latent_dim, *sizes, label_dim),
            discriminator=discriminator or R3GANDiscriminator(image_shape, *sizes),
            loss=loss,
            penalties=penalties,
            betas=betas,
            **options,
        )

    def decode(self, latents: Tensor, labels: Tensor | None = None, *, ema: bool = True) -> Tensor:
        """Map noise ``(N, latent_dim)`` to images ``(N, C, H, W)``, clamped to [-1, 1].

        All samples pass through here, but no training images: in training the discriminator sees the generator's
        unclamped images, so that values outside the range get a gradient that pulls them back.
        """
        return super().decode(latents, labels, ema=ema).clamp(-1, 1)
