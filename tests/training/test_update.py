"""``update`` in a plain LightningModule: which gradients there are, what is counted, what is averaged."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import nn

from lightning_gans import DCGAN
from lightning_gans.training.update import trained_buffers, update
from tests.toys import loader, same, tiny, weights


class Pair(pl.LightningModule):
    """Two scalars that are updated in turn, without anything else of this package."""

    def __init__(self, parts=1, joint=False):
        super().__init__()
        self.automatic_optimization = False
        self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.parts, self.joint, self.gradients = parts, joint, []
        for network in (self.a, self.b):
            nn.init.ones_(network.weight)

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        for optimizers in [(first, second)] if self.joint else [(first,), (second,)]:
            for part, inputs in enumerate(batch.chunk(self.parts)):
                loss = (self.a(inputs) * self.b(inputs)).mean()
                update(
                    self, loss, *optimizers, micro_batch=part, micro_batches=self.parts, counted=second in optimizers
                )
            self.gradients.append([None if p.grad is None else p.grad.item() for p in self.parameters()])

    def configure_optimizers(self):
        return [torch.optim.SGD(network.parameters(), 0.5) for network in (self.a, self.b)]


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_only_the_given_optimizers_parameters_get_gradients_and_steps(make_trainer, parts):
    model = Pair(parts)
    trainer = make_trainer()
    trainer.fit(model, loader([torch.tensor([[1.0], [2.0], [3.0], [0.0]])]))
    # d/da of mean(a b x²) with mean(x²) = 3.5 is 3.5 b; a steps to 1 - 1.75, then b's gradient is 3.5 a.
    assert model.gradients == [[pytest.approx(3.5), None], [pytest.approx(3.5), pytest.approx(-2.625)]]
    assert model.a.weight.item() == pytest.approx(-0.75)
    assert model.b.weight.item() == pytest.approx(2.3125)
    assert trainer.global_step == 1


def test_several_optimizers_step_together_from_one_loss(make_trainer):
    model = Pair(joint=True)
    trainer = make_trainer()
    trainer.fit(model, loader([torch.ones(4, 1)]))
    assert [p.item() for p in model.parameters()] == [0.5, 0.5]
    assert trainer.global_step == 1


def test_gradients_are_zeroed_at_the_first_part_and_the_hook_is_called_once_an_update(make_trainer):
    hooked = []

    class Hook(Callback):
        def on_before_optimizer_step(self, trainer, model, optimizer):
            hooked.append(optimizer)

    model = Pair(2)
    make_trainer(callbacks=[Hook()]).fit(model, loader([torch.ones(4, 1)] * 2))
    assert len(hooked) == 4
    assert model.gradients[2][0] == pytest.approx(model.gradients[1][1] and 0.75)  # b after the first step, not a sum


def test_a_frozen_network_is_not_updated(make_trainer):
    model = Pair()
    model.a.requires_grad_(False)
    before = weights(model.a)
    make_trainer().fit(model, loader([torch.ones(4, 1)]))
    assert same(before, model.a) and model.b.weight.item() == 0.5


def test_an_update_averages_its_own_networks_gradients_and_the_counted_one_the_statistics(make_trainer, monkeypatch):
    sent = []

    def note(strategy, parameters, buffers):
        sent.append(([id(p) for p in parameters], [id(b) for b in buffers]))

    monkeypatch.setattr("lightning_gans.training.update.average_over_processes", note)
    model = tiny(DCGAN)
    make_trainer().fit(model, loader([torch.rand(8, 1, 8, 8)]))
    generator, discriminator = ([id(p) for p in net.parameters()] for net in (model.generator, model.discriminator))
    statistics = {
        id(statistic)
        for network in (model.generator, model.discriminator)
        for layer in network.modules()
        if isinstance(layer, nn.BatchNorm2d)
        for statistic in (layer.running_mean, layer.running_var)
    }
    assert statistics
    (first, nothing), (second, buffers) = sent
    assert (first, nothing, second) == (discriminator, [], generator)
    assert len(buffers) == len(statistics) + 1 and set(buffers) == statistics | {id(model.stop_vote)}
    assert not any(b is own for b in trained_buffers(model) for own in model.ema.buffers())
