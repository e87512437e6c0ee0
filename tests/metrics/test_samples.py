import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_gans import (
    GAN,
    CollapseWatchdog,
    GenerativeMetrics,
    NearestNeighbors,
    Reconstructions,
    SampleGrid,
    SettingError,
)
from lightning_gans.callbacks.base import images_and_labels
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics.samples import (
    BLOCK,
    FunctionSampler,
    draw,
    image_shape,
    is_averaged,
    num_classes,
    sampler_of,
)
from tests.toys import SHAPE, Toys, loader, make_batches, tiny


class Foreign(pl.LightningModule):
    """A module that knows nothing of this package; its images are between 0 and 1."""

    value_range = (0, 1)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 64)
        self.dropout = nn.Dropout(0.5)

    def sample(self, num):
        return self.dropout(self.layer(torch.randn(num, 4))).sigmoid().unflatten(1, SHAPE)

    def training_step(self, batch):
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        return (self.sample(len(images)) - images).square().mean()

    def validation_step(self, batch):
        pass

    def test_step(self, batch):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class Labelled(Foreign):
    """Its images show their labels."""

    num_classes = 3

    def sample(self, num, labels, seed=0):
        self.seeds = [*getattr(self, "seeds", []), seed]
        return (labels / 2)[:, None, None, None].expand(num, *SHAPE)


def test_samples_of_any_module_are_a_function_of_the_seed_and_of_the_block():
    module = Foreign().train()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    whole = draw(module, 2 * BLOCK + 10, seed=3)
    parts = [draw(module, num, seed=3, start=start) for start, num in ((0, BLOCK), (BLOCK, BLOCK), (2 * BLOCK, 10))]
    assert torch.cat(parts).equal(whole)
    assert len(whole.flatten(1).unique(dim=0)) == len(whole) and not whole.requires_grad
    assert -1 <= whole.min() < 0 < whole.max() <= 1
    assert not draw(module, BLOCK, seed=4).equal(whole[:BLOCK])
    assert torch.get_rng_state().equal(states[0]) and np.random.get_state()[1].tolist() == states[1]
    assert module.training and module.dropout.training


def test_a_module_gets_what_it_takes():
    module = Labelled()
    labels = torch.arange(BLOCK + 2) % 3
    assert draw(module, BLOCK + 2, seed=0, labels=labels)[:, 0, 0, 0].add(1).equal(labels.float())
    assert len(set(module.seeds)) == 2
    assert num_classes(module) == 3 and num_classes(Foreign()) == 0
    assert image_shape(Foreign()) == SHAPE


@pytest.mark.parametrize("made", [torch.zeros(2, *SHAPE), torch.zeros(3), None])
def test_samples_of_another_shape(made):
    module = Foreign()
    module.sample = lambda num: made
    with pytest.raises(SettingError) as caught:
        draw(module, 3, seed=0)
    assert caught.value.setting == "Foreign.sample"


@pytest.mark.parametrize("of", [lambda module: module, lambda module: FunctionSampler(module, type(module).sample)])
def test_images_outside_of_the_range_name_the_attribute_of_the_module(of):
    class Bright(Foreign):
        def sample(self, num):
            return torch.full((num, *SHAPE), 255.0)

    with pytest.raises(SettingError) as caught:
        draw(of(Bright()), 3, seed=0)
    assert caught.value.setting == "Bright.value_range" and "Bright.value_range" in str(caught.value)
    assert caught.value.value == (255, 255)


def test_whether_weights_are_averaged_is_known_only_to_a_module_that_has_the_option():
    class Averaging(Foreign):
        def sample(self, num, ema=True):
            return super().sample(num)

    assert is_averaged(Foreign(), True) is None
    assert is_averaged(Averaging(), True) is True and is_averaged(Averaging(), False) is False
    assert is_averaged(tiny(GAN, ema_half_life=0), True) is False


def test_a_module_without_samples():
    with pytest.raises(SettingError) as caught:
        sampler_of(pl.LightningModule(), None, "SampleGrid")
    assert caught.value.setting == "LightningModule.sample"


