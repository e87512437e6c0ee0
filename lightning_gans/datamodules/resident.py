"""Data sets that stay in memory as bytes and become float batches on the training device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_gans import randomness
from lightning_gans.datamodules.batch_order import ShuffledOrder
from lightning_gans.io.pictures import from_bytes

# ``device_resident="auto"`` leaves at least three quarters of the free memory to the model.
_SHARE_OF_FREE_MEMORY = 0.25

_FLOAT32 = torch.zeros(())


class ResidentImages:
    """All images of a data set as one tensor, with a copy on each device that requests them and has room.

    Args:
        images: uint8 ``(N, C, H, W)``, or floats of any shape ``(N, ...)`` in [-1, 1], which are not converted.
        labels: int64 ``(N,)``.
        device_resident: Whether a device gets its own copy, made once. With ``"auto"``, an accelerator does if
            the copy takes less than a quarter of its free memory.
    """

    def __init__(self, images: Tensor, labels: Tensor, *, device_resident: bool | Literal["auto"] = "auto") -> None:
        self.images = images
        self.labels = labels
        self.device_resident = device_resident
        self._copies: dict[torch.device, tuple[Tensor, Tensor] | None] = {}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Shape of an image, ``(C, H, W)``."""
        return tuple(self.images.shape[1:])

    def images_at(self, rows: Tensor | slice) -> Tensor:
        """Return images as stored, ``(n, C, H, W)``; a slice is not copied."""
        return self.images[rows] if isinstance(rows, slice) else self.images.index_select(0, rows)

    def labels_at(self, rows: Tensor | slice) -> Tensor:
        """Return labels, int64 ``(n,)``."""
        return self.labels[rows]

    def gather(
        self,
        rows: Tensor,
        flips: Tensor | None,
        device: torch.device,
        dtype: torch.dtype,
        binarize: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return rows as a batch on the device: images ``(n, C, H, W)`` in [-1, 1], labels int64 ``(n,)``.

        With a key in ``binarize``, each pixel is -1 or 1 at random, with its gray level as the probability of 1. The
        draw is a function of the key, the row and the pixel.
        """
        numbers = rows
        copy = self._copy_on(device)
        images, labels = (self.images, self.labels) if copy is None else copy
        rows = _sent(rows, images.device)
        images = _sent(images.index_select(0, rows), device)  # 20 times as fast as images[rows] on a CPU
        labels = _sent(labels.index_select(0, rows), device)
        if flips is not None:
            mirrored = _sent(flips, device)[:, None, None, None]
            images = torch.where(mirrored, images.flip(-1), images)
        if binarize is not None:
            thresholds = _sent(randomness.rand_at(numbers, images[0].numel(), *binarize), device).view(images.shape)
            return (images.float().div_(255) > thresholds).to(dtype).mul_(2).sub_(1), labels
        if images.is_floating_point():
            return images.to(dtype), labels
        # Scaled in float32 for every dtype, so that it is rounded once.
        return from_bytes(images).to(dtype), labels

    def release(self) -> None:
        """Drop the copies on accelerators."""
        self._copies.clear()

    def _copy_on(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        if device == self.images.device:
            return None
        if device not in self._copies:
            wanted = self.device_resident
            if wanted == "auto":
                wanted = self.images.nbytes < _SHARE_OF_FREE_MEMORY * _free_memory(device)
            self._copies[device] = (self.images.to(device), self.labels.to(device)) if wanted else None
        return self._copies[device]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copies": {}}


class SplitImages:
    """The images of a split, read on access: ``images[100:200]``, ``images[places]``.

    So a data set that is larger than the memory is never read as a whole.

    Args:
        source: The data set.
        rows: The split's rows in it, int64 ``(N,)``; all if None.

    Attributes:
        shape: ``(N, C, H, W)``.
        dtype: uint8, or a floating-point type for images in [-1, 1].
        labels: int64 ``(N,)``.
    """

    def __init__(self, source: ResidentImages, rows: Tensor | None = None) -> None:
        self.source = source
        self.rows = rows
        self.shape = (len(source) if rows is None else len(rows), *source.picture_shape)
        self.dtype = source.images.dtype
        self.labels = source.labels_at(slice(None) if rows is None else rows)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        return self.source.images_at(places if self.rows is None else self.rows[places])


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; to a GPU through pinned memory, without which the host waits for all work queued there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _free_memory(device: torch.device) -> int:
    """Return an accelerator's free memory in bytes; 0 if the backend does not report it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return int(torch.accelerator.get_memory_info(device)[0])
    except (RuntimeError, NotImplementedError, AttributeError, ValueError):
        return 0


@dataclass(eq=False)
class IndexBatch:
    """The rows of a batch, which become ``(images, labels)`` on the device that they are moved to.

    images: float32 ``(n, C, H, W)`` in [-1, 1]; labels: int64 ``(n,)``. Unpacking a batch that was never moved gives
    it on the device of the data set.

    It is a dataclass with a float field because Lightning's precision plugins convert the floating-point tensors of a
    batch before it is moved: the images take the dtype of ``like``. So ``bf16-true`` and ``64-true`` work.
    """

    source: ResidentImages
    rows: Tensor
    flips: Tensor | None = None
    like: Tensor = _FLOAT32
    binarize: tuple[int, ...] | None = None

    def to(self, device: torch.device | str | int, **_: Any) -> tuple[Tensor, Tensor]:
        """Return the batch on the device."""
        device = torch.device(device)
        if device.type != "cpu":
            device = torch.empty(0, device=device).device  # with its index: "cuda" shares a copy with "cuda:0"
        return self.source.gather(self.rows, self.flips, device, self.like.dtype, self.binarize)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.to(self.source.images.device))


class ResidentLoader:
    """Yields an :class:`IndexBatch` per batch of the order; Lightning saves and restores its position.

    This is not a ``DataLoader``: there is nothing to collate, pin or give to workers, and Lightning replaces the
    sampler of a ``DataLoader`` in several places (``predict``, ``overfit_batches``, several processes).

    Args:
        source: The images.
        sampler: The batches, as positions in ``rows``. Lightning calls its ``set_epoch``.
        rows: The rows of the source that the split has, int64; all if None.
        binarize: Returns the key that an epoch's images are binarized by; None leaves them gray.
    """

    batch_sampler = None  # Lightning reads it from every loader that has a sampler

    def __init__(
        self,
        source: ResidentImages,
        sampler: ShuffledOrder,
        rows: Tensor | None = None,
        binarize: Callable[[], tuple[int, ...]] | None = None,
    ) -> None:
        self.source = source
        self.sampler = sampler
        self.rows = rows
        self.binarize = binarize

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[IndexBatch]:
        key = None if self.binarize is None else self.binarize()
        for rows, flips in self.sampler:
            yield IndexBatch(self.source, rows if self.rows is None else self.rows[rows], flips, binarize=key)

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration at that position."""
        self.sampler.load_state_dict(state)
