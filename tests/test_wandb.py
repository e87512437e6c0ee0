"""What Weights & Biases is given, read back from the disk; no account and no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pytorch_lightning.loggers import WandbLogger

from lightning_gans._lightning import drop_anonymous
from lightning_gans.cli.commands import recipes
from lightning_gans.cli.main import main
from tests import wandb_run
from tests.fake_sets import write_mnist

WORDS = ["fit", "-c", "quickstart", "-c", "fast", "-c", "wandb", "--model.width", "4", "--metrics.num_samples", "100"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:  # also what W&B tells its own children
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path


def offline_runs(workplace):
    return sorted((workplace / "runs" / "wandb").glob("offline-run-*"))


def fit(words):
    """Run a command in a process of its own: W&B keeps much for as long as one lives."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "lightning_gans", *words], env=environment, check=True, timeout=150)


@pytest.mark.slow
def test_scalars_pictures_tables_and_settings_are_on_the_axis_of_generator_updates(workplace):
    fit([*WORDS, "--trainer.log_every_n_steps", "1"])
    (folder,) = offline_runs(workplace)
    rows = wandb_run.history(folder)
    steps = [row["trainer/global_step"] for row in rows]
    assert steps == sorted(steps) and steps[-1] == 4
    assert [row["trainer/global_step"] for row in rows if "train/g_loss" in row] == [1, 2, 3, 4]
    assert [row["trainer/global_step"] for row in rows if "val/fid" in row] == [4]
    pictures = [row for row in rows if "samples" in row]
    assert [row["trainer/global_step"] for row in pictures] == [0, 4]
    assert [row["samples"]["captions"] for row in pictures] == [["step 0"], ["step 4"]]
    for row in pictures:
        assert (folder / "files" / row["samples"]["filenames"][0]).read_bytes().startswith(b"\x89PNG")
    (table,) = [row["evaluation/val"] for row in rows if "evaluation/val" in row]
    content = json.loads((folder / "files" / table["path"]).read_text())
    assert content["columns"] == ["score", "samples", "real images"]
    scores = json.loads((workplace / "runs/quickstart/version_0/metrics/step=0000004.json").read_text())
    assert {name: value for name, value, _ in content["data"]} == pytest.approx(scores["scores"])
    settings = wandb_run.config(folder)
    assert (settings["width"], settings["architecture"], settings["num_classes"]) == (4, "conv", 10)


def test_without_a_key_and_not_offline_it_says_how_to_log_in(workplace, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(workplace))  # no key of this machine's
    with pytest.raises(SystemExit) as stopped:
        main(WORDS)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in said
    assert "run `wandb login`, or set WANDB_MODE=offline" in said


def test_wandb_gets_no_option_that_it_warns_of(monkeypatch):
    asked = []
    monkeypatch.setattr("wandb.init", lambda **options: asked.append(options))
    for anonymous in (None, True):
        logger = WandbLogger(project="x", anonymous=anonymous)
        drop_anonymous(logger)
        assert logger.experiment is None and asked[-1]["project"] == "x"
    assert ["anonymous" in options for options in asked] == [False, True]


@pytest.mark.slow
def test_checkpoints_are_artifacts_where_that_is_asked_for(workplace):
    fit([*WORDS, "--checkpoint.monitor", "val/fid", "--trainer.logger.log_model", "true"])
    (folder,) = offline_runs(workplace)
    kept = {path.name: path.stat().st_size for path in Path("runs/quickstart/version_0/checkpoints").iterdir()}
    found = sorted((sorted(aliases), *of_file) for aliases, *of_file in wandb_run.artifacts(folder))
    assert found == [
        (["best", "latest"], "best.ckpt", kept["best.ckpt"]),
        (["latest"], "last.ckpt", kept["last.ckpt"]),
    ]
    fit(WORDS)
    assert wandb_run.artifacts(offline_runs(workplace)[-1]) == []


@pytest.mark.slow
def test_a_resumed_run_goes_on_under_its_id(workplace):
    fit(WORDS)
    fit(["resume", "runs/quickstart/version_0", "--trainer.max_epochs", "2"])
    first, second = offline_runs(workplace)
    assert first.name.rpartition("-")[2] == second.name.rpartition("-")[2]
    assert wandb_run.history(second)[-1]["trainer/global_step"] == 8


@pytest.mark.slow
def test_a_vaes_reconstructions_are_sent(workplace):
    write_mnist(workplace / "data")
    small = ["--data.data_dir", "data", "--data.val_size", "16", "--data.batch_size", "8", "--metrics.enabled", "false"]
    fit(["fit", "-c", "vae_mnist", "-c", "fast", "-c", "wandb", *small])
    (folder,) = offline_runs(workplace)
    assert any("reconstructions" in row for row in wandb_run.history(folder))


@pytest.mark.slow
def test_disabled_leaves_nothing(workplace, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    fit([*WORDS, "--metrics.enabled", "false"])
    assert not offline_runs(workplace)
    assert (workplace / "runs/quickstart/version_0/metrics.csv").is_file()


def test_without_the_overlay_wandb_is_not_asked(workplace, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    main([*WORDS[:5], "--metrics.enabled", "false", "--model.width", "4"])


@pytest.mark.slow
def test_a_trial_of_the_sweep_runs_through_the_same_command_line(workplace):
    write_mnist(workplace / "data")
    sweep = yaml.safe_load((recipes.folder() / "sweeps" / "dcgan_mnist.yaml").read_text())
    assert sweep["command"][0] == "lightning-gans" and sweep["command"][-1] == "${args}"
    ranges = sweep["parameters"].items()
    chosen = {name: about["values"][0] if "values" in about else about["max"] for name, about in ranges}
    # As an agent does: each setting as --name=value, in the place of ${args}.
    words = [*sweep["command"][1:-1], *(f"--{name}={value}" for name, value in chosen.items())]
    small = ["--data.data_dir", "data", "--data.val_size", "16", "--data.batch_size", "8", "--samples.enabled", "false"]
    fit([*words, "-c", "fast", *small])
    (folder,) = offline_runs(workplace)
    settings = wandb_run.config(folder)
    assert {name: settings[name.removeprefix("model.")] for name in chosen} == chosen
    assert any(sweep["metric"]["name"] in row for row in wandb_run.history(folder))


def test_the_sweep_is_found_by_its_name(capsys):
    main(["recipes", "sweeps/dcgan_mnist"])
    assert yaml.safe_load(capsys.readouterr().out)["metric"] == {"name": "val/fid", "goal": "minimize"}
