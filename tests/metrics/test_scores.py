import math
import warnings

import pytest
import torch

from lightning_gans import SettingError
from lightning_gans.metrics import (
    DensityCoverage,
    FrechetDistance,
    GaussianKernelDistance,
    InceptionScore,
    KernelDistance,
    MongeDistance,
    PrecisionRecall,
    kernel,
    manifold,
)
from lightning_gans.metrics.cache import Cache
from lightning_gans.metrics.scores import METRICS, FeatureSet, Reference, Settings, score, subsample

WIDTH, NUM_CLASSES = 6, 4
SETTINGS = Settings(kid_subsets=4, kid_subset_size=20, inception_score_splits=3)
KEY = {"data": "some"}


def make_set(count, seed, shift=0.0):
    source = torch.Generator().manual_seed(seed)
    return FeatureSet(
        torch.randn(count, WIDTH, generator=source) + shift,
        torch.randn(count, NUM_CLASSES, generator=source) * 2,
        torch.arange(count) % NUM_CLASSES,
    )


@pytest.fixture
def real():
    return make_set(60, seed=0)


@pytest.fixture
def fake():
    return make_set(50, seed=1, shift=0.3)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path)


@pytest.fixture
def searches(monkeypatch):
    """Record how many points each search for neighbors takes."""
    found = []

    def counting(points, k):
        found.append(len(points))
        return nearest(points, k)

    nearest = manifold.nearest_squared_distances
    monkeypatch.setattr(manifold, "nearest_squared_distances", counting)
    return found


def of_two_sets(metric, real, fake):
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()


def one_by_one(real, fake, settings):
    logits = InceptionScore(NUM_CLASSES, settings.inception_score_splits, keep_order=True)
    logits.update(fake.logits)
    sets = real.features, fake.features
    kid = of_two_sets(KernelDistance(WIDTH, settings.kid_subsets, settings.kid_subset_size, keep_order=True), *sets)
    precision_recall = of_two_sets(PrecisionRecall(WIDTH, settings.precision_recall_k), *sets)
    density_coverage = of_two_sets(DensityCoverage(WIDTH, settings.density_coverage_k), *sets)
    wanted = {
        "fid": of_two_sets(FrechetDistance(WIDTH), *sets),
        "inception_score": logits.compute()[0],
        "kid": kid[0],
        "kid_std": kid[1],
        "precision": precision_recall[0],
        "recall": precision_recall[1],
        "density": density_coverage[0],
        "coverage": density_coverage[1],
        "label_accuracy": (fake.logits.argmax(1) == fake.labels).float().mean(),
    }
    for label in range(NUM_CLASSES):
        rows = (each.features[each.labels == label] for each in (real, fake))
        wanted[f"fid_class/{label}"] = of_two_sets(FrechetDistance(WIDTH), *rows)
    return {name: float(value) for name, value in wanted.items()}


@pytest.mark.parametrize("settings", [SETTINGS, Settings(5, 2, 1000, 2, 50, 50), Settings(1, 9, 60, 1, 2, 1)])
def test_all_metrics_are_what_each_class_computes(real, fake, cache, settings):
    found, seconds = score(fake, Reference(real, settings, cache, KEY), METRICS)
    assert found == pytest.approx(one_by_one(real, fake, settings), rel=1e-9)
    assert all(type(value) is float for value in found.values())
    assert seconds.keys() == {"metrics", "neighbors"}
    assert all(value >= 0 for value in seconds.values())


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_alone_is_what_it_is_among_all(real, fake, cache, name):
    together, _ = score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)
    alone, seconds = score(fake, Reference(real, SETTINGS, cache, KEY), [name])
    keys = {"kid": {"kid", "kid_std"}, "fid_class": {f"fid_class/{label}" for label in range(NUM_CLASSES)}}
    assert alone.keys() == keys.get(name, {name})
    assert alone == {key: together[key] for key in alone}
    assert ("neighbors" in seconds) == (name in {"precision", "recall", "density", "coverage"})


@pytest.mark.parametrize(
    ("lacking", "left_out"),
    [
        ({"logits": None}, {"inception_score", "label_accuracy"}),
        ({"labels": None}, {"label_accuracy", "fid_class"}),
        ({"logits": None, "labels": None}, {"inception_score", "label_accuracy", "fid_class"}),
    ],
)
def test_without_logits_or_labels_their_metrics_are_left_out(real, fake, cache, lacking, left_out):
    wanted, _ = score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)
    for name, value in lacking.items():
        setattr(fake, name, value)
    found, _ = score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)
    assert found == {name: value for name, value in wanted.items() if name.split("/")[0] not in left_out}


