import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from lightning_gans import SettingError
from lightning_gans.networks import FastGANDiscriminator, FastGANGenerator
from lightning_gans.networks.fastgan import DownBlock, Noise, Seen, SkipLayerExcitation, cropped, up_block

SHAPES = [(1, 32, 32), (3, 64, 64), (1, 32, 48), (1, 56, 56), (2, 128, 128)]


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("size", "number"), [(256, 29_127_846), (512, 29_174_392), (1024, 29_176_512)])
def test_the_generator_is_as_large_as_the_papers(size, number):
    with torch.device("meta"):
        assert count(FastGANGenerator((3, size, size))) == number


def convolution(inputs, outputs, side, norm=True):
    return inputs * outputs * side**2 + 2 * outputs * norm


def test_the_discriminator_has_the_papers_layers():
    widths = [16, 32, 64, 128, 256, 512]  # from 256 pixels to 8
    wanted = convolution(3, 16, 3, norm=False)
    for old, new in pairwise(widths):
        wanted += convolution(old, new, 4) + convolution(new, new, 3) + convolution(old, new, 1)
    for old, new in zip(widths, widths[3:], strict=False):
        wanted += convolution(old, new, 4, norm=False) + convolution(new, new, 1, norm=False)
    wanted += convolution(512, 1024, 1) + convolution(1024, 1, 4, norm=False)
    for inputs in (512, 256):
        for outputs in (128, 64, 64, 32):
            wanted += convolution(inputs, 2 * outputs, 3)
            inputs = outputs
        wanted += convolution(32, 3, 3, norm=False)
    assert count(FastGANDiscriminator((3, 256, 256))) == wanted == 9_981_616


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape):
    generator, discriminator = FastGANGenerator(shape, 5, 2), FastGANDiscriminator(shape, 2)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, *shape) and images.abs().max() <= 1
    patches = [side // 2 ** int(math.log2(min(shape[1:]) / 4)) * 2 - 3 for side in shape[1:]]
    assert discriminator(images).shape == (2, 1, *patches)
    assert min(shape[1:]) in (32, 64, 128) or patches == [11, 11]


@pytest.mark.parametrize(("size", "strides"), [(512, [2]), (1024, [2, 2])])
def test_images_above_256_pixels_are_halved_first(size, strides):
    network = FastGANDiscriminator((1, size, size), 1)
    assert [layer.stride[0] for layer in network.stem if isinstance(layer, nn.Conv2d)] == strides
    assert len(network.blocks) == 5
    assert network(torch.zeros(2, 1, size, size)).shape == (2, 1, 5, 5)


def excited(network, *inputs):
    """Return the sides of the maps that each excitation has connected."""
    pairs = []
    for module in network.modules():
        if isinstance(module, SkipLayerExcitation):
            module.register_forward_pre_hook(lambda _, maps: pairs.append((maps[0].shape[-1], maps[1].shape[-1])))
    network(*inputs)
    return pairs


@pytest.mark.parametrize(
    ("size", "up", "down"),
    [
        (32, [(4, 16), (8, 32)], [(32, 8)]),
        (64, [(4, 32), (8, 64)], [(64, 8)]),
        (128, [(4, 64), (8, 128)], [(128, 16), (64, 8)]),
        (256, [(4, 64), (8, 128), (16, 256)], [(256, 32), (128, 16), (64, 8)]),
        (512, [(4, 64), (8, 128), (16, 256), (32, 512)], [(256, 32), (128, 16), (64, 8)]),
    ],
)
def test_excitation_connects_the_sizes_of_the_paper(size, up, down):
    assert excited(FastGANGenerator((1, size, size), 2, 1), torch.zeros(2, 2)) == up
    assert excited(FastGANDiscriminator((1, size, size), 1), torch.zeros(2, 1, size, size)) == down


def test_skip_excitation_is_equation_1():
    module = SkipLayerExcitation(3, 2).double()
    source, target = torch.randn(4, 3, 8, 8).double(), torch.randn(4, 2, 5, 7).double()
    pooled = source.view(4, 3, 4, 2, 4, 2).mean((3, 5))
    first, second = (layer.weight for layer in module.layers if isinstance(layer, nn.Conv2d))
    hidden = torch.einsum("nchw,dchw->nd", pooled, first)
    gates = torch.einsum("nd,ed->ne", torch.where(hidden > 0, hidden, 0.1 * hidden), second[:, :, 0, 0])
    wanted = target / (1 + (-gates).exp())[:, :, None, None]
    torch.testing.assert_close(module(source, target), wanted)


def test_an_up_block_is_a_gated_convolution_of_the_enlarged_map():
    block = up_block(2, 3).double().eval()
    features = torch.randn(2, 2, 4, 4).double()
    large = features.repeat_interleave(2, 2).repeat_interleave(2, 3)
    values, gates = F.conv2d(large, block[1].weight, padding=1).div(math.sqrt(1 + block[2].eps)).chunk(2, 1)
    torch.testing.assert_close(block(features), values * gates.sigmoid())
    noisy = up_block(2, 3, (8, 8)).double()
    assert [type(layer).__name__ for layer in noisy[1:]] == 2 * ["Conv2d", "Noise", "BatchNorm2d", "GLU"]
    assert noisy(features).shape == (2, 3, 8, 8)


def test_noise_is_drawn_in_training_and_fixed_in_evaluation():
    noise = Noise((6, 5), seed=0)
    features = torch.randn(3, 4, 6, 5)
    assert noise(features).equal(features)  # before it has learned a strength
    nn.init.constant_(noise.strength, 2.0)
    added = (noise(features) - features) / 2
    assert not added[:, 0].allclose(added[:1, 0]) and not added.allclose((noise(features) - features) / 2)
    torch.testing.assert_close(added, added[:, :1].expand_as(added), atol=1e-6, rtol=0)
    noise.eval()
    fixed = (noise(features) - features) / 2
    torch.testing.assert_close(fixed, noise.fixed.expand_as(fixed), atol=1e-6, rtol=0)
    assert Noise((6, 5), seed=0).fixed.equal(noise.fixed) and not noise.state_dict().keys() & {"fixed"}


def test_an_image_in_evaluation_depends_on_its_latents_alone():
    generator = FastGANGenerator((1, 32, 32), 3, 2).double().eval()
    for module in generator.modules():
        if isinstance(module, Noise):
            nn.init.constant_(module.strength, 1.0)
    latents = torch.randn(4, 3).double()
    torch.testing.assert_close(generator(latents)[2:3], generator(latents[2:3]))


def test_a_picture_of_128_pixels_is_added_to_larger_images():
    generator = FastGANGenerator((1, 256, 256), 2, 1)
    nn.init.zeros_(generator.output.weight)
    image = generator(torch.randn(2, 2))
    blocks = image.view(2, 1, 128, 2, 128, 2)
    assert blocks.equal(blocks[:, :, :, :1, :, :1].expand_as(blocks)) and image.std() > 0
    assert FastGANGenerator((1, 128, 128), 2, 1).picture is None


def test_a_down_block_is_the_mean_of_two_ways():
    block = DownBlock(2, 3).double().eval()
    features = torch.randn(2, 2, 8, 8).double()
    one, other, direct = (layer.weight for layer in block.modules() if isinstance(layer, nn.Conv2d))
    scale = math.sqrt(1 + 1e-5)

    def step(maps):
        return F.leaky_relu(maps / scale, 0.2)

    strided = step(F.conv2d(step(F.conv2d(features, one, stride=2, padding=1)), other, padding=1))
    pooled = step(torch.einsum("nchw,dc->ndhw", features.view(2, 2, 4, 2, 4, 2).mean((3, 5)), direct[:, :, 0, 0]))
    torch.testing.assert_close(block(features), (strided + pooled) / 2)


def test_all_convolutions_but_the_decoders_are_spectrally_normalized():
    network = FastGANDiscriminator((1, 64, 64), 2)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert is_parametrized(layer) != name.startswith(("whole", "part")), name


def seen_by(network, images):
    found = []
    with torch.no_grad():
        hook = network.head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        network(images)
        hook.remove()
    return found[0]


@pytest.mark.parametrize(
    ("shape", "whole", "part"),
    [
        ((1, 32, 48), (32, 48), (16, 24)),
        ((1, 64, 64), (64, 64), (32, 32)),
        ((1, 256, 256), (128, 128), (128, 128)),
        ((1, 512, 512), (128, 128), (128, 128)),
    ],
)
def test_images_and_quarters_of_them_are_reconstructed(shape, whole, part):
    network = FastGANDiscriminator(shape, 1)
    _, height, width = shape
    # Pixels that say where they are.
    images = torch.stack([torch.arange(height)[:, None].expand(shape[1:]), torch.arange(width).expand(shape[1:])])
    images = images[:, None].float()
    seen = seen_by(network, images)
    assert seen.images is images and seen.last.shape[-1] * 2 == seen.middle.shape[-1]
    shown = []
    network.part.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    places = torch.tensor([[0.0, 0.999], [0.5, 0.3]])
    pairs = network.reconstruct(seen, places)
    assert [made.shape[2:] for made, _ in pairs] == [target.shape[2:] for _, target in pairs] == [whole, part]
    mean = torch.nn.AvgPool2d(height // whole[0])
    assert pairs[0][1].equal(mean(images))
    rows, columns = seen.last.shape[2:]
    scale = height // (2 * rows)
    corners = [(0, columns), (int(0.5 * (rows + 1)), int(0.3 * (columns + 1)))]
    for number, (top, left) in enumerate(corners):
        assert shown[0][number].equal(seen.middle[number, :, top : top + rows, left : left + columns])
        quarter = images[number : number + 1, :, scale * top :, scale * left :][..., : height // 2, : width // 2]
        assert quarter.shape[2:] == (height // 2, width // 2)
        torch.testing.assert_close(pairs[1][1][number], torch.nn.AvgPool2d(height // 2 // part[0])(quarter)[0])


def test_reconstruction_trains_the_features_and_no_targets():
    network = FastGANDiscriminator((1, 32, 32), 1)
    images = torch.randn(2, 1, 32, 32).requires_grad_()
    features = [torch.randn(2, c, s, s).requires_grad_() for c, s in ((4, 16), (8, 8))]
    pairs = network.reconstruct(Seen(images, *features), torch.rand(2, 2))
    sum((made - target).square().sum() for made, target in pairs).backward()
    assert images.grad is None and all(feature.grad.abs().sum() > 0 for feature in features)


def test_crops_are_slices():
    maps = torch.randn(3, 2, 6, 7)
    parts = cropped(maps, (torch.tensor([0, 2, 3]), torch.tensor([4, 0, 1])), (3, 2))
    for part, image, (top, left) in zip(parts, maps, ((0, 4), (2, 0), (3, 1)), strict=True):
        assert part.equal(image[:, top : top + 3, left : left + 2])


@pytest.mark.parametrize("size", [8, 16, 30, 2048])
def test_other_sizes_are_invalid(size):
    for network in (FastGANGenerator, FastGANDiscriminator):
        with pytest.raises(SettingError, match=r"^image_shape is "):
            network((1, size, size), width=1)
