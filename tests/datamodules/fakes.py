"""Models, data and helpers of these tests."""

import pytorch_lightning as pl
import torch

from lightning_gans.datamodules import ImageDataModule


class Trainee(pl.LightningModule):
    """Learns nothing and writes down what it was given."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.fail_at = fail_at
        self.seen, self.images, self.evaluated = [], [], []

    def training_step(self, batch, batch_idx):
        images, labels = batch
        if len(self.seen) == self.fail_at:
            raise KeyError("stopped")
        self.seen.append(labels.tolist())
        self.images.append(images)
        return (self.weight * images.mean()).sum()

    def validation_step(self, batch, batch_idx):
        self.evaluated += batch[1].tolist()

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return batch[1]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


class Numbered(ImageDataModule):
    """Pictures whose label is their number; what is not square tells whether it was mirrored."""

    class_names = ()
    image_shape = (1, 2, 3)

    def __init__(self, num_images=40, num_test=None, flip=False, **options):
        super().__init__(**{"batch_size": 4, "val_size": 8, **options})
        self.horizontal_flip = flip
        self.sizes = {"train": num_images, "test": num_test}

    def load_images(self, split):
        size = self.sizes.get(split)
        if size is None:
            return None
        images = torch.arange(size * 6).remainder(256).byte().view(size, 1, 2, 3)
        return images, torch.arange(size)


def everything_in(folder):
    """Return all files and folders below, with their contents."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def lines_of(error):
    """Return an error's message, which must not have more than three lines."""
    message = str(error.value)
    assert len(message.splitlines()) <= 3, message
    return message
