import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_gans import SettingError
from lightning_gans.networks import ResNetDiscriminator, ResNetGenerator
from lightning_gans.networks.resnet import DownBlock, UpBlock

KINDS = (nn.Conv2d, nn.Linear, nn.Embedding)
SHAPE = (1, 8, 8)


def normalised(network):
    """Return the layers of a network that have a weight matrix."""
    return [layer for layer in network.modules() if isinstance(layer, KINDS)]


def vectors(network):
    """Return the singular vectors that the power iteration has come to."""
    return [buffer.clone() for buffer in network.buffers()]


@pytest.mark.parametrize("size", [8, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [0, 4])
def test_shapes(classes, channels, size):
    shape = (channels, size, size)
    labels = () if classes == 0 else (torch.tensor([1, 3]),)
    images = ResNetGenerator(shape, 5, 2, classes)(torch.randn(2, 5), *labels)
    assert images.shape == (2, *shape)
    assert images.abs().max() <= 1
    assert ResNetDiscriminator(shape, 2, classes)(images, *labels).shape == (2, 1)
    if classes > 0:
        logits, class_logits = ResNetDiscriminator(shape, 2, classes, conditioning="auxiliary")(images, *labels)
        assert logits.shape == (2, 1) and class_logits.shape == (2, classes)


def convolution(inputs, outputs, side):
    return inputs * outputs * side**2 + outputs


def test_at_32_pixels_the_sizes_are_those_of_the_paper():
    """Table 4 of Miyato et al. 2018: three blocks up from 4x4x256; two blocks down and two more, of 128 channels."""
    width, norm = 256, 2 * 256
    block = 2 * norm + 2 * convolution(width, width, 3) + convolution(width, width, 1)
    generator = (128 + 1) * 4 * 4 * width + 3 * block + norm + convolution(width, 3, 3)
    assert sum(p.numel() for p in ResNetGenerator((3, 32, 32), 128).parameters()) == generator == 4_276_739

    width = 128
    first = convolution(3, width, 3) + convolution(width, width, 3) + convolution(3, width, 1)
    second = 2 * convolution(width, width, 3) + convolution(width, width, 1)
    discriminator = first + second + 2 * 2 * convolution(width, width, 3) + width + 1
    for spectral_norm in (True, False):
        network = ResNetDiscriminator((3, 32, 32), spectral_norm=spectral_norm)
        assert sum(p.numel() for p in network.parameters()) == discriminator == 1_053_825
    # With labels: four times scale and shift less, ten times as many more in the blocks; and an embedding.
    conditional = ResNetGenerator((3, 32, 32), 128, num_classes=10)
    assert sum(p.numel() for p in conditional.parameters()) == generator + 9 * 3 * 2 * norm
    assert sum(p.numel() for p in ResNetDiscriminator((3, 32, 32), num_classes=10).parameters()) == (
        discriminator + 10 * width
    )


@pytest.mark.parametrize(
    ("size", "down", "left"), [(8, 1, 4), (14, 1, 7), (16, 1, 8), (28, 2, 7), (32, 2, 8), (64, 3, 8)]
)
def test_the_discriminator_halves_to_7_or_8_pixels(size, down, left):
    network = ResNetDiscriminator((1, size, size), 2)
    assert [block.down for block in network.blocks] == [True] * down + [False, False]
    assert network.blocks(torch.zeros(1, 1, size, size)).shape == (1, 2, left, left)


def test_a_block_up_is_the_papers():
    block, images = UpBlock(3, nn.BatchNorm2d), torch.randn(4, 3, 5, 5)
    nn.init.normal_(block.norms[0].bias)
    first, second = block.residual
    up = nn.Upsample(scale_factor=2)
    residual = second(F.relu(block.norms[1](first(up(F.relu(block.norms[0](images)))))))
    torch.testing.assert_close(block(images), residual + block.shortcut(up(images)))


@pytest.mark.parametrize(("first", "down"), [(True, True), (False, True), (False, False)])
def test_a_block_down_is_the_papers(first, down):
    block, images = DownBlock(3, 3, down=down, first=first), torch.randn(4, 3, 6, 6)
    residual = block.residual[1](F.relu(block.residual[0](images if first else F.relu(images))))
    pool = nn.AvgPool2d(2) if down else nn.Identity()
    torch.testing.assert_close(block(images), pool(residual) + pool(block.shortcut(images)))
    assert isinstance(block.shortcut, nn.Conv2d if down else nn.Identity)


def test_the_logit_is_linear_in_the_sum_over_the_pixels_and_the_label_adds_its_inner_product():
    network = ResNetDiscriminator(SHAPE, 4, 3).eval()
    images, labels = torch.randn(5, *SHAPE), torch.tensor([0, 2, 1, 1, 0])
    features = F.relu(network.blocks(images)).flatten(2).sum(2)
    wanted = features @ network.output.weight.T + network.output.bias
    wanted += (features * network.projection.weight[labels]).sum(1, keepdim=True)
    torch.testing.assert_close(network(images, labels), wanted)


@pytest.mark.parametrize("conditioning", ["projection", "auxiliary"])
def test_labels_enter_and_have_to_fit(conditioning):
    generator = ResNetGenerator(SHAPE, 5, 4, 3).eval()
    for embedding in (layer for layer in generator.modules() if isinstance(layer, nn.Embedding)):
        nn.init.normal_(embedding.weight)  # all labels start alike
    discriminator = ResNetDiscriminator(SHAPE, 4, 3, conditioning=conditioning).eval()
    noise, first, second = torch.randn(4, 5), torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    images = generator(noise, first)
    assert not images.equal(generator(noise, second))
    if conditioning == "projection":
        assert not discriminator(images, first).equal(discriminator(images, second))
    for network, inputs in ((generator, noise), (discriminator, images)):
        with pytest.raises(SettingError) as error:
            network(inputs)
        assert error.value.setting == "labels"
    with pytest.raises(SettingError) as error:
        ResNetDiscriminator(SHAPE, 4)(images, first)
    assert error.value.setting == "labels"


@pytest.mark.parametrize("shape", [(1, 28, 30), (1, 4, 4), (1, 30, 30)])
def test_other_sizes_are_refused(shape):
    for make in (lambda: ResNetGenerator(shape, 5, 4), lambda: ResNetDiscriminator(shape, 4)):
        with pytest.raises(SettingError) as error:
            make()
        assert error.value.setting == "image_shape"


def test_other_settings_are_refused():
    with pytest.raises(SettingError) as error:
        ResNetDiscriminator(SHAPE, 4, 3, conditioning="concat")
    assert (error.value.setting, error.value.value) == ("conditioning", "concat")
    for make in (lambda: ResNetGenerator(SHAPE, 5, 0), lambda: ResNetDiscriminator(SHAPE, 0)):
        with pytest.raises(SettingError) as error:
            make()
        assert (error.value.setting, error.value.value) == ("width", 0)


def test_weights_are_drawn_as_in_the_paper():
    torch.manual_seed(0)
    for network in (ResNetGenerator((3, 32, 32), 64, 32, 4), ResNetDiscriminator((3, 32, 32), 32, spectral_norm=False)):
        within = {layer for block in network.modules() if hasattr(block, "residual") for layer in block.residual}
        for layer in (layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))):
            pixels = layer.weight[0, 0].numel()
            fans = (layer.weight.shape[0] + layer.weight.shape[1]) * pixels
            bound = math.sqrt(6 / fans) * (math.sqrt(2) if layer in within else 1)
            assert layer.weight.abs().max() <= bound
            assert layer.weight.abs().max() > 0.9 * bound or layer.weight.numel() < 100
            assert not layer.bias.any()
        assert within


