import os
from pathlib import Path

import pytest
import torch

from lightning_gans.datamodules import DigitsDataModule, FashionMNISTDataModule, MNISTDataModule
from lightning_gans.errors import SettingError

from ..fake_sets import write_mnist


@pytest.fixture
def folder(tmp_path):
    write_mnist(tmp_path, num_train=30, num_test=12)
    return tmp_path


def make(folder, **options):
    return MNISTDataModule(folder, **{"val_size": 6, "batch_size": 4, **options})


def test_image_size(folder):
    original = make(folder).images("test")[0]
    padded = make(folder, image_size=32).images("test")[0]
    assert padded[:, :, 2:-2, 2:-2].equal(original)
    assert padded.sum() == original.sum()
    for size in (14, 64):
        data = make(folder, image_size=size)
        images = data.images("test")[0]
        assert data.image_shape == tuple(images.shape[1:]) == (1, size, size)
        assert images.dtype == torch.uint8
        assert (images.float().mean() - original.float().mean()).abs() < 1
    for size in (0, 28.5):
        for kind in (MNISTDataModule, DigitsDataModule):
            with pytest.raises(SettingError) as error:
                kind(image_size=size)
            assert (error.value.setting, error.value.value) == ("image_size", size)


def test_names_of_classes():
    assert MNISTDataModule().class_names[3] == "3"
    assert FashionMNISTDataModule().class_names[9] == "Ankle boot"
    assert MNISTDataModule().num_classes == FashionMNISTDataModule().num_classes == 10


DATA = os.environ.get("LIGHTNING_GANS_DATA", "")


@pytest.mark.skipif(not (Path(DATA) / "MNIST" / "raw").is_dir(), reason="LIGHTNING_GANS_DATA has no MNIST/raw")
def test_the_real_set(offline):
    data = MNISTDataModule(DATA)
    data.prepare_data()
    images, labels = data.images("train")
    assert images.shape == (55_000, 1, 28, 28)
    assert len(data.images("val")[0]) == 5_000
    test_images, test_labels = data.images("test")
    assert abs(test_images.float().mean() / 255 - 0.1325) < 1e-4
    assert test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert labels.bincount().min() > 4_500


# --- binarization -----------------------------------------------------------------------------------------


def epoch_of(data, split, epoch=0):
    loader = getattr(data, f"{split}_dataloader")()
    loader.sampler.set_epoch(epoch)
    batches = [batch.to("cpu") for batch in loader]
    return torch.cat([images for images, _ in batches])


@pytest.mark.parametrize("how", ["static", "dynamic"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_images_are_binarized_once_and_for_all(folder, how, split):
    data = make(folder, binarization=how)
    images = epoch_of(data, split)
    assert set(images.unique().tolist()) == {-1.0, 1.0}
    assert images.equal(epoch_of(data, split, epoch=3))
    data.batch_size = 5
    assert images.equal(epoch_of(data, split))
    grey, _ = data.images(split)
    assert len(grey.unique()) > 200


def test_training_images_are_binarized_anew_in_each_epoch_if_dynamic(folder):
    for how, changes in (("static", False), ("dynamic", True)):
        data = make(folder, binarization=how)
        epochs = []
        for epoch in (0, 1):
            loader = data.train_dataloader()
            loader.sampler.set_epoch(epoch)
            batches = list(loader)
            images = torch.cat([batch.to("cpu")[0] for batch in batches])
            rows = torch.cat([batch.rows for batch in batches]).tolist()
            epochs.append(dict(zip(rows, images, strict=True)))
        both = set(epochs[0]) & set(epochs[1])
        assert len(both) > 10
        assert all(epochs[0][row].equal(epochs[1][row]) != changes for row in both)


def test_the_grey_level_is_the_probability(folder):
    data = make(folder, binarization="dynamic")
    source = data._split("train")[0]
    rows = torch.arange(len(source))
    draws = [source.gather(rows, None, torch.device("cpu"), torch.float32, (0, key))[0] for key in range(400)]
    mean = (torch.stack(draws).mean(0) + 1) / 2
    error = mean - source.images / 255
    assert abs(error.mean()) < 1e-3 and error.square().mean().sqrt() < 0.03
    assert (mean[source.images == 0] == 0).all() and (mean[source.images == 255] == 1).all()


def test_binarization_out_of_range(folder):
    with pytest.raises(SettingError) as error:
        make(folder, binarization="dynamical")
    assert error.value.setting == "binarization"
    assert "Did you mean 'dynamic'" in str(error.value)
