import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lightning_gans import GAN, NearestNeighbours, SettingError
from tests.toys import SHAPE, Toys, loader, make_batches, tiny


class Copier(GAN):
    """Its samples are training images, or noise."""

    def sample(self, num_samples=None, labels=None, *, seed=None, start=0, ema=True, truncation=None):
        if self.copies:
            images = self.trainer.datamodule.images("train")[0]
            return images[torch.arange(start, start + num_samples) % len(images)] / 127.5 - 1
        return torch.rand(num_samples, *SHAPE, generator=torch.Generator().manual_seed(start + 1)) * 2 - 1


def look(make_trainer, tmp_path, copies, **options):
    model = tiny(Copier)
    model.copies = copies
    callback = NearestNeighbours(**{"num_samples": 12, "num_shown": 3, "extractor": nn.Flatten(), **options})
    trainer = make_trainer(callbacks=[callback])
    trainer.test(model, Toys(), verbose=False)
    return callback, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_copies_are_shown_beside_what_they_are_copied_from(make_trainer, tmp_path):
    callback, scores = look(make_trainer, tmp_path, copies=True)
    assert scores == {"test/memorization": 1.0, "test/memorization_pixels": 1.0}
    sheet = np.asarray(Image.open(callback.last_path))
    rows = np.split(sheet[22:, -3 * 66 - 2 :][: 3 * 66], 3)
    assert np.array_equal(rows[0], rows[1]) and np.array_equal(rows[0], rows[2])
    assert rows[0].std() > 10
    assert callback.last_path.parent == tmp_path / "neighbours"


def test_new_images_are_no_copies(make_trainer, tmp_path):
    _, scores = look(make_trainer, tmp_path, copies=False)
    assert all(0.2 < score < 0.8 for score in scores.values())


def test_a_fit_looks_as_often_as_it_is_told(make_trainer, tmp_path):
    callback = NearestNeighbours(every_n_epochs=2, num_samples=4, num_shown=2, extractor=nn.Flatten())
    make_trainer(callbacks=[callback], max_epochs=4).fit(tiny(GAN), Toys())
    assert len(list((tmp_path / "neighbours").iterdir())) == 2


def test_a_loader_without_images_is_refused(make_trainer):
    trainer = make_trainer(callbacks=[NearestNeighbours()])
    with pytest.raises(SettingError, match=r"neighbours needs a data module .* set neighbours.enabled: false"):
        trainer.test(tiny(GAN), loader(make_batches(1)), verbose=False)
