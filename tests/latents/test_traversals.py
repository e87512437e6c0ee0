"""Images along directions, and the use that a VAE makes of its latents."""

import pytest
import torch
from torch import nn

from lightning_gans import GAN, VAE, ConditionalGAN, Pix2Pix, SettingError
from lightning_gans.latents import latent_divergences, traverse
from lightning_gans.losses import gaussian_kl
from tests.toys import SHAPE, tiny


class Shown(nn.Module):
    """Shows the four latents as the first pixels of an image."""

    def forward(self, latents):
        return nn.functional.pad(latents, (0, 60)).view(-1, 1, 8, 8)


class Known(nn.Module):
    """Returns the same posterior for each image."""

    def __init__(self, mean, log_variance):
        super().__init__()
        self.mean, self.log_variance = torch.tensor(mean), torch.tensor(log_variance)

    def forward(self, images):
        return self.mean.expand(len(images), -1), self.log_variance.expand(len(images), -1)


def shown(images):
    """Return the latents that :class:`Shown` shows."""
    return images.flatten(2)[..., :4]


def test_one_latent_takes_even_values_and_the_others_stay():
    model = GAN(SHAPE, 4, generator=Shown(), discriminator_dims=[6])
    found = shown(traverse(model, [2, 0], 5, span=1.5, steps=4))
    point = model.latents(1, seed=5)[0]
    for row, index in zip(found, (2, 0), strict=True):
        torch.testing.assert_close(row[:, index], torch.tensor([-1.5, -0.5, 0.5, 1.5]))
        others = [place for place in range(4) if place != index]
        torch.testing.assert_close(row[:, others], point[others].expand(4, -1))


def test_any_direction_takes_even_values_and_the_rest_stays():
    model = GAN(SHAPE, 4, generator=Shown(), discriminator_dims=[6])
    directions, point = torch.randn(3, 4), torch.randn(4)
    found = shown(traverse(model, directions, point, span=2, steps=5))
    for row, direction in zip(found, directions / directions.norm(dim=1, keepdim=True), strict=True):
        torch.testing.assert_close(row @ direction, torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
        rest = row - (row @ direction)[:, None] * direction
        torch.testing.assert_close(rest, (point - (point @ direction) * direction).expand(5, -1))


@pytest.mark.parametrize(("label", "used"), [(None, 0), (2, 2)])
def test_all_images_are_of_one_class(label, used):
    model = tiny(ConditionalGAN).eval()
    images = traverse(model, [1], 3, label, steps=3)
    latents = model.latents(1, seed=3).repeat(3, 1)
    latents[:, 1] = torch.tensor([-3.0, 0.0, 3.0])
    with torch.no_grad():
        torch.testing.assert_close(images[0], model.decode(latents, torch.tensor([used] * 3)))


def test_divergences_of_a_known_posterior():
    means, log_variances = [0.0, 1.0, 0.0, -2.0], [0.0, 0.0, 1.0, 0.0]
    model = tiny(VAE, encoder=Known(means, log_variances))
    expected = torch.tensor([0.0, 0.5, (torch.e - 2) / 2, 2.0])
    torch.testing.assert_close(latent_divergences(model), expected)


def test_divergences_are_the_parts_of_the_kl_term():
    model = tiny(VAE, num_classes=3)
    images, labels = torch.rand(120, *SHAPE) * 2 - 1, torch.arange(120) % 3
    found = latent_divergences(model, images, labels, ema=False)
    with torch.no_grad():
        torch.testing.assert_close(found.sum(), gaussian_kl(*model.encode(images, labels, ema=False)).mean())
    assert found.shape == (4,) and latent_divergences(model).shape == (4,)


@pytest.mark.parametrize(
    ("directions", "options", "setting"),
    [
        ([4], {}, "directions"),
        ([-1], {}, "directions"),
        (torch.zeros(1, 4), {}, "directions"),
        (torch.ones(2, 3), {}, "directions"),
        ([0], {"steps": 1}, "steps"),
        ([0], {"span": 0}, "span"),
        ([0], {"label": 3}, "labels"),
        ([0], {"point": torch.zeros(1, 4)}, "the shape of point"),
    ],
)
def test_an_impossible_traversal_is_an_error(directions, options, setting):
    with pytest.raises(SettingError) as error:
        traverse(tiny(ConditionalGAN), directions, **options)
    assert error.value.setting == setting


def test_models_without_latents_or_labels_or_encoders_are_errors():
    with pytest.raises(SettingError) as error:
        traverse(Pix2Pix((1, 16, 16), width=4, num_layers=1), [0])
    assert error.value.setting == "latent_dim"
    with pytest.raises(SettingError) as error:
        traverse(tiny(GAN), [0], label=1)
    assert error.value.setting == "labels"
    with pytest.raises(SettingError) as error:
        latent_divergences(tiny(GAN))
    assert error.value.setting == "model"
