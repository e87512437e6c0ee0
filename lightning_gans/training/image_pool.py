"""A pool of earlier generated images, for the discriminators of CycleGAN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_gans import randomness
from lightning_gans.errors import check_counts
from lightning_gans.randomness import Stream
from lightning_gans.training.step import TrainingStep


class ImagePool(nn.Module):
    """Exchange half of the newly generated images for earlier ones (Shrivastava et al. 2017).

    See https://arxiv.org/abs/1612.07828, section 2.3. The pool is part of checkpoints. All processes hold the same
    pool, through which the images of the global batch pass in their order, so that it does not depend on how the batch
    is divided.

    Args:
        size: Number of images; 0 exchanges nothing.
        image_shape: ``(C, H, W)`` of the images.
    """

    same_on_processes = True
    """Excludes the images from averaging over processes, which they do not need."""

    def __init__(self, size: int, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        check_counts(least=0, size=size)
        self.images: Tensor
        self.register_buffer("images", torch.zeros(size, *image_shape))

    def exchanged(self, images: Tensor, step: TrainingStep, *key: int) -> Tensor:
        """Return this process's images of a batch, some of them exchanged for earlier ones, detached from the graph.

        Args:
            images: ``(n, C, H, W)``; the same number on each process.
            step: The training step.
            *key: Distinguishes several pools.
        """
        everything, num = images.detach(), len(images)
        if step.trainer.world_size > 1:
            everything = step.module.all_gather(everything).flatten(0, 1)
        first = (step.update_index * step.accumulate + step.micro_batch_index) * len(everything)
        rows = torch.arange(first, first + len(everything))
        uniforms = randomness.rand_at(rows, 2, step.module.run_seed, Stream.POOL, step.global_step, *key)
        exchanged = self.exchange(everything, uniforms, step.module.images_seen + first)
        return exchanged[step.module.global_rank * num :][:num]

    def exchange(self, images: Tensor, uniforms: Tensor, seen: int) -> Tensor:
        """Put images into the pool one by one, and return the images to show instead.

        The first images fill the pool and are shown themselves. Of the later ones, half are shown themselves; each of
        the other half replaces an image of the pool, and that image is shown.

        Args:
            images: ``(n, C, H, W)``.
            uniforms: Numbers in [0, 1), ``(n, 2)``: whether to exchange an image, and for which image of the pool.
            seen: Number of images that have passed through the pool before.
        """
        size, shown = len(self.images), images.clone()
        for place, (chance, which) in enumerate(uniforms.tolist()):
            if seen + place < size:
                self.images[seen + place] = images[place]
            elif size and chance < 0.5:
                shown[place] = self.images[int(which * size)]
                self.images[int(which * size)] = images[place]
        return shown
