import math
import os
from collections import Counter

import pytest
import torch
from scipy.stats import entropy
from torch import nn

from lightning_gans import GAN, GenerativeMetrics, SettingError, StackedMNISTDataModule
from lightning_gans.metrics import ModeCoverage, StackedMNISTExtractor
from lightning_gans.metrics.cache import Cache
from lightning_gans.metrics.scores import METRICS, FeatureSet, Reference, Settings, score

from ..toys import Toys, tiny

MNIST_FOLDER = os.environ.get("LIGHTNING_GANS_MNIST")


def coverage(logits, num_classes=None):
    metric = ModeCoverage(num_classes or logits.shape[1])
    metric.update(logits)
    return tuple(value.item() for value in metric.compute())


def showing(classes, num_classes):
    """Logits of images of given classes, none of them certain."""
    logits = torch.rand(len(classes), num_classes)
    logits[torch.arange(len(classes)), classes] += 1
    return logits


@pytest.mark.parametrize(("num_images", "num_classes"), [(300, 50), (40, 1000), (1, 3), (26_000, 100)])
def test_the_same_as_a_count_by_hand_and_scipys_divergence(num_images, num_classes):
    classes = (num_classes * torch.rand(num_images) ** 3).long()  # some come often, some never
    counts = Counter(classes.tolist())
    shares = [counts[number] / num_images for number in range(num_classes)]
    wanted = len(counts), entropy(shares, [1 / num_classes] * num_classes)
    assert coverage(showing(classes, num_classes)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("classes", "wanted"),
    [
        ([2] * 9, (1, math.log(6))),
        ([0, 1, 2, 3, 4, 5] * 4, (6, 0)),
        ([0, 3, 5, 3, 5, 0], (3, math.log(2))),
        ([0, 0, 0, 1], (2, math.log(6) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25))),
    ],
    ids=["one class", "all evenly", "half evenly", "unevenly"],
)
def test_closed_forms(classes, wanted):
    modes, divergence = coverage(showing(torch.tensor(classes), 6))
    assert (modes, divergence) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("num_classes", [5, 13, 1000])
def test_no_rounding_makes_the_divergence_negative(num_classes):
    modes, divergence = coverage(torch.eye(num_classes))
    assert modes == num_classes
    assert 0 <= divergence < 1e-12


def test_parts_add_up_to_the_whole():
    logits = torch.randn(90, 20) * torch.rand(20)
    metric = ModeCoverage(20)
    for part in logits.split(32):
        metric.update(part)
    assert tuple(value.item() for value in metric.compute()) == coverage(logits)
    # What another process has seen is summed.
    first, second = ModeCoverage(20), ModeCoverage(20)
    first.update(logits[:50])
    second.update(logits[50:])
    reduced = first._reductions["counts"](torch.stack([first.counts, second.counts]))
    assert reduced.equal(metric.counts)


def test_logits_of_another_number_of_classes():
    with pytest.raises(SettingError) as caught:
        coverage(torch.zeros(3, 5), num_classes=4)
    assert caught.value.allowed == "(N, 4)"


def test_no_images():
    with pytest.raises(SettingError) as caught:
        coverage(torch.zeros(0, 4))
    assert caught.value.setting == "num_fake"


# --- among the scores -------------------------------------------------------------------------------------


@pytest.fixture
def reference(tmp_path):
    return Reference(FeatureSet(torch.randn(30, 6)), Settings(), Cache(tmp_path), {})


@pytest.mark.parametrize("names", [["modes"], ["mode_kl"], ["modes", "mode_kl"], ["fid", "mode_kl"]])
def test_what_is_asked_for_by_name_is_measured(reference, names):
    fake = FeatureSet(torch.randn(40, 6), torch.randn(40, 12))
    found, _ = score(fake, reference, names)
    assert list(found) == names
    both = dict(zip(("modes", "mode_kl"), coverage(fake.logits), strict=True))
    assert {name: both[name] for name in names if name in both}.items() <= found.items()


def test_without_logits_there_are_no_classes_to_count(reference):
    found, _ = score(FeatureSet(torch.randn(40, 6)), reference, ["fid", "modes", "mode_kl"])
    assert set(found) == {"fid"}


class Bright(nn.Module):
    """Tells pictures apart by the brightest of their first 32 pixels."""

    def forward(self, images):
        return images.flatten(1), images.flatten(1)[:, :32]


def test_a_callback_logs_them_where_they_are_named_and_nowhere_else(make_trainer):
    def validated(metrics):
        callback = GenerativeMetrics(num_samples=70, extractor=Bright(), metrics=metrics, neighbor_images=20)
        trainer = make_trainer(callbacks=[callback])
        trainer.validate(model, Toys(num_images=60), verbose=False)
        assert callback.measures("val/modes") == ("val/modes" in trainer.callback_metrics)
        return {name: value.item() for name, value in trainer.callback_metrics.items()}

    model = tiny(GAN)
    found = validated(["modes", "mode_kl"])
    samples = ((model.sample(70, seed=0) + 1) * 127.5).round()
    wanted = coverage(samples.flatten(1)[:, :32])
    assert found == pytest.approx(dict(zip(["val/modes", "val/mode_kl"], wanted, strict=True)), rel=1e-6)
    assert not {"val/modes", "val/mode_kl"} & set(validated(None))
    assert not {"modes", "mode_kl"} & set(METRICS)


# --- Stacked MNIST ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(MNIST_FOLDER is None, reason="LIGHTNING_GANS_MNIST names no folder with MNIST")
def test_real_pictures_have_all_modes_of_stacked_mnist_nearly_evenly():
    images, labels = StackedMNISTDataModule(MNIST_FOLDER).images("test")
    assert len(images) == 26_000
    _, logits = StackedMNISTExtractor().extract(images)
    modes, divergence = coverage(logits)
    assert modes == 1000
    assert divergence < 0.03  # 0.019 of it for want of images, 0.006 because some digits are written more often
    assert divergence == pytest.approx(coverage(nn.functional.one_hot(labels, 1000).float())[1], abs=2e-3)
    assert (logits.argmax(1) == labels).double().mean() > 0.98  # 0.996 for each digit
