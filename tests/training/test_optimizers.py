"""Optimizers: Adam by flat settings, or any other."""

from functools import partial

import numpy as np
import pytest
import torch

from lightning_gans import GAN, VAE, VAEGAN, SettingError
from tests.toys import LATENT_DIM, SHAPE, loader, make_batches, same, tiny, weights
from tests.training.stepping import like


def fitted(make_trainer, model, **options):
    trainer = make_trainer(**options)
    trainer.fit(model, loader(make_batches(2)))
    return trainer.optimizers


def test_adam_has_the_flat_settings_in_plain_numbers(make_trainer):
    model = tiny(GAN, generator_lr=np.float32(0.5), discriminator_lr=0.25, betas=(np.float64(0.1), 0.2), weight_decay=1)
    generator, discriminator = (o.param_groups[0] for o in fitted(make_trainer, model))
    assert (generator["lr"], discriminator["lr"]) == (0.5, 0.25)
    for group in (generator, discriminator):
        assert (group["betas"], group["weight_decay"], group["fused"]) == ((0.1, 0.2), 1.0, True)
        assert {type(group["lr"]), *map(type, group["betas"]), type(group["weight_decay"])} == {float}


def test_float16_takes_the_plain_adam(make_trainer):
    class Trainer:
        precision = "16-mixed"

    model = tiny(GAN)
    model._trainer = Trainer()
    assert not any(o.param_groups[0]["fused"] for o in model.configure_optimizers())


@pytest.mark.parametrize(("cls", "names"), [(GAN, ("generator", "discriminator")), (VAE, ("encoder", "decoder"))])
def test_another_optimizer_takes_adams_place_and_keeps_the_schedule(make_trainer, tmp_path, cls, names):
    sgd = partial(torch.optim.SGD, lr=0.5, momentum=0.9)
    model = tiny(cls, lr_schedule="linear", lr_end=0.5, **{f"{names[0]}_optimizer": sgd})
    before = weights(getattr(model, names[0]))
    first, second = fitted(make_trainer, model)
    assert (type(first), type(second)) == (torch.optim.SGD, torch.optim.Adam)
    assert first.param_groups[0]["lr"] == 0.25  # at the schedule's end
    assert not same(before, getattr(model, names[0]))
    assert f"{names[0]}_optimizer" not in model.arguments


def test_each_network_of_vaegan_has_its_rate(make_trainer):
    model = VAEGAN(SHAPE, LATENT_DIM, width=4, encoder_lr=1e-3, decoder_lr=2e-3, discriminator_lr=3e-3)
    assert [o.param_groups[0]["lr"] for o in fitted(make_trainer, model)] == [1e-3, 2e-3, 3e-3]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("generator_lr", 0.0), ("discriminator_lr", -1.0), ("betas", (0.5, 1.0)), ("weight_decay", -1)],
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError) as error:
        tiny(GAN, **{setting: value})
    assert error.value.setting == setting


@pytest.mark.parametrize(("cls", "names"), [(GAN, ("generator", "discriminator")), (VAE, ("encoder", "decoder"))])
def test_optimizers_in_another_order_train_their_own_networks(make_trainer, cls, names):
    class Swapped(cls):
        def configure_optimizers(self):
            return super().configure_optimizers()[::-1]

    models = [tiny(cls), tiny(Swapped)]
    like(models[1], models[0])
    for model in models:
        fitted(make_trainer, model)
    for name in names:
        assert same(getattr(models[0], name), getattr(models[1], name))


class OneForAll(GAN):
    def configure_optimizers(self):
        return torch.optim.Adam([*self.generator.parameters(), *self.discriminator.parameters()])


class OneSide(GAN):
    def configure_optimizers(self):
        return [torch.optim.Adam(self.generator.parameters())]


@pytest.mark.parametrize("cls", [OneForAll, OneSide])
def test_networks_without_an_optimizer_of_their_own_raise(make_trainer, cls):
    with pytest.raises(SettingError) as error:
        fitted(make_trainer, tiny(cls))
    assert (error.value.setting, error.value.value) == ("configure_optimizers", ["Adam"])


@pytest.mark.parametrize(
    ("kind", "options", "setting"),
    [("LBFGS", {}, "configure_optimizers"), ("RMSprop", {"beta2_end": 0.99}, "beta2_end")],
)
def test_optimizers_that_cannot_do_what_is_asked_raise(make_trainer, kind, options, setting):
    optimizer = partial(getattr(torch.optim, kind), lr=1e-3)
    with pytest.raises(SettingError) as error:
        fitted(make_trainer, tiny(GAN, generator_optimizer=optimizer, **options))
    assert error.value.setting == setting


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("cls", [GAN, VAE, VAEGAN])
def test_a_frozen_network_is_not_updated_and_one_warning_says_so(make_trainer, cls, precision):
    for name in cls.trained_networks:
        model = VAEGAN(SHAPE, LATENT_DIM, width=4) if cls is VAEGAN else tiny(cls)
        getattr(model, name).requires_grad_(False)
        before = {n: weights(getattr(model, n)) for n in cls.trained_networks}
        with pytest.warns(UserWarning, match=f"The {name} is frozen") as caught:
            trainer = make_trainer(precision=precision)
            trainer.fit(model, loader(make_batches(3)))
        assert len([w for w in caught if "is frozen" in str(w.message)]) == 1
        assert trainer.global_step == 3
        assert [n for n in cls.trained_networks if same(before[n], getattr(model, n))] == [name]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"generator": torch.nn.Identity()}, "Adam, cannot be created: optimizer got an empty parameter list"),
        ({"discriminator_optimizer": partial(torch.optim.SGD, lr=-1.0)}, "Invalid learning rate: -1"),
    ],
)
def test_an_optimizer_that_cannot_be_made(make_trainer, options, reason):
    with pytest.raises(SettingError, match=reason):
        fitted(make_trainer, tiny(GAN, **options))
