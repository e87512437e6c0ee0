"""Metrics on images: those on features behind an extractor, with the arguments of torchmetrics."""

import pickle

import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.image.fid import FrechetInceptionDistance as TheirDistance
from torchmetrics.wrappers import FeatureShare

from lightning_gans import SettingError, metrics
from lightning_gans.metrics import FrechetDistance, KernelDistance, MNISTExtractor, image, make_extractor
from lightning_gans.metrics.image import (
    DensityCoverage,
    FrechetInceptionDistance,
    InceptionScore,
    KernelInceptionDistance,
    PrecisionRecall,
)

REAL, FAKE = torch.randint(256, (2, 30, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
OPTIONS = {
    FrechetInceptionDistance: {},
    KernelInceptionDistance: {"subsets": 4, "subset_size": 10},
    PrecisionRecall: {},
    DensityCoverage: {"k": 3},
}


ON_FEATURES = {
    FrechetInceptionDistance: FrechetDistance(96),
    KernelInceptionDistance: KernelDistance(96, 4, 10),
    PrecisionRecall: metrics.PrecisionRecall(96),
    DensityCoverage: metrics.DensityCoverage(96, 3),
}


def values(found):
    return [value.item() for value in (found if isinstance(found, tuple) else (found,))]


@pytest.fixture(scope="module")
def extractor():
    return MNISTExtractor()


class Pooled(nn.Module):
    num_features = 16

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)


def filled(metric):
    metric.update(REAL, real=True)
    metric.update(FAKE[:10], real=False)
    metric.update(FAKE[10:], real=False)
    return metric


@pytest.mark.parametrize("cls", OPTIONS)
def test_the_metric_of_the_features(cls, extractor):
    metric = filled(cls(extractor=extractor, **OPTIONS[cls]))
    on_features = ON_FEATURES[cls]
    on_features.update(extractor.extract(REAL)[0], real=True)
    on_features.update(extractor.extract(FAKE)[0], real=False)
    assert values(metric.compute()) == pytest.approx(values(on_features.compute()), rel=1e-5)


def test_inception_score_leaves_out_real_images(extractor):
    metric = InceptionScore(extractor=extractor, splits=2, input_img_size=(1, 28, 28))
    metric.update(FAKE)
    alone = metric.compute()
    metric.update(REAL, real=True)
    assert values(metric.compute()) == values(alone)


def test_torchmetrics_agrees_on_a_network_of_one_own():
    ours, theirs = filled(FrechetInceptionDistance(Pooled())), filled(TheirDistance(Pooled()))
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_floats_with_normalize(extractor):
    whole, floats = (FrechetInceptionDistance(extractor=extractor, normalize=flag) for flag in (False, True))
    for real, images in ((True, REAL), (False, FAKE)):
        whole.update(images, real)
        floats.update((images + 0.4).clamp(max=255) / 255, real)  # torchmetrics rounds down
    assert floats.compute() == whole.compute()


@pytest.mark.parametrize(
    ("normalize", "images"),
    [(False, torch.rand(4, 1, 28, 28)), (True, REAL[:4]), (True, torch.rand(4, 1, 28, 28) * 2 - 1)],
)
def test_images_of_another_type_or_range(normalize, images, extractor):
    with pytest.raises(SettingError) as caught:
        FrechetInceptionDistance(extractor=extractor, normalize=normalize).update(images, real=True)
    assert caught.value.setting == "images"


def test_features_that_do_not_exist():
    with pytest.raises(SettingError) as caught:
        FrechetInceptionDistance(64)
    assert caught.value.setting == "feature"


def test_a_score_of_classes_needs_logits():
    with pytest.raises(SettingError) as caught:
        InceptionScore(extractor=make_extractor(Pooled(), (1, 28, 28)))
    assert caught.value.setting == "extractor"


@pytest.mark.parametrize("cls", OPTIONS)
def test_real_images_are_kept_through_a_reset(cls, extractor):
    metric = filled(cls(extractor=extractor, reset_real_features=False, **OPTIONS[cls]))
    before = metric.compute()
    metric.reset()
    metric.update(FAKE, real=False)
    assert values(metric.compute()) == pytest.approx(values(before), rel=1e-5)
    forgetful = filled(cls(extractor=extractor, **OPTIONS[cls]))
    forgetful.reset()
    forgetful.update(FAKE, real=False)
    with pytest.raises(SettingError):
        forgetful.compute()


def test_a_collection_extracts_once(extractor, monkeypatch):
    calls = []
    extract = MNISTExtractor.extract
    monkeypatch.setattr(MNISTExtractor, "extract", lambda self, images: calls.append(1) or extract(self, images))
    separate = [cls(extractor=extractor, **options) for cls, options in OPTIONS.items()]
    alone = [filled(metric).compute() for metric in separate]
    assert len(calls) == 3 * len(separate)
    calls.clear()
    shared = FeatureShare([*(cls(extractor=extractor, **o) for cls, o in OPTIONS.items())])
    filled(shared)
    assert len(calls) == 3
    found = shared.compute()
    for cls, wanted in zip(OPTIONS, alone, strict=True):
        assert values(found[cls.__name__]) == values(wanted)


def test_an_ordinary_collection_and_pickling(extractor):
    collection = MetricCollection([cls(extractor=extractor, **options) for cls, options in OPTIONS.items()])
    filled(collection)
    restored = pickle.loads(pickle.dumps(collection)).compute()
    assert {n: values(v) for n, v in restored.items()} == {n: values(v) for n, v in collection.compute().items()}


@pytest.mark.parametrize("cls", OPTIONS)
def test_plots(cls, extractor):
    pytest.importorskip("matplotlib")
    figure, _ = filled(cls(extractor=extractor, **OPTIONS[cls])).plot()
    assert figure.axes[0].lines


def test_the_names_of_the_module():
    assert set(image.__all__) == {*(cls.__name__ for cls in OPTIONS), "InceptionScore"}
    assert issubclass(FrechetInceptionDistance, FrechetDistance)
