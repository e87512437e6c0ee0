"""Schedules: what moves, along which curve, until when."""

import math

import pytest
import torch
from pytorch_lightning import Callback
from torch.utils.data import DataLoader, IterableDataset

from lightning_gans import DCGAN, GAN, VAE, SettingError
from lightning_gans.callbacks import Checkpoint
from lightning_gans.training.schedules import CURVES
from tests.toys import loader, make_batches, tiny

NEED_AN_END = [
    {"beta2_end": 0.9},
    {"penalties": {"r1": 1.0}, "penalty_end": 0.5},
    {"lr_schedule": "linear"},
    {"ema_start": 0.5},
]


class Settings(Callback):
    """Records what the schedules have set after each step."""

    def __init__(self):
        self.rows, self.last = [], 0

    def on_train_batch_end(self, trainer, model, *_):
        if trainer.global_step > self.last:
            self.last = trainer.global_step
            groups = [optimizer.param_groups[0] for optimizer in trainer.optimizers]
            self.rows.append({"lr": [g["lr"] for g in groups], "beta2": [g["betas"][1] for g in groups]})


def test_curves():
    assert [CURVES["linear"](2.0, 1.0, share) for share in (0, 0.5, 1)] == [2.0, 1.5, 1.0]
    assert [CURVES["cosine"](2.0, 1.0, share) for share in (0, 0.5, 1)] == pytest.approx([2.0, 1.5, 1.0])
    assert CURVES["constant"](2.0, 1.0, 0.7) == 2.0


@pytest.mark.parametrize("d_steps", [1, 2])
@pytest.mark.parametrize(("horizon", "length"), [(None, 4), (16, 2), (64, 8)])
def test_settings_follow_half_a_cosine_and_then_stay(make_trainer, horizon, length, d_steps):
    settings = Settings()
    horizon = horizon and horizon * d_steps
    model = tiny(
        GAN,
        penalties={"r1": 2.0},
        penalty_end=0.1,
        d_steps=d_steps,
        betas=(0.0, 0.9),
        beta2_end=0.99,
        generator_lr=1.0,
        discriminator_lr=2.0,
        lr_schedule="cosine",
        lr_end=0.25,
        schedule_images=horizon,
    )
    weights = []
    penalty = next(r for r in model.regularizers if r.name == "r1")
    weight_in = penalty.weight_in
    penalty.weight_in = lambda step: weights.append(weight_in(step)) or weights[-1]
    make_trainer(callbacks=[settings]).fit(model, loader(make_batches(4 * d_steps)))
    assert len(settings.rows) == 4
    for step, row in enumerate(settings.rows, start=1):
        left = (1 + math.cos(math.pi * min(step / length, 1))) / 2
        assert row["beta2"] == pytest.approx([0.99 - 0.09 * left] * 2)
        assert row["lr"] == pytest.approx([0.25 + 0.75 * left, 0.5 + 1.5 * left])
    lefts = [(1 + math.cos(math.pi * min(step / length, 1))) / 2 for step in range(4) for _ in range(d_steps)]
    assert weights == pytest.approx([2 * (0.1 + 0.9 * left) for left in lefts])


def test_a_constant_schedule_changes_nothing(make_trainer):
    settings = Settings()
    make_trainer(callbacks=[settings], max_epochs=-1, max_steps=3).fit(tiny(GAN), loader(make_batches(4)))
    assert all(row == settings.rows[0] for row in settings.rows)


def scheduled(cls, make_scheduler, **keys):
    """Return a model whose ``configure_optimizers`` gives each optimizer a scheduler with keys of Lightning's."""

    class Custom(cls):
        def configure_optimizers(self):
            optimizers = super().configure_optimizers()
            return optimizers, [{"scheduler": make_scheduler(o), **keys} for o in optimizers]

    return tiny(Custom)


def halving(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


@pytest.mark.parametrize("cls", [GAN, VAE])
@pytest.mark.parametrize(
    ("keys", "halvings"),
    [
        ({}, 4),  # once an epoch, Lightning's default
        ({"frequency": 3}, 1),
        ({"interval": "step"}, 12),
        ({"interval": "step", "frequency": 5}, 2),
    ],
)
def test_custom_schedulers_step_as_their_keys_say(make_trainer, cls, keys, halvings):
    trainer = make_trainer(max_epochs=4)
    trainer.fit(scheduled(cls, halving, **keys), loader(make_batches(3)))
    assert [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs] == [halvings, halvings]
    for optimizer in trainer.optimizers:
        group = optimizer.param_groups[0]
        assert group["lr"] == pytest.approx(group["initial_lr"] / 2**halvings)


def test_a_scheduler_outside_of_a_dict_steps_once_an_epoch(make_trainer):
    class Custom(GAN):
        def configure_optimizers(self):
            optimizers = super().configure_optimizers()
            return [{"optimizer": o, "lr_scheduler": halving(o)} for o in optimizers]

    trainer = make_trainer(max_epochs=2)
    trainer.fit(tiny(Custom), loader(make_batches(3)))
    assert [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs] == [2, 2]


def plateau(optimizer):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)


