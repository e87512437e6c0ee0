"""Augmentation of the images that a discriminator sees: of constant strength, or ADA, which adapts to its overfitting.

A custom one is a subclass of :class:`Augmentation`, passed as ``augment`` to any adversarial model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_gans import augment as diff_augment
from lightning_gans.augment import affine, pipeline
from lightning_gans.augment.pipeline import Draw
from lightning_gans.errors import (
    SettingError,
    check_choices,
    check_counts,
    check_not_negative,
    check_numbers,
    check_share,
    invalid,
)
from lightning_gans.training.processes import mean_over_processes

if TYPE_CHECKING:
    from lightning_gans.training.turn import Turn


class Augmentation:
    """Changes every image that a discriminator sees, real or generated, and what an image is conditioned on.

    A subclass implements :meth:`__call__`.

    Attributes:
        state: What it keeps from update to update, for each discriminator by its name: tensors and numbers. It is part
            of checkpoints, so keep it the same on all processes.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __call__(self, images: Tensor, draw: Draw, name: str) -> Tensor:
        """Return changed images.

        Args:
            images: Shape ``(N, C, H, W)``.
            draw: Draws numbers uniform in [0, 1) that belong to the images, ``draw(size, *key)``, ``(N, size)``.
            name: Name of the discriminator in the model.
        """
        raise NotImplementedError

    def shown_as_real(self, real: Tensor, fake: Tensor, draw: Draw, name: str) -> Tensor:
        """Return what a discriminator's update uses as real images; by default these are the real images.

        Args:
            real: Real images, ``(N, C, H, W)``.
            fake: Generated images, ``(k * N, C, H, W)``.
            draw: Draws numbers that belong to the real images.
            name: Name of the discriminator in the model.
        """
        return real

    def adapt(self, turn: Turn) -> None:
        """Adapt to a discriminator's update, after its loss is computed; do nothing by default."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the :attr:`state` of a checkpoint, with tensors on the CPU.

        An exception of any type means that the state is damaged.
        """
        self.state = dict(state)


class DiffAugment(Augmentation):
    """DiffAugment (:mod:`lightning_gans.augment`), which ``augment=[…]`` stands for.

    Args:
        policies: Names in :data:`lightning_gans.augment.POLICIES`.
    """

    def __init__(self, policies: Sequence[str]) -> None:
        super().__init__()
        self.policies = policies

    def __call__(self, images: Tensor, draw: Draw, name: str) -> Tensor:
        """Return changed images."""
        return diff_augment.diff_augment(images, self.policies, draw(diff_augment.NUM_UNIFORMS))


class Affine(Augmentation):
    """Small rotations, shears, scalings and shifts of some of the images (:mod:`lightning_gans.augment.affine`).

    What changes an image without changing what it shows is then no help to the discriminator. In an
    :class:`~lightning_gans.InfoGAN`, the classes become those of shapes, rather than of slants and strokes.

    Args:
        p: Probability that an image is changed.
        degrees: Largest angle of rotation.
        shear: Largest horizontal shift of a row, as a share of its distance from the center.
        scale: Largest logarithm of the factor of the size, and of that of the width against the height.
        shift: Largest shift, as a share of the height and of the width.

    Raises:
        SettingError: A setting is out of range.
    """

    def __init__(
        self, p: float = 0.3, *, degrees: float = 15.0, shear: float = 0.5, scale: float = 0.15, shift: float = 0.075
    ) -> None:
        super().__init__()
        check_share(p=p)
        check_not_negative(degrees=degrees, shear=shear, scale=scale, shift=shift)
        self.p, self.degrees, self.shear, self.scale, self.shift = p, degrees, shear, scale, shift

    def __call__(self, images: Tensor, draw: Draw, name: str) -> Tensor:
        """Return the images, some of them changed."""
        sizes = {"degrees": self.degrees, "shear": self.shear, "scale": self.scale, "shift": self.shift}
        return affine.affine(images, draw(affine.NUM_UNIFORMS), self.p, **sizes)

    def __repr__(self) -> str:
        return f"Affine({self.p}, degrees={self.degrees}, shear={self.shear}, scale={self.scale}, shift={self.shift})"


