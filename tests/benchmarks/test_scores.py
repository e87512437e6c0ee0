import json

import angle_score
import digits_score
import infogan_codes
import mnist_score
import numpy as np
import pytest
import sines_score
import torch
from common import read_digits

from lightning_gans import GAN, DataError, DigitsDataModule, InfoGAN, SinesDataModule
from lightning_gans.models.infogan import Recognition


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


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((7, 32, 32, 1), np.uint8)},
        {"others": np.zeros((7, 28, 28), np.uint8)},
        {"images": np.zeros((7, 28, 28), np.uint8), "labels": np.zeros(3, int)},
    ],
)
def test_read_digits_raises_for_invalid_files(tmp_path, arrays):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DataError):
        read_digits(tmp_path / "s.npz")


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


def test_codes_are_assigned_to_digits_with_the_highest_accuracy():
    digits = torch.arange(100) % 10
    found = infogan_codes.assigned((digits + 3) % 10, digits, 10)
    assert found == {"accuracy": 1.0, "digit_of_code": [(code - 3) % 10 for code in range(10)]}
    merged = torch.where(digits == 9, 4, digits)  # one code for two digits: only one of them counts
    found = infogan_codes.assigned(merged, digits, 10)
    assert found["accuracy"] == 0.9 and sorted(found["digit_of_code"]) == list(range(10))
    # Greedily, code 0 would get digit 0 (6 images) and code 1 digit 1 (none); the best is 5 + 5.
    codes, digits = torch.tensor([0] * 11 + [1] * 5), torch.tensor([0] * 6 + [1] * 5 + [0] * 5)
    found = infogan_codes.assigned(codes, digits, 2)
    assert found == {"accuracy": 10 / 16, "digit_of_code": [1, 0]}


def test_infogan_codes_of_a_model_that_knows_the_digits(monkeypatch, capsys):
    images, digits = make_digits(60, seed=0)

    def read(images):  # uint8
        return (images[:, 0, 4:24].float().mean(2).view(-1, 10, 2).mean(2)).argmax(1)

    class Knows(InfoGAN):
        def recognize(self, images):
            codes = (read((images + 1) * 127.5) + 1) % 10
            return Recognition(torch.eye(10)[codes], None, None)

        def sample(self, labels, seed):
            made = make_digits(10, seed=seed)[0][(3 * labels + 5) % 10]
            return made.float() / 127.5 - 1

    class Reads(torch.nn.Module):
        def forward(self, images):
            return None, torch.eye(10)[read(images)]

    models = {"knows.ckpt": Knows(width=2, dense_dims=[2]), "other.ckpt": GAN()}
    monkeypatch.setattr(infogan_codes, "load", lambda path: models[path.name])
    monkeypatch.setattr(infogan_codes, "load_mnist", lambda folder, train: (images, digits))
    monkeypatch.setattr(infogan_codes, "MNISTExtractor", Reads)
    infogan_codes.main(["knows.ckpt"])
    report = json.loads(capsys.readouterr().out)
    assert report["recognized"] == {"accuracy": 1.0, "digit_of_code": [(code - 1) % 10 for code in range(10)]}
    assert report["generated"] == {"accuracy": 1.0, "digit_of_code": [(3 * code + 5) % 10 for code in range(10)]}
    with pytest.raises(SystemExit) as stop:
        infogan_codes.main(["other.ckpt"])
    assert stop.value.code == 1


@pytest.mark.slow
def test_angle_score_finds_the_angles_of_bars(tmp_path, monkeypatch, capsys):
    bars = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)
    bars[:, :, 6:22, 12:16] = 255
    angles = torch.linspace(-45, 45, 64)
    samples = angle_score.rotated(bars, angles)
    monkeypatch.setattr(angle_score, "load_mnist", lambda folder, train: (bars, None))
    angle_score.main([save(tmp_path / "s.npz", samples, angles[:, None]), "--updates", "60"])
    report = json.loads(capsys.readouterr().out)
    (row,) = report["files"].values()
    assert max(report["estimator"]["median"], row["median"]) < 8 < 20 < row["chance"]


def test_angle_score_raises_for_classes(tmp_path):
    path = save(tmp_path / "s.npz", torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.arange(4))
    with pytest.raises(DataError):
        angle_score.read_samples(path)
