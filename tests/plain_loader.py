"""Random images and labels through torch's own ``DataLoader``, as somebody without a data module gives them."""

import math

import torch
from torch.utils.data import DataLoader, TensorDataset

NUM_CLASSES = 3


def images_and_labels(num, shape):
    """Make images in [-1, 1] and labels that are the same on every machine: uniform numbers are whole ones, scaled."""
    source = torch.Generator().manual_seed(5)
    images = torch.rand(num, *shape, generator=source) * 2 - 1
    return images, torch.randint(NUM_CLASSES, (num,), generator=source)


def batches_of_a_step(options):
    """Return how many batches one update of the generator takes, by the settings of a model."""
    return math.prod(options.get(name, 1) for name in ("d_steps", "encoder_steps", "accumulate_batches"))


def loader(batch_size, batches_per_step, shape, num_updates=3):
    """Give the images of an epoch of so many generator updates, in their order.

    This body is the only place that knows how a model takes the batches of a step from a plain loader. At present it
    splits each batch of the loader into ``batches_per_step`` parts, so that the loader's batches have to be so many
    times as large. Where a step takes ``batches_per_step`` batches of the loader one after the other, they are of
    ``batch_size`` images, and nothing else changes: neither the images of an update nor their order.
    """
    data = TensorDataset(*images_and_labels(batch_size * batches_per_step * num_updates, shape))
    return DataLoader(data, batch_size=batch_size)


def held_out(shape, num=6, batch_size=4):
    """Give a few images for validation, the last batch not full."""
    return DataLoader(TensorDataset(*images_and_labels(num, shape)), batch_size=batch_size)
