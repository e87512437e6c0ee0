"""Scores of translators whose translations are known."""

import json

import numpy as np
import pytest
import torch
import translation_score
from PIL import Image
from torch.nn import functional


class Known:
    """A translator by a function of images in [-1, 1]."""

    def __init__(self, function):
        self.function = function

    def translate(self, images, to="target"):
        return self.function(images, to)


class MeanColors:
    """Features that a mean can be taken of by hand."""

    def __call__(self, images):
        return images.double().mean((2, 3)) / 255, None


@pytest.fixture
def report(monkeypatch, tmp_path, capsys):
    """Return a function that scores a translator in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def scores(task, function, *words):
        monkeypatch.setattr(translation_score, "load", lambda path: Known(function))
        translation_score.main([task, "known", *words])
        return json.loads(capsys.readouterr().out)["scores"]

    return scores


def write(folder, pictures):
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / split / f"{number}.png")


def noise(*shape):
    return np.random.default_rng(0).integers(256, size=(6, *shape), dtype=np.uint8)


def test_inverted_is_scored_both_ways_against_the_truth(report, tmp_path):
    digits = noise(28, 28)
    digits[:, 0, 0] = 0  # paper
    write(tmp_path / "digits", digits)
    write(tmp_path / "inverted", np.stack([255 - digits, 255 - digits, digits], -1))

    def only_to_target(images, to):
        return images * torch.tensor([-1.0, -1.0, 1.0]).view(3, 1, 1) if to == "target" else images

    rows = report("inverted", only_to_target, "--data_dir", ".")
    assert rows["known, to target"]["error"] == pytest.approx(0, abs=1e-6)
    ink = digits.mean() / 255
    assert rows["constant, to target"]["error"] == pytest.approx(ink, abs=1e-5)
    assert rows["constant, to source"]["error"] == pytest.approx(ink, abs=1e-5)
    away = 2 / 3 * np.abs(255 - 2.0 * digits).mean() / 255  # two of three channels stay inverted
    assert rows["known, to source"]["error"] == pytest.approx(away, abs=1e-5)


def test_pairs_are_scored_beside_their_sources(report, tmp_path, monkeypatch):
    monkeypatch.setattr(translation_score, "EfficientNetExtractor", MeanColors)
    pictures = noise(64, 64, 3) // 2
    write(tmp_path / "sources", pictures)
    write(tmp_path / "targets", pictures + 100)
    words = ("--data_dir", "sources", "--target_dir", "targets")
    rows = report("pairs", lambda images, to: images + 2 * 100 / 255, *words)
    assert rows["known"]["error"] == pytest.approx(0, abs=1e-6) and rows["known"]["ssim"] == pytest.approx(1)
    assert rows["known"]["distance"] == pytest.approx(0, abs=1e-9)
    assert rows["identity"]["error"] == pytest.approx(100 / 255, abs=1e-5)
    assert rows["identity"]["distance"] == pytest.approx(
        3 * (100 / 255) ** 2
    )  # the means differ, the covariances do not


def test_enlarged_pictures_are_scored_beside_bicubic_ones(report, tmp_path, monkeypatch):
    monkeypatch.setattr(translation_score, "EfficientNetExtractor", MeanColors)
    write(tmp_path / "pictures", noise(64, 64, 3))

    def enlarged(images, to):
        return functional.interpolate(images, (64, 64), mode="bicubic").clamp(-1, 1)

    rows = report("enlarge", enlarged, "--data_dir", "pictures")
    assert rows["known"] == rows["bicubic"] and rows["known"]["error"] > 0.1


def test_digits_are_read_as_the_classes_of_their_folders(report, tmp_path, monkeypatch):
    pictures = noise(28, 28)
    for label in range(2):
        write_class = tmp_path / "digits" / "test" / str(label)
        write_class.mkdir(parents=True)
        for number, picture in enumerate(pictures[label::2]):
            picture[0, 0] = 255 * label  # what the classifier goes by
            Image.fromarray(picture).save(write_class / f"{number}.png")
    (tmp_path / "digits" / "train").symlink_to(tmp_path / "digits" / "test")

    def by_corner(scorer, images):
        return images[:, 0, :2, :2].flatten(1).double(), (images[:, 0, 0, 0] > 127).long()

    monkeypatch.setattr(
        translation_score, "load_mnist", lambda folder, train: (torch.as_tensor(pictures[:, None]), None)
    )
    monkeypatch.setattr(translation_score, "prepare_scorer", lambda options, test: (None,))
    monkeypatch.setattr(translation_score, "extract", by_corner)
    rows = report("digits", lambda images, to: -images, "--data_dir", ".")
    assert (rows["identity"]["label_accuracy"], rows["known"]["label_accuracy"]) == (1.0, 0.0)
    assert rows["identity"]["distance"] == pytest.approx(0, abs=1e-6) and rows["known"]["distance"] > 0.1
