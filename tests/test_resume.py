"""A resumed run ends with the weights, the optimizers and the CSV file of one that never stopped.

That holds for the checkpoints of ``Checkpoint`` and ``GracefulStop``: after a step, after a validation, at the end of
an epoch (``GracefulStop`` within a validation: ``callbacks/test_graceful_stop.py``). Others only load and resume.
"""

import shutil

import pytest
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping

from lightning_gans import ADA, DCGAN, GAN, VAE, VAEGAN, VQVAE, ConditionalGAN, FastGAN, InfoGAN
from lightning_gans import Checkpoint as KeepLast
from lightning_gans.augment.pipeline import TRANSFORMS
from lightning_gans.errors import SettingError
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.io.csv_logger import RunLogger
from lightning_gans.training.regularizers import BCR, ZCR, LeCam, ZCRDiversity
from tests.models.test_vqvae import SMALL
from tests.toys import SHAPE, tiny, tiny_biggan, toys_for

# Eight steps an epoch, three epochs; dropout, BatchNorm, several batches a step.
MODELS = {
    "gan": lambda: tiny(GAN, dropout=0.5, d_steps=2),
    "dcgan": lambda: tiny(DCGAN, lr_schedule="cosine", lr_end=0.1),
    "cgan": lambda: tiny(ConditionalGAN, dropout=0.3, mismatch_weight=0.5, gradient_clip_val=0.5),
    "infogan": lambda: InfoGAN(SHAPE, 4, 3, width=4, dense_dims=[6], d_steps=2),
    "attributes": lambda: tiny(ConditionalGAN, num_classes=2, architecture="conv", width=4, mismatch_weight=0.5),
    "vae": lambda: tiny(VAE, encoder_steps=2, ema_half_life=0),
    "vae_weights": lambda: tiny(VAE, kl_warmup_images=70, free_bits=0.01, tc_weight=2.0),
    "vamp_vae": lambda: tiny(VAE, prior="vamp", prior_components=5, batch_norm=True),
    "mixture_vae": lambda: tiny(VAE, prior="mixture", prior_components=2),
    "vae_gan": lambda: VAEGAN(SHAPE, 4, width=4),
    "fastgan": lambda: FastGAN((1, 32, 32), 3, width=1),
    "vqvae": lambda: VQVAE(SHAPE, 3, **SMALL, decay=0.7, prior_start=0.7),
    "regularized": lambda: tiny(
        DCGAN,
        loss="relativistic",
        penalties={"r1": 0.5, "dragan": 0.5},
        penalty_interval=3,
        penalty_end=0.1,
        augment=["color", "translation", "cutout"],
        feature_matching=0.1,
        beta2_end=0.9,
        ema_start=0.0,
        schedule_images=64,
    ),
    "little_data": lambda: tiny(
        DCGAN,
        freeze_layers=1,
        augment=ADA(TRANSFORMS, 0.0, interval=3, ramp_images=100, fakes_as_real=True),
        regularizers=[LeCam(0.3), BCR(10.0), ZCR(5.0), ZCRDiversity(0.5)],
    ),
    "biggan": lambda: tiny_biggan(d_steps=2),
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


class SaveEverywhere(Checkpoint):
    """Saves a checkpoint in every hook of the contract, after all other callbacks.

    Args:
        folder: Where to.
        places: Names of the only places at which it saves; None is all.
        others: Whether to save in other hooks as well.
    """

    def __init__(self, folder, places=None, others=False):
        self.folder, self.places, self.others, self.step = folder, places, others, 0

    def save(self, trainer, place):
        name = f"{place}-{trainer.current_epoch}-{trainer.global_step}"
        if not trainer.sanity_checking and (self.places is None or name in self.places):
            trainer.save_checkpoint(self.folder / f"{name}.ckpt", weights_only=False)

    def save_elsewhere(self, trainer, place):
        if self.others:
            self.save(trainer, place)

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            self.save(trainer, "batch_end")

    def on_validation_end(self, trainer, *_):
        self.save(trainer, "validation_end")

    def on_train_epoch_end(self, trainer, *_):
        self.save(trainer, "epoch_end")

    def on_train_start(self, trainer, *_):
        self.step = trainer.global_step
        self.save_elsewhere(trainer, "train_start")

    def on_train_epoch_start(self, trainer, *_):
        self.save_elsewhere(trainer, "epoch_start")

    def on_train_batch_start(self, trainer, *_):
        self.save_elsewhere(trainer, "batch_start")

    def on_validation_start(self, trainer, *_):
        self.save_elsewhere(trainer, "validation_start")

    def on_validation_batch_end(self, trainer, model, outputs, batch, index, *_):
        self.save_elsewhere(trainer, f"validation_batch_{index}")


def batches_of_a_step(model):
    """Return how many batches of the loader a training step of one of the models takes."""
    return model.accumulate_batches * getattr(model, "d_steps", 1) * getattr(model, "encoder_steps", 1)


@pytest.fixture
def train(make_trainer, tmp_path):
    """Train a model in a run's folder, from the start or from a checkpoint."""

    def train(make, run, checkpoint=None, callbacks=(), **options):
        torch.manual_seed(0 if checkpoint is None else 99)
        model = make()
        if checkpoint is None:
            model.run_seed = 11
        options = {"max_epochs": 3, "log_every_n_steps": 1, "num_sanity_val_steps": 2, **options}
        options["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in callbacks)
        logger = RunLogger(tmp_path, "runs", run)
        trainer = make_trainer(
            logger=logger, plugins=[AtomicCheckpointIO()], callbacks=[Score(), *callbacks], **options
        )
        trainer.fit(model, toys_for(model, batch_size=4 // batches_of_a_step(model)), ckpt_path=checkpoint)
        return trainer

    return train


def end_of(trainer):
    """Return all that training ends with."""
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
    "float64": {"precision": "64-true"},
}


# The ends of the first epoch, of validations and of the run, and places within an epoch.
PLACES = (
    *("batch_end-0-8", "batch_end-1-13", "batch_end-1-16", "validation_end-1-16", "epoch_end-1-16"),
    *("batch_end-2-21", "epoch_end-2-21", "validation_end-1-12", "batch_end-2-24", "epoch_end-2-24"),
)


@pytest.fixture
def resumed_differs(train, tmp_path):
    """Train once, resume from each place that was saved, and return what ends differently."""

    def resumed_differs(name, limits, places=None):
        options, make = LIMITS[limits], MODELS[name]
        end = end_of(train(make, "whole", callbacks=[SaveEverywhere(tmp_path / "saved", places)], **options))
        files = sorted((tmp_path / "saved").glob("*.ckpt"))
        assert len(files) > 15 if places is None else len(files) >= 2
        wrong = {}
        for file in files:
            # The file holds the whole run's rows: those after the checkpoint have to go.
            shutil.copytree(tmp_path / "runs" / "whole", tmp_path / "runs" / file.stem)
            again = end_of(train(make, file.stem, checkpoint=file, **options))
            found = differences(end, again)
            if found:
                wrong[file.stem] = found[:3]
        return wrong

    return resumed_differs


@pytest.mark.parametrize("limits", ["steps_to_an_epochs_end", "val_check_batches"])
def test_a_run_is_resumed_to_the_bit(resumed_differs, limits):
    assert not resumed_differs("dcgan", limits, PLACES)


def test_a_run_in_float64_is_resumed_to_the_bit(resumed_differs):
    assert not resumed_differs("vae", "float64", ("batch_end-0-8", "batch_end-2-21"))


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"dcgan"}))
def test_every_model_is_resumed_to_the_bit(resumed_differs, name):
    assert not resumed_differs(name, "epochs", ("batch_end-1-13", "validation_end-1-16"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "limits"), [*(("dcgan", limits) for limits in LIMITS), *((name, "epochs") for name in MODELS)]
)
def test_every_place_of_a_run_is_resumed_to_the_bit(resumed_differs, name, limits):
    assert not resumed_differs(name, limits)


