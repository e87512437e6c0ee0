"""Data sets that stay in memory with their own values and become float batches on the training device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_gans import randomness
from lightning_gans.datamodules.batch_order import ShuffledOrder
from lightning_gans.io.pictures import from_bytes, to_bytes

_SHARE_OF_FREE_MEMORY = 0.25  # the model gets the rest
_FLOAT32 = torch.zeros(())

Normalize = Callable[[Tensor], Tensor]

Finish = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Makes a batch from images ``(n, C, H, W)``, their labels and their rows."""


class ResidentImages:
    """All images of a data set as one tensor, with a copy on each device that requests it and has room.

    Args:
        images: uint8 ``(N, C, H, W)``, or floats ``(N, ...)`` in [-1, 1], which are not converted; with ``normalize``
            of any type.
        labels: int64 ``(N,)``, or float32 ``(N, K)``.
        normalize: Maps stored images to floats in [-1, 1].
        device_resident: Whether a device gets its own copy. With ``"auto"``, an accelerator does if the copy takes less
            than a quarter of its free memory.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        normalize: Normalize | None = None,
        device_resident: bool | Literal["auto"] = "auto",
    ) -> None:
        self.images = images
        self.labels = labels
        self.normalize = normalize
        self.device_resident = device_resident
        self._copies: dict[torch.device, tuple[Tensor, Tensor] | None] = {}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Shape of an image, ``(C, H, W)``."""
        return tuple(self.images.shape[1:])

    def stored(self, rows: Tensor | slice) -> Tensor:
        """Return rows of ``images``; a slice is not copied."""
        # index_select is 20 times as fast as images[rows] on a CPU.
        return self.images[rows] if isinstance(rows, slice) else self.images.index_select(0, rows)

    def images_at(self, rows: Tensor | slice) -> Tensor:
        """Return images ``(n, C, H, W)``: bytes as they are stored, others in [-1, 1]."""
        return self._whole_images(self.stored(rows))

    def _whole_images(self, stored: Tensor) -> Tensor:
        return stored if self.normalize is None else self.normalize(stored)

    def labels_at(self, rows: Tensor | slice) -> Tensor:
        """Return labels, ``(n,)`` or ``(n, K)``."""
        return self.labels[rows]

    def gather(
        self,
        rows: Tensor,
        flips: Tensor | None,
        device: torch.device,
        dtype: torch.dtype,
        binarize: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return rows as a batch on the device: images ``(n, C, H, W)`` in [-1, 1], and labels.

        With a key in ``binarize``, each pixel becomes -1 or 1 at random, with its gray level as the probability of 1.
        The draw is a function of the key, the row and the pixel.
        """
        copy = self._copy_on(device)
        places = _sent(rows, self.images.device if copy is None else device)
        if copy is None:
            images, labels = _sent(self.stored(places), device), _sent(self.labels.index_select(0, places), device)
        else:
            images, labels = (part.index_select(0, places) for part in copy)
        if flips is not None:
            mirrored = _sent(flips, device)[:, None, None, None]
            images = torch.where(mirrored, images.flip(-1), images)
        if binarize is not None:
            thresholds = _sent(randomness.rand_at(rows, images[0].numel(), *binarize), device).view(images.shape)
            return (images.float().div_(255) > thresholds).to(dtype).mul_(2).sub_(1), labels
        # Scale in float32 for every dtype, so that values are rounded only once.
        images = self._whole_images(images)
        return (images if images.is_floating_point() else from_bytes(images)).to(dtype), labels

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
            self._copies[device] = (self.stored(slice(None)).to(device), self.labels.to(device)) if wanted else None
        return self._copies[device]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copies": {}}


class SplitImages:
    """The images of a split as bytes, which may be larger than the memory, read on access: ``images[100:200]``.

    Args:
        source: The data set.
        rows: The split's rows in the data set, int64 ``(N,)``.
        channels: The stored channels that the images have.

    Attributes:
        shape: ``(N, C, H, W)``.
        dtype: uint8, or a floating-point type for sequences in [-1, 1].
        labels: int64 ``(N,)``, or float32 ``(N, K)``.
    """

    def __init__(self, source: ResidentImages, rows: Tensor, channels: slice = slice(None)) -> None:
        self.source = source
        self.rows = rows
        self.channels = channels
        num_channels, *sides = source.picture_shape
        self.shape = (len(rows), len(range(num_channels)[channels]), *sides)
        self.dtype = torch.uint8 if len(sides) == 2 else source.images.dtype
        self.labels = source.labels_at(rows)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        images = self.exact(places)
        return images if images.dtype == self.dtype else to_bytes(images)

    def exact(self, places: Tensor | slice) -> Tensor:
        """Return images without rounding: bytes, or floats in [-1, 1]."""
        return self.source.images_at(self.rows[places])[:, self.channels]


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; to a GPU through pinned memory, because otherwise the host waits for all work queued there."""
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
    """The rows of a batch, which become ``(images, labels)``, or a pair of images, on the device they are moved to.

    images: float32 ``(n, C, H, W)`` in [-1, 1]; labels: int64 ``(n,)`` or float32 ``(n, K)``. A batch that was never
    moved is unpacked on the device of the data set. Lightning's precision plugins convert the floating-point fields of
    a dataclass before it is moved, so the images take the dtype of ``like``; this makes ``bf16-true`` and ``64-true``
    work. ``finish`` makes the batch from the images, the labels and the rows.
    """

    source: ResidentImages
    rows: Tensor
    flips: Tensor | None = None
    like: Tensor = _FLOAT32
    binarize: tuple[int, ...] | None = None
    finish: Finish | None = None

    def to(self, device: torch.device | str | int, **_: Any) -> tuple[Tensor, Tensor]:
        """Return the batch on the device."""
        device = torch.device(device)
        if device.type != "cpu":
            device = torch.empty(0, device=device).device  # with its index: "cuda" shares a copy with "cuda:0"
        images, labels = self.source.gather(self.rows, self.flips, device, self.like.dtype, self.binarize)
        return (images, labels) if self.finish is None else self.finish(images, labels, self.rows)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.to(self.source.images.device))


