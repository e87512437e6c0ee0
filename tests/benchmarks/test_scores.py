import json

import digits_score
import gan_train
import mnist_score
import numpy as np
import pytest
import sines_score
import torch
from common import read_digits

from lightning_gans import DataError, DigitsDataModule, SinesDataModule


def make_digits(count, seed):
    """Return a bright bar for each class, at its own height, on noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    images = torch.randint(0, 60, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 2 * label + 4 : 2 * label + 6] = 255
    return images, labels


def save(path, images, labels=None):
    arrays = {"images": images.permute(0, 2, 3, 1).numpy()} | ({} if labels is None else {"labels": labels.numpy()})
    np.savez(path, **arrays)
    return str(path)


class Data:
    split_seed = 0

    def __init__(self, data_dir=None):
        self.asked = []
        self.splits = {name: make_digits(200, seed) for seed, name in enumerate(("train", "val", "test"))}

    def images(self, split):
        self.asked.append(split)
        return self.splits[split]


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((7, 32, 32, 1), np.uint8)},
        {"others": np.zeros((7, 28, 28), np.uint8)},
        {"images": np.zeros((7, 28, 28), np.uint8), "labels": np.zeros(3, int)},
        {"images": np.zeros((7, 28, 28), np.uint8)},  # no labels
    ],
)
def test_read_digits_raises_for_invalid_files(tmp_path, arrays):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DataError):
        read_digits(tmp_path / "s.npz", labeled=True)


def test_a_classifier_depends_on_the_seed_alone():
    digits, before = make_digits(60, seed=3), torch.get_rng_state()
    runs = [gan_train.train(digits, digits, seed, 1, 3, batch_size=20)[0] for seed in (0, 0, 1)]
    first, again, other = (network.state_dict() for network in runs)
    assert all(first[name].equal(again[name]) for name in first) and not first["0.weight"].equal(other["0.weight"])
    assert torch.get_rng_state().equal(before)


def test_gan_train_scores_samples_like_the_real_digits_high_and_wrong_labels_low(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gan_train, "MNISTDataModule", Data)
    monkeypatch.setattr(gan_train, "SETTINGS", gan_train.SETTINGS | {"batch_size": 8, "distort": False, "average": 0.5})
    images, labels = make_digits(200, seed=3)
    accuracies = []
    for shift in (0, 1):
        file = save(tmp_path / "s.npz", images, (labels + shift) % 10)
        gan_train.main([file, "--num_samples", "200", "--epochs", "2", "--seeds", "4", "5", "--ceiling"])
        report = json.loads(capsys.readouterr().out)
        rows = report["seeds"]
        assert [row["seed"] for row in rows] == [4, 5]
        assert report["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in rows]))
        assert report["protocol"]["updates"] == 50 and report["ceiling"]["accuracy"] > 0.95
        accuracies.append(report["accuracy"])
    assert accuracies[0] > 0.95 and accuracies[1] < 0.2


def test_gan_train_uses_the_best_epoch_and_the_test_images_once(monkeypatch):
    data, shares = Data(), iter([0.4, 0.9, 0.6, 0.125])  # three validations, one test
    monkeypatch.setattr(gan_train, "score", lambda network, digits: next(shares))
    options = type("Options", (), {"seeds": [0], "epochs": 3})
    (row,) = gan_train.evaluate(make_digits(300, seed=3), data, options, 3, "")["seeds"]
    assert row == {"seed": 0, "accuracy": 0.125, "best_epoch": 2, "validation": [0.4, 0.9, 0.6]}
    assert data.asked == ["val", "test"]


def test_mnist_score_of_the_real_digits(tmp_path, monkeypatch, capsys):
    images, labels = make_digits(128, seed=0)
    train_reference = mnist_score.train_reference
    monkeypatch.setattr(mnist_score, "load_mnist", lambda folder, train: (images, labels))
    monkeypatch.setattr(mnist_score, "MINIMUM_ACCURACY", 0.0)
    monkeypatch.setattr(mnist_score, "train_scorer", lambda images, labels, seed: mnist_score.Scorer().eval())
    monkeypatch.setattr(
        mnist_score, "train_reference", lambda images, seed: train_reference(images, seed, epochs=1, num_samples=50)
    )
    words = [save(tmp_path / "s.npz", images, labels), "--scorer", str(tmp_path / "scorer.pt"), "--reference_seeds"]
    mnist_score.main([*words, "0", "1", "--floor"])
    report = json.loads(capsys.readouterr().out)
    (row,) = report["files"]
    assert row["distance"] == pytest.approx(0, abs=1e-4) and (row["precision"], row["recall"]) == (1.0, 1.0)
    assert row["label_accuracy"] == report["scorer"]["accuracy"]
    assert report["reference"]["mean"] == pytest.approx(np.mean([r["distance"] for r in report["reference"]["seeds"]]))


def test_digits_score_passes_the_real_digits_and_rejects_a_missing_class(tmp_path, capsys):
    images, labels = DigitsDataModule(28).load_images("train")
    for name, chosen, code in (("real", labels >= 0, 0), ("no_seven", labels != 7, 3)):
        with pytest.raises(SystemExit) as stop:
            digits_score.main([save(tmp_path / f"{name}.npz", images[chosen])])
        report = json.loads(capsys.readouterr().out)
        assert stop.value.code == code and report["passed"] == (code == 0)
        for result in report["sizes"].values():
            assert result["close_share"] == 1.0
            counts = labels[chosen].bincount(minlength=10)
            assert result["class_shares"] == pytest.approx((counts / counts.sum()).tolist())


@pytest.mark.parametrize(("options", "passed"), [({}, True), ({"frequencies": (1.5, 5.0)}, False)])
def test_sines_score_tells_another_distribution(tmp_path, capsys, options, passed):
    data = SinesDataModule(
        num_sequences=500, val_size=0, seed=7, **options
    )  # neither the script's reals nor its others
    np.savez(tmp_path / "s.npz", sequences=data.images("train")[0].numpy())
    with pytest.raises(SystemExit) as stop:
        sines_score.main([str(tmp_path / "s.npz"), "--num_samples", "500"])
    found = json.loads(capsys.readouterr().out)
    assert stop.value.code == (0 if passed else 3) and found["tests"]["amplitude"]["p_value"] > 0.01
    assert max(found["residual"]["samples"] + found["residual"]["data"]) < 0.001


def test_sines_score_finds_the_peak_of_a_sine_wave():
    frequencies, amplitudes = np.linspace(4, 12, 9) + 0.3, np.linspace(0.1, 0.9, 9)
    waves = amplitudes[:, None] * np.sin(2 * np.pi * frequencies[:, None] * np.arange(64) / 64 + 1)
    where, how_high = sines_score.peaks(waves[:, None])
    assert where[:, 0] == pytest.approx(frequencies, abs=0.03) and how_high[:, 0] == pytest.approx(amplitudes, rel=0.05)
