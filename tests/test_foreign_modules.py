"""The callbacks on modules that know nothing of this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_gans import (
    Checkpoint,
    CollapseWatchdog,
    GenerativeMetrics,
    GracefulStop,
    NearestNeighbors,
    ProgressBar,
    RunLogger,
    SampleGrid,
)
from tests import foreign
from tests.foreign import DDPM, RealNVP, TutorialGAN
from tests.toys import quiet_trainer

ROOT = str(Path(__file__).parents[1])


def of_noise(module, n):
    return module(torch.randn(n, module.hparams.latent_dim, device=module.device))


MODULES = {
    "TutorialGAN": (TutorialGAN, {"sample": of_noise}, -1.0),
    "DDPM": (DDPM, {}, 0.0),
    "RealNVP": (RealNVP, {"sample": RealNVP.draw}, -1.0),
}


class Pooled(nn.Module):
    def forward(self, images):
        return F.adaptive_avg_pool2d(images, 4).flatten(1)


def all_callbacks(sample):
    options = {"extractor": Pooled(), "num_samples": 60, "metrics": ["fid", "kid", "precision"], "neighbor_images": 40}
    return [
        GenerativeMetrics(**options, **sample),
        SampleGrid(num_samples=4, **sample),
        NearestNeighbors(num_samples=6, **sample),
        CollapseWatchdog(**sample),
        Checkpoint(monitor="val/fid"),
        GracefulStop(),
        ProgressBar(),
    ]


def train(name, folder, with_ours, steps=8, epochs=2, **options):
    make, sample, low = MODULES[name]
    torch.manual_seed(3)
    module = make()
    trainer = quiet_trainer(
        folder,
        **{"max_epochs": epochs, "limit_train_batches": steps // epochs, "num_sanity_val_steps": 0},
        **{"logger": RunLogger(folder, "run") if with_ours else False, "enable_progress_bar": with_ours},
        enable_checkpointing=with_ours,
        callbacks=all_callbacks(sample) if with_ours else [],
        **options,
    )
    trainer.fit(module, foreign.loader(low, 200), foreign.loader(low, 60, start=200))
    return module, trainer


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_training_is_the_same_with_all_callbacks_and_without(name, tmp_path):
    plain, _ = train(name, tmp_path / "plain", with_ours=False)
    module, trainer = train(name, tmp_path / "ours", with_ours=True)
    assert all(a.equal(b) for a, b in zip(plain.state_dict().values(), module.state_dict().values(), strict=True))
    run = tmp_path / "ours" / "run" / "version_0"
    records = sorted((run / "metrics").glob("step=*.json"))
    assert len(records) == 2
    record = json.loads(records[-1].read_text())
    assert {"fid", "kid", "precision"} <= record["scores"].keys()
    assert record["scores"]["fid"] == pytest.approx(trainer.callback_metrics["val/fid"].item())
    assert len([*(run / "samples").glob("*.png")]) == 3  # the start and two epochs
    assert (run / "checkpoints" / "best.ckpt").is_file() and (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "metrics.csv").read_text().count("\n") >= 2


@pytest.mark.parametrize("name", MODULES)
def test_the_same_weights_give_the_same_pictures_and_scores(name, tmp_path):
    make, sample, low = MODULES[name]
    torch.manual_seed(1)
    module, found = make(), []
    for seed in (5, 6):
        torch.manual_seed(seed)
        folder = tmp_path / str(seed)
        callbacks = [GenerativeMetrics(["fid"], 60, Pooled(), **sample), SampleGrid(num_samples=4, **sample)]
        trainer = quiet_trainer(folder, logger=RunLogger(folder, "run"), callbacks=callbacks)
        trainer.validate(module, foreign.loader(low, 60), verbose=False)
        (grid,) = folder.rglob("*.png")
        found.append((trainer.callback_metrics["val/fid"].item(), grid.read_bytes()))
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("name", MODULES)
def test_two_processes_give_the_scores_of_one(name, family, tmp_path):
    scores = []
    for devices in (1, 2):
        environment = {**os.environ, "PYTHONPATH": ROOT, "FAMILY": family, "OMP_NUM_THREADS": "1"}
        environment["LIGHTNING_GANS_NAMESPACE"] = family.split(".")[0]
        command = [sys.executable, "-m", "tests.validate_foreign", name, str(devices)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        scores.append(json.loads(done.stdout.splitlines()[-1]))
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)


def test_a_module_without_samples_is_refused_before_the_first_step(tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=[GenerativeMetrics(["fid"], 60, Pooled())])
    with pytest.raises(Exception, match="sample") as caught:
        trainer.fit(TutorialGAN(), foreign.loader(-1.0, 60), foreign.loader(-1.0, 60))
    assert caught.value.setting == "TutorialGAN.sample"
