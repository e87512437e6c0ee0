import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from lightning_gans import losses

LOGITS = torch.tensor([-30.0, -2.0, 0.0, 0.5, 30.0], dtype=torch.float64)
ADVERSARIAL = {
    "real": lambda x: losses.discriminator_loss(x, torch.full_like(x, -1e4)),
    "fake": lambda x: losses.discriminator_loss(torch.full_like(x, 1e4), x),
    "nonsaturating": losses.nonsaturating_generator_loss,
    "minimax": losses.minimax_generator_loss,
    "hinge real": lambda x: losses.hinge_discriminator_loss(x, torch.full_like(x, -1e4)),
    "hinge fake": lambda x: losses.hinge_discriminator_loss(torch.full_like(x, 1e4), x),
    "least squares real": lambda x: losses.least_squares_discriminator_loss(x, torch.zeros_like(x)),
    "least squares fake": lambda x: losses.least_squares_discriminator_loss(torch.ones_like(x), x),
    "least squares": losses.least_squares_generator_loss,
    "wasserstein real": lambda x: losses.wasserstein_discriminator_loss(x, torch.zeros_like(x)),
    "wasserstein fake": lambda x: losses.wasserstein_discriminator_loss(torch.zeros_like(x), x),
    "wasserstein": losses.wasserstein_generator_loss,
    "relativistic real": lambda x: losses.relativistic_discriminator_loss(x, 1 - x.detach()),
    "relativistic fake": lambda x: losses.relativistic_discriminator_loss(1 - x.detach(), x),
    "relativistic": lambda x: losses.relativistic_generator_loss(x, 1 - x.detach()),
}


