import pytest
import torch
from scipy.stats import ttest_1samp
from torch import nn

from lightning_gans import GAN, DataError, ImageDataModule, SettingError
from lightning_gans.metrics.augment_trial import ARMS, _conclusion, _estimate, augment_trial, table
from lightning_gans.metrics.image_sets import ImageSet
from tests.toys import tiny

CLASSES, SIZE = 4, 8


def bars(labels, seed):
    """Return a bright bar for each class, at its own height, on noise."""
    source = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (len(labels), 1, SIZE, SIZE), generator=source, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 2 * label] = 200
    return images


def image_set(name, num, seed):
    labels = torch.arange(num) % CLASSES
    return ImageSet(name, bars(labels, seed), labels)


class Oracle(nn.Module):
    """Draws real pictures: of the classes asked for, or of others."""

    num_classes, image_shape = CLASSES, (1, SIZE, SIZE)

    def __init__(self, shift=0):
        super().__init__()
        self.shift = shift

    def sample(self, num, labels, seed, start):
        return bars((labels + self.shift) % CLASSES, 1000 + seed + start)


TRAIN, TEST = image_set("train", 40, 1), image_set("test", 80, 2)
SHORT = {"num_samples": 200, "updates": 25, "batch_size": 16}


def trial(module=None, **options):
    return augment_trial(module or Oracle(), TRAIN, TEST, **SHORT | options)


def accuracies(record):
    return {arm: found["accuracy"]["values"] for arm, found in record["arms"].items()}


@pytest.fixture(scope="module")
def good():
    return trial()


@pytest.fixture(scope="module")
def wrong():
    return trial(Oracle(shift=1))


def test_real_pictures_as_samples_are_as_good_as_real_ones(good):
    assert good["scores"].keys() == ARMS.keys()
    assert all(share > 0.9 for share in good["scores"].values())
    gain = good["arms"]["real_and_samples"]["against_real"]
    assert gain["low"] <= 0 <= gain["high"] and good["conclusion"].startswith("Samples made no measurable difference")


def test_wrong_labels_hurt(wrong):
    assert wrong["scores"]["samples"] < 0.1 < 0.9 < wrong["scores"]["real"]
    assert wrong["arms"]["real_and_samples"]["against_real"]["high"] < 0
    assert wrong["conclusion"].startswith("Samples hurt: -")


def test_the_differences_are_paired(wrong):
    values = accuracies(wrong)
    pairs = zip(values["real_and_samples"], values["real"], strict=True)
    assert wrong["arms"]["real_and_samples"]["against_real"]["values"] == [one - other for one, other in pairs]


def test_each_seed_and_each_arm_is_a_function_of_the_seed_alone(good, wrong):
    arms = [accuracies(good)[arm] == accuracies(wrong)[arm] for arm in ARMS]
    assert arms == [True, True, False, False]
    before = torch.get_rng_state()
    first, second = accuracies(trial(seeds=(0, 4), updates=6)), accuracies(trial(seeds=(4, 7), updates=6))
    assert torch.get_rng_state().equal(before)
    assert all(values[1] == second[arm][0] for arm, values in first.items())
    assert all(len({*values, second[arm][1]}) > 1 for arm, values in first.items())


def test_all_arms_get_the_same_number_of_updates_and_of_images(monkeypatch):
    steps, sizes, step, forward = {}, set(), torch.optim.AdamW.step, nn.functional.cross_entropy

    def counting(optimizer, *args, **options):
        steps[id(optimizer)] = steps.get(id(optimizer), 0) + 1
        made.append(optimizer)  # keeps its id
        return step(optimizer, *args, **options)

    def looking(logits, labels):
        sizes.add((len(logits), len(labels)))
        return forward(logits, labels)

    made, reported = [], []
    monkeypatch.setattr(torch.optim.AdamW, "step", counting)
    monkeypatch.setattr("lightning_gans.metrics.augment_trial.F.cross_entropy", looking)
    trial(updates=7, batch_size=24, num_real=20, seeds=(0, 1), progress=reported.append)
    assert list(steps.values()) == [7] * 8 and sizes == {(24, 24)} and sum(reported) == 56


def test_the_recall_of_the_classes_is_that_of_a_count_by_hand(monkeypatch):
    named = torch.arange(80) // 20  # predictions: 0 for the first 20, and so on
    monkeypatch.setattr("lightning_gans.metrics.augment_trial._predicted", lambda network, images: named)
    found = trial(updates=1)["arms"]["real"]
    assert found["accuracy"]["mean"] == 0.25
    assert {name: value["mean"] for name, value in found["recall"].items()} == dict.fromkeys("0123", 0.25)
    named[:20] = 2  # five of each class, so class 0 loses its five and class 2 gains five
    found = trial(updates=1)["arms"]["real"]["recall"]
    assert [found[name]["mean"] for name in "0123"] == [0, 0.25, 0.5, 0.25]


