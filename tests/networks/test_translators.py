"""The networks that map images to images, and the discriminator of patches."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_gans import SettingError
from lightning_gans.networks import PatchDiscriminator, ResNetTranslator, SRGANDiscriminator, SRResNet, UNet
from lightning_gans.networks.unet import halvings


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("network", "published"),
    [
        (lambda: UNet(depth=8), 54_413_955),
        (lambda: UNet(depth=7), 41_828_995),
        (lambda: UNet(depth=6), 29_244_035),
        (lambda: PatchDiscriminator(6), 2_768_705),
        (lambda: PatchDiscriminator(6, num_layers=2), 666_433),
        (lambda: PatchDiscriminator(6, num_layers=1), 139_585),
        (lambda: PatchDiscriminator(3, norm="instance"), 2_764_737),
        (lambda: ResNetTranslator(num_blocks=9), 11_378_179),
        (lambda: ResNetTranslator(num_blocks=6), 7_837_699),
        (lambda: SRResNet(), 1_549_462),
        (lambda: SRGANDiscriminator(), 23_565_505),
        (lambda: SRGANDiscriminator((3, 200, 300)), 23_565_505),
    ],
)
def test_the_parameters_are_as_many_as_published(network, published):
    with torch.device("meta"):
        assert count(network()) == published


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize(("height", "width", "depth"), [(16, 24, 3), (6, 2, 1), (96, 160, 5)])
def test_a_unet_keeps_the_size(norm, height, width, depth, upsampling):
    network = UNet(5, 2, depth=depth, width=2, norm=norm, upsampling=upsampling, input_skip=upsampling == "nearest")
    images = network(torch.randn(2, 5, height, width))
    assert images.shape == (2, 2, height, width)
    assert images.abs().max() <= 1


def test_a_unet_passes_each_level_on_at_its_own_size():
    """Without what comes from further inside, each output still depends on the input, through the outermost skip."""
    network = UNet(1, 1, depth=3, width=2, norm="none", dropout=0.0)
    images = torch.randn(1, 1, 8, 8, requires_grad=True)
    for layer in network.up[:-1]:
        layer.register_forward_hook(lambda layer, inputs, output: torch.zeros_like(output))
    for row, column in ((0, 0), (3, 5), (7, 7)):
        (gradient,) = torch.autograd.grad(network(images)[0, 0, row, column], images)
        seen = gradient[0, 0].nonzero()
        assert len(seen) > 0
        assert (seen - torch.tensor([row, column])).abs().max() <= 4  # of two 4x4 convolutions


def test_an_input_skip_passes_the_input_on_at_its_own_size():
    network = UNet(1, 1, depth=2, width=2, norm="none", input_skip=True)
    network.up[-1].register_forward_hook(lambda layer, inputs, output: torch.zeros_like(output))
    images = torch.randn(1, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(images)[0, 0, 3, 5], images)
    seen = gradient[0, 0].nonzero()
    assert len(seen) > 0 and (seen - torch.tensor([3, 5])).abs().max() == 2  # of two 3x3 convolutions


@pytest.mark.parametrize(("upsampling", "distinct"), [("transposed", 4), ("nearest", 1)])
def test_only_transposed_convolutions_make_checkerboards_of_equal_features(upsampling, distinct):
    network = UNet(1, 1, depth=3, width=2, upsampling=upsampling)
    pixels = network.up[-1](torch.ones(1, 4, 6, 6))[0, 0, 2:-2, 2:-2]
    assert len(pixels.flatten().mul(1e4).round().unique()) == distinct


@pytest.mark.parametrize(("depth", "places"), [(8, 3), (2, 1), (5, 3)])
def test_the_first_three_doublings_have_dropout(depth, places):
    with torch.device("meta"):
        network = UNet(depth=depth, width=2)
    has = [any(isinstance(part, torch.nn.Dropout) for part in layer) for layer in network.up]
    assert has == [True] * places + [False] * (depth - places)


def test_a_single_image_keeps_its_innermost_features_in_training():
    """BatchNorm would set a single pixel of a single image to zero: the paper's erratum."""
    network = UNet(1, 1, depth=3, width=2, dropout=0.0)
    first, second = torch.randn(2, 1, 1, 8, 8)
    inner = []
    network.down[-1].register_forward_hook(lambda layer, inputs, output: inner.append(output))
    network(first), network(second)
    assert inner[0].shape[2:] == (1, 1)
    assert inner[0].abs().min() > 0 and not inner[0].allclose(inner[1])


@pytest.mark.parametrize("shape", [(3, 100, 256), (1, 28, 28), (3, 64, 96)])
def test_an_image_that_cannot_be_halved_is_named(shape):
    network = UNet(shape[0], 3, depth=6, width=1)
    with pytest.raises(SettingError) as error:
        network(torch.zeros(1, *shape))
    assert error.value.setting == "image_shape"
    assert error.value.value == shape and error.value.allowed == "multiples of 64"


def test_halvings_need_even_sides():
    assert halvings((3, 512, 512)) == 8
    with pytest.raises(SettingError) as error:
        halvings((3, 32, 33))
    assert error.value.allowed == "multiples of 2"


def test_an_unknown_upsampling_is_named():
    with pytest.raises(SettingError) as error:
        UNet(upsampling="bilinear")
    assert (error.value.setting, error.value.value) == ("upsampling", "bilinear")


