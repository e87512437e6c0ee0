"""A run that is resumed from any of its checkpoints ends as the run that never stopped: weights, optimizers, CSV."""

import shutil

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from lightning_gans import DCGAN, GAN, VAE, ConditionalGAN
from lightning_gans.plugins import AtomicCheckpointIO, RunLogger
from tests.toys import Toys, tiny

# Eight batches an epoch, three epochs; dropout, BatchNorm, several updates a step.
MODELS = {
    "gan": lambda: tiny(GAN, dropout=0.5, d_steps=2),
    "dcgan": lambda: tiny(DCGAN, lr_schedule="cosine", lr_end=0.1),
    "cgan": lambda: tiny(ConditionalGAN, dropout=0.3, mismatch_weight=0.5, gradient_clip_val=0.5),
    "vae": lambda: tiny(VAE, encoder_steps=2, ema_half_life=0),
    "conditional_vae": lambda: tiny(VAE, num_classes=3, likelihood="gaussian", accumulate_batches=2),
}


class Score(Callback):
    """Logs a number in each validation that depends on the weights and on every validation image."""

    def on_validation_epoch_start(self, *_):
        self.total = 0.0

    def on_validation_batch_end(self, trainer, model, outputs, batch, *_):
        self.total += float(batch[0].sum())

    def on_validation_epoch_end(self, trainer, model):
        weights = sum(float(weight.double().sum()) for weight in model.parameters())
        model.log("val/score", torch.tensor(weights + self.total, dtype=torch.float64))


class SaveEverywhere(Callback):
    """Saves a checkpoint, beside a copy of the CSV file, in every hook in which somebody might."""

    def __init__(self, folder):
        self.folder, self.places = folder, {}

    def save(self, trainer, place):
        if trainer.sanity_checking:
            return
        name = f"{place}-{trainer.current_epoch}-{trainer.global_step}"
        trainer.save_checkpoint(self.folder / f"{name}.ckpt", weights_only=False)

    def on_train_batch_start(self, trainer, *_):
        self.save(trainer, "batch_start")

    def on_train_batch_end(self, trainer, *_):
        self.save(trainer, "batch_end")

    def on_validation_start(self, trainer, *_):
        self.save(trainer, "validation_start")

    def on_validation_batch_end(self, trainer, model, outputs, batch, index, *_):
        self.save(trainer, f"validation_batch_{index}")

    def on_validation_end(self, trainer, *_):
        self.save(trainer, "validation_end")

    def on_train_epoch_end(self, trainer, *_):
        self.save(trainer, "epoch_end")


@pytest.fixture
def train(make_trainer, tmp_path):
    """Train a model in a run's folder, from the start or from a checkpoint."""

    def train(make, run, checkpoint=None, callbacks=(), **options):
        torch.manual_seed(0 if checkpoint is None else 99)
        model = make()
        if checkpoint is None:
            model.run_seed = 11
        options = {"max_epochs": 3, "log_every_n_steps": 1, "num_sanity_val_steps": 2, **options}
        logger = RunLogger(tmp_path, "runs", run)
        trainer = make_trainer(
            logger=logger, plugins=[AtomicCheckpointIO()], callbacks=[Score(), *callbacks], **options
        )
        data = Toys(batch_size=4 // model.batches_per_step)
        trainer.fit(model, data, ckpt_path=checkpoint)
        return trainer

    return train


def end_of(trainer):
    """Return all that training has come to."""
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    return {
        "weights": dict(trainer.lightning_module.state_dict()),
        "optimizers": optimizers,
        "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "counts": (trainer.global_step, trainer.lightning_module.images_seen),
        "csv": (trainer.logger.experiment.path).read_bytes(),
    }


def differences(first, second, path=""):
    """Return the places where two nests of dicts, lists and tensors differ in a bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        return [d for key in first for d in differences(first[key], second[key], f"{path}/{key}")]
    if isinstance(first, (list, tuple)):
        return [d for k, (a, b) in enumerate(zip(first, second, strict=True)) for d in differences(a, b, f"{path}/{k}")]
    same = first.equal(second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [path]


LIMITS = {
    "epochs": {},
    "steps": {"max_epochs": -1, "max_steps": 21},
    "steps_to_an_epochs_end": {"max_epochs": -1, "max_steps": 24},
    "every_second_epoch": {"check_val_every_n_epoch": 2},
    "no_validation": {"limit_val_batches": 0},
    "val_check_share": {"val_check_interval": 0.5},
    "val_check_batches": {"val_check_interval": 3, "check_val_every_n_epoch": None},
    "limited": {"limit_train_batches": 5},
}


@pytest.mark.parametrize("limits", LIMITS)
def test_every_place_of_a_run_is_resumed_to_the_bit(train, tmp_path, limits):
    options = LIMITS[limits]
    saver = SaveEverywhere(tmp_path / "saved")
    end = end_of(train(MODELS["dcgan"], "whole", callbacks=[saver], **options))
    files = sorted((tmp_path / "saved").glob("*.ckpt"))
    assert len(files) > 30
    wrong = {}
    for file in files:
        shutil.copytree(tmp_path / "runs" / "whole", tmp_path / "runs" / file.stem)
        again = end_of(train(MODELS["dcgan"], file.stem, checkpoint=file, **options))
        found = differences(end, again)
        if found:
            wrong[file.stem] = found[:3]
    assert not wrong