@pytest.mark.parametrize("cls", [Foreign, Labelled])
def test_the_callbacks_take_any_module(cls, make_trainer, tmp_path):
    class Trained(cls):
        def training_step(self, batch):
            return self.layer.weight.square().sum()

    metrics = GenerativeMetrics(num_samples=60, extractor=nn.Flatten(), floor=False)
    watchdog = CollapseWatchdog(every_n_steps=2, num_samples=16)
    near = NearestNeighbors(num_samples=8, num_shown=2, extractor=nn.Flatten())
    callbacks = [metrics, watchdog, near, SampleGrid(num_samples=4), Reconstructions()]
    trainer = make_trainer(callbacks=callbacks, max_epochs=1)
    trainer.fit(Trained(), Toys())
    found = {name.removeprefix("val/") for name in trainer.callback_metrics}
    assert {"fid", "precision", "memorization"} <= found and ("fid_class/2" in found) == (cls is Labelled)
    assert watchdog.values.keys() == {"spread", "duplicates"}
    assert len(list((tmp_path / "samples").iterdir())) == 2 and metrics.last_path.is_file()


def test_a_loader_of_images_alone_will_do(make_trainer):
    callback = GenerativeMetrics(metrics=["fid"], num_samples=20, extractor=nn.Flatten())
    trainer = make_trainer(callbacks=[callback])
    images = torch.rand(40, *SHAPE)
    trainer.validate(Foreign(), torch.utils.data.DataLoader(images, batch_size=8), verbose=False)
    assert trainer.callback_metrics["val/fid"] > 0


def test_a_rollback_needs_weights_that_can_be_loaded(make_trainer):
    callback = CollapseWatchdog(action="rollback")
    with pytest.raises(SettingError) as caught:
        make_trainer(callbacks=[callback]).fit(Foreign(), Toys())
    assert caught.value.setting == "watchdog.action"


def test_the_packages_models_are_asked_for_their_own_samples():
    from lightning_gans import GAN

    model = tiny(GAN)
    assert draw(model, 7, seed=5, start=3, ema=False).equal(model.sample(7, seed=5, start=3, ema=False))


class OfRange(nn.Module):
    def __init__(self, images, value_range=None):
        super().__init__()
        self.images = images
        if value_range is not None:
            self.value_range = value_range

    def sample(self, num):
        return self.images[:num]


@pytest.mark.parametrize("value_range", [(0, 1), (0, 255), "bytes"])
def test_images_of_any_stated_range_and_bytes_are_normalized(value_range):
    levels = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    images = levels if value_range == "bytes" else levels / 255 * value_range[1]
    module = OfRange(images, None if value_range == "bytes" else value_range)
    assert to_bytes(draw(module, 4, seed=0)).equal(levels)
    assert to_bytes(images_and_labels(module, [images, None])[0]).equal(levels)


def test_images_of_another_range_raise():
    module = OfRange(torch.full((4, 1, 8, 8), 255.0))
    for use in (lambda: draw(module, 4, seed=0), lambda: images_and_labels(module, module.images)):
        with pytest.raises(SettingError) as caught:
            use()
        assert caught.value.setting == "OfRange.value_range"
        assert caught.value.value == (255, 255)


def test_real_images_between_0_and_1_are_pointed_out(make_trainer):
    dim = [((images + 1) / 2, labels) for images, labels in make_batches(2)]
    for batches, warned in ((dim, True), (make_batches(2), False)):
        callback = GenerativeMetrics(["fid"], num_samples=50, extractor=nn.Flatten())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make_trainer(callbacks=[callback]).validate(tiny(GAN), loader(batches), verbose=False)
        assert any("below 0" in str(warning.message) for warning in caught) == warned


def test_a_module_that_takes_seed_and_start_is_asked_in_evaluation_mode():
    class Normalized(pl.LightningModule):
        num_classes = 2

        def __init__(self):
            super().__init__()
            self.layer = nn.BatchNorm2d(1)

        def sample(self, n, seed, start=0, labels=None):
            assert labels.device == self.device
            return self.layer(torch.rand(n, *SHAPE))

    module = Normalized()
    before, mean = torch.get_rng_state(), module.layer.running_mean.clone()
    images = draw(module, 1, seed=0)
    assert not images.requires_grad and module.training
    assert module.layer.running_mean.equal(mean) and torch.get_rng_state().equal(before)
