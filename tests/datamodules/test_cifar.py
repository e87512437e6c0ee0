import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from torchvision import datasets

from lightning_gans.datamodules import CIFAR10DataModule, CIFAR100DataModule
from lightning_gans.errors import DataError

from .fakes import everything_in, lines_of

SETS = {
    CIFAR10DataModule: (
        datasets.CIFAR10,
        "labels",
        [f"data_batch_{i}" for i in range(1, 6)],
        ["test_batch"],
        10,
    ),
    CIFAR100DataModule: (datasets.CIFAR100, "fine_labels", ["train"], ["test"], 100),
}


def archive_of(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture(params=SETS, ids=lambda kind: kind.__name__)
def fake(request, monkeypatch):
    """A data module, the files of its folder and the archive; the checksums are made to fit."""
    kind = request.param
    source, key, train, test, num_classes = SETS[kind]
    random = np.random.default_rng(0)
    files = {}
    for name in train + test:
        data = random.integers(256, size=(6, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": data, key: random.integers(num_classes, size=6).tolist()})
    files[source.meta["filename"]] = pickle.dumps({source.meta["key"]: list(kind.class_names)})
    archive = archive_of({f"{source.base_folder}/{name}": content for name, content in files.items()})

    def md5(name):
        return hashlib.md5(files[name]).hexdigest()

    monkeypatch.setattr(source, "train_list", [[name, md5(name)] for name in train])
    monkeypatch.setattr(source, "test_list", [[name, md5(name)] for name in test])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5(source.meta["filename"])})
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(archive).hexdigest())
    return kind, source, files, archive


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_batches_that_are_there_are_read_without_network_and_without_writing(tmp_path, fake, offline):
    kind, source, files, _ = fake
    write(tmp_path / source.base_folder, files)
    before = everything_in(tmp_path)
    data = kind(tmp_path, val_size=2)
    images, labels = data.images("test")
    assert everything_in(tmp_path) == before
    expected = source(tmp_path, train=False)
    assert images.permute(0, 2, 3, 1).equal(torch.from_numpy(expected.data))
    assert labels.tolist() == expected.targets
    images, labels = data.load_images("train")
    expected = source(tmp_path)
    assert images.permute(0, 2, 3, 1).equal(torch.from_numpy(expected.data))
    assert (labels.dtype, labels.tolist()) == (torch.int64, expected.targets)
    assert list(data.class_names) == expected.classes
    assert data.num_classes == len(expected.classes)
    assert data.image_shape == tuple(images.shape[1:]) == (3, 32, 32)


def test_the_archive_is_unpacked_file_by_file(tmp_path, fake, offline):
    kind, source, files, archive = fake
    kept = source.test_list[0][0]
    write(tmp_path, {source.filename: archive})
    write(tmp_path / source.base_folder, {kept: files[kept]})
    (tmp_path / source.base_folder / kept).touch()
    kind(tmp_path).prepare_data()
    assert everything_in(tmp_path / source.base_folder) == files
    assert {path.name for path in tmp_path.iterdir()} == {source.filename, source.base_folder}
    assert source(tmp_path)._check_integrity()


def test_download(tmp_path, fake, online):
    kind, source, files, archive = fake
    online[source.url] = archive
    kind(tmp_path).prepare_data()
    assert everything_in(tmp_path / source.base_folder) == files
    assert {path.name for path in tmp_path.iterdir()} == {source.filename, source.base_folder}


def test_an_interrupted_download_leaves_nothing(tmp_path, fake, online):
    kind, source, _, archive = fake
    online[source.url] = archive
    online.cut = 1000
    with pytest.raises(DataError, match=r"lacks cifar-100?-python\.tar\.gz; the download failed") as error:
        kind(tmp_path).prepare_data()
    lines_of(error)
    assert everything_in(tmp_path) == {}


def test_offline_and_missing(tmp_path, fake, offline):
    kind, source, _, _ = fake
    with pytest.raises(DataError) as error:
        kind(tmp_path).prepare_data()
    message = lines_of(error)
    assert f"{tmp_path} lacks {source.filename}" in message
    assert source.url.rsplit("/", 1)[0] in message
    assert f"{source.base_folder} with --data.data_dir" in message


def test_an_archive_of_the_wrong_checksum_is_named_and_left(tmp_path, fake, online):
    kind, source, _, archive = fake
    write(tmp_path, {source.filename: archive[:-5]})
    with pytest.raises(DataError) as error:
        kind(tmp_path).prepare_data()
    message = lines_of(error)
    assert str(tmp_path / source.filename) in message and source.tgz_md5 in message
    assert everything_in(tmp_path) == {source.filename: archive[:-5]}
    assert online.asked == ()


def test_an_archive_that_breaks_off_leaves_no_half_file(tmp_path, fake, offline, monkeypatch):
    kind, source, files, archive = fake
    cut = archive[: len(archive) // 2]
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(cut).hexdigest())
    write(tmp_path, {source.filename: cut})
    with pytest.raises(DataError, match="is damaged") as error:
        kind(tmp_path).prepare_data()
    assert str(tmp_path / source.filename) in lines_of(error)
    unpacked = everything_in(tmp_path / source.base_folder)
    assert len(unpacked) < len(files)
    assert all(content == files[name] for name, content in unpacked.items())
    assert {path.name for path in tmp_path.iterdir()} == {source.filename, source.base_folder}


def test_an_archive_without_a_batch(tmp_path, fake, monkeypatch):
    kind, source, files, _ = fake
    lost = source.test_list[0][0]
    archive = archive_of({f"{source.base_folder}/{name}": files[name] for name in files if name != lost})
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(archive).hexdigest())
    write(tmp_path, {source.filename: archive})
    with pytest.raises(DataError, match=f"it lacks {source.base_folder}/{lost}"):
        kind(tmp_path).prepare_data()


def test_a_damaged_batch_is_named_and_not_unpickled(tmp_path, fake):
    kind, source, files, _ = fake
    name = source.train_list[-1][0]

    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    write(tmp_path / source.base_folder, {**files, name: pickle.dumps(Harm())})
    with pytest.raises(DataError, match=f"should be {source.train_list[-1][1]}") as error:
        kind(tmp_path).setup("fit")
    assert str(tmp_path / source.base_folder / name) in lines_of(error)
    assert not (tmp_path / "harm").exists()


def test_only_training_pictures_are_mirrored(tmp_path, fake):
    kind, source, files, _ = fake
    write(tmp_path / source.base_folder, files)
    data = kind(tmp_path, horizontal_flip=True, val_size=2, batch_size=4)
    (batch, *_) = data.train_dataloader()
    assert batch.flips is not None
    assert all(batch.flips is None for batch in data.val_dataloader())
    data.horizontal_flip = False
    assert all(batch.flips is None for batch in data.train_dataloader())
