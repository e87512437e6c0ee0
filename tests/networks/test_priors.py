import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from lightning_gans import SettingError
from lightning_gans.networks.priors import FittedMixture, Mixture, PseudoInputs, StandardNormal

WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(dims=2):
    """A mixture of three components with full covariances, and the same of torch's distributions."""
    mixture = FittedMixture(3, dims).double()
    mean, factors = 3 * normal(3, dims), normal(3, dims, dims, seed=1)
    covariance = factors @ factors.mT + 0.1 * torch.eye(dims)
    mixture.set(WEIGHTS, mean, covariance)
    return mixture(), MixtureSameFamily(Categorical(WEIGHTS), MultivariateNormal(mean, covariance))


def of_posteriors(dims=2):
    mean, log_variance = normal(5, dims), normal(5, dims, seed=1)
    components = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    uniform = Categorical(torch.full((5,), 0.2, dtype=torch.float64))
    return Mixture.of_posteriors(mean, log_variance), MixtureSameFamily(uniform, components)


@pytest.mark.parametrize("make", [fitted, of_posteriors])
@pytest.mark.parametrize("shape", [(7, 2), (4, 3, 2)])
def test_the_density_is_that_of_torchs_distributions(make, shape):
    mixture, wanted = make()
    latents = 2 * normal(*shape, seed=2)
    torch.testing.assert_close(mixture.log_density(latents), wanted.log_prob(latents))


@pytest.mark.parametrize("make", [fitted, of_posteriors])
def test_samples_follow_the_density(make):
    mixture, wanted = make()
    torch.manual_seed(3)
    samples = mixture.place(torch.randn(20_000, 2), torch.rand(20_000))
    torch.testing.assert_close(samples.mean(0), wanted.mean, atol=0.06, rtol=0)
    torch.testing.assert_close(samples.var(0), wanted.variance, atol=0, rtol=0.05)
    entropy = -wanted.log_prob(wanted.sample((20_000,))).mean()
    assert -mixture.log_density(samples).mean() == pytest.approx(entropy.item(), abs=0.05)


def test_uniform_numbers_choose_the_components_in_their_shares():
    mixture, _ = fitted()
    uniforms = torch.tensor([0.0, 0.199, 0.201, 0.699, 0.701, 0.999999])
    places = mixture.place(torch.zeros(6, 2), uniforms)
    assert places.equal(mixture.mean[[0, 0, 1, 1, 2, 2]])


def test_a_mixture_of_one_posterior_is_a_normal_distribution():
    mean, log_variance, noise = normal(3, 6, 4)
    zeros = torch.zeros(1, 4, dtype=torch.float64)
    one, standard = Mixture.of_posteriors(zeros, zeros), StandardNormal()
    latents = mean + noise * (0.5 * log_variance).exp()
    ratio = standard.log_ratio(latents, log_variance, noise)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    wanted = Normal(0.0, 1.0).log_prob(latents).sum(1) - posterior.log_prob(latents).sum(1)
    torch.testing.assert_close(ratio, wanted)
    torch.testing.assert_close(one.log_ratio(latents, log_variance, noise), wanted)
    torch.testing.assert_close(one.kl(mean, log_variance, noise), -wanted)
    closed_form = kl_divergence(posterior, Normal(torch.zeros_like(mean), 1.0)).sum(1)
    torch.testing.assert_close(standard.kl(mean, log_variance, noise), closed_form)
    assert standard.place(noise, torch.rand(6)) is noise


def test_the_divergence_is_right_on_average():
    mixture, wanted = of_posteriors()
    mean, log_variance = normal(2, 1, 2, seed=5).expand(2, 50_000, 2)
    posterior = Independent(Normal(mean[0], (0.5 * log_variance[0]).exp()), 1)
    grid = torch.linspace(-12, 12, 801, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    density = posterior.log_prob(points).exp()
    exact = (density * (posterior.log_prob(points) - wanted.log_prob(points))).sum() * 0.03**2
    found = mixture.kl(mean, log_variance, normal(50_000, 2, seed=6)).mean()
    assert found.item() == pytest.approx(exact.item(), rel=0.03)


def test_a_mixture_starts_as_the_standard_normal_distribution():
    mixture = FittedMixture(4, 3)
    latents, noise = torch.randn(6, 3), torch.randn(6, 3)
    torch.testing.assert_close(mixture().log_density(latents), Normal(0.0, 1.0).log_prob(latents).sum(1))
    assert mixture().place(noise, torch.rand(6)).equal(noise)
    assert not list(mixture.parameters()) and set(mixture.state_dict()) == {"log_weights", "mean", "scale"}


def test_pseudo_inputs_are_images():
    inputs = PseudoInputs((1, 4, 4), 30)
    assert inputs().shape == (30, 1, 4, 4)
    assert inputs().mean().item() == pytest.approx(-0.9, abs=0.01)
    with torch.no_grad():
        inputs.images *= 10
    assert inputs().min() == -1
    assert math.prod(inputs.images.shape) == sum(parameter.numel() for parameter in inputs.parameters())


@pytest.mark.parametrize("make", [lambda: FittedMixture(0, 2), lambda: PseudoInputs((1, 4, 4), 0)])
def test_a_prior_has_components(make):
    with pytest.raises(SettingError) as error:
        make()
    assert error.value.setting == "num"


def test_mixtures_are_computed_in_full_precision():
    mixture = FittedMixture(2, 3).bfloat16()()
    assert {part.dtype for part in mixture} == {torch.float32}
    assert mixture.log_density(torch.zeros(4, 3, dtype=torch.bfloat16)).dtype == torch.float32
