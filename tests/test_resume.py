"""A run that is resumed from any of its checkpoints ends as the run that never stopped: weights, optimizers, CSV."""

import shutil

import pytest
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping

from lightning_gans import DCGAN, GAN, VAE, VAEGAN, ConditionalGAN
from lightning_gans.errors import SettingError
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.io.csv_logger import RunLogger
from tests.toys import SHAPE, Toys, tiny

# Eight batches an epoch, three epochs; dropout, BatchNorm, several updates a step.
MODELS = {
    "gan": lambda: tiny(GAN, dropout=0.5, d_steps=2),
    "dcgan": lambda: tiny(DCGAN, lr_schedule="cosine", lr_end=0.1),
    "cgan": lambda: tiny(ConditionalGAN, dropout=0.3, mismatch_weight=0.5, gradient_clip_val=0.5),
    "vae": lambda: tiny(VAE, encoder_steps=2, ema_half_life=0),
    "vae_gan": lambda: VAEGAN(SHAPE, 4, width=4),
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
    """Saves a checkpoint in every hook in which somebody might; after all other callbacks, as Lightning's own.

    Given some places, it saves at those alone, which takes less time.
    """

    def __init__(self, folder, places=None):
        self.folder, self.places = folder, places

    def save(self, trainer, place):
        if trainer.sanity_checking:
            return
        name = f"{place}-{trainer.current_epoch}-{trainer.global_step}"
        if self.places is None or name in self.places:
            trainer.save_checkpoint(self.folder / f"{name}.ckpt", weights_only=False)

    def on_train_epoch_start(self, trainer, *_):
        self.save(trainer, "epoch_start")

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
        options["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in callbacks)
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


# The ends of the first epoch, of a validation and of the run, and two places within.
PLACES = (
    *("batch_end-0-8", "batch_start-1-8", "batch_start-1-15", "batch_end-1-13", "batch_end-1-16"),
    *("validation_batch_0-1-16", "validation_end-1-16", "validation_batch_1-2-24"),
    *("epoch_start-0-0", "epoch_start-1-8", "epoch_end-1-16", "epoch_end-2-21", "validation_end-1-12"),
    *("batch_end-0-5", "batch_end-1-7", "validation_batch_0-1-10", "epoch_end-1-10"),  # where an epoch has 5 batches
)


@pytest.fixture
def resumed_differs(train, tmp_path):
    """Train once, resume from each place that was saved, and return what ends differently."""

    def resumed_differs(name, limits, places=None):
        options, make = LIMITS[limits], MODELS[name]
        end = end_of(train(make, "whole", callbacks=[SaveEverywhere(tmp_path / "saved", places)], **options))
        files = sorted((tmp_path / "saved").glob("*.ckpt"))
        assert len(files) > 30 if places is None else len(files) >= 2
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


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"dcgan"}))
def test_every_model_is_resumed_to_the_bit(resumed_differs, name):
    assert not resumed_differs(name, "epochs", PLACES[3:7:2])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "limits"), [*(("dcgan", limits) for limits in LIMITS), *((name, "epochs") for name in MODELS)]
)
def test_every_place_of_a_run_is_resumed_to_the_bit(resumed_differs, name, limits):
    assert not resumed_differs(name, limits)


def test_a_longer_run_goes_on_from_the_end_of_a_shorter(train, tmp_path):
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


def test_an_evaluation_after_the_fit_does_not_lose_the_place(train, tmp_path):
    whole = end_of(train(MODELS["gan"], "whole", max_steps=21, max_epochs=-1))
    shorter = train(MODELS["gan"], "shorter", max_steps=13, max_epochs=-1)
    shorter.validate(shorter.lightning_module, Toys(batch_size=2), verbose=False)
    shorter.save_checkpoint(tmp_path / "end.ckpt", weights_only=False)
    again = train(MODELS["gan"], "again", checkpoint=tmp_path / "end.ckpt", max_steps=21, max_epochs=-1)
    assert not differences(whole["weights"], dict(again.lightning_module.state_dict()))


class OneCycle(GAN):
    """Asks how long the run will be, which has Lightning make the loader before it reads a checkpoint."""

    def configure_optimizers(self):
        optimizers, _ = super().configure_optimizers()
        steps = self.trainer.estimated_stepping_batches
        return optimizers, [torch.optim.lr_scheduler.OneCycleLR(optimizers[0], 1e-3, steps)]


def test_a_schedule_of_the_users_own_does_not_lose_the_place(train, tmp_path):
    places = ("batch_end-1-13", "epoch_end-1-16")
    saver = SaveEverywhere(tmp_path / "saved", places)
    end = end_of(train(lambda: tiny(OneCycle), "whole", callbacks=[saver]))
    for place in places:
        again = end_of(train(lambda: tiny(OneCycle), place, checkpoint=tmp_path / "saved" / f"{place}.ckpt"))
        assert not [d for d in differences(end, again) if d != "/csv"], place


class SaveWithin(Callback):
    """Saves between the two updates of a step."""

    def __init__(self, path):
        self.path = path

    def on_before_optimizer_step(self, trainer, model, optimizer):
        if trainer.global_step == 1:
            trainer.save_checkpoint(self.path, weights_only=False)


def test_a_checkpoint_within_an_update_comes_with_a_warning(train, tmp_path):
    with pytest.warns(UserWarning, match="within an update"):
        train(MODELS["gan"], "run", callbacks=[SaveWithin(tmp_path / "within.ckpt")], max_epochs=1)


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


def test_a_validation_by_the_clock_is_refused(train):
    with pytest.raises(SettingError, match=r"val_check_interval is a time.*give a number of batches"):
        train(MODELS["gan"], "timed", val_check_interval="00:00:00:05", check_val_every_n_epoch=None)
