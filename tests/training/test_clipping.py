"""Clipping, in any LightningModule with manual optimization."""

from functools import partial

import pytest
import torch

from lightning_gans import GAN, SettingError
from lightning_gans.training.clipping import ClipGradients
from tests.toys import MODELS, loader, make_batches, tiny, weights


def parameter(*gradient):
    made = torch.nn.Parameter(torch.zeros(len(gradient)))
    made.grad = torch.tensor(gradient)
    return made


@pytest.mark.parametrize(("limit", "clipped"), [(1.0, 0.2), (10.0, 1.0)])
def test_an_optimizers_gradients_are_clipped_by_their_common_norm(limit, clipped):
    first, second, other = parameter(3.0, 0.0), parameter(4.0), parameter(100.0)
    ClipGradients(limit).on_before_optimizer_step(None, None, torch.optim.SGD([first, second], 0.1))
    assert [*first.grad.tolist(), *second.grad.tolist()] == pytest.approx([3 * clipped, 0, 4 * clipped], rel=1e-5)
    assert other.grad.item() == 100


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_networks_step_is_limited_in_training(make_trainer, accumulate):
    sgd = partial(torch.optim.SGD, lr=1.0)
    model = tiny(GAN, gradient_clip_val=0.01, accumulate_batches=accumulate, generator_optimizer=sgd)
    before = torch.cat([weight.flatten() for weight in weights(model.generator)])
    make_trainer().fit(model, loader(make_batches(accumulate)))
    after = torch.cat([weight.flatten() for weight in weights(model.generator)])
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("limit", [None, 0.5])
def test_the_callback_is_there_if_and_only_if_the_setting_is(limit):
    callbacks = tiny(GAN, gradient_clip_val=limit).configure_callbacks()
    assert [c.max_norm for c in callbacks if isinstance(c, ClipGradients)] == [limit] * (limit is not None)


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan")])
def test_a_limit_out_of_range_is_invalid(cls, value):
    with pytest.raises(SettingError) as error:
        tiny(cls, gradient_clip_val=value)
    assert error.value.setting == "gradient_clip_val"
