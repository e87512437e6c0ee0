"""Small files in the layouts of the real data sets."""

import hashlib
import pickle

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets


def write_mnist(folder, num_train=96, num_test=16, digits=False, source=datasets.MNIST):
    """Write unpacked idx files of random images, or of scikit-learn's digits, and return their folder."""
    raw = folder / source.__name__ / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for prefix, size in {"train": num_train, "t10k": num_test}.items():
        if digits:  # over and over, so that a classifier can be right about all
            small = load_digits()
            places = np.arange(size) % len(small.images)
            large = np.kron(small.images[places], np.ones((3, 3))) * 15.9
            images = np.pad(large, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
            labels = small.target[places].astype(np.uint8)
        else:
            images = random.integers(256, size=(size, 28, 28), dtype=np.uint8)
            labels = (np.arange(size) % 10).astype(np.uint8)
        for kind, array in {"images-idx3": images, "labels-idx1": labels}.items():
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return raw


def write_pictures(folder, num=80, size=(20, 16)):
    """Write PNG files of noise."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(num):
        pixels = random.integers(256, size=(*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


def write_cifar(folder, monkeypatch, per_file=16, source=datasets.CIFAR10):
    """Write the unpacked files of CIFAR with random images, patch the checksums to fit, and return their folder."""
    base = folder / source.base_folder
    base.mkdir(parents=True)
    random = np.random.default_rng(0)

    def write(name, content):
        (base / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((base / name).read_bytes()).hexdigest()

    for files in ("train_list", "test_list"):
        checksums = []
        for name, _ in getattr(source, files):
            data = random.integers(256, size=(per_file, 3072), dtype=np.uint8)
            key = "labels" if source is datasets.CIFAR10 else "fine_labels"
            checksums.append([name, write(name, {"data": data, key: (np.arange(per_file) % 10).tolist()})])
        monkeypatch.setattr(source, files, checksums)
    meta = source.meta
    md5 = write(meta["filename"], {meta["key"]: []})
    monkeypatch.setattr(source, "meta", {**meta, "md5": md5})
    return base
