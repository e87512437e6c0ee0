"""The moving average alone, for networks of any module."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lightning_gans import GAN
from lightning_gans.training.ema import EMA
from tests.toys import SHAPE, loader, make_batches, tiny


def network(value=0.0):
    made = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for parameter in made.parameters():
        nn.init.constant_(parameter, value)
    return made


@pytest.mark.parametrize(
    ("options", "batch", "seen", "progress", "left"),
    [
        ({"half_life": 64, "ramp": 1e9}, 64, 1, 1.0, 0.5),
        ({"half_life": 64, "ramp": 1e9}, 128, 1, 1.0, 0.25),
        ({"half_life": 10_000, "ramp": 0.05}, 5, 100, 1.0, 0.5),
        ({"half_life": 64, "ramp": 1e9, "start": 0.5}, 32, 1, 0.0, 0.5),
        ({"half_life": 64, "ramp": 1e9, "start": 0.5}, 64, 1, 1.0, 0.5),
        ({"half_life": 64, "ramp": 1e9, "start": 0.0}, 8, 1, 0.0, 0.0),
    ],
)
def test_a_half_life_leaves_half_of_the_average(options, batch, seen, progress, left):
    source = network()
    ema = EMA({"net": source}, **options)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter += 1
    ema.average({"net": source}, batch, seen, progress)
    for average in ema.parameters():
        torch.testing.assert_close(average, torch.full_like(average, 1 - left))


def test_buffers_are_copied_also_those_that_a_network_replaces():
    source = network()
    ema = EMA({"net": source}, half_life=1e9)
    for value in (3.0, 5.0):
        source[1].running_mean = torch.full((2,), value)
        ema.average({"net": source}, 1, 10**9)
        assert ema["net"][1].running_mean.tolist() == [value, value]


def test_a_replaced_network_is_averaged_from_then_on():
    ema = EMA({"net": network(0.0)}, half_life=1, ramp=1e9)
    for source in (network(1.0), network(3.0)):
        ema.average({"net": source}, 1, 1)
    assert ema["net"][0].weight.unique().tolist() == [1.75]


def test_averages_need_no_gradient_and_stay_in_evaluation_mode():
    ema = EMA({"net": network()}).train()
    assert not any(module.training for module in ema.modules())
    assert not any(parameter.requires_grad for parameter in ema.parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda ema: pickle.loads(pickle.dumps(ema))])
def test_a_copy_averages_its_own_networks(copied):
    source = network(1.0)
    ema = EMA({"net": network()}, half_life=1, ramp=1e9)
    ema.average({"net": source}, 1, 1)
    twin = copied(ema)
    twin.average({"net": source}, 1, 1)
    assert (ema["net"][0].weight[0, 0].item(), twin["net"][0].weight[0, 0].item()) == (0.5, 0.75)


class Replacing(nn.Module):
    """Multiplies by a mean that each call replaces instead of changing it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, noise):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * noise.detach().mean() + 1.0
        return (noise.mean(1) * self.weight + 0.0 * self.mean)[:, None, None, None].expand(-1, *SHAPE).tanh()


def test_training_moves_the_average_of_a_network_that_replaces_its_buffers(make_trainer):
    model = tiny(GAN, generator=Replacing())
    make_trainer().fit(model, loader(make_batches(4)))
    assert model.generator.mean.item() > 3
    assert model.ema["generator"].mean.equal(model.generator.mean)


def test_the_half_life_rises_from_its_start_in_training(make_trainer):
    def averaged(**options):
        model = tiny(GAN, ema_half_life=100, ema_ramp=1e9, generator_lr=0.1, **options)
        start = model.generator.output.bias.detach().clone()
        make_trainer().fit(model, loader(make_batches(4)))
        return start, model.generator.output.bias, model.ema["generator"].output.bias

    _, weights, average = averaged(ema_start=0.0, schedule_images=10**9)
    torch.testing.assert_close(average, weights)  # still without memory
    start, weights, average = averaged()
    assert (average - start).abs().max() < (average - weights).abs().max()
