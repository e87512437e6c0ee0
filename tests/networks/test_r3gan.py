import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import nn

from lightning_gans import SettingError
from lightning_gans.networks import R3GANDiscriminator, R3GANGenerator
from lightning_gans.networks.r3gan import Block, Downsample, Pointwise, Upsample

WIDTHS = {8: (4, 2), 28: (4, 3, 2), 32: (4, 4, 2, 2), 64: (4, 4, 4, 2, 2)}
FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def pair(size=8, channels=1, classes=0, **options):
    """Make both networks, with every block doing something."""
    shape, options = (channels, size, size), {"widths": WIDTHS[size], "blocks": 1, "group_width": 2, **options}
    networks = (
        R3GANGenerator(shape, 5, num_classes=classes, label_dim=3, **options),
        R3GANDiscriminator(shape, num_classes=classes, **options),
    )
    for network in networks:
        for block in network.modules():
            if isinstance(block, Block):
                nn.init.normal_(block.project.weight, 0, 0.5)
    return networks


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("classes", [0, 4])
def test_shapes(size, classes):
    generator, discriminator = pair(size, 3, classes)
    labels = () if classes == 0 else (torch.tensor([1, 3]),)
    images = generator(torch.randn(2, 5), *labels)
    assert images.shape == (2, 3, size, size)
    assert discriminator(images, *labels).shape == (2, 1)


def test_the_networks_for_cifar10_are_as_large_as_the_papers():
    with torch.device("meta"):
        generator, discriminator = (
            R3GANGenerator((3, 32, 32), num_classes=10),
            R3GANDiscriminator((3, 32, 32), num_classes=10),
        )
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (generator, discriminator)]
    assert [round(size / 1e6, 1) for size in sizes] == [20.8, 21.3]


def test_no_sample_depends_on_another():
    generator, discriminator = (network.double() for network in pair(8, classes=3))
    noise, labels = torch.randn(4, 5, dtype=torch.double), torch.tensor([0, 2, 1, 2])
    images = generator(noise, labels)
    logits = discriminator(images, labels)
    for k in range(4):
        torch.testing.assert_close(generator(noise[k : k + 1], labels[k : k + 1]), images[k : k + 1])
        torch.testing.assert_close(discriminator(images[k : k + 1], labels[k : k + 1]), logits[k : k + 1])


def test_a_block_is_the_identity_at_first_and_only_then():
    block, x = Block(4, 2), torch.randn(2, 4, 5, 5)
    assert block(x).equal(x)
    nn.init.normal_(block.project.weight)
    assert not block(x).equal(x)


def test_a_block_is_its_equation():
    block, x = Block(4, 2, expansion=3), torch.randn(2, 4, 5, 5)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    leaky = nn.LeakyReLU(0.2)
    expand, project = (nn.Conv2d(*sizes, 1, bias=bias) for sizes, bias in (((4, 12), True), ((12, 4), False)))
    expand.load_state_dict(block.expand.state_dict())
    project.load_state_dict(block.project.state_dict())
    inner = leaky(expand(x))
    # Six groups of two channels, each its own convolution.
    parts = zip(inner.split(2, 1), block.mix.weight.split(2), block.mix.bias.split(2), strict=True)
    mixed = [nn.functional.conv2d(part, weight, bias, padding=1) for part, weight, bias in parts]
    torch.testing.assert_close(block(x), x + project(leaky(torch.cat(mixed, 1))))