class ResidentLoader:
    """Yields an :class:`IndexBatch` per batch of the order; Lightning saves and restores its position.

    This is not a ``DataLoader``: there is nothing to collate, pin or pass to workers, and Lightning would replace the
    sampler of a ``DataLoader``.

    Args:
        source: The images.
        sampler: The batches, as positions in ``rows``. Lightning calls its ``set_epoch``.
        rows: The rows of the source that belong to the split, int64.
        binarize: Returns the key with which an epoch's images are binarized; None leaves them gray.
        finish: Returns the function that makes an epoch's batches from images, labels and rows; None leaves batches as
            they are.
    """

    batch_sampler = None  # Lightning reads it from every loader that has a sampler

    def __init__(
        self,
        source: ResidentImages,
        sampler: ShuffledOrder,
        rows: Tensor,
        binarize: Callable[[], tuple[int, ...]] | None = None,
        finish: Callable[[], Finish] | None = None,
    ) -> None:
        self.source = source
        self.sampler = sampler
        self.rows = rows
        self.binarize = binarize
        self.finish = finish
        self.state_dict, self.load_state_dict = sampler.state_dict, sampler.load_state_dict

    def __len__(self) -> int:
        return len(self.sampler)

    def __copy__(self) -> ResidentLoader:
        """Return a loader with a position of its own, at the start of the epoch."""
        return ResidentLoader(self.source, self.sampler.from_start(), self.rows, self.binarize, self.finish)

    def __iter__(self) -> Iterator[IndexBatch]:
        key = None if self.binarize is None else self.binarize()
        finish = None if self.finish is None else self.finish()
        for rows, flips in self.sampler:
            yield IndexBatch(self.source, self.rows[rows], flips, binarize=key, finish=finish)


class SplitPairs:
    """The pairs ``(source, target)`` of a split as its loader makes them, on access: ``pairs[100:200]``.

    Args:
        loader: The loader of the split, on any number of processes.
    """

    def __init__(self, loader: ResidentLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader.rows)

    def __getitem__(self, places: slice) -> tuple[Tensor, Tensor]:
        key = None if self.loader.binarize is None else self.loader.binarize()
        finish = None if self.loader.finish is None else self.loader.finish()
        source, target = IndexBatch(self.loader.source, self.loader.rows[places], binarize=key, finish=finish)
        return source, target
