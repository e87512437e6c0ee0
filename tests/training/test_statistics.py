"""Standing statistics of BatchNorm."""

import pytest
import torch
from torch import nn

from lightning_gans import DCGAN, GAN, R3GAN, ConditionalGAN, SettingError
from lightning_gans.training.statistics import standing_statistics
from tests.toys import SHAPE, tiny


class Normalized(nn.Module):
    """Two linear layers with BatchNorm."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 64)
        self.norms = nn.ModuleList([nn.BatchNorm1d(8), nn.BatchNorm1d(64, affine=False)])

    def forward(self, latents):
        hidden = self.norms[0](self.first(latents)).relu()
        return self.norms[1](self.second(hidden)).view(-1, *SHAPE)


def statistics(network):
    return [buffer.clone() for buffer in network.buffers()]


def all_equal(some, others):
    return all(one.equal(other) for one, other in zip(some, others, strict=True))


@torch.no_grad()
def test_they_are_the_means_over_batches_of_their_means_and_variances():
    model = GAN(SHAPE, 4, generator=Normalized(), discriminator_dims=[6]).eval()
    network = model.generator
    hidden, pixels = [], []
    for batch in range(5):
        hidden.append(network.first(model.latents(6, seed=2, start=6 * batch)))
        normed = (hidden[-1] - hidden[-1].mean(0)) / (hidden[-1].var(0, unbiased=False) + 1e-5).sqrt()
        pixels.append(network.second(normed.relu()))
    with standing_statistics(model, 5, batch_size=6, seed=2, ema=False):
        for norm, values in zip(network.norms, (hidden, pixels), strict=True):
            torch.testing.assert_close(norm.running_mean, torch.stack([some.mean(0) for some in values]).mean(0))
            torch.testing.assert_close(norm.running_var, torch.stack([some.var(0) for some in values]).mean(0))
        images = model.sample(3, seed=9, ema=False).flatten(1)
        expected = network.norms[0](network.first(model.latents(3, seed=9))).relu()
        mean, variance = network.norms[1].running_mean, network.norms[1].running_var
        torch.testing.assert_close(images, (network.second(expected) - mean) / (variance + 1e-5).sqrt())


@torch.no_grad()
def test_many_batches_have_the_moments_of_a_linear_layer():
    model = GAN(SHAPE, 4, generator=Normalized(), discriminator_dims=[6], ema_half_life=0)
    first = model.generator.first
    with standing_statistics(model, 200, batch_size=50):
        norm = model.generator.norms[0]
        torch.testing.assert_close(norm.running_mean, first.bias, atol=0.02, rtol=0)
        torch.testing.assert_close(norm.running_var, first.weight.square().sum(1), atol=0, rtol=0.06)


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_after_the_block_everything_is_as_before(ema, fails):
    model = tiny(DCGAN, image_shape=(1, 16, 16)).train()  # whose discriminator has BatchNorm too
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
    before, samples = statistics(model), model.sample(3, seed=1, ema=ema)
    try:
        with standing_statistics(model, 3, ema=ema):
            inside = statistics(model.discriminator), model.sample(3, seed=1, ema=ema)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert all_equal(statistics(model), before)
    assert all_equal(inside[0], statistics(model.discriminator))  # which makes no samples
    assert not torch.allclose(inside[1], samples, atol=1e-3)
    assert model.sample(3, seed=1, ema=ema).equal(samples)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 and not norm._forward_pre_hooks for norm in norms)
    assert model.generator.training and not model.ema["generator"].training


def test_they_depend_only_on_the_weights_and_the_arguments():
    model = tiny(DCGAN)

    def sampled(num=3, **options):
        with standing_statistics(model, num, **options):
            return model.sample(4, seed=1)

    first = sampled()
    for buffer in model.ema.buffers():
        buffer.copy_(torch.rand(buffer.shape).to(buffer) + 1)
    torch.rand(3)
    assert sampled().equal(first)
    others = [sampled(4), sampled(seed=1), sampled(batch_size=32), sampled(truncation=0.5)]
    assert all(not torch.allclose(other, first, atol=1e-5) for other in others)


def test_the_classes_take_turns():
    model = tiny(
        ConditionalGAN, image_shape=(1, 16, 16), architecture="conv", width=4, generator_conditioning="batch_norm"
    )
    labels = []
    model.ema["generator"].register_forward_pre_hook(lambda _, inputs: labels.append(inputs[1]))
    with standing_statistics(model, 2, batch_size=4):
        assert torch.cat(labels[1:]).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]  # after the call that finds the layers


@pytest.mark.parametrize(
    ("make", "options", "setting"),
    [
        (lambda: R3GAN((1, 16, 16), 4, widths=[16, 16, 16], blocks=1), {}, "standing_statistics"),
        (lambda: tiny(GAN), {"num_batches": 0}, "num_batches"),
        (lambda: tiny(GAN), {"batch_size": 1}, "batch_size"),
    ],
)
def test_what_has_no_standing_statistics_is_an_error(make, options, setting):
    with pytest.raises(SettingError) as error, standing_statistics(make(), **options):
        pass
    assert error.value.setting == setting
