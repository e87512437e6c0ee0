"""Ways through the latent space."""

import pytest
import torch

from lightning_gans import GAN, ConditionalGAN, Pix2Pix, SettingError
from lightning_gans.latents import walk
from lightning_gans.latents.walks import interpolated
from lightning_gans.training.sampling import slerp
from tests.toys import tiny


def test_a_way_meets_each_point_once():
    points = torch.randn(3, 5)
    for closed, stops in ((False, points), (True, torch.cat([points, points[:1]]))):
        way = interpolated(points, 4, closed=closed)
        assert len(way) == (12 if closed else 9)
        assert way[::4].equal(points)
        for part in range(len(stops) - 1):
            expected = slerp(stops[part], stops[part + 1], torch.arange(4) / 4)
            torch.testing.assert_close(way[4 * part : 4 * part + 4], expected)


def test_an_arc_of_two_orthogonal_points_is_a_circle():
    way = interpolated(torch.eye(2), 6)
    angles = torch.linspace(0, torch.pi / 2, 7)
    torch.testing.assert_close(way, torch.stack([angles.cos(), angles.sin()], dim=1))


def test_the_smooth_easing_rests_at_the_points():
    points = torch.tensor([[0.0], [1.0]])
    shares = interpolated(points, 100, straight=True, easing="smooth").flatten()
    x = torch.linspace(0, 1, 101)
    torch.testing.assert_close(shares, 3 * x**2 - 2 * x**3)
    assert shares[1] < 1e-3 and shares[-1] - shares[-2] < 1e-3 and shares[50] == 0.5


def test_a_walk_shows_the_samples_of_its_seeds():
    model = tiny(GAN).eval()
    images = walk(model, [3, 8, 5], frames=4, loop=True)
    assert images.shape == (12, *model.image_shape) and images.device.type == "cpu"
    torch.testing.assert_close(images[::4], torch.cat([model.sample(1, seed=seed) for seed in (3, 8, 5)]))
    torch.testing.assert_close(walk(model, [3, 8, 5], frames=4), images[:9])
    latents = torch.cat([model.latents(1, seed=seed) for seed in (3, 8, 5)])
    assert walk(model, latents, frames=4, loop=True).equal(images)
    middle = slerp(latents[2], latents[0], torch.tensor([0.5]))
    with torch.no_grad():
        torch.testing.assert_close(images[10:11], model.decode(middle))
    even = walk(model, [3, 8, 5], frames=4, loop=True, easing="linear")
    torch.testing.assert_close(even[::2], images[::2])
    assert not torch.allclose(even[1], images[1])


def test_truncation_and_the_weights_themselves():
    model = tiny(GAN).eval()
    torch.nn.init.normal_(model.generator.output.weight)
    cut = walk(model, [1, 2], frames=2, truncation=0.5, ema=False)
    torch.testing.assert_close(cut[0], model.sample(1, seed=1, truncation=0.5, ema=False)[0])
    assert not torch.allclose(cut[0], walk(model, [1, 2], frames=2, truncation=0.5)[0])


@pytest.mark.parametrize(("labels", "held"), [(1, [1, 1, 1]), ([2, 0, 1], [2, 0, 1]), (None, [0, 1, 2])])
def test_a_label_holds_until_the_next_key_point(labels, held):
    model = tiny(ConditionalGAN).eval()
    images = walk(model, [4, 5, 6], labels, frames=3)
    points = torch.cat([model.latents(1, seed=seed) for seed in (4, 5, 6)])
    way = interpolated(points, 3, easing="smooth")
    with torch.no_grad():
        expected = model.decode(way, torch.tensor(held).repeat_interleave(3)[:7])
    torch.testing.assert_close(images, expected)


@pytest.mark.parametrize(
    ("points", "options", "setting"),
    [
        ([1, 2.5], {}, "points"),
        ("12", {}, "points"),
        ([1], {}, "the number of key points"),
        ([1, 2], {"frames": 0}, "frames"),
        ([1, 2], {"easing": "cubic"}, "easing"),
        ([1, 2], {"labels": [0, 1, 2]}, "labels"),
        ([1, 2], {"labels": 3}, "labels"),
        (torch.zeros(2, 7), {}, "points"),
        (torch.zeros(2), {}, "points"),
    ],
)
def test_an_impossible_walk_is_an_error(points, options, setting):
    with pytest.raises(SettingError) as error:
        walk(tiny(ConditionalGAN), points, **options)
    assert error.value.setting == setting


def test_a_model_without_latents_is_an_error():
    with pytest.raises(SettingError) as error:
        walk(Pix2Pix((1, 16, 16), width=4, num_layers=1), [1, 2])
    assert error.value.setting == "latent_dim"
