"""Lightning's hooks belong to the user: one that is overridden without ``super()`` switches nothing off."""

import inspect

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.core.hooks import CheckpointHooks, DataHooks, ModelHooks
from torch import nn

import lightning_gans
from lightning_gans import DCGAN, GenerativeMetrics, GenerativeModule, load
from lightning_gans.callbacks import Acceleration
from tests.toys import Toys, same, tiny

# What Lightning asks for a value, and what has work of its own to do by default.
NOT_HOOKS = {
    *("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"),
    *("transfer_batch_to_device", "configure_sharded_model"),
    *(f"on_{stage}_model_{mode}" for stage in ("validation", "test", "predict") for mode in ("train", "eval")),
}
HOOKS = sorted(
    name
    for hooks in (ModelHooks, DataHooks, CheckpointHooks)
    for name in vars(hooks)
    if not name.startswith("_") and name not in NOT_HOOKS
)
MODELS = [
    cls
    for name in lightning_gans.__all__
    if inspect.isclass(cls := getattr(lightning_gans, name)) and issubclass(cls, pl.LightningModule)
]


def nothing(self, *args, **kwargs):
    """Do nothing, without ``super()``; hooks that change a batch give it back."""
    return args[0] if len(args) == 2 else None  # on_before_batch_transfer and on_after_batch_transfer


def test_the_hooks_are_those_of_lightning():
    assert {"on_fit_start", "on_before_optimizer_step", "on_save_checkpoint", "setup", "on_train_batch_start"} <= set(
        HOOKS
    )
    assert len(HOOKS) > 30


@pytest.mark.parametrize("cls", MODELS)
def test_no_model_has_a_hook_of_its_own(cls):
    ours = [base for base in cls.__mro__ if base.__module__.startswith("lightning_gans.")]
    assert len(ours) <= 3
    for base in ours:
        assert not set(vars(base)) & {*HOOKS, "__setattr__", "__new__"}, base


def train(cls, make_trainer, checkpoint=None, epochs=2, **options):
    torch.manual_seed(0 if checkpoint is None else 1)
    model = tiny(cls, batch_norm=False, gradient_clip_val=1e-3, ema_half_life=100, **options)
    if checkpoint is None:
        model.run_seed = 11
    acceleration = Acceleration(compile_mode="default")
    scores = GenerativeMetrics(metrics=["fid"], extractor=Pixels(), num_samples=8)
    trainer = make_trainer(max_epochs=epochs, callbacks=[acceleration, scores, Watch()], enable_checkpointing=False)
    trainer.fit(model, Toys(batch_size=8), ckpt_path=checkpoint)
    return model, trainer


class Pixels(nn.Module):
    """An extractor whose features are some pixels."""

    num_features = 4

    def forward(self, images):
        return images.flatten(1)[:, :4].float()


class Watch(pl.Callback):
    """Sees whether networks are compiled and gradients clipped."""

    def on_train_start(self, trainer, model):
        self.norms, self.compiled = [], "forward" in vars(model.generator)

    def on_train_batch_end(self, trainer, model, *_):
        self.norms.append(float(nn.utils.get_total_norm([weight.grad for weight in model.generator.parameters()])))


@pytest.fixture
def eager(monkeypatch):
    """Compiling takes a minute; here it only has to be asked for."""
    monkeypatch.setattr(torch, "compile", lambda function, mode: function)


def test_overridden_hooks_switch_nothing_off(make_trainer, tmp_path, eager):
    bare = type("Bare", (DCGAN,), dict.fromkeys(HOOKS, nothing))
    model, trainer = train(bare, make_trainer)
    usual, _ = train(DCGAN, make_trainer)
    assert same(model.generator, usual.generator) and same(model.ema["generator"], usual.ema["generator"])
    assert not same(model.generator, model.ema["generator"])
    watch = next(callback for callback in trainer.callbacks if isinstance(callback, Watch))
    assert watch.compiled
    assert watch.norms and max(watch.norms) <= 1e-3 * 1.001
    assert trainer.callback_metrics["val/fid"] >= 0

    _, half = train(bare, make_trainer, epochs=1)
    half.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    resumed, _ = train(bare, make_trainer, checkpoint=tmp_path / "half.ckpt")
    assert resumed.run_seed == 11
    assert same(resumed.generator, model.generator) and same(resumed.ema["generator"], model.ema["generator"])
    again = bare.load_from_checkpoint(tmp_path / "half.ckpt")
    assert again.images_seen == half.lightning_module.images_seen


def test_a_hook_of_the_users_own_is_called(make_trainer, eager):
    called = []

    class Hooked(DCGAN):
        def on_fit_start(self):
            called.append("fit")

        def on_train_batch_end(self, *_):
            called.append("batch")

    train(Hooked, make_trainer, epochs=1)
    assert called[0] == "fit" and "batch" in called


def test_what_configure_callbacks_returns_is_extended_by_super(make_trainer, tmp_path):
    class Extended(DCGAN):
        def configure_callbacks(self):
            return [*super().configure_callbacks(), Watch()]

    trainer = make_trainer(max_epochs=1)
    trainer.fit(tiny(Extended), Toys(batch_size=8))
    trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    assert torch.load(tmp_path / "x.ckpt", weights_only=True)["lightning_gans"]["images_seen"] > 0
    assert issubclass(Extended, GenerativeModule) and callable(load)
