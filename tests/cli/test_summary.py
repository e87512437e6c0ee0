"""What a fit leaves behind when it ends."""

import json
import shlex

import pytest
import torch
import yaml

import lightning_gans
from lightning_gans.callbacks import ProgressBar
from lightning_gans.cli import summary
from lightning_gans.cli.commands import recipes
from lightning_gans.cli.main import main

TINY = ["-c", "quickstart", "-c", "fast", "--model.width", "4"]
TINY += ["--samples.enabled", "false", "--metrics.enabled", "false"]


def fits(run):
    return json.loads((run / "run.json").read_text())["fits"]


@pytest.mark.slow
def test_a_run_says_how_it_was_made_and_goes_on_saying_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "quickstart" / "version_0"
    main(["fit", *TINY])
    (first,) = fits(run)
    assert first["command"] == "lightning-gans " + " ".join(["fit", *TINY])
    assert (first["from_step"], first["step"], first["images_seen"]) == (0, 4, 4 * 64)
    assert first["version"] == lightning_gans.__version__
    assert first["processes"] == 1 and 0 < first["seconds"] < 100
    main(["resume", str(run), "--trainer.max_epochs", "2"])
    again, second = fits(run)
    assert again == first
    assert (second["from_step"], second["step"], second["images_seen"]) == (4, 8, 8 * 64)
    (run / "run.json").write_text("{")
    main(["resume", str(run), "--trainer.max_epochs", "3"])
    assert [(fit["from_step"], fit["step"]) for fit in fits(run)] == [(8, 12)]  # what was damaged is begun anew
    main(["fit", *TINY])
    assert len(fits(run.with_name("version_1"))) == 1


@pytest.mark.slow
def test_a_fit_that_an_error_ends_is_recorded_once_it_has_begun(tmp_path, monkeypatch):
    def fail(progress, trainer, *_):
        if trainer.sanity_checking:
            raise SystemExit(3)
        if trainer.global_step == 3:
            raise ValueError("a test")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ProgressBar, "on_train_batch_end", fail)
    with pytest.raises(ValueError, match="a test"):
        main(["fit", *TINY])
    run = tmp_path / "runs" / "quickstart" / "version_0"
    assert [(fit["from_step"], fit["step"]) for fit in fits(run)] == [(0, 3)]
    monkeypatch.setattr(ProgressBar, "on_sanity_check_start", fail)
    with pytest.raises(SystemExit):
        main(["fit", *TINY, "--trainer.num_sanity_val_steps", "1"])
    assert len(list(tmp_path.rglob("run.json"))) == 1


@pytest.mark.slow
def test_a_test_says_which_checkpoint_of_which_training_it_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", *TINY, "--seed_everything", "5"])
    checkpoint = "runs/quickstart/version_0/checkpoints/last.ckpt"
    main(["test", *TINY, "--metrics.enabled", "true", "--samples.enabled", "true", "--ckpt_path", checkpoint])
    run = tmp_path / "runs" / "quickstart" / "version_1"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["ckpt_path"], config["seed_everything"]) == (checkpoint, 42)
    (path,) = (run / "metrics").iterdir()
    assert json.loads(path.read_text())["run_seed"] == 5
    assert [picture.stem for picture in (run / "samples").iterdir()] == [path.stem] != ["step=0000000"]


def test_what_to_do_next_can_be_pasted_into_a_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my recipe.yaml").write_text((recipes.folder() / "quickstart.yaml").read_text())
    main(["fit", "-c", "my recipe.yaml", *TINY[2:]])
    head, *commands, remark = capsys.readouterr().out.splitlines()[-5:]
    sample, resume, report = map(shlex.split, commands)
    run = "runs/my recipe/version_0"
    assert head == "Next:"
    assert sample[:3] == ["lightning-gans", "sample", f"{run}/checkpoints/last.ckpt"]
    assert resume[:3] == ["lightning-gans", "resume", run]
    assert report == ["lightning-gans", "report", run]
    assert remark == "(When resumed, the cosine schedule is stretched over the longer run.)"


@pytest.mark.slow
def test_the_score_of_real_images_is_beside_that_of_samples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["fit", *TINY, "--metrics.enabled", "true", "--metrics.num_samples", "100", "--trainer.max_epochs", "1"])
    (path,) = (tmp_path / "runs" / "quickstart" / "version_0" / "metrics").iterdir()
    record = json.loads(path.read_text())
    num_real, out = record["protocol"]["num_real"], capsys.readouterr().out
    assert f"fid of 100 samples against {num_real:,} real images: {record['scores']['fid']:.4g}\n" in out
    real = record["floor"]["scores"]["fid"]
    assert f"fid of 100 other real images against {num_real:,} real images: {real:.4g}\n" in out


def test_a_run_that_ends_before_its_scores_says_so_in_the_folder_that_was_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["fit", *TINY, "--trainer.max_steps", "1", "--trainer.default_root_dir", "mine", "--metrics.enabled", "true"])
    out = capsys.readouterr().out
    assert "no scores" in out and "resume mine/runs/quickstart/version_0" in out
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_run_without_a_folder_leaves_no_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", *TINY, "--trainer.logger", "false", "--checkpoint.enabled", "false"])
    assert not list(tmp_path.rglob("run.json"))


def test_parameters_are_those_that_are_trained():
    networks = {"ema": torch.nn.Linear(3, 16).requires_grad_(False), "generator": torch.nn.Linear(3, 16)}
    model = torch.nn.ModuleDict({**networks, "discriminator": torch.nn.Linear(1999, 1)})
    said = "ModuleDict: 2,064 parameters (generator 64, discriminator 2,000)"
    assert summary.describe_parameters(model) == said


@pytest.mark.parametrize("threads", [1, 2])
def test_the_processor_is_named_with_its_threads(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert summary.hardware(torch.device("cpu")).endswith(", 1 thread" if threads == 1 else ", 2 threads")


def test_the_commit_is_that_of_a_repository_or_none(tmp_path, monkeypatch):
    found = summary.find_commit()
    assert found is None or len(found.removesuffix("-dirty")) == 40
    monkeypatch.setattr(summary, "__file__", str(tmp_path / "lightning_gans" / "cli" / "summary.py"))
    assert summary.find_commit() is None
