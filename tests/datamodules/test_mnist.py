import gzip
import hashlib
import os
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from lightning_gans.datamodules import FashionMNISTDataModule, MNISTDataModule
from lightning_gans.errors import DataError, SettingError

from .fakes import everything_in, lines_of

SIZES = {"train": 30, "t10k": 12}


def idx(tensor):
    dims = b"".join(size.to_bytes(4, "big") for size in tensor.shape)
    return bytes([0, 0, 8, tensor.dim()]) + dims + tensor.numpy().tobytes()


def contents():
    generator = torch.Generator().manual_seed(0)
    files = {}
    for prefix, size in SIZES.items():
        images = torch.randint(256, (size, 28, 28), dtype=torch.uint8, generator=generator)
        files[f"{prefix}-images-idx3-ubyte"] = idx(images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx(torch.arange(size).remainder(10).byte())
    return files


CONTENTS = contents()
PACKED = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in CONTENTS.items()}


@pytest.fixture(autouse=True)
def checksums(monkeypatch):
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in PACKED.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    return folder


def fill(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)


def make(tmp_path, **options):
    return MNISTDataModule(tmp_path, **{"val_size": 6, "batch_size": 4, **options})


@pytest.mark.parametrize("files", [CONTENTS, PACKED], ids=["unpacked", "packed"])
def test_files_that_are_there_are_read_without_network_and_without_writing(tmp_path, raw, offline, files):
    fill(raw, files)
    before = everything_in(tmp_path)
    data = make(tmp_path)
    images, labels = data.images("train")
    assert (images.shape, images.dtype) == ((24, 1, 28, 28), torch.uint8)
    assert (labels.shape, labels.dtype) == ((24,), torch.int64)
    assert len(data.images("val")[0]) == 6 and len(data.images("test")[0]) == 12
    assert everything_in(tmp_path) == before


def test_pictures_and_labels_are_those_torchvision_reads(tmp_path, raw):
    fill(raw, CONTENTS)
    for split, train in (("train", True), ("test", False)):
        images, labels = make(tmp_path).load_images(split)
        expected = datasets.MNIST(tmp_path, train=train)
        assert images.squeeze(1).equal(expected.data)
        assert labels.equal(expected.targets)


def test_missing_files_are_downloaded_and_others_left(tmp_path, raw, online):
    for mirror in datasets.MNIST.mirrors:
        online.update({mirror + name: content for name, content in PACKED.items()})
    kept = "train-images-idx3-ubyte"
    fill(raw, {kept: CONTENTS[kept]})
    make(tmp_path).prepare_data()
    expected = {name: content for name, content in PACKED.items() if name != f"{kept}.gz"}
    assert everything_in(raw) == {kept: CONTENTS[kept], **expected}
    assert not any(kept in url for url in online.asked)


def test_offline_and_missing(tmp_path, offline):
    data = FashionMNISTDataModule(tmp_path)
    with pytest.raises(DataError) as error:
        data.prepare_data()
    message = lines_of(error)
    assert str(tmp_path / "FashionMNIST" / "raw") in message
    assert all(name in message for name in PACKED)
    assert datasets.FashionMNIST.mirrors[0] in message
    assert "FashionMNIST/raw with --data.data_dir" in message


def test_download_false(tmp_path, raw, online):
    fill(raw, dict(list(PACKED.items())[1:]))
    with pytest.raises(DataError, match=r"lacks train-images-idx3-ubyte.gz, and download is False"):
        make(tmp_path, download=False).prepare_data()
    assert online.asked == ()


def test_a_damaged_packed_file_is_named_and_left(tmp_path, raw, online):
    name = "t10k-labels-idx1-ubyte.gz"
    fill(raw, {**PACKED, name: PACKED[name][:-4]})
    with pytest.raises(DataError, match="is damaged: its md5 is") as error:
        make(tmp_path).prepare_data()
    assert str(raw / name) in lines_of(error)
    assert (raw / name).read_bytes() == PACKED[name][:-4]
    assert online.asked == ()
    # Another process, which does not check, stops at reading.
    with pytest.raises(DataError, match="is damaged") as error:
        make(tmp_path).load_images("test")
    assert str(raw / name) in lines_of(error)


