import math

import pytest

from lightning_gans import DataError
from lightning_gans.metrics import compare
from lightning_gans.metrics.protocol import read_scores, table, write_scores

RECORD = {
    "stage": "val",
    "step": 12_000,
    "model": "DCGAN",
    "scores": {"fid": 12.34567, "precision": 0.71, "fid_class/3": 40.0},
    "protocol": {
        "extractor": "mnist",
        "weights_sha256": "0123456789abcdef" * 4,
        "num_features": 96,
        "resize": "bilinear",
        "data": "MNISTDataModule",
        "split": "train",
        "num_real": 60_000,
        "num_samples": 10_000,
        "ema": True,
        "precision_recall_k": 3,
        "density_coverage_k": 5,
        "neighbor_images_real": 8000,
        "neighbor_images_fake": 9000,
    },
    "floor": {"split": "val", "num_images": 5000, "scores": {"fid": 0.4321, "precision": 0.82}},
    "seconds": {"metrics": 1.25, "neighbors": 3.0},
    "seed": 7,
    "num_repeats": 1,
    "versions": {"torch": "2.15.0"},
    "date": "2026-01-01T00:00:00+00:00",
}
REPEATED = RECORD | {"num_repeats": 3, "standard_deviations": {"fid": 0.0876, "precision": 0.0123}}


def changed(**protocol):
    return RECORD | {"protocol": RECORD["protocol"] | protocol}


def without(*names):
    return {name: value for name, value in RECORD.items() if name not in names}


@pytest.fixture
def write(tmp_path):
    def write(record, name="scores"):
        path = tmp_path / "metrics" / f"{name}.json"
        write_scores(path, record)
        return path

    return write


@pytest.mark.parametrize("record", [RECORD, REPEATED, {"scores": {}, "protocol": {}}])
def test_a_record_comes_back_as_it_was(write, record):
    path = write(record)
    assert read_scores(path) == read_scores(str(path)) == record | {"format": 1}


def test_scores_side_by_side(write):
    other = RECORD | {"scores": {"precision": 0.75, "fid": 10.0, "recall": 0.5}}
    found = compare(write(RECORD, "first"), str(write(other, "second")))
    assert found == {"fid": (12.34567, 10.0), "precision": (0.71, 0.75)}
    assert list(found) == ["fid", "precision"]


@pytest.mark.parametrize(
    "other",
    [
        RECORD | {"seed": 8, "step": 1, "stage": "test", "model": "GAN"},
        RECORD | {"versions": {"torch": "3.0"}, "date": "2027-01-01"},
        without("versions", "date", "floor", "seconds", "seed"),
        REPEATED,
    ],
    ids=["seed", "versions", "bare", "repeats"],
)
def test_what_is_outside_the_protocol_does_not_matter(write, other):
    found = compare(write(RECORD, "first"), write(other, "second"))
    assert found == {name: (value, value) for name, value in RECORD["scores"].items()}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_samples": 5000}, ["num_samples: 10000 / 5000"]),
        ({"ema": False}, ["ema: True / False"]),
        ({"weights_sha256": None}, [f"weights_sha256: {RECORD['protocol']['weights_sha256']} / None"]),
        ({"likelihood": "bernoulli"}, ["likelihood: (not given) / bernoulli"]),
        ({"split": "test", "num_real": 1}, ["num_real: 60000 / 1", "split: train / test"]),
    ],
)
def test_different_protocols_do_not_compare(write, change, named):
    first, second = write(RECORD, "first"), write(changed(**change), "second")
    with pytest.raises(DataError) as caught:
        compare(first, second)
    assert caught.value.value == named
    with pytest.raises(DataError) as caught:
        compare(second, first)
    assert caught.value.setting == str(first)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_not_written(write, tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write(RECORD | {"scores": {"fid": value}})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_record_that_cannot_be_written_leaves_the_old_one(write):
    path = write(RECORD)
    with pytest.raises(ValueError, match="JSON"):
        write(RECORD | {"scores": {"fid": math.nan}})
    assert read_scores(path)["scores"] == RECORD["scores"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no JSON",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"{}",
        b'{"format": 1, "scores": {}}',
        b'{"format": 1, "protocol": {}}',
        b'{"format": 1, "scores": [1], "protocol": {}}',
    ],
)
def test_what_is_no_record(tmp_path, content):
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_scores(path)
    assert caught.value.setting == str(path)


@pytest.mark.parametrize("start", ["", '"format": 2, '])
def test_another_format(tmp_path, start):
    path = tmp_path / "scores.json"
    path.write_text(f'{{{start}"scores": {{}}, "protocol": {{}}}}')
    with pytest.raises(DataError) as caught:
        read_scores(path)
    assert caught.value.allowed == 1


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(DataError) as caught:
        compare(tmp_path / name, tmp_path / name)
    assert caught.value.setting == str(tmp_path / name)


def cells(text):
    return [line.split() for line in text.splitlines()]


def test_a_table_shows_scores_beside_those_of_real_images():
    lines = cells(table(RECORD))
    assert " ".join(lines[0]) == "score value of 5,000 real images"
    assert lines[1:4] == [["fid", "12.3457", "0.4321"], ["precision", "0.7100", "0.8200"], ["fid_class/3", "40.0000"]]


def test_a_table_shows_standard_deviations():
    lines = cells(table(REPEATED))
    assert " ".join(lines[0]) == "score value std of 3 sets of 5,000 real images"
    assert lines[1:3] == [["fid", "12.3457", "0.0876", "0.4321"], ["precision", "0.7100", "0.0123", "0.8200"]]


@pytest.mark.parametrize("record", [RECORD, REPEATED, without("floor")], ids=["floor", "repeats", "neither"])
def test_the_columns_of_a_table_stand_below_each_other(record):
    rows = table(record).splitlines()[:4]
    assert len({len(row) for row in rows}) == 1


def test_a_table_says_how_the_scores_were_made():
    text = table(RECORD)
    for part in (
        "10,000 samples (EMA weights of step 12,000, seed 7) against 60,000 real images (MNISTDataModule, train split)",
        "extractor mnist: 96 features, bilinear, weights 0123456789abcdef\n",
        "k = 3 (precision, recall), 5 (density, coverage), on 9,000 samples and 8,000 real images",
        "5,000 real images of the val split",
        "seconds: metrics 1.2, neighbors 3.0",
    ):
        assert part in text
    assert "10,000 samples (weights without EMA of step 12,000, seed 7)" in table(changed(ema=False))
    assert "10,000 samples (step 12,000, seed 7)" in table(changed(ema=None))


@pytest.mark.parametrize(("iw_samples", "said"), [(0, False), (50, True)])
def test_a_table_of_likelihoods_alone(iw_samples, said):
    likelihood = {
        "likelihood": "bernoulli",
        "likelihood_images": "test split",
        "binarization": "static",
        "iw_samples": iw_samples,
    }
    text = table({"stage": "test", "step": 5, "scores": {"elbo": -98.76543}, "protocol": likelihood})
    assert cells(text)[:2] == [["score", "value"], ["elbo", "-98.7654"]]
    assert "likelihoods in nats per image: bernoulli, binarization static, test split" in text
    assert (", 50 importance samples" in text) == said
    assert "extractor" not in text
