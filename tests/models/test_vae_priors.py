"""VAEs whose latents are not standard normal."""

import math

import pytest
import torch
from pytorch_lightning import Callback
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal
from torch.utils.data import DataLoader

from lightning_gans import VAE, SettingError, randomness
from lightning_gans.models import load
from lightning_gans.randomness import Stream
from tests.toys import LATENT_DIM, NUM_CLASSES, SHAPE, Toys, loader, make_batches, tiny, weights

LEVEL = math.log(2 / 255)


def vamp(**options):
    return tiny(VAE, prior="vamp", **{"prior_components": 5, **options})


def vamp_by_hand(model, labels=None):
    """Return the prior of a VampPrior, with its graph."""
    mean, log_variance = model.encoder(model.pseudo_inputs(), *([] if labels is None else [labels]))
    components = Independent(Normal(mean, (log_variance / 2).exp()), 1)
    return MixtureSameFamily(Categorical(torch.ones(len(mean), dtype=mean.dtype)), components)


# --- the VampPrior ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [0, NUM_CLASSES])
@pytest.mark.parametrize("num_samples", [1, 3])
def test_the_loss_and_its_gradient_by_hand(num_samples, num_classes):
    model = vamp(likelihood="gaussian", importance_samples=num_samples, num_classes=num_classes).double()
    images, labels = make_batches(1, 4)[0]
    images, labels = images.double(), labels if num_classes else None
    noise = torch.randn(4 * num_samples, LATENT_DIM, dtype=torch.float64)
    loss, terms = model.loss_terms(images, noise, labels)
    parts = [*model.encoder.parameters(), *model.decoder.parameters(), *model.pseudo_inputs.parameters()]
    found = torch.autograd.grad(loss, parts)

    given = () if labels is None else (labels,)
    prior = vamp_by_hand(model, torch.tensor([0, 1, 2, 0, 1]) if num_classes else None)
    mean, log_variance = model.encoder(images, *given)
    posterior, log_weights = Normal(mean, (log_variance / 2).exp()), []
    for k in range(num_samples):
        z = posterior.mean + posterior.stddev * noise.view(4, num_samples, -1)[:, k]
        likelihood = Independent(Normal(model.decoder(z, *given), 1.0), 3).log_prob(images) + 64 * LEVEL
        log_weights.append(likelihood + prior.log_prob(z) - posterior.log_prob(z).sum(1))
    wanted = math.log(num_samples) - torch.stack(log_weights).logsumexp(0).mean()
    torch.testing.assert_close(loss, wanted)
    for one, other in zip(found, torch.autograd.grad(wanted, parts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)
    if num_samples == 1:
        torch.testing.assert_close(terms["reconstruction"] - terms["kl"], -wanted)


def test_its_images_are_trained_averaged_and_kept(make_trainer, tmp_path):
    model = vamp()
    before = weights(model.pseudo_inputs)[0]
    trainer = make_trainer()
    trainer.fit(model, loader(make_batches(3)))
    after, averaged = weights(model.pseudo_inputs)[0], weights(model.ema["pseudo_inputs"])[0]
    assert not before.equal(after) and not averaged.equal(after) and not averaged.equal(before)
    trainer.save_checkpoint(tmp_path / "vamp.ckpt")
    again = load(tmp_path / "vamp.ckpt")
    for ema in (True, False):
        assert again.sample(5, seed=3, ema=ema).equal(model.sample(5, seed=3, ema=ema))
    assert not model.sample(5, seed=3).equal(model.sample(5, seed=3, ema=False))


def test_batch_norm_sees_the_images_of_the_prior_with_the_others():
    model, (images, _) = vamp(batch_norm=True), make_batches(1)[0]
    seen = []
    model.encoder.register_forward_hook(lambda module, inputs, outputs: seen.append(inputs[0]))
    model.loss_terms(images, torch.randn(8, LATENT_DIM), None)
    assert len(seen) == 1 and seen[0].equal(torch.cat([images, model.pseudo_inputs()]))


@pytest.mark.parametrize("num_classes", [0, NUM_CLASSES])
def test_samples_are_decoded_from_the_prior(num_classes):
    model = vamp(num_classes=num_classes, ema_half_life=0).eval()
    labels = torch.arange(5) % NUM_CLASSES if num_classes else None
    mean, log_variance = model.encode(model.pseudo_inputs(), labels)
    noise = randomness.randn_rows(60, 4, LATENT_DIM, 5, Stream.SAMPLE)
    uniforms = randomness.rand_at(torch.arange(60, 64), 1, 5, Stream.COMPONENT)[:, 0]
    chosen = (uniforms * 5).long()
    latents = mean[chosen] + (0.5 * log_variance[chosen]).exp() * noise
    torch.testing.assert_close(model.latents(4, seed=5, start=60), latents.detach())
    given = torch.arange(60, 64) % NUM_CLASSES if num_classes else None
    torch.testing.assert_close(model.sample(4, seed=5, start=60), model.decode(latents, given).detach())


# --- bounds -----------------------------------------------------------------------------------------------


class Slope(nn.Module):
    """The posterior N(slope x, variance) of one pixel."""

    def __init__(self, slope, variance):
        super().__init__()
        self.slope, self.log_variance = nn.Parameter(torch.tensor(slope)), math.log(variance)

    def forward(self, images):
        mean = self.slope * images.flatten(1)
        return mean, torch.full_like(mean, self.log_variance)


class Pixel(nn.Module):
    """One pixel with the mean weight times the latent."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, latents):
        return (self.weight * latents).view(-1, 1, 1, 1)


def pixel(prior, weight=0.7, sigma=0.4, **options):
    parts = {"encoder": Slope(0.8, 0.4), "decoder": Pixel(weight)}
    return VAE((1, 1, 1), 1, likelihood="gaussian", sigma=sigma, prior=prior, prior_components=2, **parts, **options)


def evidence(images, mean, variance, weight=0.7, sigma=0.4):
    """Return the likelihood of one pixel under a prior of two normal distributions with equal weights."""
    scales = (sigma**2 + weight**2 * torch.as_tensor(variance)).sqrt()
    return torch.stack([Normal(weight * m, s).log_prob(images.flatten()) for m, s in zip(mean, scales, strict=True)])


@pytest.mark.parametrize("prior", ["vamp", "mixture"])
def test_bounds_approach_the_likelihood_under_the_prior(prior):
    model = pixel(prior)
    if prior == "vamp":
        for network in (model.pseudo_inputs, model.ema["pseudo_inputs"]):
            network.images.data = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
        mean, variance = (-0.8, 0.8), (0.4, 0.4)
    else:
        mean, variance = (-1.5, 0.5), (0.2, 0.6)
        model.mixture.set(torch.full((2,), 0.5), torch.tensor(mean)[:, None], torch.tensor(variance).view(2, 1, 1))
    images = torch.tensor([-0.8, 0.1, 0.6]).view(3, 1, 1, 1)
    wanted = evidence(images, mean, variance).logsumexp(0) - math.log(2) + LEVEL
    torch.testing.assert_close(model.bound(images, 20_000), wanted, atol=0.02, rtol=0)
    many = images.repeat_interleave(20_000, 0)
    torch.manual_seed(0)
    reconstruction, kl = model.bound_terms(many, torch.randn(len(many), 1))
    elbo = (reconstruction - kl).view(3, -1).mean(1)
    assert (elbo < wanted).all()
    torch.testing.assert_close(model.bound(images, 1, seed=4), elbo, atol=5, rtol=0)
    # The mean over draws of the bound with one sample is the ELBO.
    ones = torch.stack([model.bound(images, 1, seed=seed) for seed in range(300)]).mean(0)
    torch.testing.assert_close(ones, elbo, atol=0.3, rtol=0)


@pytest.mark.parametrize("prior", ["vamp", "mixture"])
def test_validation_measures_the_bound_under_the_prior(make_trainer, prior):
    model, (images, _) = tiny(VAE, prior=prior, prior_components=3), make_batches(1)[0]
    covariance = 0.3 * torch.eye(LATENT_DIM).repeat(3, 1, 1)
    if prior == "mixture":
        model.mixture.set(torch.full((3,), 1 / 3), torch.randn(3, LATENT_DIM), covariance)
    noise = randomness.randn_for(images, LATENT_DIM, 0, Stream.POSTERIOR)
    mean, log_variance = model.encode(images)
    posterior = Independent(Normal(mean, (log_variance / 2).exp()), 1)
    z = posterior.mean + posterior.stddev * noise
    if prior == "vamp":
        of_prior = vamp_by_hand(model)
    else:
        of_prior = MixtureSameFamily(Categorical(torch.ones(3)), MultivariateNormal(model.mixture.mean, covariance))
    wanted = (posterior.log_prob(z) - of_prior.log_prob(z)).mean().item()
    trainer = make_trainer()
    trainer.validate(model, loader([(images, torch.zeros(8))]), verbose=False)
    assert trainer.callback_metrics["val/kl"].item() == pytest.approx(wanted, rel=1e-4)
    iw = model.bound(images, 1).mean().item()
    assert trainer.callback_metrics["val/elbo"].item() == pytest.approx(iw, rel=1e-5)


# --- the fitted mixture -----------------------------------------------------------------------------------


def mixture(**options):
    return tiny(VAE, prior="mixture", **{"prior_components": 2, **options})


def test_training_does_not_depend_on_the_mixture(make_trainer):
    ends = []
    for make in (mixture, lambda: tiny(VAE)):
        torch.manual_seed(0)
        model = make()
        model.run_seed = 3
        make_trainer(max_epochs=2).fit(model, Toys())
        ends.append(weights(model.encoder))
    assert all(one.equal(other) for one, other in zip(*ends, strict=True))


@pytest.mark.parametrize("validate", [True, False])
def test_the_mixture_is_that_of_the_last_weights(make_trainer, validate):
    model, data = mixture(), Toys(flip=False)
    trainer = make_trainer(max_epochs=2, limit_val_batches=1.0 if validate else 0)
    trainer.fit(model, data)
    latents = []
    for batch in data.train_dataloader():
        images, _ = batch
        mean, log_variance = model.encode(images)
        noise = randomness.randn_for(images, LATENT_DIM, 0, Stream.POSTERIOR)
        latents.append((mean + noise * (0.5 * log_variance).exp()).detach())
    latents = torch.cat(latents).double().numpy()
    assert len(latents) == 32
    wanted = GaussianMixture(2, init_params="k-means++", max_iter=200, random_state=0).fit(latents)
    found = model.mixture().log_density(torch.from_numpy(latents).float())
    torch.testing.assert_close(found.double(), torch.from_numpy(wanted.score_samples(latents)), rtol=1e-4, atol=1e-4)


def test_more_components_than_images_are_an_error_before_the_first_step(make_trainer):
    trainer = make_trainer(limit_train_batches=2)
    with pytest.raises(SettingError) as error:
        trainer.fit(mixture(prior_components=33), Toys())
    assert (error.value.setting, error.value.value, trainer.global_step) == ("prior_components", 33, 0)


def test_it_improves_the_bound_of_validation_and_is_kept(make_trainer, tmp_path):
    class Shifted(nn.Module):
        """Posteriors far from the standard normal distribution."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, images):
            mean = 3 + self.weight * images.flatten(1)[:, :LATENT_DIM]
            return mean, torch.full_like(mean, -2.0)

    bounds = {}
    for prior in ("normal", "mixture"):
        torch.manual_seed(0)
        model = tiny(VAE, prior=prior, prior_components=1 if prior == "mixture" else None, encoder=Shifted())
        trainer = make_trainer()
        trainer.fit(model, Toys())
        bounds[prior] = trainer.callback_metrics["val/elbo"].item()
    assert bounds["mixture"] > bounds["normal"] + 10
    latents = model.latents(2000, seed=0)
    torch.testing.assert_close(latents.mean(0), model.mixture.mean[0], atol=0.1, rtol=0)
    assert (latents.mean(0) - 3).abs().max() < 0.5
    trainer.save_checkpoint(tmp_path / "mixture.ckpt")
    again = load(tmp_path / "mixture.ckpt", encoder=Shifted())
    assert again.latents(7, seed=2, start=9).equal(model.latents(7, seed=2, start=9))


def test_too_few_images_are_an_error(make_trainer):
    with pytest.raises(SettingError) as error:
        make_trainer().fit(mixture(prior_components=100), Toys())
    assert error.value.setting == "prior_components"


# --- settings ---------------------------------------------------------------------------------------------


def test_the_numbers_of_components():
    assert len(tiny(VAE, prior="vamp").pseudo_inputs.images) == 500
    assert len(tiny(VAE, prior="mixture").mixture.mean) == 10
    assert vamp(prior_components=7).pseudo_inputs.images.shape == (7, *SHAPE)
    assert set(tiny(VAE).state_dict()) == set(tiny(VAE, prior_components=7).state_dict())


@pytest.mark.parametrize(
    ("setting", "value", "options"),
    [
        ("prior", "flow", {}),
        ("prior_components", 0, {"prior": "vamp"}),
        ("free_bits", 0.1, {"prior": "vamp"}),
    ],
)
def test_settings_that_are_invalid(setting, value, options):
    with pytest.raises(SettingError) as error:
        tiny(VAE, **{**options, setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)


# --- the loader of the mixture's images -------------------------------------------------------------------------


@pytest.mark.parametrize("resident", [True, False])
def test_fitting_the_mixture_within_an_epoch_does_not_move_the_loader_in_use(make_trainer, resident):
    if resident:
        data = Toys()
        data.setup("fit")
        batches = data.train_dataloader()
    else:
        images = [(image, 0) for image, _ in make_batches(6, 1)]
        images = [(image[0], label) for image, label in images]
        batches = DataLoader(images, 1, num_workers=1, persistent_workers=True)
    done = []

    class Positions(Callback):
        def on_validation_end(self, trainer, model):
            if resident:
                done.append((trainer.global_step, batches.state_dict()["batches"]))

    model = tiny(VAE, prior="mixture", prior_components=2)
    trainer = make_trainer(val_check_interval=2, callbacks=[Positions()])
    trainer.fit(model, batches, loader(make_batches(1)))
    assert trainer.global_step == len(batches)
    assert all(step == position for step, position in done) and len(done) == (len(batches) // 2 if resident else 0)