def test_vectors_as_labels_have_no_accuracy(real, fake, cache):
    wanted, _ = score(fake, Reference(real, SETTINGS, cache, KEY), ["fid_class"])
    for images in (real, fake):
        images.labels = torch.nn.functional.one_hot(images.labels, NUM_CLASSES).float()
    found, _ = score(fake, Reference(real, SETTINGS, cache, KEY), ["fid_class", "label_accuracy"])
    assert found == wanted


def test_without_labels_of_the_reals_the_distances_of_classes_alone_are_left_out(real, fake, cache):
    real.labels = None
    found, _ = score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)
    assert "label_accuracy" in found
    assert not [name for name in found if name.startswith("fid_class")]


@pytest.mark.parametrize("which", ["real", "fake"])
@pytest.mark.parametrize("left", [0, 1])
def test_a_class_without_two_images_is_left_out_and_said_so(real, fake, cache, which, left):
    wanted, _ = score(fake, Reference(real, SETTINGS, cache, KEY), ["fid_class"])
    # Class 1 becomes class 3, the last of all, but for so many images; class 3 then is another one.
    labels = {"real": real, "fake": fake}[which].labels
    labels[(labels == 1).nonzero()[left:]] = 3
    with pytest.warns(UserWarning, match="No fid_class for 1:"):
        found, _ = score(fake, Reference(real, SETTINGS, cache, KEY), ["fid_class"])
    assert found.keys() == {"fid_class/0", "fid_class/2", "fid_class/3"}
    assert found["fid_class/0"] == wanted["fid_class/0"]
    assert found["fid_class/3"] != wanted["fid_class/3"]


def test_a_class_that_one_set_alone_has_is_left_out(real, fake, cache):
    fake.labels[:2] = 7
    with pytest.warns(UserWarning, match="for 4, 5, 6, 7:"):
        found, _ = score(fake, Reference(real, SETTINGS, cache, KEY), ["fid_class"])
    assert len(found) == NUM_CLASSES


def test_attributes_have_a_distance_between_the_images_that_have_them(real, fake, cache):
    wanted = {}
    for images, seed in ((real, 1), (fake, 2)):
        images.labels = torch.rand(len(images), 2, generator=torch.Generator().manual_seed(seed))
    for place in range(2):
        rows = (images.features[images.labels[:, place] > 0.5] for images in (real, fake))
        wanted[f"fid_class/{place}"] = float(of_two_sets(FrechetDistance(WIDTH), *rows))
    found, _ = score(fake, Reference(real, SETTINGS, cache, KEY), ["fid_class"])
    assert found == pytest.approx(wanted, rel=1e-9)


def test_sets_smaller_than_the_settings(real, fake, cache):
    settings = Settings(kid_subsets=3, kid_subset_size=1000, inception_score_splits=100)
    found, _ = score(fake, Reference(real, settings, cache, KEY), METRICS)
    wanted = one_by_one(real, fake, Settings(kid_subsets=3, kid_subset_size=50, inception_score_splits=50))
    assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("num_real", "num_fake", "wanted"),
    [
        (50_000, 10_000, (10_000, 10_000, 1000, 10)),
        (600, 7, (600, 7, 7, 7)),
        (30, 20_000, (30, 10_000, 30, 10)),
    ],
)
def test_settings_as_they_apply(num_real, num_fake, wanted):
    fitted = Settings().fitted(num_real, num_fake)
    names = ("neighbor_images_real", "neighbor_images_fake", "kid_subset_size", "inception_score_splits")
    assert tuple(fitted[name] for name in names) == wanted
    assert (fitted["precision_recall_k"], fitted["density_coverage_k"], fitted["kid_subsets"]) == (3, 5, 100)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("fid", "num_fake"),
        ("kid", "subset_size"),
        ("precision", "precision_recall_k"),
    ],
)
def test_too_few_images(real, cache, name, setting):
    with pytest.raises(SettingError) as caught:
        score(make_set(1, seed=1), Reference(real, SETTINGS, cache, KEY), [name])
    assert caught.value.setting == setting


def test_a_device_without_float64_leaves_it_to_the_processor(real, fake, cache):
    wanted, _ = score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)
    assert score(fake, Reference(real, SETTINGS, cache, KEY), METRICS, device="mps")[0] == wanted


# --- the choice of images ---------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 7, 99])
def test_a_choice_of_rows_in_their_order(most):
    chosen = subsample(torch.arange(100)[:, None], most).flatten()
    assert len(chosen) == most
    assert (chosen.diff() > 0).all()


def test_the_choice_depends_on_the_number_of_rows_alone():
    rows = torch.arange(100)
    chosen = subsample(rows, 30)
    torch.manual_seed(123)
    assert subsample(rows + 5, 30).equal(chosen + 5)
    assert not chosen.equal(rows[:30])
    assert not subsample(rows[:99], 30).equal(chosen)


