import torch
from sklearn.datasets import load_digits

from lightning_gans.datamodules import DigitsDataModule


def test_sizes_and_classes(offline):
    data = DigitsDataModule()
    images, labels = data.images("train")
    assert (images.shape, images.dtype) == ((1600, 1, 28, 28), torch.uint8)
    assert (labels.shape, labels.dtype) == ((1600,), torch.int64)
    assert data.image_shape == (1, 28, 28)
    assert data.num_classes == 10
    assert set(labels.tolist()) == set(range(10))
    assert len(data.images("val")[0]) == len(data.images("test")[0]) == 197
    assert images.min() == 0 and images.max() == 255


def test_at_8_pixels_they_are_scikit_learns():
    data = DigitsDataModule(image_size=8)
    images, labels = data.load_images("train")
    digits = load_digits()
    assert images.squeeze(1).div(255).mul(16).round().equal(torch.from_numpy(digits.images).float())
    assert labels.tolist() == digits.target.tolist()
