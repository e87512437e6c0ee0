"""Latents of given images."""

import pytest
import torch
from torch import nn

from lightning_gans import GAN, VAE, VQVAE, ConditionalGAN, DataError, Pix2Pix, RecurrentGAN, SettingError
from lightning_gans.latents import invert
from tests.toys import SHAPE, tiny


class Linear(nn.Module):
    """A generator whose closest latents are a least-squares solution."""

    def __init__(self):
        super().__init__()
        matrix = torch.linalg.qr(torch.randn(64, 4, generator=torch.Generator().manual_seed(1)))[0]
        self.matrix = nn.Parameter(matrix * torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, latents):
        return (latents @ self.matrix.T).view(-1, *SHAPE)


class Features(nn.Module):
    """Three features of an image."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, images):
        return self.layer(images.flatten(1)).tanh()


def linear():
    return GAN(SHAPE, 4, generator=Linear(), discriminator_dims=[6])


def images(num=3, seed=0):
    return torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_latents_of_a_linear_generator_are_the_least_squares_solution():
    model = linear()
    found = invert(model, images(), steps=400, extractor=None)
    with torch.no_grad():
        solution = torch.linalg.lstsq(model.generator.matrix, images().flatten(1).T)
    torch.testing.assert_close(found.latents, solution.solution.T, atol=2e-3, rtol=0)
    errors = (model.generator.matrix @ solution.solution - images().flatten(1).T).square().mean(0)
    torch.testing.assert_close(found.distances, errors.detach(), atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(found.images, model.decode(found.latents))


def test_the_distance_is_of_pixels_and_of_features_of_length_1():
    model, features = tiny(GAN).eval(), Features()
    found = invert(model, images(), steps=20, extractor=features, feature_weight=0.3)
    with torch.no_grad():
        made, wanted = features(found.images), features(images())
        cosines = torch.cosine_similarity(made, wanted)
        expected = (found.images - images()).square().mean((1, 2, 3)) + 0.3 * 2 * (1 - cosines)
    torch.testing.assert_close(found.distances, expected, atol=1e-5, rtol=1e-4)
    closer = invert(model, images(), steps=100, extractor=features, feature_weight=30)
    with torch.no_grad():
        assert torch.cosine_similarity(features(closer.images), wanted).mean() > cosines.mean() + 0.01


def test_no_steps_give_the_closest_start():
    model = tiny(GAN).eval()
    found = invert(model, images(), steps=0, starts=5, seed=7, extractor=None)
    distances = (model.sample(5, seed=7)[None] - images()[:, None]).square().mean((2, 3, 4))
    torch.testing.assert_close(found.distances, distances.amin(1))
    torch.testing.assert_close(found.latents, model.latents(5, seed=7)[distances.argmin(1)])


def test_steps_and_starts_only_come_closer():
    model = tiny(GAN).eval()
    nn.init.normal_(model.ema["generator"].output.weight)
    last = torch.full((3,), torch.inf)
    for steps, starts in ((0, 1), (10, 1), (10, 6)):
        found = invert(model, images(), steps=steps, starts=starts, extractor=None)
        assert (found.distances < last + 1e-6).all() and (found.distances < last).any()
        last = found.distances
    wild = invert(model, images(), steps=10, lr=1e6, starts=6, extractor=None)
    assert (wild.distances <= invert(model, images(), steps=0, starts=6, extractor=None).distances).all()


def test_a_vae_starts_from_its_encoder():
    model = tiny(VAE)
    found = invert(model, images(), steps=0, starts=1, extractor=None)
    with torch.no_grad():
        torch.testing.assert_close(found.latents, model.encode(images())[0])
    torch.testing.assert_close(found.images, model.reconstruct(images()))


def test_an_image_does_not_depend_on_the_others(monkeypatch):
    monkeypatch.setattr("lightning_gans.latents.inversion.SAMPLE_BLOCK", 6)
    model = tiny(ConditionalGAN).eval()
    whole = invert(model, images(5), [0, 1, 2, 0, 1], steps=10, starts=3)
    for place in (0, 3, 4):
        alone = invert(model, images(5)[place : place + 1], [[0, 1, 2, 0, 1][place]], steps=10, starts=3)
        torch.testing.assert_close(whole.latents[place], alone.latents[0], atol=1e-4, rtol=1e-4)
    again = invert(model, images(5), [0, 1, 2, 0, 1], steps=10, starts=3)
    assert all(one.equal(other) for one, other in zip(whole, again, strict=True))


def test_images_are_decoded_with_their_labels():
    model = tiny(ConditionalGAN).eval()
    nn.init.normal_(model.ema["generator"].hidden[0].weight)
    found = invert(model, images(2), [2, 0], steps=3)
    with torch.no_grad():
        torch.testing.assert_close(found.images, model.decode(found.latents, torch.tensor([2, 0])))


@pytest.mark.parametrize("ema", [True, False])
def test_the_model_stays_as_it_is(ema):
    model = tiny(GAN).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        found = invert(model, images(), steps=3, ema=ema)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training and not any(part.requires_grad for part in found)


def test_a_recurrent_generator():
    model = RecurrentGAN(SHAPE, 4, hidden_dim=8)
    made = model.sample(1, seed=3)
    assert invert(model, made, steps=30, extractor=None).distances < invert(model, made, steps=0).distances


def test_no_images_give_nothing():
    found = invert(tiny(GAN), images(0))
    assert [list(part.shape) for part in found] == [[0, 4], [0, *SHAPE], [0]]


class Rounded(Features):
    def forward(self, images):
        return super().forward(images).detach()


@pytest.mark.parametrize(
    ("given", "options", "kind", "setting"),
    [
        (images(), {}, SettingError, "labels"),
        (images(), {"labels": [0, 1]}, SettingError, "labels"),
        (images(), {"labels": [0, 1, 3]}, SettingError, "labels"),
        (images(), {"labels": [0, 1, 2], "steps": -1}, SettingError, "steps"),
        (images(), {"labels": [0, 1, 2], "starts": 0}, SettingError, "starts"),
        (images(), {"labels": [0, 1, 2], "starts": 10**8}, SettingError, "starts"),
        (images(), {"labels": [0, 1, 2], "lr": 0}, SettingError, "lr"),
        (images(), {"labels": [0, 1, 2], "feature_weight": -1}, SettingError, "feature_weight"),
        (images(), {"labels": [0, 1, 2], "extractor": "vgg"}, SettingError, "extractor"),
        (images(), {"labels": [0, 1, 2], "extractor": Rounded()}, SettingError, "extractor"),
        (images()[..., :7], {"labels": [0, 1, 2]}, SettingError, "image_shape"),
        (images() * 200, {"labels": [0, 1, 2]}, DataError, "batch"),
    ],
)
def test_what_cannot_be_inverted_is_an_error(given, options, kind, setting):
    with pytest.raises(kind) as error:
        invert(tiny(ConditionalGAN), given, **options)
    assert error.value.setting == setting


def test_a_model_with_discrete_codes_is_an_error():
    model = VQVAE(SHAPE, width=4, code_dim=3, num_codes=8, prior_width=8, prior_layers=1, prior_heads=2)
    with pytest.raises(SettingError) as error:
        invert(model, images(), extractor=None)
    assert error.value.setting == "model"


def test_a_model_without_latents_is_an_error():
    with pytest.raises(SettingError) as error:
        invert(Pix2Pix((1, 16, 16), width=4, num_layers=1), torch.zeros(1, 1, 16, 16))
    assert error.value.setting == "latent_dim"