class ADA(Augmentation):
    r"""Adaptive discriminator augmentation (Karras et al. 2020, https://arxiv.org/abs/2006.06676).

    Each transformation of :mod:`lightning_gans.augment.pipeline` is applied with a probability p, which starts from 0.
    It rises while the discriminator overfits, and falls otherwise. The sign of overfitting is
    :math:`r_t = \mathbb E\,\mathrm{sign}\,D(x)` over real images: 1 if the discriminator is sure of all of them, 0 if
    it does not tell them from generated ones. For the least-squares loss, the sign is that of :math:`D(x) - 1/2`; for
    the relativistic and the Wasserstein loss, in which only differences of logits mean something, that of
    :math:`D(x) - D(G(z))`. Every discriminator of a model has its own p. It is part of checkpoints, and logged as
    ``train/ada_p``, with the r of the batch as ``train/ada_r``.

    With ``fakes_as_real``, a real image is also replaced by a generated one with probability p in the discriminator's
    loss (adaptive pseudo augmentation, APA, Jiang et al. 2021, https://arxiv.org/abs/2111.06849). The replacement is
    the generated image of the same place in the batch, which has the same label or source. As in the paper, r then
    includes the replaced images.

    Args:
        transforms: Kinds of transformations: ``blit``, ``geometry`` and ``color``, the paper's choice, and ``filter``,
            ``noise`` and ``cutout``. An empty list with ``fakes_as_real`` is APA alone.
        target: The r at which p stays the same.
        interval: Number of the discriminator's updates between changes of p.
        ramp_images: Number of real images in which p can rise from 0 to 1.
        fakes_as_real: Whether to show generated images as real ones, too.

    Raises:
        SettingError: A setting is out of range, or there is nothing to do.

    Example:
        >>> from lightning_gans import DCGAN
        >>> model = DCGAN((3, 32, 32), width=8, augment=ADA())
    """

    def __init__(
        self,
        transforms: Sequence[str] = ("blit", "geometry", "color"),
        target: float = 0.6,
        *,
        interval: int = 4,
        ramp_images: int = 500_000,
        fakes_as_real: bool = False,
    ) -> None:
        super().__init__()
        check_choices("transforms", transforms, pipeline.TRANSFORMS)
        if not transforms and not fakes_as_real:
            raise invalid("transforms", transforms, "at least one kind, unless fakes_as_real is set")
        check_numbers(lambda value: -1 < value < 1, "between -1 and 1", target=target)
        check_counts(interval=interval, ramp_images=ramp_images)
        self.transforms, self.target = tuple(transforms), target
        self.interval, self.ramp_images, self.fakes_as_real = interval, ramp_images, fakes_as_real

    def probability(self, name: str = "discriminator") -> float:
        """Return p of a discriminator, by its name in the model."""
        p: float = self.state[name]["p"] if name in self.state else 0.0
        return p

    def __call__(self, images: Tensor, draw: Draw, name: str) -> Tensor:
        """Return changed images; with p = 0 the same tensor."""
        p = self.probability(name)
        return images if p == 0 or not self.transforms else pipeline.transformed(images, self.transforms, p, draw)

    def shown_as_real(self, real: Tensor, fake: Tensor, draw: Draw, name: str) -> Tensor:
        """Return the real images, some of them replaced by generated ones with ``fakes_as_real``."""
        p = self.probability(name)
        if p == 0 or not self.fakes_as_real:
            return real
        replaced = draw(1).view(-1, *[1] * (real.dim() - 1)) < p
        return torch.where(replaced, fake[-len(real) :].detach(), real)

    def adapt(self, turn: Turn) -> None:
        """Count the signs of the real images, and change p every ``interval`` updates."""
        step, p = turn.step, self.probability(turn.name)
        with torch.no_grad():
            signs = turn.certainty().sign()
        counts = torch.stack([signs.sum(), signs.new_tensor(signs.numel()), signs.new_tensor(len(turn.real))])
        step.log(ada_p=signs.new_tensor(p), ada_r=signs.mean())
        if turn.name in self.state:
            counts += self.state[turn.name]["counts"].to(counts)
        updates = step.global_step * step.updates + step.update_index + 1
        if step.completes_update:  # a checkpoint has the counts of one process
            counts = mean_over_processes(step.trainer.strategy, counts)
            if updates % self.interval == 0:
                positive, all_signs, images = counts.tolist()
                r, images = positive / all_signs, images * step.trainer.world_size
                p += ((r > self.target) - (r < self.target)) * images / self.ramp_images
                p, counts = min(max(p, 0.0), 1.0), torch.zeros_like(counts)
        self.state[turn.name] = {"p": p, "counts": counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the :attr:`state` of a checkpoint."""
        for of_one in state.values():
            if not 0 <= of_one["p"] <= 1:
                raise ValueError(f"p of ADA is {of_one['p']}")
        self.state = {name: {"p": float(part["p"]), "counts": part["counts"].view(3)} for name, part in state.items()}

    def __repr__(self) -> str:
        return f"ADA({self.transforms}, {self.target}, fakes_as_real={self.fakes_as_real})"


def checked_augment(augment: Any, image_shape: Sequence[int]) -> Augmentation | None:
    """Return the augmentation that a model's setting ``augment`` stands for; None for an empty list of policies.

    Raises:
        SettingError: It is neither, or the model makes sequences.
    """
    if not isinstance(augment, Augmentation):
        diff_augment.check_policies(augment, image_shape)
        return DiffAugment(tuple(augment)) if augment else None
    if len(image_shape) != 3:
        message = f"augment is {augment!r}: it is for images, not for image_shape {list(image_shape)}."
        raise SettingError(message, setting="augment", value=augment, allowed=[])
    return augment