def test_there_is_no_batchnorm_in_the_discriminator_so_that_each_logit_is_of_one_image():
    network, images = ResNetDiscriminator((3, 32, 32), 4).eval(), torch.randn(4, 3, 32, 32)
    assert not any("Norm" in type(layer).__name__ for layer in ResNetDiscriminator(SHAPE, 4, 2, False).modules())
    torch.testing.assert_close(network(images)[2:3], network(images[2:3]))


# --- spectral normalisation -------------------------------------------------------------------------------


@pytest.mark.parametrize("conditioning", ["projection", "auxiliary"])
def test_every_matrix_has_1_as_its_largest_singular_value(conditioning):
    torch.manual_seed(0)
    network = ResNetDiscriminator(SHAPE, 6, 3, conditioning=conditioning)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(7)  # as if trained
        for _ in range(100):
            network(torch.zeros(1, *SHAPE), torch.tensor([0]))
    network.eval()
    layers = normalised(network)
    assert len(layers) == 3 + 2 + 2 + 1 + 1
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)
    plain = ResNetDiscriminator(SHAPE, 6, 3, False, conditioning)
    assert any(torch.linalg.matrix_norm(layer.weight.flatten(1), 2) > 1.1 for layer in normalised(plain))


def test_the_power_iteration_goes_on_in_training_only():
    network, images = ResNetDiscriminator(SHAPE, 4), torch.randn(2, *SHAPE)
    for weight in network.parameters():
        nn.init.normal_(weight)
    before = vectors(network)
    network.eval()(images)
    assert all(a.equal(b) for a, b in zip(before, vectors(network), strict=True))
    network.train()(images)
    assert not any(a.equal(b) for a, b in zip(before, vectors(network), strict=True) if len(a) > 1)


