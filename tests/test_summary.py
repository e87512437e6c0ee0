"""What a fit leaves behind when it ends."""

import json

import pytest
import torch

import lightning_gans
from lightning_gans import summary
from lightning_gans.cli import main

TINY = [
    "-c",
    "quickstart",
    "-c",
    "fast",
    "--model.width",
    "4",
    "--samples.enabled",
    "false",
    "--metrics.enabled",
    "false",
]


def fits(run):
    return json.loads((run / "run.json").read_text())["fits"]


def test_a_run_says_how_it_was_made_and_goes_on_saying_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "quickstart" / "version_0"
    main(["fit", *TINY])
    (first,) = fits(run)
    assert first["command"] == "lightning-gans " + " ".join(["fit", *TINY])
    assert (first["step"], first["images_seen"]) == (4, 4 * 64)
    assert first["version"] == lightning_gans.__version__
    assert first["processes"] == 1 and 0 < first["seconds"] < 100
    main(["resume", str(run), "--trainer.max_epochs", "2"])
    again, second = fits(run)
    assert again == first
    assert (second["step"], second["images_seen"]) == (8, 8 * 64)
    (run / "run.json").write_text("{")
    main(["resume", str(run), "--trainer.max_epochs", "3"])
    assert [fit["step"] for fit in fits(run)] == [12]  # what was damaged is begun anew
    main(["fit", *TINY])
    assert len(fits(run.with_name("version_1"))) == 1


def test_a_run_without_a_folder_leaves_no_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", *TINY, "--trainer.logger", "false", "--checkpoint.enabled", "false"])
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_processor_is_named_with_its_threads(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert summary.hardware(torch.device("cpu")).endswith(", 1 thread" if threads == 1 else ", 2 threads")


def test_the_commit_is_that_of_a_repository_or_none(tmp_path, monkeypatch):
    found = summary.commit()
    assert found is None or len(found.removesuffix("-dirty")) == 40
    monkeypatch.setattr(summary, "__file__", str(tmp_path / "lightning_gans" / "summary.py"))
    assert summary.commit() is None