@pytest.mark.parametrize(("num_layers", "side"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch_of_the_papers_size(num_layers, side):
    network = PatchDiscriminator(1, num_layers, width=1, norm="none").double()
    images = torch.randn(1, 1, 160, 160, dtype=torch.double, requires_grad=True)
    logits = network(images)
    (gradient,) = torch.autograd.grad(logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2], images)
    rows, columns = gradient[0, 0].nonzero(as_tuple=True)
    assert rows.max() - rows.min() + 1 == side
    assert columns.max() - columns.min() + 1 == side


def test_a_discriminator_of_256_pixels_has_30_x_30_logits():
    assert PatchDiscriminator(3, width=1)(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_a_condition_is_concatenated_and_resized():
    network = PatchDiscriminator(4, 1, width=2, norm="none")
    images, condition = torch.randn(2, 3, 16, 24), torch.randn(2, 1, 16, 24)
    assert network(images, condition).equal(network(torch.cat([images, condition], 1)))
    small = torch.full((2, 1, 4, 6), 0.3)
    assert network(images, small).allclose(network(images, torch.full((2, 1, 16, 24), 0.3)))
    with pytest.raises(SettingError) as error:
        network(images)
    assert error.value.setting == "in_channels"


def test_the_smallest_image_of_a_discriminator():
    network = PatchDiscriminator(1, 2, width=1)
    assert network(torch.zeros(2, 1, network.smallest, 40)).shape[2] == 1
    with pytest.raises(SettingError) as error:
        network(torch.zeros(2, 1, network.smallest - 1, 40))
    assert error.value.setting == "num_layers"


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_a_translator_keeps_the_size(norm):
    network = ResNetTranslator(2, 3, num_blocks=1, width=2, norm=norm)
    images = network(torch.randn(2, 2, 12, 20))
    assert images.shape == (2, 3, 12, 20)
    assert images.abs().max() <= 1
    with pytest.raises(SettingError) as error:
        network(torch.zeros(1, 2, 12, 22))
    assert error.value.allowed == "multiples of 4"


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_super_resolution_enlarges(scale):
    network = SRResNet(1, 2, scale, num_blocks=2, width=3)
    assert network(torch.randn(2, 1, 5, 7)).shape == (2, 2, 5 * scale, 7 * scale)


def test_the_scale_is_a_power_of_two():
    with pytest.raises(SettingError) as error:
        SRResNet(scale=3)
    assert error.value.setting == "scale"


@pytest.mark.parametrize(("shape", "places"), [((3, 96, 96), (6, 6)), ((1, 64, 28), (4, 2)), ((3, 5, 130), (1, 6))])
def test_the_discriminator_of_srgan_has_a_logit_for_images_of_any_size(shape, places):
    network = SRGANDiscriminator(shape, width=2)
    assert network(torch.randn(3, *shape)).shape == (3, 1)
    assert network.head[0].weight.shape == (32, 16 * places[0] * places[1])
    assert network(torch.randn(2, shape[0], 40, 50)).shape == (2, 1)


def test_the_discriminator_of_srgan_halves_four_times():
    """The strides, widths and normalization of the paper's figure 4."""
    with torch.device("meta"):
        layers = [layer for layer in SRGANDiscriminator().layers if not isinstance(layer, torch.nn.Identity)]
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.stride[0] for layer in convolutions] == [1, 2] * 4
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [layer.num_features for layer in layers if isinstance(layer, torch.nn.BatchNorm2d)] == [
        layer.out_channels for layer in convolutions[1:]
    ]
    assert {layer.negative_slope for layer in layers if isinstance(layer, torch.nn.LeakyReLU)} == {0.2}


def test_a_learned_affine_map_is_the_identity_at_first_and_then_resamples_images():
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    network = ResNetTranslator(3, 3, num_blocks=1, width=2, affine=True)
    plain = ResNetTranslator(3, 3, num_blocks=1, width=2)
    plain.layers = network.layers[1:]
    torch.testing.assert_close(network(images), plain(images))
    affine = network.layers[0]
    one_pixel = math.atanh(0.5) / 100  # 0.25 of the range from -1 to 1
    for row, wanted in enumerate(
        (F.pad(images[..., 1:], (0, 1), value=-1.0), F.pad(images[..., 1:, :], (0, 0, 0, 1), value=-1.0))
    ):
        affine.shift.data = torch.zeros(2, 3)
        affine.shift.data[row, 2] = one_pixel
        torch.testing.assert_close(affine(images), wanted, rtol=0, atol=1e-5)
    affine.shift.data = torch.full((2, 3), 1e3)  # a map that has diverged
    wild = F.affine_grid(
        torch.tensor([[[1.5, 0.5, 0.5], [0.5, 1.5, 0.5]]]).expand(2, 2, 3), (2, 3, 8, 8), align_corners=False
    )
    torch.testing.assert_close(
        affine(images), F.grid_sample(images + 1, wild, align_corners=False) - 1, rtol=0, atol=1e-5
    )
    affine.shift.data = torch.zeros(2, 3)
    network(images).sum().backward()
    assert affine.shift.grad.isfinite().all() and affine.shift.grad.abs().max() > 0
