import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from lightning_gans import SettingError
from lightning_gans.metrics import InceptionScore


def score(logits, **options):
    metric = InceptionScore(logits.shape[1], **options)
    metric.update(logits)
    return [value.item() for value in metric.compute()]


@pytest.mark.parametrize(("num_images", "num_classes", "splits"), [(200, 10, 10), (203, 7, 10), (50, 1008, 1)])
def test_the_same_as_torch_fidelity(num_images, num_classes, splits):
    logits = torch.randn(num_images, num_classes) * 3
    theirs = isc_features_to_metric(logits, splits=splits, shuffle=True, rng_seed=2020)
    wanted = [theirs["inception_score_mean"], theirs["inception_score_std"]]
    assert score(logits, splits=splits, keep_order=True) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_the_seed_decides_the_parts():
    logits = torch.randn(60, 5)
    assert score(logits, splits=3, seed=1) == score(logits, splits=3, seed=1) != score(logits, splits=3, seed=2)


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [5.0, -1.0, 0.3]])
def test_images_that_all_look_alike_score_one(row):
    assert score(torch.tensor([row] * 40), splits=4) == pytest.approx([1, 0], abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("confidence", [100.0, 1e4])
def test_confident_images_of_every_class_score_the_number_of_classes(num_classes, confidence):
    logits = torch.eye(num_classes).repeat(6, 1) * confidence
    assert score(logits, splits=1) == pytest.approx([num_classes, 0], rel=1e-9)


@pytest.mark.parametrize("value", [1e4, -1e4])
def test_classes_without_any_mass_leave_it_finite(value):
    logits = torch.zeros(20, 4)
    logits[:, 0] = value
    logits[:10, 1] = -2 * abs(value)
    mean, _ = score(logits, splits=2)
    assert 1 - 1e-12 <= mean <= 4


def test_one_image_a_part_scores_one():
    assert score(torch.randn(5, 3), splits=5) == pytest.approx([1, 0], abs=1e-12)


@pytest.mark.parametrize("num_images", [0, 9])
def test_fewer_images_than_parts(num_images):
    with pytest.raises(SettingError) as caught:
        score(torch.randn(num_images, 4), splits=10)
    assert caught.value.setting == "splits"


def test_no_parts_at_all():
    with pytest.raises(SettingError) as caught:
        InceptionScore(4, splits=0)
    assert caught.value.setting == "splits"
