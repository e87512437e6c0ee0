"""Small files in the layouts of the real data sets."""

import hashlib
import pickle

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets


def write_mnist(folder, num_train=96, num_test=16, digits=False):
    """Write unpacked idx files of random pictures, as torchvision unpacks MNIST, or of scikit-learn's digits."""
    raw = folder / "MNIST" / "raw"
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


def write_pictures(folder, num=80, size=(20, 16)):
    """Write PNG files of noise."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(num):
        pixels = random.integers(256, size=(*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


def write_cifar10(folder, monkeypatch, per_file=40):
    """Write CIFAR-10's unpacked batches with random pictures, and patch the checksums to fit."""
    source = datasets.CIFAR10
    base = folder / source.base_folder
    base.mkdir(parents=True)
    random = np.random.default_rng(0)

    def write(name, content):
        (base / name).write_bytes(content)
        return hashlib.md5(content).hexdigest()

    def batch(name):
        data = random.integers(256, size=(per_file, 3072), dtype=np.uint8)
        return [
            name,
            write(name, pickle.dumps({"data": data, "labels": (np.arange(per_file) % 10).tolist()})),
        ]

    monkeypatch.setattr(source, "train_list", [batch(f"data_batch_{i}") for i in range(1, 6)])
    monkeypatch.setattr(source, "test_list", [batch("test_batch")])
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    md5 = write(source.meta["filename"], pickle.dumps({"label_names": names}))
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5})
