"""Gradient penalties against finite differences and closed forms."""

import math

import pytest
import torch
from torch import nn

from lightning_gans import penalties

SHAPE = (4, 2, 3, 3)


def images(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


REAL, FAKE, UNIFORM = images(0), images(1), images(2).abs().remainder(1)
SHARES = torch.tensor([0.1, 0.5, 0.0, 0.9], dtype=torch.float64)


class Smooth(nn.Module):
    """A discriminator whose gradient changes from place to place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(18, 7), nn.Tanh(), nn.Linear(7, 1)).double()

    def forward(self, images):
        return self.layers(images).flatten()


def penalty(name, discriminator):
    return {
        "wgan_gp": lambda: penalties.wgan_gp(discriminator, REAL, FAKE, SHARES),
        "r1": lambda: penalties.r1(discriminator, REAL),
        "r2": lambda: penalties.r2(discriminator, FAKE),
        "dragan": lambda: penalties.dragan(discriminator, REAL, UNIFORM, SHARES),
    }[name]()


def place(name):
    """The images at which the gradient is taken."""
    share = SHARES.view(4, 1, 1, 1)
    return {
        "wgan_gp": share * REAL + (1 - share) * FAKE,
        "r1": REAL,
        "r2": FAKE,
        "dragan": REAL + share * 0.5 * (REAL - REAL.mean()).square().mean().sqrt() * UNIFORM,
    }[name]


def finite_differences(discriminator, at, step=1e-5):
    """Return the gradient of each image's logit, computed number by number."""
    gradients = torch.zeros(len(at), at[0].numel(), dtype=torch.float64)
    with torch.no_grad():
        for number in range(at[0].numel()):
            moved = torch.zeros(at[0].numel(), dtype=torch.float64)
            moved[number] = step
            moved = moved.view(at.shape[1:])
            gradients[:, number] = (discriminator(at + moved) - discriminator(at - moved)) / (2 * step)
    return gradients


@pytest.mark.parametrize("name", penalties.PENALTIES)
def test_penalties_against_finite_differences(name):
    discriminator = Smooth()
    norms = finite_differences(discriminator, place(name)).square().sum(1).sqrt()
    wanted = (norms**2).mean() / 2 if name in ("r1", "r2") else ((norms - 1) ** 2).mean()
    assert penalty(name, discriminator).item() == pytest.approx(wanted.item(), rel=1e-7)


@pytest.mark.parametrize("name", penalties.PENALTIES)
def test_the_gradient_of_a_penalty_against_finite_differences(name):
    discriminator = Smooth()
    penalty(name, discriminator).backward()
    for parameter in discriminator.parameters():
        if parameter.grad is None:  # the last bias, which no gradient depends on
            continue
        found, numbers = parameter.grad.flatten(), parameter.data.view(-1)
        for number in range(0, len(numbers), 5):
            before, values = numbers[number].item(), []
            for step in (1e-5, -1e-5):
                numbers[number] = before + step
                values.append(penalty(name, discriminator).item())
            numbers[number] = before
            assert found[number].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", penalties.PENALTIES)
def test_penalties_of_a_linear_discriminator(name):
    weight = torch.linspace(0, 1, 18, dtype=torch.float64)
    found = penalty(name, lambda images: images.flatten(1) @ weight)
    norm = weight.norm().item()
    assert found.item() == pytest.approx(norm**2 / 2 if name in ("r1", "r2") else (norm - 1) ** 2)


def test_where_the_gradient_vanishes_the_norm_has_a_gradient_still():
    weight = torch.zeros(18, dtype=torch.float64, requires_grad=True)
    found = penalty("wgan_gp", lambda images: images.flatten(1) @ weight)
    found.backward()
    assert found.item() == 1
    assert weight.grad.isfinite().all()


def test_each_image_has_its_own_share_of_the_mixture():
    seen = []

    def discriminator(images):
        seen.append(images.detach().clone())
        return images.flatten(1).sum(1)

    penalties.wgan_gp(discriminator, REAL, FAKE, torch.tensor([1.0, 0.0, 0.5, 0.25]))
    torch.testing.assert_close(seen[0][0], REAL[0])
    torch.testing.assert_close(seen[0][1], FAKE[1])
    torch.testing.assert_close(seen[0][3], 0.25 * REAL[3] + 0.75 * FAKE[3])


def test_images_that_have_a_gradient_are_passed_on_as_they_are():
    given = REAL.clone().requires_grad_()
    logits = Smooth()(given)
    found = penalties.r1(lambda images: logits if images is given else None, given)
    assert found.item() == pytest.approx(penalties.r1(Smooth(), REAL).item())


def test_autocast_does_not_reach_into_a_penalty():
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(18, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    real = REAL.float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = penalties.r1(discriminator, real)
        assert discriminator(real).dtype == torch.bfloat16
    assert inside.dtype == torch.float32
    assert inside.item() == penalties.r1(discriminator, real).item()


def test_a_larger_slope_costs_more():
    assert math.isclose(penalties.to_zero(torch.full((3, 4), 2.0)).item(), 8.0)
    assert math.isclose(penalties.to_one(torch.full((3, 4), 2.0)).item(), 9.0)
