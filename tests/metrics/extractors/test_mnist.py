import os

import pytest
import torch
from torchvision.datasets import MNIST
from torchvision.transforms.functional import resize

from lightning_gans import DataError, DigitsDataModule
from lightning_gans.io.pictures import from_bytes
from lightning_gans.metrics import DigitsExtractor, MNISTExtractor

MNIST_FOLDER = os.environ.get("LIGHTNING_GANS_MNIST")


both = pytest.mark.parametrize("kind", [MNISTExtractor, DigitsExtractor])


def accuracy(images, labels, kind=MNISTExtractor):
    _, logits = kind().extract(images)
    return (logits.argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize(("kind", "most"), [(MNISTExtractor, 500_000), (DigitsExtractor, 300_000)])
def test_the_weights_are_small_enough_to_come_with_the_package(kind, most):
    assert kind.weights.stat().st_size < most


@both
@pytest.mark.parametrize("damage", [lambda it: it[:-1] + bytes([it[-1] ^ 1]), lambda it: it[:-1], lambda it: b""])
def test_damaged_weights(monkeypatch, tmp_path, damage, kind):
    path = tmp_path / "mnist.safetensors"
    path.write_bytes(damage(kind.weights.read_bytes()))
    monkeypatch.setattr(kind, "weights", path)
    with pytest.raises(DataError) as caught:
        kind()
    assert caught.value.setting == str(path)


def test_missing_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(MNISTExtractor, "weights", tmp_path / "nowhere")
    with pytest.raises(DataError) as caught:
        MNISTExtractor()
    assert caught.value.setting == str(tmp_path / "nowhere")


@both
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (8, 8), (20, 64)])
@pytest.mark.parametrize("value", [None, 0, 255])
def test_features_and_logits_of_any_images(size, value, kind):
    images = torch.randint(256, (3, 1, *size), dtype=torch.uint8)
    if value is not None:
        images.fill_(value)
    features, logits = kind().extract(images)
    assert (features.shape, logits.shape) == ((3, kind.num_features), (3, 10))
    assert (features.dtype, logits.dtype) == (torch.float32, torch.float32)
    assert features.isfinite().all() and logits.isfinite().all()


@pytest.mark.parametrize("size", [(32, 32), (56, 56), (8, 8)])
def test_other_sizes_are_resized_with_antialiasing(size):
    extractor = MNISTExtractor()
    images = torch.randint(256, (5, 1, *size), dtype=torch.uint8)
    features, logits = extractor.network(resize(images / 255, [28, 28], antialias=True))
    found = extractor(images)
    torch.testing.assert_close(found[0], features, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[1], logits, rtol=1e-3, atol=1e-3)


def test_features_are_those_before_the_last_layer_and_before_its_relu():
    extractor = MNISTExtractor()
    features, logits = extractor(torch.randint(256, (50, 1, 28, 28), dtype=torch.uint8))
    torch.testing.assert_close(extractor.network.classifier(features.relu()), logits)
    assert (features < 0).any()


def test_it_is_frozen_and_always_the_same():
    first, second = MNISTExtractor(), MNISTExtractor()
    assert not any(module.training for module in first.modules())
    assert not any(parameter.requires_grad for parameter in first.parameters())
    images = torch.randint(256, (9, 1, 28, 28), dtype=torch.uint8)
    assert first.extract(images)[0].equal(second.extract(images)[0])


def test_it_reads_digits_that_it_has_never_seen():
    # Enlarged pictures of 8x8 pixels, by other hands than those it was trained on: 0.81 of them.
    assert accuracy(*DigitsDataModule().images("train")) > 0.7


@pytest.mark.parametrize(("size", "least"), [(28, 0.98), (32, 0.97), (8, 0.94)])
def test_the_classifier_of_the_digits_reads_those_that_it_was_not_trained_on(size, least):
    assert accuracy(*DigitsDataModule(size).images("val"), DigitsExtractor) > least


def test_each_has_a_protocol_of_its_own():
    own, mnist = DigitsExtractor().identity(), MNISTExtractor().identity()
    assert {name for name in own if own[name] != mnist[name]} == {"extractor", "weights_sha256"}


@pytest.mark.slow
@pytest.mark.skipif(MNIST_FOLDER is None, reason="LIGHTNING_GANS_MNIST names no folder with MNIST")
def test_it_reads_the_test_digits_of_mnist():
    digits = MNIST(MNIST_FOLDER, train=False, download=False)
    assert accuracy(digits.data[:, None], digits.targets) >= 0.994


@both
@pytest.mark.parametrize("side", [28, 20])
def test_differentiable_features_are_those_of_bytes_and_have_a_gradient(kind, side):
    extractor, pixels = kind(), torch.randint(256, (3, 1, side, side), dtype=torch.uint8)
    images = from_bytes(pixels).requires_grad_()
    found = extractor.differentiable_features(images)
    torch.testing.assert_close(found, extractor(pixels)[0], rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(found.sum(), images)
    assert gradient.flatten(1).any(1).all()
