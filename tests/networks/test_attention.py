from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_gans import SettingError
from lightning_gans.networks import BigGANGenerator, ResNetDiscriminator, ResNetGenerator, SelfAttention
from lightning_gans.networks.resnet import DownBlock, UpBlock


def layer(channels=8, gain=0.7):
    torch.manual_seed(0)
    attention = SelfAttention(channels).double()
    for weight in attention.parameters():
        nn.init.normal_(weight, std=0.5)
    nn.init.constant_(attention.gain[0], gain)
    return attention


@torch.no_grad()
def test_each_place_gets_the_mean_of_the_pooled_values_by_its_query():
    attention, images = layer(16), torch.randn(2, 16, 4, 6, dtype=torch.float64)
    query, key, value, output = (
        part.weight.flatten(1) for part in (attention.query, attention.key, attention.value, attention.output)
    )
    assert (len(query), len(key), len(value), len(output)) == (2, 2, 8, 16)
    wanted = images.clone()
    for image, result in zip(images, wanted, strict=True):
        corners = [(row, column) for row in range(0, 4, 2) for column in range(0, 6, 2)]
        squares = [image[:, row : row + 2, column : column + 2].flatten(1) for row, column in corners]
        keys = torch.stack([(key @ square).amax(1) for square in squares])
        values = torch.stack([(value @ square).amax(1) for square in squares])
        for row in range(4):
            for column in range(6):
                weights = (keys @ (query @ image[:, row, column])).exp()
                mean = (weights / weights.sum()) @ values
                result[:, row, column] += 0.7 * (output @ mean)
    torch.testing.assert_close(attention(images), wanted)


def test_a_new_layer_is_the_identity_and_learns_its_gain_first():
    attention, images = SelfAttention(8), torch.randn(2, 8, 4, 4)
    assert attention(images).equal(images)
    attention(images).square().sum().backward()
    assert attention.gain[0].grad.abs() > 0
    assert not any(part.weight.grad.any() for part in (attention.query, attention.key, attention.value))


def test_gradients_of_both_orders_are_those_of_finite_differences():
    attention, images = layer(gain=1.0), torch.randn(1, 8, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, images)
    assert torch.autograd.gradgradcheck(attention, images)


def test_gradients_are_finite_where_the_softmax_saturates():
    attention, images = layer(gain=1.0), (1e3 * torch.randn(2, 8, 4, 4, dtype=torch.float64)).requires_grad_()
    attention(images).sum().backward()
    assert images.grad.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in attention.parameters())


NETWORKS = {
    "generator": lambda attention: ResNetGenerator((1, 32, 32), 8, 8, attention=attention),
    "biggan": lambda attention: BigGANGenerator((1, 32, 32), 8, 8, attention=attention),
    "discriminator": lambda attention: ResNetDiscriminator((1, 32, 32), 8, attention=attention),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_attention_is_on_the_maps_of_the_given_sizes_once_each(name):
    network, sizes = NETWORKS[name]([8, 16]), []
    for part in network.modules():
        if isinstance(part, SelfAttention):
            part.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[2:]))
    network(torch.randn(2, 8) if name != "discriminator" else torch.randn(2, 1, 32, 32))
    wanted = [(8, 8), (16, 16)]
    assert sizes == (wanted[::-1] if name == "discriminator" else wanted)


@pytest.mark.parametrize(
    "make_block", [partial(UpBlock, 8, nn.BatchNorm2d), partial(DownBlock, 8, 8, down=True)], ids=["up", "down"]
)
def test_a_block_applies_it_to_its_output(make_block):
    block, images = make_block(attention=True), torch.randn(2, 8, 4, 4)
    plain = make_block()
    plain.load_state_dict(block.state_dict(), strict=False)
    assert block(images).equal(plain(images))
    nn.init.ones_(block.attention.gain[0])
    torch.testing.assert_close(block(images), block.attention(plain(images)))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("attention", [[7], [4], 8, [8.0]])
def test_sizes_that_no_map_has_are_invalid(name, attention):
    with pytest.raises(SettingError) as error:
        NETWORKS[name](attention)
    assert error.value.setting == "attention"


def test_it_needs_8_channels():
    with pytest.raises(SettingError) as error:
        SelfAttention(7)
    assert (error.value.setting, error.value.value) == ("channels", 7)


def test_with_spectral_normalization_its_matrices_have_1_as_their_largest_singular_value():
    network = ResNetDiscriminator((1, 16, 16), 16, attention=[8])
    attention = network.blocks[0].attention
    with torch.no_grad():
        for weight in attention.parameters():
            weight.mul_(7)
        for _ in range(50):
            network(torch.zeros(1, 1, 16, 16))
    for part in (attention.query, attention.key, attention.value, attention.output):
        assert torch.linalg.matrix_norm(part.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


def test_low_precision_comes_close():
    attention, images = layer().float(), torch.randn(2, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(images)
    torch.testing.assert_close(found.float(), attention(images), rtol=0.05, atol=0.1)
    assert F.mse_loss(found.float(), images) > 0.01