@pytest.mark.parametrize(
    ("damage", "wanted"),
    [
        (lambda content: content[:-100], "should have 9424 bytes, but has 9324"),
        (lambda content: content + b"x", "should have 9424 bytes, but has 9425"),
        (lambda content: content[:7], "no IDX file"),
        (lambda content: b"", "no IDX file"),
        (lambda content: b"<html>404</html>", "no IDX file"),
    ],
)
def test_a_damaged_unpacked_file_is_named(tmp_path, raw, damage, wanted):
    name = "t10k-images-idx3-ubyte"
    fill(raw, {**CONTENTS, name: damage(CONTENTS[name])})
    data = make(tmp_path)
    data.prepare_data()
    with pytest.raises(DataError, match=wanted) as error:
        data.setup("test")
    assert str(raw / name) in lines_of(error)


def test_pictures_and_labels_of_different_number(tmp_path, raw):
    fill(raw, {**CONTENTS, "train-labels-idx1-ubyte": idx(torch.zeros(29).byte())})
    with pytest.raises(DataError, match="30 train pictures, but 29 labels") as error:
        make(tmp_path).setup("fit")
    lines_of(error)


def test_image_size(tmp_path, raw):
    fill(raw, CONTENTS)
    original = make(tmp_path).images("test")[0]
    padded = make(tmp_path, image_size=32).images("test")[0]
    assert padded[:, :, 2:-2, 2:-2].equal(original)
    assert padded.sum() == original.sum()
    for size in (14, 64):
        data = make(tmp_path, image_size=size)
        images = data.images("test")[0]
        assert data.image_shape == tuple(images.shape[1:]) == (1, size, size)
        assert images.dtype == torch.uint8
        assert (images.float().mean() - original.float().mean()).abs() < 1
    with pytest.raises(SettingError, match="image_size is 0"):
        make(tmp_path, image_size=0)


def test_names_of_classes():
    assert MNISTDataModule().class_names[3] == "3"
    assert FashionMNISTDataModule().class_names[9] == "Ankle boot"
    assert MNISTDataModule().num_classes == FashionMNISTDataModule().num_classes == 10


def test_digits_are_not_mirrored():
    with pytest.raises(TypeError, match="horizontal_flip"):
        MNISTDataModule(horizontal_flip=True)


DATA = os.environ.get("LIGHTNING_GANS_DATA", "")


@pytest.mark.skipif(not (Path(DATA) / "MNIST" / "raw").is_dir(), reason="LIGHTNING_GANS_DATA has no MNIST/raw")
def test_the_real_set(monkeypatch, offline):
    monkeypatch.undo()  # the real checksums
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


def binarized(tmp_path, raw, how, **options):
    fill(raw, CONTENTS)
    return make(tmp_path, binarization=how, **options)


@pytest.mark.parametrize("how", ["static", "dynamic"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_images_are_binarized_once_and_for_all(tmp_path, raw, how, split):
    data = binarized(tmp_path, raw, how)
    images = epoch_of(data, split)
    assert set(images.unique().tolist()) == {-1.0, 1.0}
    assert images.equal(epoch_of(data, split, epoch=3))
    data.batch_size = 5
    assert images.equal(epoch_of(data, split))
    grey, _ = data.images(split)
    assert len(grey.unique()) > 200


def test_training_images_are_binarized_anew_in_each_epoch_if_dynamic(tmp_path, raw):
    for how, changes in (("static", False), ("dynamic", True)):
        data = binarized(tmp_path, raw, how)
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


def test_the_grey_level_is_the_probability(tmp_path, raw):
    data = binarized(tmp_path, raw, "dynamic")
    source = data._split("train")[0]
    rows = torch.arange(len(source))
    draws = [source.gather(rows, None, torch.device("cpu"), torch.float32, (0, key))[0] for key in range(400)]
    mean = (torch.stack(draws).mean(0) + 1) / 2
    error = mean - source.images / 255
    assert abs(error.mean()) < 1e-3 and error.square().mean().sqrt() < 0.03
    assert (mean[source.images == 0] == 0).all() and (mean[source.images == 255] == 1).all()


def test_binarization_out_of_range_is_named(tmp_path):
    with pytest.raises(SettingError, match=r"binarization is 'dynamical'.*Did you mean 'dynamic'"):
        MNISTDataModule(tmp_path, binarization="dynamical")
