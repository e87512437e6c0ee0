"""Checkpoints that earlier versions have written make the same models, and their runs go on.

``fixtures/checkpoints_<version>/`` was written by that version, with ``python -m tests.write_checkpoints``.
"""

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import lightning_gans
from lightning_gans import Checkpoint, CollapseWatchdog, DigitsDataModule, RunLogger

from .plain_loader import batches_of_a_step, held_out, loader

pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*")  # the averages

FIXTURES = Path(__file__).parent / "fixtures"
PATHS = sorted(FIXTURES.glob("checkpoints_*/*.ckpt"))
BATCH_SIZE = 4
every_checkpoint = pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name[12:]}-{path.stem}")


def expected_of(path):
    return json.loads((path.parent / "expected.json").read_text())[path.stem]


def as_lists(value):
    """Return a setting as JSON has it."""
    return json.loads(json.dumps(value))


def sums(images):
    images = images.double()
    return [float(images.sum()), float(images.square().sum())]


def test_there_are_checkpoints_of_every_model():
    assert {expected_of(path)["class"] for path in PATHS if path.parent.name == "checkpoints_0_1_0"} == {
        *("GAN", "DCGAN", "ConditionalGAN", "ResNetGAN", "R3GAN", "RecurrentGAN", "VAE", "VAEGAN")
    }
    for folder in FIXTURES.glob("checkpoints_*"):
        assert set(json.loads((folder / "expected.json").read_text())) == {path.stem for path in folder.glob("*.ckpt")}


@every_checkpoint
def test_an_old_checkpoint_makes_its_model(path):
    expected, model = expected_of(path), lightning_gans.load(path)
    assert type(model) is getattr(lightning_gans, expected["class"])
    arguments = as_lists(model.arguments)
    assert {name: arguments[name] for name in expected["arguments"]} == expected["arguments"]
    assert model.latent_dim == 2 and list(model.image_shape) == expected["arguments"]["image_shape"]
    assert model.images_seen == expected["images_seen"]
    assert type(getattr(model, "generator", None)).__name__ == expected["generator"]
    for kind, wanted in expected["samples"].items():
        found = sums(model.sample(4, seed=0, ema=kind == "ema"))
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5), kind


class Losses(pl.Callback):
    """Notes what is logged after each update."""

    def __init__(self):
        self.found = {}

    def on_train_batch_end(self, trainer, *_):
        values = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("train/")}
        self.found.setdefault(trainer.global_step, {}).update(values)


@every_checkpoint
def test_a_run_goes_on_from_an_old_checkpoint(path, make_trainer, tmp_path):
    expected, model = expected_of(path), lightning_gans.load(path)
    shape, step = model.image_shape, expected["global_step"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = Losses()
    trainer = make_trainer(
        max_epochs=-1,
        max_steps=step + 2,
        log_every_n_steps=1,
        logger=RunLogger(tmp_path, "runs", "run"),
        enable_checkpointing=True,
        callbacks=[losses, CollapseWatchdog(), Checkpoint(dirpath=tmp_path / "checkpoints")],
    )
    if path.stem == "command_line":
        batches = 1
        data = (DigitsDataModule(image_size=8, batch_size=BATCH_SIZE),)
    else:
        batches = batches_of_a_step(expected["arguments"])
        data = (loader(BATCH_SIZE, batches, shape), held_out(shape))
    trainer.fit(model, *data, ckpt_path=path)
    assert trainer.global_step == step + 2
    assert model.images_seen == expected["images_seen"] + 2 * batches * BATCH_SIZE
    assert {step + 1, step + 2} <= set(losses.found) <= {step, step + 1, step + 2}
    assert all(losses.found[number] for number in (step + 1, step + 2))
    assert all(torch.tensor([*values.values()]).isfinite().all() for values in losses.found.values())
    for network in model.trained_networks:
        changed = [name for name, value in model.state_dict().items() if not value.equal(before[name])]
        assert any(name.startswith(f"{network}.") for name in changed), network
