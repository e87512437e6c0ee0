import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_gans import ConditionalGAN
from lightning_gans.cli.main import main
from tests.toys import tiny

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gan_train.py"
spec = importlib.util.spec_from_file_location("gan_train", SCRIPT)
gan_train = importlib.util.module_from_spec(spec)
sys.modules["gan_train"] = gan_train  # dataclasses look their module up
spec.loader.exec_module(gan_train)

QUICK = gan_train.Settings(epochs=2, batch_size=10, distort=False, average=0.5)


def make_digits(count, seed):
    """A bright bar for each class, at a height of its own, on noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    images = torch.randint(0, 60, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 2 * label + 4 : 2 * label + 6] = 255
    return images, labels


class Data:
    """Splits of digits, which notes what is asked for."""

    split_seed = 0

    def __init__(self, data_dir=None):
        self.asked = []
        self.splits = {name: make_digits(200, seed) for seed, name in enumerate(("train", "val", "test"))}

    def images(self, split):
        self.asked.append(split)
        return self.splits[split]


@pytest.fixture
def quick(monkeypatch):
    """No MNIST, and a classifier that is trained in a second."""
    monkeypatch.setattr(gan_train, "MNISTDataModule", Data)
    monkeypatch.setattr(gan_train, "Settings", lambda epochs: QUICK)
    gan_train.Settings.epochs = 2
    return gan_train


def save(path, images, labels=None):
    arrays = {"images": images.permute(0, 2, 3, 1).numpy()} | ({} if labels is None else {"labels": labels.numpy()})
    np.savez(path, **arrays)
    return str(path)


def save_checkpoint(model, trainer, path):
    model.trainer = trainer
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=False)


def test_samples_like_the_real_digits_score_one_and_wrong_labels_score_low():
    images, labels = make_digits(200, seed=3)
    right = gan_train.evaluate((images, labels), Data(), QUICK, [0, 1], 25, "")
    assert right["accuracy"] > 0.95
    wrong = gan_train.evaluate((images, (labels + 1) % 10), Data(), QUICK, [0], 25, "")
    assert wrong["accuracy"] < 0.2
    values = [row["accuracy"] for row in right["seeds"]]
    assert right["accuracy"] == pytest.approx(np.mean(values))
    assert right["standard_deviation"] == pytest.approx(np.std(values, ddof=1))


def test_the_epoch_is_the_best_on_validation_and_test_images_come_last(monkeypatch):
    networks, data = [], Data()
    shares = iter([0.4, 0.9, 0.6, 0.125])  # three validations, one test

    def accuracy(network, images, labels):
        networks.append([value.clone() for value in network.state_dict().values()])
        return next(shares)

    monkeypatch.setattr(gan_train, "accuracy", accuracy)
    settings = gan_train.Settings(epochs=3, batch_size=20, distort=False)
    report = gan_train.evaluate(make_digits(60, seed=3), data, settings, [0], 3, "")
    (row,) = report["seeds"]
    assert row == {"seed": 0, "accuracy": 0.125, "best_epoch": 2, "validation": [0.4, 0.9, 0.6]}
    assert data.asked == ["val", "test"]
    assert all(a.equal(b) for a, b in zip(networks[3], networks[1], strict=True))
    assert not all(a.equal(b) for a, b in zip(networks[3], networks[2], strict=True))


def test_the_same_seed_trains_the_same_classifier_and_leaves_the_global_stream():
    digits, before = make_digits(60, seed=3), torch.get_rng_state()
    runs = [gan_train.train(digits, digits, gan_train.Settings(1, 20), seed, 3)[0] for seed in (0, 0, 1)]
    first, again, other = (network.state_dict() for network in runs)
    assert all(first[name].equal(again[name]) for name in first)
    assert not first["0.weight"].equal(other["0.weight"])
    assert torch.get_rng_state().equal(before)


def test_no_image_comes_again_before_the_others_have():
    rows = gan_train.batches(7, 3, torch.Generator().manual_seed(0))
    passes = [torch.cat([next(rows), next(rows)]) for _ in range(4)]
    assert all(len(each.unique()) == 6 for each in passes)
    assert len({tuple(each.tolist()) for each in passes}) > 1


def test_the_report_has_the_ceiling_and_all_that_is_needed_to_compare(tmp_path, quick, capsys):
    file = save(tmp_path / "s.npz", *make_digits(220, seed=3))
    words = [file, "--num_samples", "100", "--ceiling", "--seeds", "4", "--json", str(tmp_path / "out" / "r.json")]
    assert gan_train.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "out" / "r.json").read_text())
    assert report["seeds"][0]["seed"] == 4
    assert len(report["seeds"][0]["validation"]) == len(report["ceiling"]["seeds"][0]["validation"]) == 2
    assert report["ceiling"]["num_images"] == 200
    protocol = report["protocol"]
    assert protocol["num_samples"] == 100
    assert protocol["updates"] == 2 * 100 // 10
    assert not {"seed", "file", "date"} & set(protocol)
    assert {"hardware", "date", "command", "torch", "seconds"} <= set(report)


def test_a_checkpoint_gives_the_samples_that_the_command_writes(tmp_path, make_trainer):
    model = tiny(ConditionalGAN, image_shape=[1, 28, 28], num_classes=10)
    save_checkpoint(model, make_trainer(), tmp_path / "last.ckpt")
    words = ["--num_samples", "1030", "--seed", "5"]
    main(["sample", str(tmp_path / "last.ckpt"), "--output", str(tmp_path / "s.npz"), *words])
    written = gan_train.load_samples(tmp_path / "s.npz", 1030, 0)
    drawn = gan_train.load_samples(tmp_path / "last.ckpt", 1030, 5)
    assert all(a.equal(b) for a, b in zip(written, drawn, strict=True))


ZEROS = torch.zeros(100, 1, 28, 28, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (ZEROS, None, "has no labels"),
        (ZEROS, torch.zeros(100), "labels float32 (100,)"),
        (ZEROS, torch.arange(99) % 10, "labels int64 (99,)"),
        (ZEROS, torch.arange(100) % 9, "has the labels 0, 1, 2, 3, 4, 5, 6, 7, 8, but"),
        (ZEROS, torch.arange(100) % 10 + 1, "has the labels 1, 2"),
        (ZEROS, torch.arange(100) % 10 - 1, "has the labels -1, 0"),
        (ZEROS.float(), torch.arange(100) % 10, "images float32 (100, 28, 28, 1)"),
        (ZEROS[..., :20], torch.arange(100) % 10, "images uint8 (100, 28, 20, 1)"),
        (ZEROS[:50], torch.arange(50) % 10, "has 50 samples, but --num_samples is 100"),
    ],
)
def test_unfit_files_are_one_sentence_and_exit_code_1(tmp_path, capsys, images, labels, message):
    assert gan_train.main([save(tmp_path / "s.npz", images, labels), "--num_samples", "100"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["none.npz", "text.npz", "text.ckpt"])
def test_files_that_are_none(tmp_path, capsys, name):
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "text.ckpt").write_text("text")
    assert gan_train.main([str(tmp_path / name), "--num_samples", "100"]) == 1
    error = capsys.readouterr().err
    assert name in error
    assert error.count("\n") == 1


def test_a_checkpoint_without_labels_is_refused(tmp_path, make_trainer, capsys):
    model = tiny(ConditionalGAN, num_classes=3)
    save_checkpoint(model, make_trainer(), tmp_path / "last.ckpt")
    assert gan_train.main([str(tmp_path / "last.ckpt"), "--num_samples", "100"]) == 1
    assert "a model of 3 classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "0"], "--epochs is 0: it must be 1 or more"),
        (["--num_samples", "50"], "--num_samples is 50: with 5 epochs it must be 100 or more"),
        (["--num_samples", "200", "--epochs", "1"], "--num_samples is 200: with 1 epochs it must be 300 or more"),
    ],
)
def test_wrong_options_exit_with_2(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        gan_train.main(["s.npz", *words])
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(("epochs", "updates"), [(1, 3), (3, 1), (1, 4), (1, 5), (5, 1), (2, 3)])
def test_the_fewest_updates_that_are_allowed_have_a_schedule(epochs, updates):
    digits = make_digits(60, seed=3)
    gan_train.train(digits, digits, gan_train.Settings(epochs, 10), 0, updates)
