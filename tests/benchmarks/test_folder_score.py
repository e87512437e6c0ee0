import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn

from lightning_gans import DCGAN, DataError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "folder_score.py"
spec = importlib.util.spec_from_file_location("folder_score", SCRIPT)
folder_score = importlib.util.module_from_spec(spec)
spec.loader.exec_module(folder_score)

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noise around one of two colours, a folder each."""
    root, draws = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 16)):
        for name, colour in (("reds", (200, 30, 30)), ("blues", (30, 30, 200))):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                noise = draws.normal(colour, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(root / split / name / f"{index}.png")
    return root


def save(path):
    model = DCGAN(SHAPE, 4, width=4)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    model.trainer = trainer
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return str(path)


def report(tmp_path, pictures, *files, words=()):
    options = ["--data_dir", str(pictures), "--image_size", "16", "--num_samples", "32", "--scorer_epochs", "2"]
    options += ["--scorer", str(tmp_path / "scorer.pt"), "--json", str(tmp_path / "score.json")]
    code = folder_score.main([*files, *options, *words])
    return code, json.loads((tmp_path / "score.json").read_text()) if code == 0 else None


def test_the_report(tmp_path, pictures, capsys):
    checkpoint = save(tmp_path / "m.ckpt")
    code, found = report(tmp_path, pictures, checkpoint)
    assert code == 0 and json.loads(capsys.readouterr().out) == found
    (row,) = found["files"]
    assert row["ratio"] == pytest.approx(row["distance"] / row["untrained"])
    assert 0 < found["floor"] < row["distance"] and found["scorer"]["accuracy"] > 0.9
    assert found["num_real"] == 32 and found["num_samples"] == 32

    again = report(tmp_path, pictures, checkpoint)[1]["files"][0]
    assert again == pytest.approx(row)  # by the scorer that was kept


def test_distances_equal_a_second_way_of_computing():
    first, second = torch.randn(50, 4).double(), (torch.randn(60, 4) * 2 + 1).double()
    a, b = np.cov(first.numpy().T), np.cov(second.numpy().T)
    roots = np.linalg.eigvals(a @ b).real.clip(0) ** 0.5
    wanted = ((first.mean(0) - second.mean(0)) ** 2).sum().item() + np.trace(a) + np.trace(b) - 2 * roots.sum()
    assert folder_score.distance(first, second) == pytest.approx(wanted)


def test_untrained_is_the_same_model_with_weights_of_its_own():
    model = DCGAN(SHAPE, 4, width=4)
    other = folder_score.untrained(model, 7)
    assert other.arguments == model.arguments
    weights = [network.generator.state_dict()["layers.0.weight"] for network in (model, other)]
    assert weights[0].shape == weights[1].shape and not weights[0].equal(weights[1])
    assert folder_score.untrained(model, 7).generator.state_dict()["layers.0.weight"].equal(weights[1])


def test_untrained_has_the_networks_of_the_checkpoint():
    linear = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 4, "out_features": 8}}
    model = DCGAN(SHAPE, 4, width=4, generator=nn.Linear(4, 8))
    model.note_arguments(generator=linear)
    other = folder_score.untrained(model, 7)
    assert isinstance(other.generator, nn.Linear) and other.arguments == model.arguments
    assert not other.generator.weight.equal(model.generator.weight)


def test_what_does_not_fit_is_named(tmp_path, pictures, capsys):
    checkpoint = save(tmp_path / "m.ckpt")
    assert report(tmp_path, pictures, checkpoint, words=["--image_size", "32"])[0] == 1
    assert "(3, 16, 16)" in capsys.readouterr().err
    assert report(tmp_path, pictures / "train" / "reds", checkpoint)[0] == 1
    assert "folders of classes" in capsys.readouterr().err
    (tmp_path / "scorer.pt").write_text("none")
    assert report(tmp_path, pictures, checkpoint)[0] == 1
    assert "scorer.pt" in capsys.readouterr().err


def test_a_scorer_of_other_settings_is_not_used(tmp_path, pictures):
    assert report(tmp_path, pictures, save(tmp_path / "m.ckpt"))[0] == 0
    options = folder_score.parse_options(["x", "--data_dir", "d", "--scorer", str(tmp_path / "scorer.pt")])
    with pytest.raises(DataError, match="another --scorer"):
        folder_score.prepare_scorer(options, (torch.zeros(4, *SHAPE), torch.zeros(4)), 2, torch.device("cpu"))


def test_a_scorer_of_other_pictures_of_the_same_number_is_not_used(tmp_path):
    options = folder_score.parse_options(["x", "--data_dir", "d", "--scorer", str(tmp_path / "scorer.pt")])
    pictures, labels = torch.randint(256, (8, *SHAPE), dtype=torch.uint8), torch.arange(8) % 2
    first = folder_score.prepare_scorer(options, (pictures, labels), 2, torch.device("cpu"))
    again = folder_score.prepare_scorer(options, (pictures, labels), 2, torch.device("cpu"))
    assert all(a.equal(b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    for other in ((pictures.flip(0), labels), (pictures, labels.flip(0))):
        with pytest.raises(DataError, match="another --scorer"):
            folder_score.prepare_scorer(options, other, 2, torch.device("cpu"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "foo"], "--device is 'foo': "),
        (["--device", "cuda:99"], "--device is 'cuda:99': "),
        (["--image_size", "7"], "--image_size is 7: it must be 8 or more"),
        (["--num_samples", "1"], "--num_samples is 1: it must be 2 or more"),
    ],
)
def test_wrong_options_exit_with_2(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        folder_score.main(["m.ckpt", "--data_dir", "d", *words])
    assert stop.value.code == 2 and message in capsys.readouterr().err
