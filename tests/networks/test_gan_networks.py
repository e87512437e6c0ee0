import pytest
import torch
from torch import nn

from lightning_gans import DCGAN, R3GAN, VAE, VAEGAN, ConditionalGAN, ResNetGAN, SettingError
from lightning_gans.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    InfoGANDiscriminator,
    MLPDiscriminator,
    MLPGenerator,
)
from lightning_gans.networks.conditioning import ConditionalBatchNorm
from lightning_gans.networks.dcgan import initialize, levels
from tests.toys import loader, make_batches, same, weights


def randomized(network):
    """Labels of conditional BatchNorm start equal."""
    for layer in network.modules():
        if isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight)
    return network


PAIRS = {
    "mlp": (
        lambda shape, classes: MLPGenerator(shape, 5, [6], classes),
        lambda shape, classes: MLPDiscriminator(shape, [6], num_classes=classes),
    ),
    "dcgan": (
        lambda shape, classes: DCGANGenerator(shape, 5, 2, classes),
        lambda shape, classes: DCGANDiscriminator(shape, 2, classes),
    ),
    "dcgan with labels in BatchNorm": (
        lambda shape, classes: randomized(DCGANGenerator(shape, 5, 2, classes, [6], "batch_norm")),
        lambda shape, classes: DCGANDiscriminator(shape, 2, classes),
    ),
    "dcgan with dense layers": (
        lambda shape, classes: DCGANGenerator(shape, 5, 2, classes, dense_dims=[6, 7]),
        lambda shape, classes: DCGANDiscriminator(shape, 2, classes, dense_dims=[7, 6]),
    ),
}


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("kind", PAIRS)
def test_shapes(kind, classes, channels, size):
    shape = (channels, size, size)
    make_generator, make_discriminator = PAIRS[kind]
    labels = () if classes == 0 else (torch.tensor([1, 3]),)
    images = make_generator(shape, classes)(torch.randn(2, 5), *labels)
    assert images.shape == (2, *shape)
    assert images.abs().max() <= 1
    assert make_discriminator(shape, classes)(images, *labels).shape == (2, 1)


@pytest.mark.parametrize("kind", PAIRS)
def test_the_label_changes_the_output(kind):
    make_generator, make_discriminator = PAIRS[kind]
    generator, discriminator = make_generator((1, 28, 28), 3).eval(), make_discriminator((1, 28, 28), 3).eval()
    noise, first, second = torch.randn(4, 5), torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    images = generator(noise, first)
    assert not images.equal(generator(noise, second))
    assert not discriminator(images, first).equal(discriminator(images, second))


@pytest.mark.parametrize("kind", PAIRS)
def test_labels_have_to_fit(kind):
    make_generator, make_discriminator = PAIRS[kind]
    labels = torch.zeros(2, dtype=torch.long)
    for classes, given in ((0, (labels,)), (3, ())):
        networks = (make_generator((1, 28, 28), classes), torch.randn(2, 5))
        for network, inputs in (networks, (make_discriminator((1, 28, 28), classes), torch.zeros(2, 1, 28, 28))):
            with pytest.raises(SettingError) as error:
                network(inputs, *given)
            assert error.value.setting == "labels"


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        *[((8, 8), ((4, 4), 1)), ((14, 14), ((7, 7), 1)), ((28, 28), ((7, 7), 2)), ((32, 32), ((4, 4), 3))],
        *[((64, 64), ((4, 4), 4)), ((224, 224), ((7, 7), 5)), ((96, 96), ((6, 6), 4))],
        *[((96, 160), ((6, 10), 4)), ((28, 32), ((7, 8), 2)), ((80, 16), ((20, 4), 2))],
    ],
)
def test_levels(size, wanted):
    assert levels((1, *size)) == wanted


