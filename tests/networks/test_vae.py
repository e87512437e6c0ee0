import pytest
import torch
from torch import nn

from lightning_gans import SettingError
from lightning_gans.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder

PAIRS = {
    "mlp": (
        lambda shape, classes: MLPEncoder(shape, 5, [6], classes),
        lambda shape, classes: MLPDecoder(shape, 5, [6], classes),
    ),
    "mlp_batch_norm": (
        lambda shape, classes: MLPEncoder(shape, 5, [6], classes, batch_norm=True),
        lambda shape, classes: MLPDecoder(shape, 5, [6], classes, batch_norm=True),
    ),
    "conv": (
        lambda shape, classes: ConvEncoder(shape, 5, 2, classes),
        lambda shape, classes: ConvDecoder(shape, 5, 2, classes),
    ),
    "conv_dense": (
        lambda shape, classes: ConvEncoder(shape, 5, 2, classes, [7, 6]),
        lambda shape, classes: ConvDecoder(shape, 5, 2, classes, [6, 7]),
    ),
}


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("kind", PAIRS)
def test_shapes(kind, classes, channels, size):
    shape = (channels, size, size)
    make_encoder, make_decoder = PAIRS[kind]
    labels = () if classes == 0 else (torch.tensor([1, 3]),)
    mean, log_variance = make_encoder(shape, classes)(torch.randn(2, *shape), *labels)
    assert mean.shape == log_variance.shape == (2, 5)
    assert not mean.equal(log_variance)
    assert make_decoder(shape, classes)(mean, *labels).shape == (2, *shape)


@pytest.mark.parametrize("kind", PAIRS)
def test_labels_enter_and_have_to_fit(kind):
    encoder, decoder = (make((1, 28, 28), 3).eval() for make in PAIRS[kind])
    images, latents = torch.randn(2, 1, 28, 28), torch.randn(2, 5)
    first, second = torch.tensor([0, 0]), torch.tensor([1, 2])
    assert not encoder(images, first)[0].equal(encoder(images, second)[0])
    assert not decoder(latents, first).equal(decoder(latents, second))
    for network, inputs in ((encoder, images), (decoder, latents)):
        with pytest.raises(SettingError) as error:
            network(inputs)
        assert error.value.setting == "labels"


def test_sizes_that_do_not_halve_are_refused():
    for make in PAIRS["conv"]:
        with pytest.raises(SettingError) as error:
            make((1, 30, 30), 0)
        assert error.value.setting == "image_shape"


def test_hidden_layers_have_batch_norm_where_asked_for():
    for make in (MLPEncoder, MLPDecoder):
        for batch_norm in (False, True):
            network = make((1, 8, 8), 5, [6, 7], batch_norm=batch_norm)
            assert sum(isinstance(layer, nn.BatchNorm1d) for layer in network.modules()) == 2 * batch_norm
