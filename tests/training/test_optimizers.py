"""Optimizers: Adam by flat settings, or any other."""

from functools import partial

import numpy as np
import pytest
import torch

from lightning_gans import GAN, VAE, VAEGAN, SettingError
from tests.toys import LATENT_DIM, SHAPE, loader, make_batches, same, tiny, weights


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