def test_singular_vectors_are_of_the_weights_alone_so_that_processes_agree_on_them():
    """Their average over processes is then what each has."""
    first = ResNetDiscriminator(SHAPE, 4)
    second = copy.deepcopy(first)
    for _ in range(3):
        first(torch.randn(2, *SHAPE))
        second(torch.randn(5, *SHAPE))
    assert all(a.equal(b) for a, b in zip(vectors(first), vectors(second), strict=True))
    assert all(vector.norm().item() == pytest.approx(1) for vector in vectors(first))


def test_copies_and_loaded_weights_go_on_alike():
    network, images = ResNetDiscriminator(SHAPE, 4), torch.randn(2, *SHAPE)
    network(images)
    loaded = ResNetDiscriminator(SHAPE, 4)
    loaded.load_state_dict(network.state_dict())
    copied = copy.deepcopy(network)
    wanted = [network(images), network(images)]
    for other in (loaded, copied):
        assert all(other(images).equal(logits) for logits in wanted)


def test_low_precision_leaves_the_singular_vectors_whole():
    network, images = ResNetDiscriminator(SHAPE, 16), torch.randn(2, *SHAPE)
    network(images)
    wanted = network.eval()(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network.train()(images)
    torch.testing.assert_close(logits.float(), wanted, rtol=0.05, atol=0.05)
    assert all(v.dtype == torch.float32 and v.norm().item() == pytest.approx(1, abs=1e-5) for v in vectors(network))


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_a_gradient_penalty_reaches_the_weights(spectral_norm):
    """Against finite differences, in which the singular vectors stand still as in the gradient."""
    torch.manual_seed(0)
    network = ResNetDiscriminator(SHAPE, 2, 2, spectral_norm).double().eval()
    images, labels = torch.randn(3, *SHAPE, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 1])
    weights = {name: weight for name, weight in network.named_parameters() if not name.endswith("bias")}

    def penalty(*values):
        logits = torch.func.functional_call(network, dict(zip(weights, values, strict=True)), (images, labels))
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.square().sum()

    assert len(weights) == 9
    assert torch.autograd.gradcheck(penalty, tuple(weights.values()), atol=1e-4, fast_mode=True)


def test_several_passes_in_training_can_be_differentiated_together_and_twice():
    network = ResNetDiscriminator(SHAPE, 4)
    real, fake = torch.randn(2, 3, *SHAPE)
    between = (0.5 * (real + fake)).requires_grad_()
    loss = network(fake).mean() - network(real).mean()
    (gradient,) = torch.autograd.grad(network(between).sum(), between, create_graph=True)
    (loss + gradient.square().mean()).backward()
    for name, weight in network.named_parameters():
        # An image's logit less another's does not depend on the last bias.
        assert weight.grad.isfinite().all() and (weight.grad.any() or name == "output.bias")