@pytest.mark.parametrize(
    ("name", "closed_form", "gradient"),
    [
        ("real", lambda x: -x.sigmoid().log(), lambda x: x.sigmoid() - 1),
        ("fake", lambda x: -(-x).sigmoid().log(), lambda x: x.sigmoid()),
        ("nonsaturating", lambda x: -x.sigmoid().log(), lambda x: x.sigmoid() - 1),
        ("minimax", lambda x: (-x).sigmoid().log(), lambda x: -x.sigmoid()),
        ("hinge real", lambda x: (1 - x).clamp(min=0), lambda x: -(x < 1).double()),
        ("hinge fake", lambda x: (1 + x).clamp(min=0), lambda x: (x > -1).double()),
        ("least squares real", lambda x: (x - 1) ** 2 / 2, lambda x: x - 1),
        ("least squares fake", lambda x: x**2 / 2, lambda x: x),
        ("least squares", lambda x: (x - 1) ** 2 / 2, lambda x: x - 1),
        ("wasserstein real", lambda x: -x, lambda x: -torch.ones_like(x)),
        ("wasserstein fake", lambda x: x, torch.ones_like),
        ("wasserstein", lambda x: -x, lambda x: -torch.ones_like(x)),
        ("relativistic real", lambda x: -(2 * x - 1).sigmoid().log(), lambda x: (2 * x - 1).sigmoid() - 1),
        ("relativistic fake", lambda x: -(1 - 2 * x).sigmoid().log(), lambda x: (2 * x - 1).sigmoid()),
        ("relativistic", lambda x: -(2 * x - 1).sigmoid().log(), lambda x: (2 * x - 1).sigmoid() - 1),
    ],
)
def test_adversarial_losses_and_their_gradients(name, closed_form, gradient):
    logits = LOGITS.clone().requires_grad_()
    loss = ADVERSARIAL[name](logits)
    torch.testing.assert_close(loss, closed_form(LOGITS).mean())
    (found,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(found, gradient(LOGITS) / len(LOGITS))


def test_where_the_discriminator_wins_the_minimax_loss_saturates_and_the_other_does_not():
    def gradient(loss):
        logits = torch.tensor([-20.0], requires_grad=True)
        return torch.autograd.grad(loss(logits), logits)[0].item()

    assert gradient(losses.nonsaturating_generator_loss) == pytest.approx(-1)
    assert -1e-8 < gradient(losses.minimax_generator_loss) < 0


@pytest.mark.parametrize("loss", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_extreme_logits_stay_finite(loss):
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss(logits).backward()
    assert loss(logits).isfinite()
    assert logits.grad.isfinite().all()


def test_the_relativistic_loss_pairs_each_real_image_with_one_fake():
    real, fake = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    wanted = sum(math.log1p(math.exp(f - r)) for r, f in zip(real.tolist(), fake.tolist(), strict=True)) / 7
    assert losses.relativistic_discriminator_loss(real, fake).item() == pytest.approx(wanted)
    assert losses.relativistic_discriminator_loss(real, fake.flip(0)).item() != pytest.approx(wanted)


def test_only_the_relativistic_generator_needs_real_logits():
    assert [name for name, loss in losses.ADVERSARIAL_LOSSES.items() if loss.pairs] == ["relativistic"]
    logits = torch.zeros(3)
    for loss in losses.ADVERSARIAL_LOSSES.values():
        assert loss.discriminator(logits, logits).shape == ()
        assert loss.generator(*[logits] * (1 + loss.pairs)).shape == ()


def test_feature_matching_is_the_distance_of_the_means():
    real, fake = torch.randn(6, 2, 3, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    difference = (real.numpy().mean(0) - fake.numpy().mean(0)).reshape(-1)
    assert losses.feature_matching_loss(real, fake).item() == pytest.approx(np.linalg.norm(difference) ** 2)
    assert losses.feature_matching_loss(real, fake, 1).item() == pytest.approx(np.linalg.norm(difference, 1))


def test_bernoulli_likelihood():
    logits = torch.randn(3, 2, 4, 4)
    images = torch.where(torch.rand(3, 2, 4, 4) > 0.5, 1.0, -1.0)
    wanted = Independent(Bernoulli(logits=logits), 3).log_prob((images + 1) / 2)
    torch.testing.assert_close(losses.bernoulli_log_likelihood(logits, images), wanted)


def test_bernoulli_likelihood_of_grey_pixels_is_the_cross_entropy():
    logits, images = torch.randn(3, 1, 4, 4), torch.rand(3, 1, 4, 4) * 2 - 1
    x, p = (images + 1) / 2, logits.sigmoid()
    wanted = (x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2, 3))
    torch.testing.assert_close(losses.bernoulli_log_likelihood(logits, images), wanted)


@pytest.mark.parametrize("shape", [(), (2, 1, 1), (3, 2, 4, 4)])
def test_gaussian_likelihood(shape):
    mean, images = torch.randn(3, 2, 4, 4), torch.rand(3, 2, 4, 4) * 2 - 1
    log_sigma = torch.randn(shape) * 0.3
    density = Normal(mean, log_sigma.exp().expand_as(mean)).log_prob(images)
    wanted = (density + math.log(2 / 255)).sum((1, 2, 3))
    torch.testing.assert_close(losses.gaussian_log_likelihood(mean, images, log_sigma), wanted)


def test_gaussian_nll():
    mean, values = torch.randn(3, 5), torch.randn(3, 5)
    log_variance = torch.randn(3, 5)
    wanted = -Normal(mean, (0.5 * log_variance).exp()).log_prob(values).sum(1)
    torch.testing.assert_close(losses.gaussian_nll(mean, log_variance, values), wanted)


def test_gaussian_probabilities_of_all_levels_sum_to_one():
    levels = torch.linspace(-1, 1, 256).view(256, 1, 1, 1)
    probabilities = losses.gaussian_log_likelihood(torch.zeros(256, 1, 1, 1), levels, torch.tensor(0.1).log()).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)


def test_the_best_sigma_is_the_mean_squared_error():
    mean, images = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 8, 8)
    log_sigma = (0.5 * (mean - images).square().mean().log()).requires_grad_()
    losses.gaussian_log_likelihood(mean, images, log_sigma).sum().backward()
    assert abs(log_sigma.grad) < 1e-4


def test_kl():
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    prior = Normal(torch.zeros(5, 3), torch.ones(5, 3))
    wanted = kl_divergence(Normal(mean, (log_variance / 2).exp()), prior).sum(1)
    torch.testing.assert_close(losses.gaussian_kl(mean, log_variance), wanted)
    assert not losses.gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).any()
    assert (wanted > 0).all()