def test_weights_are_drawn_by_fan_in_and_depth():
    generator, discriminator = (
        R3GANGenerator((1, 28, 28), 64, (256, 128, 128), (2, 1, 5), 16),
        R3GANDiscriminator((1, 28, 28), (256, 128, 128), (2, 1, 5), 16),
    )
    gain = math.sqrt(2 / 1.04) * 8**-0.25
    for network in (generator, discriminator):
        blocks = [module for module in network.modules() if isinstance(module, Block)]
        assert len(blocks) == 8
        for block in blocks:
            assert not block.project.weight.any() and not block.expand.bias.any() and not block.mix.bias.any()
            for layer, fan_in in ((block.expand, block.expand.in_channels), (block.mix, 9 * 16)):
                assert layer.weight.std().item() == pytest.approx(gain / math.sqrt(fan_in), rel=0.03)
        (change,) = [m for m in network.layers if isinstance(m, Pointwise) and min(m.in_channels, m.out_channels) > 3]
        assert change.weight.std().item() == pytest.approx(change.in_channels**-0.5, rel=0.03)
    assert generator.scale.weight.std().item() == pytest.approx(64**-0.5, rel=0.03)
    assert generator.constant.std().item() == pytest.approx(1, rel=0.03)
    assert discriminator.gather.weight.std().item() == pytest.approx(1 / 7, rel=0.03)
    conditional = R3GANDiscriminator((1, 8, 8), (256, 16), 0, num_classes=40)
    assert conditional.embedding.weight.std().item() == pytest.approx(1 / 16, rel=0.03)


def test_resampling_is_the_fir_filter():
    x = torch.randn(2, 3, 8, 6, dtype=torch.double)
    down, up = Downsample().double(), Upsample().double()
    zeros = np.zeros((16, 12))
    for image, halved, doubled in zip(x.flatten(0, 1), down(x).flatten(0, 1), up(x).flatten(0, 1), strict=True):
        filtered = convolve2d(np.pad(image, 1), FIR, "valid")[::2, ::2]
        np.testing.assert_allclose(halved, filtered, atol=1e-12)
        zeros[::2, ::2] = image
        filtered = 4 * convolve2d(np.pad(zeros, ((2, 1), (2, 1))), FIR, "valid")
        np.testing.assert_allclose(doubled, filtered, atol=1e-12)


def test_resampling_keeps_a_constant_away_from_the_border_and_is_not_trained():
    ones = torch.ones(1, 2, 8, 8)
    up, down = Upsample(), Downsample()
    assert up(ones).shape == (1, 2, 16, 16) and up(ones)[..., 1:-1, 1:-1].eq(1).all()
    assert down(ones).shape == (1, 2, 4, 4) and down(ones)[..., 1:-1, 1:-1].eq(1).all()
    assert down(up(ones))[..., 1:-1, 1:-1].eq(1).all()
    assert up.kernel.sum() == 1
    generator, _ = pair()
    assert not any("kernel" in name for name in [*generator.state_dict(), *dict(generator.named_parameters())])