@pytest.mark.parametrize("shape", [(1, 28, 30), (1, 4, 4), (1, 7, 7), (1, 30, 30), (3, 1, 1), (3, 36, 36)])
def test_other_sizes_are_refused(shape):
    for make in PAIRS["dcgan"]:
        with pytest.raises(SettingError) as error:
            make(shape, 0)
        assert (error.value.setting, error.value.value) == ("image_shape", shape)


OBLONG = (5, 24, 40)
CONVOLUTIONAL = {
    DCGAN: {"width": 4, "augment": ["color", "translation", "cutout"]},
    ResNetGAN: {"generator_width": 4, "discriminator_width": 4},
    R3GAN: {"widths": [8, 8, 8], "blocks": 1, "group_width": 8},
    VAE: {"architecture": "conv", "width": 4, "likelihood": "gaussian"},
    VAEGAN: {"width": 4},
}


@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_images_of_any_channels_need_not_be_square(cls, make_trainer):
    torch.manual_seed(0)
    model = cls(image_shape=OBLONG, latent_dim=4, **CONVOLUTIONAL[cls])
    before = {name: weights(network) for name, network in model.networks(model.trained_networks).items()}
    make_trainer(max_steps=1).fit(model, loader(make_batches(2, shape=OBLONG)))
    assert model.sample(2, seed=0).shape == (2, *OBLONG)
    assert not any(same(before[name], list(network.parameters())) for name, network in model.networks(before).items())


def test_weights_are_drawn_as_in_the_paper():
    torch.manual_seed(0)
    for network in (DCGANGenerator((3, 32, 32), 100, 16), DCGANDiscriminator((3, 32, 32), 16)):
        initialize(network)
        kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        kernels = [layer for layer in network.modules() if isinstance(layer, kinds)]
        for layer in kernels:
            deviation = 4 * 0.02 / layer.weight.numel() ** 0.5
            assert abs(layer.weight.mean()) < deviation
            assert abs(layer.weight.std() - 0.02) < deviation
            assert layer.bias is None or not layer.bias.any()
        norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
        scales = torch.cat([layer.weight for layer in norms])
        assert norms
        assert abs(scales.mean() - 1) < 4 * 0.02 / len(scales) ** 0.5
        assert abs(scales.std() - 0.02) < 4 * 0.02 / len(scales) ** 0.5
        assert not any(layer.bias.any() for layer in norms)


def test_there_is_no_batchnorm_at_the_image():
    def layers(network):
        return [layer for layer in network.modules() if not list(layer.children())]

    generator, discriminator = layers(DCGANGenerator((1, 28, 28), 5, 2)), layers(DCGANDiscriminator((1, 28, 28), 2))
    assert isinstance(generator[-1], nn.ConvTranspose2d)
    assert isinstance(discriminator[0], nn.Conv2d)
    assert isinstance(discriminator[1], nn.LeakyReLU)


@pytest.mark.parametrize("dims", [[], [0], [4, -1]])
def test_hidden_layers_have_to_be_there(dims):
    for make in (lambda: MLPGenerator((1, 8, 8), 5, dims), lambda: MLPDiscriminator((1, 8, 8), dims)):
        with pytest.raises(SettingError) as error:
            make()
        assert error.value.setting == "hidden_dims"


def test_dropout_is_for_training_alone():
    network, images = MLPDiscriminator((1, 8, 8), [32], dropout=0.5), torch.randn(4, 1, 8, 8)
    assert not network(images).equal(network(images))
    network.eval()
    assert network(images).equal(network(images))


@pytest.mark.parametrize("dense_dims", [(), (64,)])
def test_a_discriminator_without_batch_norm_judges_each_image_alone_and_on_the_same_scale(dense_dims):
    torch.manual_seed(0)
    discriminator = DCGANDiscriminator((1, 28, 28), 32, batch_norm=False, dense_dims=dense_dims)
    assert not [layer for layer in discriminator.modules() if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm1d))]
    images = torch.randn(64, 1, 28, 28)
    logits = discriminator(images)
    torch.testing.assert_close(logits[:3], discriminator(images[:3]))
    assert 0.3 < logits.std().item() < 3  # N(0, 0.02²) would give 0.01
    with_norm = DCGANDiscriminator((1, 28, 28), 32)
    assert not torch.allclose(with_norm(images)[:3], with_norm(images[:3]))