class Score(Callback):
    """Logs a score at the end of each validation: 3, 2, 2, 1, of which the third is no better than the second."""

    def on_validation_epoch_end(self, trainer, model):
        model.log("val/score", (3.0, 2.0, 2.0, 1.0)[trainer.current_epoch])


@pytest.mark.parametrize(("every", "halvings"), [(1, 1), (2, 0)])
def test_a_plateau_scheduler_follows_its_monitor(make_trainer, every, halvings):
    model = scheduled(GAN, plateau, monitor="val/score", frequency=every)
    trainer = make_trainer(max_epochs=4, callbacks=[Score()])
    trainer.fit(model, loader(make_batches(3)), loader(make_batches(1)))
    for optimizer in trainer.optimizers:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(2e-4 / 2**halvings)


def test_a_resumed_run_has_the_schedulers_of_one_that_was_not_stopped(make_trainer, tmp_path):
    def train(epochs, checkpoint=None):
        torch.manual_seed(0)
        callbacks = [Score(), Checkpoint(dirpath=str(tmp_path))]
        trainer = make_trainer(max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True)
        model = scheduled(GAN, plateau, monitor="val/score")
        trainer.fit(model, loader(make_batches(3)), loader(make_batches(1)), ckpt_path=checkpoint)
        return [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs], trainer.optimizers

    whole, optimizers = train(4)
    train(2)
    resumed, again = train(4, tmp_path / "last.ckpt")
    assert resumed == whole
    assert [o.param_groups[0]["lr"] for o in optimizers] == [o.param_groups[0]["lr"] for o in again] == [1e-4, 1e-4]


def test_a_plateau_scheduler_may_step_with_every_update(make_trainer):
    model = scheduled(GAN, plateau, monitor="train/g_loss", interval="step")
    trainer = make_trainer(log_every_n_steps=1)
    trainer.fit(model, loader(make_batches(3)))
    assert [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs] == [3, 3]


def test_a_metric_that_does_not_exist_raises_or_warns(make_trainer):
    with pytest.raises(SettingError) as error:
        make_trainer().fit(scheduled(GAN, plateau, monitor="val/scor"), loader(make_batches(1)))
    assert (error.value.setting, error.value.value) == ("monitor", "val/scor")
    with pytest.warns(UserWarning, match="val/scor"):
        make_trainer().fit(scheduled(GAN, plateau, monitor="val/scor", strict=False), loader(make_batches(1)))


def test_a_fit_leaves_configure_optimizers_as_it_was(make_trainer):
    model = tiny(GAN)
    make_trainer().fit(model, loader(make_batches(1)))
    assert "configure_optimizers" not in vars(model)
    own = model.configure_optimizers
    model.configure_optimizers = own
    make_trainer().fit(model, loader(make_batches(1)))
    assert vars(model)["configure_optimizers"] is own


def test_the_package_makes_no_scheduler(make_trainer):
    trainer = make_trainer()
    trainer.fit(tiny(DCGAN, lr_schedule="cosine"), loader(make_batches(2)))
    assert trainer.lr_scheduler_configs == []


@pytest.mark.parametrize("options", NEED_AN_END)
def test_a_schedule_without_an_end_is_invalid(make_trainer, options):
    with pytest.raises(SettingError) as error:
        make_trainer(max_epochs=-1).fit(tiny(GAN, **options), loader(make_batches(1)))
    assert error.value.setting == "trainer.max_epochs"


@pytest.mark.parametrize("options", NEED_AN_END)
def test_a_schedule_over_a_loader_without_a_length_needs_another_end(make_trainer, options):
    class Endless(IterableDataset):
        def __iter__(self):
            yield from make_batches(4)

    def run(model_options=options, **limits):
        model = tiny(GAN, **model_options)
        make_trainer(**limits).fit(model, DataLoader(Endless(), batch_size=None))
        return model

    with pytest.raises(SettingError) as error:
        run(max_epochs=2)
    assert error.value.setting == "trainer.max_steps"
    assert run(max_steps=3).progress() == 1
    assert run(max_epochs=2, limit_train_batches=4).progress() == 1
    assert run({**options, "schedule_images": 16}, max_epochs=1).progress() == 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lr_schedule", "cosin"),
        ("lr_end", -0.1),
        ("lr_end", 1.1),
        ("ema_start", -0.1),
        ("schedule_images", 0),
        ("beta2_end", 1.0),
    ],
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError) as error:
        tiny(GAN, **{setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)
