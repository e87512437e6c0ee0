import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "digits_score.py"
spec = importlib.util.spec_from_file_location("digits_score", SCRIPT)
digits_score = importlib.util.module_from_spec(spec)
spec.loader.exec_module(digits_score)


def save(path, images):
    np.savez(path, images=images)
    return str(path)


def test_real_digits_score_one_and_have_all_classes(tmp_path, capsys):
    images, labels = digits_score.real_digits()
    file = save(tmp_path / "real.npz", images.unsqueeze(-1).numpy())
    assert digits_score.main([file, "--json", str(tmp_path / "score.json")]) == 0
    report = json.loads((tmp_path / "score.json").read_text())
    shares = labels.bincount().double() / len(labels)
    for size in ("28", "8"):
        assert report["sizes"][size]["close_share"] == 1.0
        assert report["sizes"][size]["class_shares"] == pytest.approx(shares.tolist())
    assert report["passed"]
    assert "not passed" not in capsys.readouterr().out


def test_noise_scores_about_zero(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)
    file = save(tmp_path / "noise.npz", noise)
    assert digits_score.main([file, "--json", str(tmp_path / "score.json")]) == 3
    report = json.loads((tmp_path / "score.json").read_text())
    assert all(result["close_share"] < 0.01 for result in report["sizes"].values())


def test_a_missing_class_does_not_pass(tmp_path, capsys):
    images, labels = digits_score.real_digits()
    file = save(tmp_path / "no_seven.npz", images[labels != 7].unsqueeze(1).numpy())
    assert digits_score.main([file]) == 3
    assert "not passed" in capsys.readouterr().out


@pytest.mark.parametrize("size", [28, 8])
def test_classes_and_distances_agree_with_scikit_learn(size):
    images, labels = digits_score.real_digits()
    samples = (0.7 * images[:50] + 0.3 * images[50:100]).to(torch.uint8)
    points, real = digits_score.to_points(samples, size), digits_score.to_points(images, size)
    classifier = KNeighborsClassifier(1).fit(real, labels)
    distances, indices = digits_score.nearest(points, real)
    assert np.array_equal(labels[indices], classifier.predict(points))
    assert distances.numpy() == pytest.approx(classifier.kneighbors(points)[0][:, 0], abs=1e-6)
    others = classifier.kneighbors()[0][:, 0]  # of each real digit, itself left out
    assert digits_score.nearest_other(real).numpy() == pytest.approx(others, abs=1e-6)


def test_resized_digits_keep_their_values():
    digits = torch.from_numpy(load_digits().images).float() / 16
    resized = digits_score.resize_digits(digits)
    assert resized.shape == (1797, 28, 28)
    assert resized.dtype == torch.uint8
    flat = digits_score.resize_digits(torch.full((1, 8, 8), 0.6))
    assert flat.unique().tolist() == [153]
    back = digits_score.to_points(resized, 8)
    assert (back - digits.flatten(1)).abs().mean() < 0.06


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 8, 8), np.uint8), "images are uint8 (4, 8, 8)"),
        (np.zeros((4, 28, 28), np.int64), "images are int64 (4, 28, 28)"),
        (np.zeros((0, 28, 28), np.uint8), "holds no images"),
    ],
)
def test_unfit_files_are_one_sentence_and_exit_code_1(tmp_path, capsys, images, message):
    assert digits_score.main([save(tmp_path / "s.npz", images)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_file(tmp_path, capsys):
    assert digits_score.main([str(tmp_path / "s.npz")]) == 1
    assert "no such file" in capsys.readouterr().err