@pytest.mark.parametrize("classes", [0, 3])
def test_networks_can_be_differentiated_twice(classes):
    generator, discriminator = (network.double() for network in pair(8, classes=classes))
    labels = () if classes == 0 else (torch.tensor([2, 0]),)
    for network, inputs in ((generator, torch.randn(2, 5)), (discriminator, torch.randn(2, 1, 8, 8))):
        inputs = (inputs.double().requires_grad_(), *labels)
        assert torch.autograd.gradcheck(network, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(network, inputs, fast_mode=True)


def test_the_gradient_of_a_penalty_reaches_every_weight_as_differences_say():
    _, discriminator = pair(8, classes=3)
    discriminator.double()
    labels, weights = torch.tensor([2, 0]), dict(discriminator.named_parameters())
    images = torch.randn(2, 1, 8, 8, dtype=torch.double, requires_grad=True)

    def penalty():
        (gradient,) = torch.autograd.grad(discriminator(images, labels).sum(), images, create_graph=True)
        return gradient.square().sum()

    # Along a random direction, away from the kinks of the LeakyReLUs.
    found = torch.autograd.grad(penalty(), list(weights.values()), materialize_grads=True)
    direction = [torch.randn_like(weight) for weight in weights.values()]
    slope = sum((gradient * step).sum() for gradient, step in zip(found, direction, strict=True))
    values = []
    for sign in (1, -2):
        for weight, step in zip(weights.values(), direction, strict=True):
            weight.data += sign * 1e-7 * step
        values.append(penalty().item())
    assert (values[0] - values[1]) / 2e-7 == pytest.approx(slope.item(), rel=1e-4)
    zero = {name for name, gradient in zip(weights, found, strict=True) if not gradient.any()}
    assert zero == {name for name in weights if name.endswith("bias")}  # the second derivative is zero there


def test_conditional_logits_are_scalar_products_with_the_label():
    _, discriminator = pair(8, classes=3)
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([2, 0, 1, 2])
    gathered = torch.einsum("nchw,chw->nc", discriminator.layers(images), discriminator.gather.weight[:, 0])
    features = gathered @ discriminator.output.weight.T
    expected = [features[k] @ discriminator.embedding.weight[label] for k, label in enumerate(labels)]
    torch.testing.assert_close(discriminator(images, labels), torch.stack(expected)[:, None])


def test_patches_are_pixels_of_a_smaller_image_with_more_channels():
    options = {"widths": (4, 2), "blocks": 1, "group_width": 2}
    makers = (
        lambda *a, **o: R3GANGenerator(a, 5, **options, **o),
        lambda *a, **o: R3GANDiscriminator(a, **options, **o),
    )
    for make, inputs in zip(makers, (torch.randn(3, 5), torch.randn(3, 2, 16, 16)), strict=True):
        patched, small = make(2, 16, 16, patch_size=2), make(8, 8, 8)
        small.load_state_dict(patched.state_dict())
        if inputs.dim() == 2:  # channel c of the image and place (y, x) in the patch are channel 4c + 2y + x
            pixels = small(inputs).reshape(3, 2, 2, 2, 8, 8)
            expected = torch.empty(3, 2, 16, 16)
            for y, x in product((0, 1), (0, 1)):
                expected[:, :, y::2, x::2] = pixels[:, :, y, x]
        else:
            places = [inputs[:, :, y::2, x::2] for y, x in product((0, 1), (0, 1))]
            expected = small(torch.stack(places, 2).flatten(1, 2))
        torch.testing.assert_close(patched(inputs), expected)


def test_the_label_changes_the_image():
    generator, _ = pair(8, classes=3)
    noise = torch.randn(1, 5).expand(3, 5)
    first, second, third = generator(noise, torch.tensor([0, 1, 1]))
    assert not first.equal(second) and second.equal(third)


@pytest.mark.parametrize(("classes", "labels"), [(0, (torch.tensor([0]),)), (3, ())])
def test_labels_have_to_fit(classes, labels):
    generator, discriminator = pair(8, classes=classes)
    for network, inputs in ((generator, torch.randn(1, 5)), (discriminator, torch.zeros(1, 1, 8, 8))):
        with pytest.raises(SettingError) as error:
            network(inputs, *labels)
        assert error.value.setting == "labels"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("widths", (4,)),
        ("widths", (4, 4, 4)),
        ("widths", ()),
        ("widths", (4, 0)),
        ("blocks", (1,)),
        ("blocks", -1),
        ("group_width", 0),
        ("group_width", 3),
        ("expansion", 0),
        ("patch_size", 0),
        ("patch_size", 3),
    ],
)
def test_settings_out_of_range_are_refused(setting, value):
    for make in (R3GANGenerator, R3GANDiscriminator):
        with pytest.raises(SettingError) as error:
            make((1, 8, 8), **{"widths": (4, 2), setting: value})
        assert error.value.setting == setting


def test_a_stage_may_have_no_block_and_groups_are_never_wider_than_the_stage():
    generator, discriminator = pair(8, blocks=(1, 0), group_width=64)
    assert generator(torch.randn(1, 5)).shape == (1, 1, 8, 8)
    (block,) = [module for module in discriminator.modules() if isinstance(module, Block)]
    assert block.mix.groups == 1
