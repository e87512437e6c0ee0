"""The command that trains classifiers with and without samples."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_gans.cli.main import main
from tests.cli.commands.conftest import SHAPE

SHORT = ["--updates", "2", "--num_samples", "9", "--seeds", "3,5", "--batch_size", "4"]


def pictures(num, seed):
    return np.random.default_rng(seed).integers(256, size=(num, *SHAPE[1:]), dtype=np.uint8)


def write_npz(path, num, seed, classes=3):
    np.savez(path, images=pictures(num, seed)[..., None], labels=np.arange(num) % classes)
    return path


@pytest.fixture
def files():
    return ["--data", write_npz("train.npz", 30, 0), "--test", write_npz("test.npz", 15, 1)]


def test_the_command_prints_a_table_and_writes_json(checkpoints, files, capsys):
    for name in ("first.json", "second.json"):
        main(["augment-trial", checkpoints["conditional"], *files, *SHORT, "--num_real", "6", "--json", name])
        out = capsys.readouterr().out.splitlines()
        assert out[-1] == f"results: {name}" and out[-2].startswith("Samples ")
    first, second = (json.loads(Path(name).read_text()) for name in ("first.json", "second.json"))
    assert first["arms"] == second["arms"] and first["conclusion"] == out[-2]
    assert [first["protocol"][name] for name in ("num_real", "num_samples", "seeds")] == [6, 9, [3, 5]]
    main(["compare", "first.json", "second.json"])
    assert "real_and_samples" in capsys.readouterr().out


def test_a_folder_of_classes_is_read_as_its_data_module_reads_it(checkpoints, capsys):
    for split, num in (("train", 12), ("test", 6)):
        for number, picture in enumerate(pictures(num, num)):
            folder = Path("shapes", split, f"kind{number % 3}")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{number}.png")
    main(["augment-trial", checkpoints["conditional"], "--data", "shapes", *SHORT])
    out = capsys.readouterr().out
    assert "11 real images (shapes/train)" in out  # one validates
    assert "6 real images (shapes/test)" in out and "recall of kind2" in out


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--data", "train.npz", "--test", "train.npz"], 2, "--test"),
        (["--data", "train.npz"], 2, "--test"),
        (["--data", "train.npz", "--test", "nowhere"], 1, "nowhere"),
        (["--data", "train.npz", "--test", "two.npz"], 1, "two.npz"),
        (["--data", "train.npz", "--test", "test.npz", "--seeds", "a"], 2, "--seeds"),
        (["--data", "train.npz", "--test", "test.npz", "--seeds", "1"], 2, "seeds"),
        (["--data", "train.npz", "--test", "test.npz", "--num_real", "31"], 2, "num_real"),
        (["--data", "train.npz", "--test", "test.npz", "--json", "train.npz/a.json"], 1, "train.npz"),
    ],
)
def test_errors_are_short(words, code, named, checkpoints, files, capsys):
    write_npz("two.npz", 10, 2, classes=2)
    with pytest.raises(SystemExit) as caught:
        main(["augment-trial", checkpoints["conditional"], *words])
    err = capsys.readouterr().err
    assert caught.value.code == code and named in err and err.count("\n") == 1


@pytest.mark.parametrize(("name", "why"), [("gan", "unconditional"), ("recurrent", "sequences")])
def test_a_model_without_labels_or_pictures(name, why, checkpoints, files, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["augment-trial", checkpoints[name], *files, "--json", "results.json"])
    err = capsys.readouterr().err
    assert caught.value.code == 2 and why in err and err.count("\n") == 1 and not Path("results.json").exists()


@pytest.mark.slow
def test_the_trial_of_a_model_that_was_trained_on_digits(capsys):
    small = ["--model.image_shape", "[1,28,28]", "--model.latent_dim", "8", "--model.num_classes", "10"]
    small += ["--model.generator_dims", "[32]", "--model.discriminator_dims", "[32]", "--data", "DigitsDataModule"]
    off = ["--metrics.enabled", "false", "--samples.enabled", "false", "--trainer.enable_progress_bar", "false"]
    main(["fit", "--model", "ConditionalGAN", *small, *off, "--trainer.max_epochs", "5"])
    (checkpoint,) = Path("runs").glob("*/version_0/checkpoints/last.ckpt")
    options = ["--num_real", "400", "--num_samples", "100", "--updates", "60", "--seeds", "0,1", "--json", "trial.json"]
    main(["augment-trial", str(checkpoint), "--data", "digits", *options])
    record = json.loads(Path("trial.json").read_text())
    assert record["scores"]["real"] > 0.8 > record["scores"]["samples"]  # the model has hardly been trained
    assert record["protocol"]["num_real"] == 400 and record["protocol"]["num_test"] == 197
    assert record["conclusion"] in capsys.readouterr().out