@pytest.mark.parametrize("given", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_results_are_float32_or_better(given):
    wanted = torch.float64 if given == torch.float64 else torch.float32
    flat, images = torch.zeros(4, dtype=given), torch.zeros(4, 1, 2, 2, dtype=given)
    with torch.autocast("cpu", torch.bfloat16):
        results = [
            losses.discriminator_loss(flat, flat),
            losses.nonsaturating_generator_loss(flat),
            losses.minimax_generator_loss(flat),
            losses.feature_matching_loss(images, images),
            *(loss.discriminator(flat, flat) for loss in losses.ADVERSARIAL_LOSSES.values()),
            *(loss.generator(*[flat] * (1 + loss.pairs)) for loss in losses.ADVERSARIAL_LOSSES.values()),
            losses.bernoulli_log_likelihood(images, images),
            losses.gaussian_log_likelihood(images, images, torch.zeros((), dtype=given)),
            losses.gaussian_kl(images.flatten(1), images.flatten(1)),
        ]
    assert {result.dtype for result in results} == {wanted}


# --- the total correlation --------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_total_correlation_of_a_gaussian_is_its_closed_form(correlation):
    num, noise = 3000, 0.5
    source = torch.Generator().manual_seed(0)
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)
    points = torch.randn(num, 2, generator=source, dtype=torch.float64)
    mean = points @ torch.linalg.cholesky(covariance).T
    latents = mean + noise * torch.randn(num, 2, generator=source, dtype=torch.float64)
    found = losses.total_correlation(latents, mean, torch.full_like(mean, 2 * math.log(noise)), num).mean()
    whole = covariance + noise**2 * torch.eye(2)
    wanted = 0.5 * (whole.diagonal().log().sum() - torch.logdet(whole))
    assert found.item() == pytest.approx(wanted.item(), abs=0.03)


@pytest.fixture
def posteriors():
    """Means and log-variances of five images, and a draw from each."""
    source = torch.Generator().manual_seed(0)
    mean, log_variance, noise = torch.randn(3, 5, 3, generator=source, dtype=torch.float64)
    return mean + noise * (0.5 * log_variance).exp(), mean, log_variance


def test_the_densities_of_the_total_correlation_are_exact_on_average_over_batches(posteriors):
    latents, mean, log_variance = (part[:, :2] for part in posteriors)
    densities = Normal(mean[:, 0], (0.5 * log_variance[:, 0]).exp()).log_prob(latents[0, 0]).exp()
    # Where no two posteriors of the second latent overlap, the total correlation is log q(z_1 | x) - log q(z_1).
    apart = torch.stack([torch.zeros(5), 1e3 * torch.arange(5)], 1)
    found = []
    for others in itertools.combinations(range(1, 5), 2):
        rows = torch.tensor([0, *others])
        ratio = losses.total_correlation((latents + apart)[rows], (mean + apart)[rows], log_variance[rows], 5)[0]
        found.append(densities[0] * (-ratio).exp())
    torch.testing.assert_close(torch.stack(found).mean(), densities.mean())
    assert torch.stack(found).std() > 0.1 * densities.mean()


def test_the_total_correlation_of_a_whole_data_set_by_hand(posteriors):
    latents, mean, log_variance = posteriors
    densities = Normal(mean, (0.5 * log_variance).exp()).log_prob(latents[:, None]).exp()  # (images, posteriors, 3)
    wanted = densities.prod(2).mean(1).log() - densities.mean(1).log().sum(1)
    torch.testing.assert_close(losses.total_correlation(*posteriors, 5), wanted)
    parts = [losses.total_correlation(latents[k : k + 2], mean, log_variance, 5, k) for k in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), wanted)


def test_the_total_correlation_of_endless_data_is_the_limit(posteriors):
    limit = losses.total_correlation(*posteriors)
    torch.testing.assert_close(losses.total_correlation(*posteriors, 1e15), limit)
    assert not torch.allclose(losses.total_correlation(*posteriors, 50), limit, rtol=1e-3)
