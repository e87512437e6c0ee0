import pytest
import torch
from torch import nn

from lightning_gans import SettingError
from lightning_gans.networks import BigGANGenerator, ResNetDiscriminator
from lightning_gans.networks.biggan import LinearBatchNorm2d

SHAPE = (1, 16, 16)  # two blocks, three chunks


def count(network):
    return sum(p.numel() for p in network.parameters())


def convolution(inputs, outputs, side):
    return inputs * outputs * side**2 + outputs


def attention(width):
    return 2 * width * width // 8 + 2 * width * width // 2 + 1


def sizes(width, classes, embedding_dim=128, chunk=20):
    """Return the numbers of weights at 32 pixels, of channels 4 * width and 2 * width."""
    g, d, condition = 4 * width, 2 * width, chunk + embedding_dim
    block = 2 * convolution(g, g, 3) + convolution(g, g, 1) + 2 * 2 * condition * g
    first = (chunk + 1) * 4 * 4 * g
    generator = classes * embedding_dim + first + 3 * block + attention(g) + 2 * g + convolution(g, 3, 3)
    first = convolution(3, d, 3) + convolution(d, d, 3) + convolution(3, d, 1)
    rest = 3 * 2 * convolution(d, d, 3) + convolution(d, d, 1)
    return generator, first + rest + attention(d) + d + 1 + classes * d


@pytest.mark.parametrize(("width", "classes"), [(4, 10), (8, 3)])
def test_at_32_pixels_the_networks_have_the_published_sizes(width, classes):
    assert sizes(96, 10) == (9_416_196, 2_415_170)
    generator = BigGANGenerator((3, 32, 32), 80, 4 * width, classes, attention=[16])
    discriminator = ResNetDiscriminator((3, 32, 32), 2 * width, classes, attention=[16])
    assert (count(generator), count(discriminator)) == sizes(width, classes)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 64, 64), (2, 24, 40)])
@pytest.mark.parametrize("classes", [0, 4])
def test_shapes(classes, shape):
    labels = () if classes == 0 else (torch.tensor([1, 3]),)
    images = BigGANGenerator(shape, 60, 2, classes)(torch.randn(2, 60), *labels)
    assert images.shape == (2, *shape)
    assert images.abs().max() <= 1


def test_a_block_depends_on_its_own_part_of_the_noise_and_on_those_before_it():
    generator, outputs = BigGANGenerator(SHAPE, 12, 4, 3).eval(), []
    generator.input.register_forward_hook(lambda *call: outputs.append(call[-1]))
    for block in generator.blocks:
        block.register_forward_hook(lambda *call: outputs.append(call[-1]))
    noise = torch.randn(2, 12, requires_grad=True)
    generator(noise, torch.tensor([0, 2]))
    assert len(outputs) == 3
    for place, output in enumerate(outputs):
        (gradient,) = torch.autograd.grad(output.square().sum(), noise, retain_graph=True)
        used = [bool(part.any()) for part in gradient.chunk(3, dim=1)]
        assert used == [index <= place for index in range(3)]


def test_all_blocks_share_the_embedding_of_the_label():
    generator = BigGANGenerator(SHAPE, 12, 4, 3).eval()
    conditions = []
    for layer in generator.modules():
        if isinstance(layer, LinearBatchNorm2d):
            layer.register_forward_pre_hook(lambda _, inputs: conditions.append(inputs[1]))
    labels = torch.tensor([2, 0])
    noise = torch.randn(2, 12)
    generator(noise, labels)
    embedded = generator.embedding.weight[labels]
    chunks = [noise[:, 4:8]] * 2 + [noise[:, 8:]] * 2
    assert len(conditions) == 4
    for condition, chunk in zip(conditions, chunks, strict=True):
        assert condition.equal(torch.cat([embedded, chunk], 1))
    weights = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # of the classes, instead of labels
    torch.testing.assert_close(generator(noise, weights), generator(noise, labels))


def test_scale_and_shift_are_linear_in_the_condition():
    norm, images, condition = LinearBatchNorm2d(3, 5), torch.randn(4, 3, 2, 2), torch.randn(4, 5)
    normalized = nn.BatchNorm2d(3)(images)
    assert norm(images, torch.zeros(4, 5)).equal(normalized)
    scale, shift = (condition @ layer.weight.T for layer in (norm.scale, norm.shift))
    rows = normalized.flatten(2).transpose(1, 2)  # a row of channels for each pixel
    wanted = torch.stack([row * (1 + s) + b for row, s, b in zip(rows, scale, shift, strict=True)])
    torch.testing.assert_close(norm(images, condition).flatten(2).transpose(1, 2), wanted)


@pytest.mark.parametrize(
    "network",
    [
        BigGANGenerator(SHAPE, 12, 8, 3, attention=[8], spectral_norm=False, embedding_dim=5),
        ResNetDiscriminator(SHAPE, 8, 3, spectral_norm=False, attention=[8], initialization="orthogonal"),
    ],
)
def test_weights_start_orthogonal(network):
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear, nn.Embedding))]
    assert len(layers) > 10
    for layer in layers:
        matrix = layer.weight.flatten(1)
        short = matrix if len(matrix) <= matrix.shape[1] else matrix.T
        torch.testing.assert_close(short @ short.T, torch.eye(len(short)), rtol=0, atol=1e-5)
        assert getattr(layer, "bias", None) is None or not layer.bias.any()


def test_spectral_normalization_leaves_out_the_embedding():
    network = BigGANGenerator(SHAPE, 12, 8, 3, attention=[8])
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(7)
        for _ in range(50):
            network(torch.randn(4, 12), torch.tensor([0, 1, 2, 0]))
    layers = {layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-2)
    assert torch.linalg.matrix_norm(network.embedding.weight, 2).item() == pytest.approx(7, abs=1e-3)
    plain = BigGANGenerator(SHAPE, 12, 8, 3, spectral_norm=False)
    assert not any("parametrizations" in name for name, _ in plain.named_parameters())


@pytest.mark.parametrize(("latent_dim", "allowed"), [(128, "multiple of 3"), (0, "1 or more")])
def test_the_noise_has_to_be_divisible(latent_dim, allowed):
    with pytest.raises(SettingError, match=allowed) as error:
        BigGANGenerator(SHAPE, latent_dim)
    assert (error.value.setting, error.value.value) == ("latent_dim", latent_dim)


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1])])
def test_labels_have_to_fit(labels):
    with pytest.raises(SettingError) as error:
        BigGANGenerator(SHAPE, 12, 2, 0 if labels is not None else 3)(torch.randn(2, 12), labels)
    assert error.value.setting == "labels"
