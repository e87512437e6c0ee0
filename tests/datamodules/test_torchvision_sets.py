"""What MNIST and CIFAR have in common: torchvision downloads and reads them."""

import gzip
import hashlib
import io
import os
import pickle
import socket
import tarfile
import time
import urllib.request

import pytest
import torch
from torchvision import datasets

from lightning_gans.datamodules import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    FashionMNISTDataModule,
    MNISTDataModule,
    mnist,
)
from lightning_gans.errors import DataError

from ..fake_sets import write_cifar, write_mnist
from .fakes import everything_in, lines_of

SETS = {
    MNISTDataModule: datasets.MNIST,
    FashionMNISTDataModule: datasets.FashionMNIST,
    CIFAR10DataModule: datasets.CIFAR10,
    CIFAR100DataModule: datasets.CIFAR100,
}


@pytest.fixture(params=SETS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, tmp_path, monkeypatch):
    """The folder of a small set's files, in torchvision's layout; the checksums are patched to fit."""
    if kind in (MNISTDataModule, FashionMNISTDataModule):
        return write_mnist(tmp_path, source=SETS[kind])
    return write_cifar(tmp_path, monkeypatch, source=SETS[kind])


def packed(folder, monkeypatch, source):
    """Replace the files of a set by what is to be downloaded, and return that by its path."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    if folder.name == "raw":
        archives = {folder / f"{name}.gz": gzip.compress(content) for name, content in files.items()}
        resources = [(path.name, hashlib.md5(content).hexdigest()) for path, content in archives.items()]
        monkeypatch.setattr(source, "resources", resources)
        return archives
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder.name}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(stream.getvalue()).hexdigest())
    return {folder.parent / source.filename: stream.getvalue()}


def test_files_are_read_as_torchvision_reads_them(kind, folder, tmp_path, offline):
    before = everything_in(tmp_path)
    data = kind(tmp_path, val_size=6)
    assert [len(data.images(split)[0]) for split in ("val", "test")] == [6, 16]
    for split in ("train", "test"):
        images, labels = data.load_images(split)
        expected = SETS[kind](tmp_path, train=split == "train")
        assert images.shape[1:] == data.image_shape
        assert images.is_contiguous()
        assert images.permute(0, 2, 3, 1).squeeze(3).equal(torch.as_tensor(expected.data))
        assert labels.equal(torch.as_tensor(expected.targets))
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert everything_in(tmp_path) == before
    assert data.num_classes == len(data.class_names) == (100 if kind is CIFAR100DataModule else 10)


def test_archives_that_are_there_are_unpacked_without_a_network(kind, folder, tmp_path, offline, monkeypatch):
    files = everything_in(folder)
    for path, content in packed(folder, monkeypatch, SETS[kind]).items():
        path.write_bytes(content)
    kind(tmp_path).prepare_data()
    assert everything_in(folder).items() >= files.items()


def test_download(kind, folder, tmp_path, monkeypatch):
    files = everything_in(folder)
    archives = {path.name: content for path, content in packed(folder, monkeypatch, SETS[kind]).items()}

    class Response(io.BytesIO):
        def __init__(self, request, **_):
            super().__init__(archives[request.full_url.rsplit("/", 1)[1]])
            self.url, self.length = request.full_url, len(self.getvalue())

    monkeypatch.setattr(urllib.request, "urlopen", Response)
    kind(tmp_path).prepare_data()
    assert everything_in(folder).items() >= files.items()


@pytest.mark.parametrize("download", [True, False])
def test_missing_files_that_cannot_be_downloaded(kind, folder, tmp_path, offline, download):
    lost = next(path for path in sorted(folder.iterdir()) if "meta" not in path.name)
    lost.unlink()
    with pytest.raises(DataError) as error:
        kind(tmp_path, download=download).prepare_data()
    assert (error.value.setting, error.value.value) == (str(folder), [lost.name])
    assert ("Name or service not known" in lines_of(error)) == download
    assert str(folder) in lines_of(error)
    with pytest.raises(DataError):
        kind(tmp_path / "new", download=download).prepare_data()
    assert not (tmp_path / "new").exists()


def test_a_network_that_drops_everything_is_given_up(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        monkeypatch.setattr("lightning_gans.datamodules.torchvision_sets._TIMEOUT_SECONDS", 0.2)
        begun = time.monotonic()
        with pytest.raises(DataError) as error:
            MNISTDataModule(tmp_path).prepare_data()
    assert time.monotonic() - begun < 5
    assert socket.getdefaulttimeout() is None
    assert "timed out" in lines_of(error)


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda _: b"<html>404</html>", lambda _: b""])
def test_a_damaged_file_is_named(kind, folder, tmp_path, damage):
    path = max(path for path in folder.iterdir() if "test" in path.name or "t10k" in path.name)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as error:
        kind(tmp_path).setup("test")
    assert error.value.setting == str(path)
    assert str(path) in lines_of(error)


def test_the_checksum_of_the_content_decides_not_that_of_the_archive(kind, folder, tmp_path, offline, monkeypatch):
    files = everything_in(folder)
    for path, content in packed(folder, monkeypatch, SETS[kind]).items():
        path.write_bytes(gzip.compress(gzip.decompress(content), 1, mtime=1))
        assert path.read_bytes() != content
    kind(tmp_path, download=False).prepare_data()
    assert everything_in(folder).items() >= files.items()


@pytest.mark.parametrize("is_fifo", [True, False])
def test_a_damaged_archive_is_not_unpacked(kind, folder, tmp_path, offline, monkeypatch, is_fifo):
    for path, content in packed(folder, monkeypatch, SETS[kind]).items():
        if is_fifo:
            os.mkfifo(path)
        else:
            path.write_bytes(content[:-30])
    with pytest.raises(DataError):
        kind(tmp_path).prepare_data()
    assert not list(folder.parent.rglob("*-ubyte"))


@pytest.mark.parametrize("kind", [MNISTDataModule, FashionMNISTDataModule], indirect=True)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_file_of_the_original_size_must_have_the_original_content(kind, folder, tmp_path, monkeypatch, name):
    path, stage = folder / name, "fit" if name.startswith("train") else "test"
    content = path.read_bytes()
    monkeypatch.setitem(mnist._SIZES, name, len(content))
    checksums = [hashlib.md5(content).hexdigest() if known == name else "" for known in mnist._SIZES]
    monkeypatch.setattr(kind, "_md5", checksums)
    kind(tmp_path, val_size=6).setup(stage)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError) as error:
        kind(tmp_path, val_size=6).setup(stage)
    assert error.value.setting == str(path)
    lines_of(error)


HEADERS = {
    "negative": b"\0\0\x08\x03" + b"\xff" * 12,
    "huge": b"\0\0\x08\x03" + b"\x7f\xff\xff\xff" * 3,
    "empty": b"\0\0\x08\x03" + b"\0" * 12,
    "other dimensions": b"\0\0\x08\x01\0\0\0\x60",
    "other type": b"\0\0\x0d\x03\0\0\0\x60\0\0\0\x1c\0\0\0\x07",
    "short": b"\0\0\x08",
}


@pytest.mark.parametrize("kind", [MNISTDataModule], indirect=True)
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_that_no_set_has(kind, folder, tmp_path, header):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(header + path.read_bytes()[16:])
    with pytest.raises(DataError) as error:
        kind(tmp_path, val_size=6).setup("fit")
    assert error.value.setting == str(path)


def test_a_damaged_batch_is_not_unpickled(tmp_path, monkeypatch):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    folder = write_cifar(tmp_path, monkeypatch)
    (folder / "data_batch_3").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(DataError):
        CIFAR10DataModule(tmp_path).setup("fit")
    assert not (tmp_path / "harm").exists()


def test_only_training_photographs_are_mirrored(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    data = CIFAR10DataModule(tmp_path, horizontal_flip=True, val_size=2, batch_size=4)
    assert all(batch.flips is not None for batch in data.train_dataloader())
    assert all(batch.flips is None for batch in data.val_dataloader())
    data.horizontal_flip = False
    assert all(batch.flips is None for batch in data.train_dataloader())


def test_digits_are_not_mirrored():
    with pytest.raises(TypeError):
        MNISTDataModule(horizontal_flip=True)