@pytest.mark.parametrize("most", [100, 101])
def test_no_choice_where_all_may_stay(most):
    rows = torch.arange(100)
    assert subsample(rows, most).equal(rows)


def test_neighbors_are_looked_for_in_the_choice_and_everything_else_in_all(real, fake, cache):
    settings = Settings(kid_subsets=4, kid_subset_size=20, inception_score_splits=3, neighbor_images=40)
    found, _ = score(fake, Reference(real, settings, cache, KEY), METRICS)
    wanted = one_by_one(real, fake, settings)
    for each in (real, fake):
        each.features = subsample(each.features, 40)
        each.labels = each.logits = None
    chosen, _ = score(
        fake, Reference(real, SETTINGS, cache, {"data": "chosen"}), ["precision", "recall", "density", "coverage"]
    )
    assert found == pytest.approx(wanted | chosen, rel=1e-9)
    assert found["density"] != wanted["density"]


# --- what is kept -----------------------------------------------------------------------------------------


def test_a_second_reference_computes_nothing_of_the_reals_again(real, fake, cache, searches):
    first, _ = score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)
    assert sorted(searches) == [50, 60]
    searches.clear()
    second, _ = score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)
    assert searches == [50]
    assert second == first


def test_one_reference_looks_once_without_any_files(real, fake, tmp_path, searches):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be written"):
        reference = Reference(real, SETTINGS, Cache(tmp_path / "file"), KEY)
        first, _ = score(fake, reference, METRICS)
    assert score(fake, reference, METRICS)[0] == first
    assert sorted(searches) == [50, 50, 60]


def test_the_sums_of_the_reals_are_not_made_again(real, fake, cache):
    wanted, _ = score(fake, Reference(real, SETTINGS, cache, KEY), ["fid"])
    blank = FeatureSet(torch.full_like(real.features, math.nan))
    assert score(fake, Reference(blank, SETTINGS, cache, KEY), ["fid"])[0] == wanted


def test_the_kernel_of_the_reals_is_not_summed_again(real, fake, cache, monkeypatch):
    wanted, _ = score(fake, Reference(real, SETTINGS, cache, KEY), ["kid"])
    monkeypatch.delattr(kernel, "_sum_at")
    assert score(fake, Reference(real, SETTINGS, cache, KEY), ["kid"])[0] == wanted


def test_scoring_leaves_the_reference_as_it_was(real, fake, cache):
    reference = Reference(real, SETTINGS, cache, KEY)
    first, _ = score(fake, reference, METRICS)
    score(make_set(70, seed=5), reference, METRICS)
    assert score(fake, reference, METRICS)[0] == first


@pytest.mark.parametrize("other", [{"data": "other"}, {}])
def test_another_key_is_computed_for_itself(real, fake, cache, other):
    score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)
    others = make_set(60, seed=9, shift=1.0)
    found, _ = score(fake, Reference(others, SETTINGS, cache, other), METRICS)
    assert found == pytest.approx(one_by_one(others, fake, SETTINGS), rel=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        {"precision_recall_k": 8},
        {"density_coverage_k": 8},
        {"neighbor_images": 30},
        {"kid_subsets": 5},
        {"kid_subset_size": 21},
    ],
)
def test_other_settings_are_computed_for_themselves(real, fake, cache, tmp_path, change):
    score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)
    settings = Settings(**{"kid_subsets": 4, "kid_subset_size": 20, "inception_score_splits": 3, **change})
    fresh, _ = score(fake, Reference(real, settings, Cache(tmp_path / "fresh"), KEY), METRICS)
    assert score(fake, Reference(real, settings, cache, KEY), METRICS)[0] == fresh


def test_damaged_files_are_made_again(real, fake, cache):
    wanted, _ = score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)
    files = sorted(cache.folder.iterdir())
    assert [path.name.split("-")[0] for path in files] == ["kernel", "neighbors", "sums"]
    for path in files:
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.warns(UserWarning, match="is damaged") as caught:
        assert score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)[0] == wanted
    assert sum("is damaged" in str(each.message) for each in caught) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(fake, Reference(real, SETTINGS, cache, KEY), METRICS)[0] == wanted


@pytest.mark.parametrize(("name", "metric"), [("mind", MongeDistance), ("cmmd", GaussianKernelDistance)])
def test_metrics_on_request_are_those_of_their_classes(name, metric):
    real, fake = torch.randn(30, 5), torch.randn(40, 5)
    alone = metric(5, keep_order=True)
    alone.update(real, real=True)
    alone.update(fake, real=False)
    reference = Reference(FeatureSet(real), Settings(), None, {})
    assert score(FeatureSet(fake), reference, [name])[0] == {name: alone.compute().item()}
    assert name not in METRICS