@pytest.mark.parametrize("values", [[0.9, 0.92, 0.97], [0.1, -0.2, 0.4, 0.3, 0.0]])
def test_the_interval_is_that_of_students_t(values):
    found, wanted = _estimate(values), ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((wanted.low, wanted.high))
    assert found["mean"] == pytest.approx(sum(values) / len(values)) and found["values"] == values


@pytest.mark.parametrize(
    ("gains", "wanted"),
    [
        ([0.02, 0.03, 0.025], "Samples helped: +2.50 points"),
        ([-0.02, -0.03, -0.025], "Samples hurt: -2.50 points"),
        ([0.02, -0.03, 0.025], "Samples made no measurable difference: +0.50 points"),
        ([0.0, 0.0], "Samples made no measurable difference: +0.00 points"),
    ],
)
def test_the_conclusion_is_that_of_the_interval(gains, wanted):
    assert _conclusion(_estimate(gains)).startswith(wanted)


class Bars(ImageDataModule):
    class_names, image_shape = tuple("abcd"), (1, SIZE, SIZE)

    def load_images(self, split):
        return (TRAIN.images, TRAIN.labels) if split == "train" else None


def test_real_images_are_those_of_the_data_modules_limit(monkeypatch):
    seen = []
    monkeypatch.setattr("lightning_gans.metrics.augment_trial._labeled", lambda images, _: seen.append(images) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trial(num_real=10)
    images, labels = Bars(val_size=0, limit=10).images("train")
    assert seen[0].images[:].equal(images) and seen[0].labels.equal(labels)


def test_augmentation_shifts_and_flips_each_image_by_itself(monkeypatch):
    batches = []
    monkeypatch.setattr(
        "lightning_gans.metrics.augment_trial.from_bytes", lambda images: batches.append(images) or images / 255
    )
    picture = torch.arange(64, dtype=torch.uint8).view(1, 1, SIZE, SIZE).repeat(40, 1, 1, 1)
    for flip, kinds in ((False, 9), (True, 18)):  # up to one pixel down and right, and mirrored
        batches.clear()
        augment_trial(
            Oracle(), ImageSet("same", picture, TRAIN.labels), TEST, updates=3, batch_size=64, seeds=(0, 1), flip=flip
        )
        augmented = torch.cat(batches[4:7])  # after three updates of the first arm and its test
        assert len(augmented) == 3 * 64 and len(augmented.unique(dim=0)) == kinds
        assert len(torch.cat(batches[:3]).unique(dim=0)) == 1


def test_the_table_states_numbers_and_protocol(good):
    lines = table(good).splitlines()
    assert lines[0].split("  ")[0] == "percent" and [line.split("  ")[0] for line in lines[3:7]] == [
        f"recall of {label}" for label in range(CLASSES)
    ]
    text = "\n".join(lines)
    assert "95% t interval over 3 seeds" in text and lines[-1] == good["conclusion"]
    assert f"{100 * good['scores']['samples']:.2f} ±" in lines[1]


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"seeds": [0]}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"updates": 0}, "updates"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_samples": 0}, "num_samples"),
        ({"num_real": 0}, "num_real"),
        ({"num_real": 41}, "num_real"),
        ({"module": tiny(GAN)}, "checkpoint"),
    ],
)
def test_invalid_settings(options, setting):
    with pytest.raises(SettingError) as caught:
        trial(**options)
    assert caught.value.setting == setting


@pytest.mark.parametrize(
    "wrong",
    [
        ImageSet("wrong", TEST.images),  # no labels
        ImageSet("wrong", TEST.images, TEST.labels.clamp(max=2)),  # a class is missing
        ImageSet("wrong", TEST.images, TEST.labels + 1),
        ImageSet("wrong", TEST.images[:, :, 1:], TEST.labels),
        ImageSet("wrong", TEST.images.repeat(1, 3, 1, 1), TEST.labels),
    ],
)
def test_images_that_do_not_match_the_model(wrong):
    for pair in ((TRAIN, wrong), (wrong, TEST)):
        with pytest.raises(DataError) as caught:
            augment_trial(Oracle(), *pair)
        assert caught.value.setting == "wrong"
