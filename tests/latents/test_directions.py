"""The directions that a generator's first layer amplifies most."""

import pytest
import torch
from torch import nn

from lightning_gans import GAN, Pix2Pix, SettingError
from lightning_gans.latents import sefa_directions
from lightning_gans.latents.directions import first_layer_matrix
from tests.cli.commands.conftest import MODELS
from tests.toys import SHAPE, tiny


def orthogonal(size, seed):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))[0]


class Known(nn.Module):
    """A linear layer with known singular vectors, then something that does not matter."""

    def __init__(self, first):
        super().__init__()
        self.labels = nn.Linear(2, 2)
        self.first = first
        self.rest = nn.LazyLinear(64)

    def forward(self, latents):
        self.labels(torch.ones(1, 2))  # not with the latents
        if not isinstance(self.first, nn.Linear):
            latents = latents[:, :, None, None]
        return self.rest(self.first(latents).flatten(1)).view(-1, *SHAPE)


def model_of(first):
    model = GAN(SHAPE, 4, generator=Known(first), discriminator_dims=[6], ema_half_life=0)
    model.sample(1)  # gives the lazy layer its size
    return model


def test_the_directions_are_the_singular_vectors_of_a_known_matrix():
    first = nn.Linear(4, 6)
    vectors = orthogonal(4, 0)
    singular_values = torch.tensor([1.0, 5.0, 0.5, 3.0])
    with torch.no_grad():
        first.weight.copy_(orthogonal(6, 1)[:, :4] * singular_values @ vectors.T)
    found = sefa_directions(model_of(first))
    torch.testing.assert_close((found @ vectors).abs(), torch.eye(4)[[1, 3, 0, 2]], atol=1e-5, rtol=0)
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()
    assert sefa_directions(model_of(first), 2).equal(found[:2])


def test_no_unit_vector_is_amplified_more():
    model = tiny(GAN)
    found = sefa_directions(model, ema=False)
    weight = model.generator.hidden[0].weight
    with torch.no_grad():
        gains = (found @ weight.T).norm(dim=1)
        others = nn.functional.normalize(torch.randn(1000, 4)) @ weight.T
    assert (gains.diff() < 0).all() and gains[0] >= others.norm(dim=1).max() >= gains[-1]
    torch.testing.assert_close(gains, torch.linalg.svdvals(weight.detach()))


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"padding": 1, "output_padding": 0}])
def test_a_transposed_convolution_of_a_single_position(options):
    first = nn.ConvTranspose2d(4, 3, 4, **options)
    matrix = first_layer_matrix(model_of(first))
    point = torch.randn(4)
    with torch.no_grad():
        bias = first(torch.zeros(1, 4, 1, 1)).flatten()
        torch.testing.assert_close(matrix.float() @ point + bias, first(point.view(1, 4, 1, 1)).flatten())
    if not options:
        torch.testing.assert_close(matrix.float(), first.weight.detach().flatten(1).T)


def test_the_average_of_the_weights_and_a_parametrized_layer():
    model = tiny(GAN)
    with torch.no_grad():
        model.generator.hidden[0].weight.mul_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert not torch.allclose(sefa_directions(model), sefa_directions(model, ema=False))
    first = nn.Linear(4, 6)
    before = first_layer_matrix(model_of(first))
    nn.utils.parametrizations.spectral_norm(first, n_power_iterations=50)
    torch.testing.assert_close(first_layer_matrix(model_of(first)), before / torch.linalg.svdvals(before)[0])


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("rows", "vqvae", "biggan")])
def test_every_model_has_a_first_layer(name):
    model = MODELS[name]()
    found = sefa_directions(model)
    torch.testing.assert_close(found @ found.T, torch.eye(model.latent_dim), atol=1e-5, rtol=0)
    assert not any(module._forward_pre_hooks for module in model.modules())


class Direct(nn.Module):
    def forward(self, latents):
        return nn.functional.pad(latents, (0, 60)).view(-1, *SHAPE)


@pytest.mark.parametrize(
    ("make", "num", "setting"),
    [
        (lambda: GAN(SHAPE, 4, generator=Direct(), discriminator_dims=[6]), None, "directions"),
        (MODELS["rows"], None, "directions"),
        (lambda: tiny(GAN), 0, "num"),
        (lambda: tiny(GAN), 5, "num"),
        (lambda: Pix2Pix((1, 16, 16), width=4, num_layers=1), None, "latent_dim"),
    ],
)
def test_what_has_no_directions_is_an_error(make, num, setting):
    with pytest.raises(SettingError) as error:
        sefa_directions(make(), num)
    assert error.value.setting == setting
