"""Stacked MNIST: images of 1,000 modes that can be counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_gans import randomness
from lightning_gans.datamodules.base import ImageDataModule, Split, check_fits
from lightning_gans.datamodules.mnist import MNISTDataModule
from lightning_gans.datamodules.resident import ResidentImages
from lightning_gans.errors import check_counts
from lightning_gans.randomness import Stream


class StackedMNISTDataModule(ImageDataModule):
    """Three handwritten digits as the channels of one image: 28x28 RGB, 1,000 classes.

    This data set measures mode collapse (Metz et al. 2016, https://arxiv.org/abs/1611.02163): the label of the digits
    a, b, c in red, green, blue is 100 a + 10 b + c, and the score of a generator is the number of the 1,000 classes
    that it generates. The sizes are those of PacGAN (Lin et al. 2018, https://arxiv.org/abs/1712.04086): 128,000
    training images, and 26,000 test images, the number of samples in its protocol.

    Training images are triples of MNIST's training digits and test images are triples of its test digits, drawn with a
    fixed seed; a smaller set is the beginning of a larger one. Images are stacked on access; :meth:`images` returns all
    of a split, 300 MB for 128,000 images.

    Args:
        data_dir: The folder that holds ``MNIST/raw``, as for :class:`MNISTDataModule`.
        num_images: Number of training images.
        image_size: Height and width. 32 pads with black; other sizes resize, bilinearly and antialiased.
        val_size: As in :class:`ImageDataModule`; the digits of validation images also occur in training images. With
            0, the test images are used for validation.
        download: Download missing files.
        num_test_images: Number of test images.
        **options: As in :class:`ImageDataModule`.
    """

    class_names = tuple(f"{number:03}" for number in range(1000))

    def __init__(
        self,
        data_dir: str | Path = "data",
        num_images: int = 128_000,
        image_size: int = 28,
        val_size: int | float = 0,
        download: bool = True,
        num_test_images: int = 26_000,
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, **options)
        check_counts(num_images=num_images, image_size=image_size, num_test_images=num_test_images)
        check_fits(32 * num_images, num_images=num_images)
        check_fits(32 * num_test_images, num_test_images=num_test_images)
        self.num_images = num_images
        self.num_test_images = num_test_images
        self.image_shape = (3, image_size, image_size)
        self._digits = MNISTDataModule(data_dir, image_size, download=download)

    def prepare_data(self) -> None:
        """Download missing digits."""
        self._digits.prepare_data()

    def load_images(self, split: Split) -> tuple[Tensor, Tensor] | None:
        """Read the digits and stack the training or the test images."""
        stack = self._set(split)
        return None if stack is None else (stack.images_at(slice(None)), stack.labels_at(slice(None)))

    def _set(self, split: Split) -> ResidentImages | None:
        """Read the digits of a split once, and draw its triples."""
        if split not in self._sets and (digits := self._digits.load_images(split)) is not None:
            num_images = self.num_test_images if split == "test" else self.num_images
            triples = draw_triples(len(digits[0]), num_images, split)
            self._sets[split] = StackedImages(*digits, triples, device_resident=self.device_resident)
        return self._sets.get(split)


class StackedImages(ResidentImages):
    """Images that are stored as digits, and the rows of the three digits of each image.

    Args:
        images: The digits, uint8 ``(M, 1, H, W)``.
        labels: int64 ``(M,)``.
        triples: Rows of the digits in red, green and blue, int64 ``(N, 3)``.
        **options: As in :class:`ResidentImages`; they apply to the digits.
    """

    def __init__(self, images: Tensor, labels: Tensor, triples: Tensor, **options: Any) -> None:
        super().__init__(images, labels, **options)
        self.triples = triples

    def __len__(self) -> int:
        return len(self.triples)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Shape of an image, ``(3, H, W)``."""
        return 3, *super().picture_shape[1:]

    def images_at(self, rows: Tensor | slice) -> Tensor:
        """Return images, uint8 ``(n, 3, H, W)``."""
        return _stacked(super().images_at(self.triples[rows].flatten()))

    def labels_at(self, rows: Tensor | slice) -> Tensor:
        """Return labels, int64 ``(n,)``."""
        return _numbers(super().labels_at(self.triples[rows].flatten()))

    def gather(
        self,
        rows: Tensor,
        flips: Tensor | None,
        device: torch.device,
        dtype: torch.dtype,
        binarize: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return rows as a batch on the device: images ``(n, 3, H, W)`` in [-1, 1], labels int64 ``(n,)``."""
        assert flips is None and binarize is None, "digits are not mirrored, and these stay gray"
        digits, labels = super().gather(self.triples.index_select(0, rows).flatten(), None, device, dtype)
        return _stacked(digits), _numbers(labels)


def draw_triples(num_digits: int, num_images: int, split: Split) -> Tensor:
    """Draw the rows of the digits of each image of a split, int64 ``(num_images, 3)``."""
    source = randomness.generator(0, Stream.STACK, int(split == "test"))
    return torch.randint(num_digits, (num_images, 3), generator=source)


def _stacked(digits: Tensor) -> Tensor:
    """Stack each three consecutive digits, ``(3 n, 1, H, W)``, as channels."""
    return digits.view(-1, 3, *digits.shape[2:])


def _numbers(labels: Tensor) -> Tensor:
    """Combine the labels of each three consecutive digits, ``(3 n,)``."""
    red, green, blue = labels.view(-1, 3).unbind(1)
    return 100 * red + 10 * green + blue
