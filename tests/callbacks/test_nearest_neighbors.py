import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_gans import GAN, DataError, NearestNeighbors, SettingError
from tests.toys import SHAPE, Toys, loader, make_batches, same, tiny


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
    callback = NearestNeighbors(**{"num_samples": 12, "num_shown": 3, "extractor": nn.Flatten(), **options})
    trainer = make_trainer(callbacks=[callback])
    trainer.test(model, Toys(), verbose=False)
    return callback, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_copies_are_shown_beside_what_they_are_copied_from(make_trainer, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("lightning_gans.callbacks.nearest_neighbors.rank_zero_info", told.append)
    callback, scores = look(make_trainer, tmp_path, copies=True)
    assert told[-1].endswith(f"(0.5 is ideal)\n{callback.last_path}")
    assert scores == {"test/memorization": 1.0, "test/memorization_pixels": 1.0}
    sheet = np.asarray(Image.open(callback.last_path))
    rows = np.split(sheet[22:, -3 * 66 - 2 :][: 3 * 66], 3)
    assert np.array_equal(rows[0], rows[1]) and np.array_equal(rows[0], rows[2])
    assert rows[0].std() > 10
    assert callback.last_path.parent == tmp_path / "neighbors"


def test_new_images_are_no_copies(make_trainer, tmp_path):
    _, scores = look(make_trainer, tmp_path, copies=False)
    assert all(0.2 < score < 0.8 for score in scores.values())


def test_a_fit_looks_as_often_as_it_is_told(make_trainer, tmp_path):
    callback = NearestNeighbors(every_n_epochs=2, num_samples=4, num_shown=2, extractor=nn.Flatten())
    make_trainer(callbacks=[callback], max_epochs=4).fit(tiny(GAN), Toys())
    assert len(list((tmp_path / "neighbors").iterdir())) == 2


class OwnData(pl.LightningDataModule):
    """The toys as a user would load them: images that validate are chosen by a sampler, and the rest by another."""

    def setup(self, stage):
        images, labels = Toys().load_images("train")
        self.images = TensorDataset(images / 127.5 - 1, labels)

    def train_dataloader(self):
        return DataLoader(self.images, batch_size=4, sampler=SubsetRandomSampler(range(32)))

    def val_dataloader(self):
        return DataLoader(Subset(self.images, range(32, 40)), batch_size=4)

    test_dataloader = val_dataloader


class OwnCopier(Copier):
    """Its samples are the images that the own data trains on."""

    def sample(self, num_samples=None, labels=None, *, seed=None, start=0, ema=True, truncation=None):
        images = Toys().load_images("train")[0]
        return images[torch.arange(start, start + num_samples) % 32] / 127.5 - 1


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_data_of_ones_own_is_looked_at_as_well(stage, make_trainer, tmp_path):
    callback = NearestNeighbors(num_samples=12, num_shown=3, extractor=nn.Flatten())
    trainer = make_trainer(callbacks=[callback], max_epochs=1)
    getattr(trainer, stage)(tiny(OwnCopier), datamodule=OwnData())
    # Were the images that validate among those of training, real ones would be copies too, and the score one half.
    assert callback.scores == {"memorization": 1.0, "memorization_pixels": 1.0}
    assert callback.last_path.exists()


class Dark(OwnData):
    """Data whose pictures are made by a hook on the way to the model."""

    def setup(self, stage):
        images, labels = Toys().load_images("train")
        self.images = TensorDataset(images.float(), labels)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        return images / 127.5 - 1, labels


def test_the_hooks_of_own_data_are_called(make_trainer):
    callback = NearestNeighbors(num_samples=12, num_shown=3, extractor=nn.Flatten())
    make_trainer(callbacks=[callback]).test(tiny(OwnCopier), datamodule=Dark())
    assert callback.scores == {"memorization": 1.0, "memorization_pixels": 1.0}


def test_each_evaluation_looks_anew(make_trainer):
    callback = NearestNeighbors(num_samples=12, num_shown=3, extractor=nn.Flatten())
    trainer = make_trainer(callbacks=[callback])
    for copies, wanted in ((True, 1.0), (False, 0.5)):
        model = tiny(Copier)
        model.copies = copies
        trainer.validate(model, Toys(), verbose=False)
        assert trainer.callback_metrics["val/memorization"].item() == pytest.approx(wanted, abs=0.3)


def test_a_sampler_of_an_unknown_kind_is_refused(make_trainer):
    class Weighted(OwnData):
        def train_dataloader(self):
            return DataLoader(self.images, batch_size=4, sampler=WeightedRandomSampler([1.0] * 40, 8))

    with pytest.raises(SettingError) as caught:
        make_trainer(callbacks=[NearestNeighbors()], max_epochs=1).fit(tiny(GAN), datamodule=Weighted())
    assert caught.value.value == "WeightedRandomSampler"


def test_validation_data_without_indices_is_refused_before_the_first_step(make_trainer):
    trainer = make_trainer(callbacks=[NearestNeighbors()], max_epochs=1, num_sanity_val_steps=0)
    with pytest.raises(SettingError) as caught:
        trainer.fit(tiny(GAN), loader(make_batches(1)), loader(Endless()))
    assert caught.value.value == "Endless"
    assert trainer.global_step == 0


def test_looking_at_own_data_leaves_trainings_random_numbers_alone(make_trainer):
    def trained(*callbacks):
        pl.seed_everything(0)
        model = tiny(GAN)
        make_trainer(callbacks=list(callbacks), max_epochs=3).fit(model, datamodule=OwnData())
        return model

    look = NearestNeighbors(num_samples=4, num_shown=2, extractor=nn.Flatten())
    assert same(trained(look), trained())


def test_loaders_without_training_images_are_refused(make_trainer):
    trainer = make_trainer(callbacks=[NearestNeighbors()])
    with pytest.raises(SettingError) as caught:
        trainer.test(tiny(GAN), loader(make_batches(1)), verbose=False)
    assert caught.value.setting == "neighbors"


def test_colour_pictures_without_inception_are_compared_by_pixels(make_trainer, monkeypatch, tmp_path):
    def without(*args):
        raise DataError("no weights")

    monkeypatch.setattr("lightning_gans.metrics.evaluate.make_extractor", without)
    with pytest.warns(UserWarning, match="by pixels only: no weights"):
        callback, scores = look(make_trainer, tmp_path, copies=True, extractor="auto")
    assert scores == {"test/memorization_pixels": 1.0} and callback.last_path.exists()
    with pytest.raises(DataError, match="no weights"):
        look(make_trainer, tmp_path, copies=True, extractor="inception")


class Endless(IterableDataset):
    def __iter__(self):
        return iter(make_batches(2))


def test_a_data_set_without_indices_is_refused_before_the_first_step(make_trainer):
    trainer = make_trainer(callbacks=[NearestNeighbors()], max_epochs=1)
    with pytest.raises(SettingError) as caught:
        trainer.fit(tiny(GAN), loader(Endless()), loader(make_batches(1)))
    assert caught.value.value == "Endless"
    assert trainer.global_step == 0