@pytest.mark.parametrize(
    "model",
    [
        DCGAN((1, 28, 28), 5, width=2, dense_dims=[8, 6]),
        ConditionalGAN((1, 28, 28), 5, 3, architecture="conv", width=2, dense_dims=[8, 6]),
    ],
)
def test_dense_layers_stand_between_convolutions_and_vectors_in_mirrored_order(model):
    def widths(network):
        return [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]

    classes = model.num_classes
    assert widths(model.generator) == [(5 + classes, 6), (6, 8), (8, 4 * 7 * 7)]
    assert widths(model.discriminator) == [(4 * 7 * 7, 8), (8, 6), (6, 1)]


def test_a_dense_layer_tells_what_only_the_whole_image_shows():
    """Two ends that agree are real, two that differ are not: a sum over places of 10 pixels cannot tell them apart."""
    torch.manual_seed(0)
    images = torch.full((4, 1, 28, 28), -1.0)
    images[1, :, :, :8] = images[2, :, :, 20:] = images[3, :, :, :8] = images[3, :, :, 20:] = 1.0
    same = torch.tensor([1.0, 0.0, 0.0, 1.0])[:, None]

    def fit(dense_dims):
        discriminator = DCGANDiscriminator((1, 28, 28), 4, batch_norm=False, dense_dims=dense_dims)
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
        for _ in range(100):
            loss = nn.functional.binary_cross_entropy_with_logits(discriminator(images), same)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert fit([16]) < 0.1
    assert fit([]) > 0.6  # ln 2 is guessing


def test_labels_in_batchnorm_are_neither_beside_the_noise_nor_drawn_apart():
    torch.manual_seed(0)
    generator = DCGANGenerator((1, 28, 28), 5, 2, 3, [6], "batch_norm")
    assert generator.layers[0][0].in_features == 5
    norms = [layer for layer in generator.modules() if isinstance(layer, ConditionalBatchNorm)]
    assert [norm.scale.weight.shape for norm in norms] == [(3, 6), (3, 4), (3, 2)]
    assert all((norm.scale.weight == 1).all() and not norm.shift.weight.any() for norm in norms)
    noise = torch.randn(2, 5)
    first, second = (generator(noise, torch.full((2,), label)) for label in (0, 2))
    torch.testing.assert_close(first, second)
    nn.init.normal_(norms[0].shift.weight)
    assert not generator(noise, torch.tensor([0, 0])).allclose(generator(noise, torch.tensor([0, 2])))
    with pytest.raises(SettingError) as error:
        DCGANGenerator((1, 28, 28), 5, 2, 3, conditioning="sum")
    assert (error.value.setting, error.value.allowed) == ("conditioning", ["input", "batch_norm"])


def test_the_discriminator_of_infogan_has_two_heads_on_one_body():
    network = InfoGANDiscriminator((1, 28, 28), 64, num_classes=10, continuous_dim=2)  # the paper's for MNIST
    body = 16 * 64 + 64 + 16 * 64 * 128 + 2 * 128 + 128 * 7 * 7 * 1024 + 2 * 1024
    heads = 1024 + 1 + 1024 * 128 + 2 * 128 + 128 * (10 + 2 * 2) + 10 + 2 * 2
    assert sum(parameter.numel() for parameter in network.parameters()) == body + heads
    images = torch.randn(3, 1, 28, 28)
    logits, parameters = network(images)
    assert logits.shape == (3, 1) and parameters.shape == (3, 14)
    shared = network.layers[0].weight
    for output in (logits, parameters):
        assert torch.autograd.grad(output.sum(), shared, retain_graph=True)[0].abs().max() > 0