@pytest.mark.slow
def test_a_checkpoint_of_another_place_loads_and_resumes(train, tmp_path):
    places = (
        "train_start-0-0",
        "batch_start-1-13",
        "epoch_start-1-8",
        "validation_start-0-8",
        "validation_batch_0-1-16",
    )
    saver = SaveEverywhere(tmp_path / "saved", places, others=True)
    train(MODELS["gan"], "whole", callbacks=[saver])
    for place in places:
        again = train(MODELS["gan"], place, checkpoint=tmp_path / "saved" / f"{place}.ckpt")
        assert again.current_epoch == 3
        assert all(value.isfinite() for value in again.callback_metrics.values())


class Killed(Exception):
    """Stands for a process that was killed."""


class Kill(Callback):
    """Kills the run within the training step after the given number of them."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, model, *_):
        if trainer.global_step == self.step and model.within_step:
            raise Killed


@pytest.mark.parametrize(
    "name", ["gan", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vae", "conditional_vae"))]
)
def test_a_killed_run_is_resumed_from_its_last_checkpoint_to_the_bit(train, tmp_path, name):
    folder = tmp_path / "checkpoints"
    end = end_of(train(MODELS[name], "whole", callbacks=[KeepLast(dirpath=str(folder / "whole"), every_n_steps=5)]))
    for run, step, saved in (("within", 5, 5), ("again", 11, 10), ("ends", 8, 8), ("later", 17, 16)):
        checkpoint = folder / run / "last.ckpt"
        with pytest.raises(Killed):
            keeper = KeepLast(dirpath=str(checkpoint.parent), every_n_steps=5)
            train(MODELS[name], run, callbacks=[Kill(step), keeper])
        assert torch.load(checkpoint, weights_only=True)["global_step"] == saved
        keeper = KeepLast(dirpath=str(checkpoint.parent), every_n_steps=5)
        assert not differences(end, end_of(train(MODELS[name], run, checkpoint=checkpoint, callbacks=[keeper]))), run


@pytest.mark.slow
def test_a_longer_run_resumes_from_the_end_of_a_shorter(train, tmp_path):
    whole = end_of(train(MODELS["gan"], "whole", max_epochs=3))  # 24 steps
    for first, second in (
        ({"max_epochs": 1}, {"max_epochs": 3}),
        ({"max_steps": 13, "max_epochs": -1}, {"max_steps": 24, "max_epochs": -1}),
        ({"max_steps": 13, "max_epochs": -1}, {"max_epochs": 3}),
    ):
        shorter = train(MODELS["gan"], f"longer-{first}", **first)
        shorter.save_checkpoint(tmp_path / "end.ckpt", weights_only=False)
        longer = end_of(train(MODELS["gan"], f"longer-{first}", checkpoint=tmp_path / "end.ckpt", **second))
        assert not differences(whole, longer)


class OneCycle(GAN):
    """Asks how long the run will be: Lightning then makes the loader before it reads a checkpoint."""

    def configure_optimizers(self):
        optimizers = super().configure_optimizers()
        steps = self.trainer.estimated_stepping_batches
        one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizers[0], 1e-3, steps)
        return optimizers, [{"scheduler": one_cycle, "interval": "step"}]


def test_a_custom_schedule_does_not_lose_the_place(train, tmp_path):
    places = ("batch_end-1-13", "epoch_end-1-16")
    saver = SaveEverywhere(tmp_path / "saved", places)
    end = end_of(train(lambda: tiny(OneCycle), "whole", callbacks=[saver]))
    for place in places:
        again = end_of(train(lambda: tiny(OneCycle), place, checkpoint=tmp_path / "saved" / f"{place}.ckpt"))
        assert not [d for d in differences(end, again) if d != "/csv"], place


class SaveWithin(Callback):
    """Saves once between the updates of a step, or between two of its batches."""

    def __init__(self, path, hook):
        self.path = path
        setattr(self, hook, self.save)

    def save(self, trainer, model, *_):
        if trainer.global_step == 1 and model.within_step and not self.path.exists():
            trainer.save_checkpoint(self.path, weights_only=False)


@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "on_train_batch_end"])
def test_a_checkpoint_within_a_step_comes_with_a_warning(train, tmp_path, hook):
    with pytest.warns(UserWarning, match="within a training step"):
        train(MODELS["gan"], "run", callbacks=[SaveWithin(tmp_path / "within.ckpt", hook)], max_epochs=1)
    assert train(MODELS["gan"], "again", checkpoint=tmp_path / "within.ckpt", max_epochs=1).current_epoch == 1


def test_no_other_checkpoint_comes_with_a_warning(train, tmp_path, recwarn):
    """Also where the last batches of an epoch do not fill a step."""
    saver = SaveEverywhere(tmp_path / "saved")
    train(MODELS["gan"], "run", callbacks=[saver], max_epochs=2, limit_train_batches=7)
    assert not [warning for warning in recwarn if "within a training step" in str(warning.message)]
    assert len(list((tmp_path / "saved").iterdir())) == 10


@pytest.mark.slow
@pytest.mark.parametrize("at_epoch_end", [True, False])
def test_early_stopping_counts_each_validation_once(train, tmp_path, at_epoch_end):
    def stopping():
        return EarlyStopping("val/score", min_delta=1e9, patience=2, check_on_train_epoch_end=at_epoch_end)

    places = ("validation_end-1-16", "epoch_end-1-16", "batch_end-1-16")
    saver = SaveEverywhere(tmp_path / "saved", places)
    options = {"max_epochs": 9}
    end = end_of(train(MODELS["gan"], "whole", callbacks=[stopping(), saver], **options))
    assert end["counts"][0] == 24
    for place in places:
        shutil.copytree(tmp_path / "runs" / "whole", tmp_path / "runs" / place)
        file = tmp_path / "saved" / f"{place}.ckpt"
        again = end_of(train(MODELS["gan"], place, checkpoint=file, callbacks=[stopping()], **options))
        assert not differences(end, again), place


def test_a_validation_by_the_clock_is_invalid(train):
    with pytest.raises(SettingError) as error:
        train(MODELS["gan"], "timed", val_check_interval="00:00:00:05", check_val_every_n_epoch=None)
    assert error.value.setting == "trainer.val_check_interval"
