import math

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from lightning_gans import VAE, SettingError, randomness
from lightning_gans.randomness import Stream
from tests.toys import LATENT_DIM, NUM_CLASSES, SHAPE, Updates, loader, make_batches, same, tiny, weights

LEVEL = math.log(2 / 255)


def fit(trainer, model, batches):
    trainer.fit(model, loader(batches))
    return model


# --- the bound --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_terms_of_the_bound_by_hand(likelihood):
    model, (images, _) = tiny(VAE, likelihood=likelihood, sigma=0.3), make_batches(1)[0]
    noise = torch.randn(8, LATENT_DIM)
    mean, log_variance = model.encode(images, ema=False)
    scale = log_variance.exp().sqrt()
    pixels = model.decoder(mean + noise * scale)
    if likelihood == "bernoulli":
        x = (images + 1) / 2
        p = pixels.sigmoid()
        wanted = (x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)
    else:
        wanted = (Normal(pixels, 0.3).log_prob(images) + LEVEL).flatten(1).sum(1)
    reconstruction, kl = model.bound_terms(images, noise, ema=False)
    torch.testing.assert_close(reconstruction, wanted)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(scale))
    torch.testing.assert_close(kl, kl_divergence(Normal(mean, scale), prior).sum(1))


class LinearEncoder(nn.Module):
    """The posterior N(slope x, variance) of one pixel."""

    def __init__(self, slope, variance):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.log_variance = nn.Parameter(torch.tensor(variance).log())

    def forward(self, images):
        mean = self.slope * images.flatten(1)
        return mean, self.log_variance.expand_as(mean)


class LinearDecoder(nn.Module):
    """One pixel with the mean weight times the latent."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, latents):
        return (self.weight * latents).view(-1, 1, 1, 1)


@pytest.mark.parametrize("exact", [True, False])
def test_the_bound_meets_the_evidence_at_the_true_posterior_alone(exact):
    weight, sigma = 0.7, 0.4
    precision = 1 + weight**2 / sigma**2
    slope, variance = weight / sigma**2 / precision, 1 / precision
    if not exact:
        slope, variance = slope + 0.2, variance * 1.5
    model = VAE(
        (1, 1, 1),
        latent_dim=1,
        encoder=LinearEncoder(slope, variance),
        decoder=LinearDecoder(weight),
        likelihood="gaussian",
        sigma=sigma,
    )
    images = torch.tensor([-0.8, 0.1, 0.6]).view(3, 1, 1, 1)
    # The bound is quadratic in the noise, so the mean over +1 and -1 is its expectation.
    elbo = torch.stack([torch.sub(*model.bound_terms(images, noise * torch.ones(3, 1))) for noise in (1, -1)]).mean(0)
    evidence = Normal(0.0, math.sqrt(weight**2 + sigma**2)).log_prob(images.flatten()) + LEVEL
    if exact:
        torch.testing.assert_close(elbo, evidence)
    else:
        assert (elbo < evidence - 1e-3).all()


def test_the_bound_is_below_the_evidence_found_by_integration():
    model = tiny(VAE, latent_dim=1).eval()
    images = torch.where(make_batches(1)[0][0] > 0, 1.0, -1.0)
    with torch.no_grad():
        grid = torch.linspace(-8, 8, 2001).view(-1, 1)
        pixels = Independent(Bernoulli(logits=model.decoder(grid).unsqueeze(1)), 3)
        joint = pixels.log_prob((images + 1) / 2) + Normal(0.0, 1.0).log_prob(grid)
        evidence = joint.logsumexp(0) + math.log(16 / 2000)
        noise = torch.randn(8 * 500, 1)
        many = images.repeat_interleave(500, 0)
        elbo = torch.sub(*model.bound_terms(many, noise)).view(8, 500).mean(1)
    assert (elbo < evidence + 0.02).all()
    assert (elbo > evidence - 10).all()


def test_likelihoods_are_float32_under_autocast():
    model, (images, _) = tiny(VAE), make_batches(1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.bound_terms(images, torch.randn(8, LATENT_DIM))
    assert [term.dtype for term in terms] == [torch.float32] * 2


# --- the importance-weighted bound in training ------------------------------------------------------------


def noise_of(num, seed=3):
    """Return the noise of the posterior in the first update of a run with this seed."""
    return randomness.randn((num, LATENT_DIM), seed, Stream.POSTERIOR, 0, 0)


def test_one_importance_sample_is_the_elbo_bit_for_bit():
    model, (images, _) = tiny(VAE, importance_samples=1), make_batches(1)[0]
    loss, terms = model.loss_terms(images, noise_of(8), None)
    reconstruction, kl = model.bound_terms(images, noise_of(8), ema=False)
    assert loss.equal((kl - reconstruction).mean())
    assert terms["reconstruction"].equal(reconstruction.mean()) and terms["kl"].equal(kl.mean())


@pytest.mark.parametrize("num_samples", [2, 50])
def test_with_the_exact_posterior_every_importance_weight_is_the_evidence(num_samples):
    weight, sigma = 0.7, 0.4
    precision = 1 + weight**2 / sigma**2
    model = VAE(
        (1, 1, 1),
        latent_dim=1,
        encoder=LinearEncoder(weight / sigma**2 / precision, 1 / precision),
        decoder=LinearDecoder(weight),
        likelihood="gaussian",
        sigma=sigma,
        importance_samples=num_samples,
    )
    images = torch.tensor([-0.8, 0.1, 0.6]).view(3, 1, 1, 1)
    evidence = Normal(0.0, math.sqrt(weight**2 + sigma**2)).log_prob(images.flatten()) + LEVEL
    loss, _ = model.loss_terms(images, torch.randn(3 * num_samples, 1), None)
    torch.testing.assert_close(loss, -evidence.mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_classes", [0, NUM_CLASSES])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_loss_and_gradient_of_several_importance_samples_by_hand(likelihood, num_classes):
    options = {"likelihood": likelihood, "num_classes": num_classes}
    model = tiny(VAE, importance_samples=3, **options).double()
    images, labels = make_batches(1, 4)[0]
    images = torch.where(images > 0, 1.0, -1.0).double() if likelihood == "bernoulli" else images.double()
    given = (labels,) if num_classes else ()
    noise = noise_of(12).double()
    loss, _ = model.loss_terms(images, noise, labels if num_classes else None)
    networks = [*model.encoder.parameters(), *model.decoder.parameters()]
    gradients = torch.autograd.grad(loss, networks)

    noise = noise.view(4, 3, LATENT_DIM)
    mean, log_variance = model.encoder(images, *given)
    posterior, prior = Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros_like(mean), 1.0)
    weights = []
    for k in range(3):
        z = posterior.mean + posterior.stddev * noise[:, k]
        pixels = model.decoder(z, *given)
        if likelihood == "bernoulli":
            log_likelihood = Independent(Bernoulli(logits=pixels), 3).log_prob((images + 1) / 2)
        else:
            log_likelihood = Independent(Normal(pixels, 1.0), 3).log_prob(images) + 64 * LEVEL
        weights.append((log_likelihood + prior.log_prob(z).sum(1) - posterior.log_prob(z).sum(1)).exp())
    wanted = -torch.stack(weights).mean(0).log().mean()
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=1e-10)
    for found, right in zip(gradients, torch.autograd.grad(wanted, networks), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-10)


def test_what_is_logged_with_several_importance_samples_is_the_elbo(make_trainer):
    trainer, model, batches = make_trainer(log_every_n_steps=1), tiny(VAE, importance_samples=40), make_batches(1)
    model.run_seed = 3
    noise = noise_of(320).view(8, 40, LATENT_DIM)
    terms = [model.bound_terms(batches[0][0], noise[:, k], ema=False) for k in range(40)]
    elbo = torch.stack([(reconstruction - kl).mean() for reconstruction, kl in terms]).mean().item()
    fit(trainer, model, batches)
    assert trainer.callback_metrics["train/elbo"].item() == pytest.approx(elbo, rel=1e-5)


def test_importance_samples_belong_to_the_place_in_the_global_batch(make_trainer):
    def trained(batches, **options):
        torch.manual_seed(0)
        model = tiny(VAE, importance_samples=3, **options).double()
        model.run_seed = 3
        return fit(make_trainer(), model, batches)

    large = make_batches(2)
    halves = [half for batch in large for half in zip(*(part.split(4) for part in batch), strict=True)]
    for a, b in zip(trained(large).parameters(), trained(halves, accumulate_batches=2).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


# --- other weights of the terms ---------------------------------------------------------------------------


def moments_by_hand(model, images):
    """Return the posterior, with its graph, and the KL of each latent, ``(N, latent_dim)``."""
    mean, log_variance = model.encoder(images)
    posterior = Normal(mean, (log_variance / 2).exp())
    return posterior, kl_divergence(posterior, Normal(torch.zeros_like(mean), 1.0))


def test_the_weight_of_the_kl_rises_with_the_images_seen(make_trainer):
    weights_seen = []

    class Noting(VAE):
        def kl_weight(self):
            weights_seen.append(super().kl_weight())
            return weights_seen[-1]

    fit(make_trainer(), tiny(Noting, beta=0.5, kl_warmup_images=24), make_batches(5))
    assert weights_seen == pytest.approx([0, 0.5 / 3, 1 / 3, 0.5, 0.5])


def test_the_weight_of_the_kl_enters_the_loss():
    model, (images, _) = tiny(VAE, beta=0.5, kl_warmup_images=40), make_batches(1)[0]
    reconstruction, kl = model.bound_terms(images, noise_of(8), ema=False)
    for seen, weight in ((0, 0), (10, 0.125), (80, 0.5)):
        model.images_seen = seen
        loss, terms = model.loss_terms(images, noise_of(8), None)
        torch.testing.assert_close(loss, (weight * kl - reconstruction).mean())
        torch.testing.assert_close(terms["kl"], kl.mean())


def test_latents_below_their_free_bits_have_no_gradient_of_the_kl():
    model, (images, _) = tiny(VAE), make_batches(1)[0]
    _, kls = moments_by_hand(model, images)
    means = kls.mean(0)
    model.free_bits = means.median().item() + 1e-6  # two of four latents are below
    free = means < model.free_bits
    assert free.sum() == 2
    loss, terms = model.loss_terms(images, noise_of(8), None)
    reconstruction, kl = model.bound_terms(images, noise_of(8), ema=False)
    wanted = means[~free].sum() + 2 * model.free_bits - reconstruction.mean()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(terms["kl"], kl.mean())
    found, right = (torch.autograd.grad(value, [*model.encoder.parameters()]) for value in (loss, wanted))
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other)


def test_the_total_correlation_is_that_of_an_epochs_images(make_trainer):
    trainer, model, batches = make_trainer(log_every_n_steps=1), tiny(VAE, tc_weight=3.0), make_batches(1)
    model.run_seed = 3
    images = batches[0][0]
    posterior, _ = moments_by_hand(model, images)
    z = posterior.mean + posterior.stddev * noise_of(8)
    densities = posterior.log_prob(z[:, None]).exp().detach()  # all images of the epoch are in its only batch
    wanted = densities.prod(2).mean(1).log().mean() - densities.mean(1).log().sum(1).mean()
    loss, terms = model.loss_terms(images, noise_of(8), None)
    torch.testing.assert_close(loss, terms["kl"] - terms["reconstruction"] + 3 * terms["total_correlation"])
    fit(trainer, model, batches)
    assert trainer.callback_metrics["train/total_correlation"].item() == pytest.approx(wanted.item(), rel=1e-4)


# --- the update -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder_steps", [1, 3])
def test_the_encoder_goes_ahead_and_the_last_update_is_joint(make_trainer, encoder_steps):
    model, updates, calls, hooked = tiny(VAE, encoder_steps=encoder_steps), Updates(), [], []
    before = {"encoder": weights(model.encoder), "decoder": weights(model.decoder)}
    model.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    model.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    model.on_before_optimizer_step = hooked.append
    fit(make_trainer(callbacks=[updates]), model, make_batches(2 * encoder_steps, 2))
    assert updates.names == (["encoder"] * encoder_steps + ["decoder"]) * 2
    assert [update.step for update in updates.seen] == [0] * (encoder_steps + 1) + [1] * (encoder_steps + 1)
    assert calls == ["encoder", "decoder"] * (2 * encoder_steps)
    assert len(hooked) == len(updates.seen)
    for update in updates.seen:
        assert [name for name in before if not same(before[name], update.weights[name])] == [update.name]
        before = update.weights


@pytest.mark.parametrize("encoder_steps", [1, 2])
def test_three_steps_equal_a_hand_written_loop(make_trainer, encoder_steps):
    def make():
        torch.manual_seed(0)
        options = {"likelihood": "gaussian", "beta": 0.5, "encoder_lr": 0.01, "decoder_lr": 0.02}
        return tiny(VAE, encoder_steps=encoder_steps, **options).double()

    model, by_hand = make(), make()
    batches = make_batches(3 * encoder_steps, 4)
    fit(make_trainer(), model, batches)

    encoder = torch.optim.Adam(by_hand.encoder.parameters(), lr=0.01, betas=(0.9, 0.999))
    decoder = torch.optim.Adam([*by_hand.decoder.parameters(), by_hand.log_sigma], lr=0.02, betas=(0.9, 0.999))
    for step in range(3):
        for number in range(encoder_steps):
            x = batches[step * encoder_steps + number][0].double()
            noise = randomness.randn((4, LATENT_DIM), model.run_seed, Stream.POSTERIOR, step, number).double()
            mean, log_variance = by_hand.encoder(x)
            posterior = Normal(mean, (log_variance / 2).exp())
            pixels = Normal(by_hand.decoder(posterior.mean + posterior.stddev * noise), by_hand.log_sigma.exp())
            kl = kl_divergence(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean)))
            loss = (0.5 * kl.sum(1) - pixels.log_prob(x).flatten(1).sum(1)).mean()
            by_hand.zero_grad()
            loss.backward()
            encoder.step()
            if number == encoder_steps - 1:
                decoder.step()

    trained = dict(model.named_parameters())
    for name, value in by_hand.named_parameters():
        if not name.startswith("ema."):
            torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("growth_interval", [1, 1000])
def test_float16_unscales_both_networks_by_the_scale_of_the_backward_pass(make_trainer, growth_interval):
    norms = []

    def note(optimizer):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())

    def trained(**options):
        torch.manual_seed(0)
        norms.clear()
        model = tiny(VAE)
        model.run_seed, model.on_before_optimizer_step = 5, note
        fit(make_trainer(**options), model, make_batches(3))
        return list(norms)

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=growth_interval)
    wanted = trained()
    assert trained(plugins=[MixedPrecision("16-mixed", "cpu", scaler)]) == pytest.approx(wanted, rel=0.05)
    assert len(wanted) == 6


def test_sigma_is_fixed_or_learned(make_trainer):
    fixed = fit(make_trainer(), tiny(VAE, likelihood="gaussian", sigma=0.25), make_batches(2))
    assert fixed.log_sigma.exp().item() == pytest.approx(0.25)
    assert not fixed.log_sigma.requires_grad
    learned = fit(make_trainer(), tiny(VAE, likelihood="gaussian", decoder_lr=0.1), make_batches(2))
    assert learned.log_sigma.item() < 0


# --- what is measured -------------------------------------------------------------------------------------


def measured_by_hand(model, batches):
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for images, labels in batches:
        noise = randomness.randn_for(images, LATENT_DIM, 0, Stream.POSTERIOR)
        given = labels if model.num_classes else None
        with torch.no_grad():
            reconstruction, kl = model.eval().bound_terms(images, noise, given)
        sums += torch.stack([(reconstruction - kl).sum(), reconstruction.sum(), kl.sum()]).double()
        count += len(images)
    return (sums / count).tolist()


@pytest.mark.parametrize("stage", ["val", "test"])
@pytest.mark.parametrize("num_classes", [0, NUM_CLASSES])
def test_the_bound_is_the_mean_over_images_of_uneven_batches(make_trainer, stage, num_classes):
    model = tiny(VAE, num_classes=num_classes)
    batches = [*make_batches(2, 8), *make_batches(1, 3, seed=1)]
    trainer = make_trainer()
    run = trainer.validate if stage == "val" else trainer.test
    for _ in range(2):
        run(model, loader(batches), verbose=False)
        logged = [trainer.callback_metrics[f"{stage}/{name}"].item() for name in ("elbo", "reconstruction", "kl")]
        assert logged == pytest.approx(measured_by_hand(model, batches), rel=1e-5)


def test_the_bound_is_measured_in_full_precision_by_a_model_in_bfloat16(make_trainer):
    model = tiny(VAE)
    batches = make_batches(40, 8)
    trainer = make_trainer(precision="bf16-true")
    trainer.validate(model, loader(batches), verbose=False)
    found = trainer.callback_metrics["val/elbo"].item()
    assert found == pytest.approx(measured_by_hand(tiny_like(model), batches)[0], rel=0.005)


def tiny_like(model):
    again = tiny(VAE)
    again.load_state_dict(model.state_dict())
    again.run_seed = model.run_seed
    return again


def test_validation_is_logged_at_the_step_it_was_made_at(make_trainer, tmp_path):
    """Also after a resume from a checkpoint in mid-epoch."""

    def steps(version, path=None, **options):
        logger = CSVLogger(tmp_path, "logs", version=version)
        trainer = make_trainer(logger=logger, log_every_n_steps=1, **options)
        trainer.fit(tiny(VAE), loader(make_batches(4)), loader(make_batches(1)), ckpt_path=path)
        header, *rows = (tmp_path / f"logs/version_{version}/metrics.csv").read_text().splitlines()
        rows = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
        return [[row["step"] for row in rows if row[f"{stage}/elbo"]] for stage in ("train", "val")]

    middle = ModelCheckpoint(tmp_path, "middle", every_n_train_steps=3, save_top_k=1)
    whole = steps(0, max_epochs=2, callbacks=[middle], enable_checkpointing=True)
    assert whole == [["1", "2", "3", "4", "5", "6", "7", "8"], ["4", "8"]]
    assert steps(1, tmp_path / "middle.ckpt", max_epochs=3) == [
        [str(step) for step in range(7, 13)],
        ["8", "12"],
    ]


def test_what_is_logged_in_training_is_not_weighted_by_beta(make_trainer):
    trainer = make_trainer(log_every_n_steps=1)
    model = tiny(VAE, beta=0.0)
    model.run_seed = 3
    batches = make_batches(1)
    reconstruction, kl = (term.mean().item() for term in model.bound_terms(batches[0][0], noise_of(8), ema=False))
    fit(trainer, model, batches)
    logged = {name: trainer.callback_metrics[f"train/{name}"].item() for name in ("elbo", "reconstruction", "kl")}
    assert logged == pytest.approx({"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}, rel=1e-5)


# --- images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"likelihood": "gaussian"}, {"architecture": "conv", "width": 4}])
@pytest.mark.parametrize("num_classes", [0, NUM_CLASSES])
def test_reconstructions_are_images_in_range(options, num_classes):
    model, (images, labels) = tiny(VAE, num_classes=num_classes, **options).train(), make_batches(1)[0]
    with torch.no_grad():
        for weight in model.ema["decoder"].parameters():
            weight *= 20
    labels = labels if num_classes else None
    found = model.reconstruct(images, labels)
    assert found.shape == images.shape
    assert found.abs().max() <= 1
    assert model.training
    alone = model.reconstruct(images[:3], None if labels is None else labels[:3])
    torch.testing.assert_close(alone, found[:3], atol=1e-3, rtol=0)  # rounding, through weights 20 times too large


def test_samples_are_the_decoders_mean():
    model = tiny(VAE, ema_half_life=0).eval()
    noise = randomness.randn_rows(0, 3, LATENT_DIM, 5, Stream.SAMPLE)
    torch.testing.assert_close(model.sample(3, seed=5), model.decoder(noise).sigmoid() * 2 - 1)


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 9, 9), torch.zeros(2, *SHAPE, dtype=torch.uint8)])
def test_only_images_of_the_models_shape_and_range_are_reconstructed(images):
    with pytest.raises(SettingError):
        tiny(VAE).reconstruct(images)


def test_predict_reconstructs(make_trainer):
    model, batches = tiny(VAE), make_batches(2)
    found = make_trainer().predict(model, loader(batches))
    for images, (batch, _) in zip(found, batches, strict=True):
        assert images.equal(model.reconstruct(batch))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("architecture", "resnet"),
        ("likelihood", "poisson"),
        ("sigma", 0.0),
        ("beta", -1.0),
        ("kl_warmup_images", -1),
        ("free_bits", -1.0),
        ("tc_weight", -1.0),
        ("encoder_lr", 0.0),
        ("decoder_lr", -1.0),
        ("encoder_steps", 0),
        ("importance_samples", 0),
        ("num_classes", -1),
        ("betas", (0.5, 1.5)),
        ("weight_decay", -1.0),
    ],
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError) as error:
        tiny(VAE, **{setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize(
    ("setting", "value"),
    [("encoder_dims", [8, 0]), ("decoder_dims", []), ("dense_dims", [0, 8]), ("width", 0)],
)
def test_settings_of_either_architecture_are_checked(architecture, setting, value):
    with pytest.raises(SettingError) as error:
        tiny(VAE, architecture=architecture, **{setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [("beta", 0.5, 1), ("kl_warmup_images", 100, 0), ("free_bits", 0.1, 0), ("tc_weight", 1.0, 0)],
)
def test_importance_weights_have_no_other_weights(setting, value, allowed):
    with pytest.raises(SettingError) as error:
        tiny(VAE, importance_samples=2, **{setting: value})
    assert (error.value.setting, error.value.value, error.value.allowed) == (setting, value, allowed)


def test_conditional_models_need_labels(make_trainer):
    images = [images for images, _ in make_batches(1)]
    with pytest.raises(SettingError) as error:
        make_trainer().validate(tiny(VAE, num_classes=NUM_CLASSES), loader(images), verbose=False)
    assert error.value.setting == "num_classes"


def test_an_image_of_the_conv_architecture_has_to_be_halved():
    with pytest.raises(SettingError, match="image_shape"):
        tiny(VAE, architecture="conv", image_shape=(1, 18, 18))
    assert tiny(VAE, architecture="conv", width=2).sample(2, seed=0).shape == (2, *SHAPE)


class OrthogonalDecoder(nn.Module):
    """Means of the pixels, linear in the latents; the columns of its matrix are orthogonal."""

    def __init__(self, scale):
        super().__init__()
        basis = torch.linalg.qr(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)))[0]
        self.register_buffer("matrix", basis * torch.tensor(scale))

    def forward(self, latents):
        return (latents @ self.matrix.T).view(-1, 1, 8, 8)


class ExactPosterior(nn.Module):
    """The posterior of the latents under a linear decoder with Gaussian noise (Bishop 2006, equation 2.116)."""

    def __init__(self, decoder, sigma, error=0.0):
        super().__init__()
        self.register_buffer("matrix", decoder.matrix)
        self.sigma, self.error = sigma, error

    def forward(self, images):
        variance = 1 / (1 + self.matrix.square().sum(0) / self.sigma**2)
        mean = variance * (images.flatten(1) @ self.matrix) / self.sigma**2
        return mean + self.error, variance.log().expand(len(images), -1)


def linear_vae(error=0.0, sigma=0.3):
    decoder = OrthogonalDecoder([1.5, 0.7])
    return tiny(
        VAE,
        latent_dim=2,
        likelihood="gaussian",
        sigma=sigma,
        decoder=decoder,
        encoder=ExactPosterior(decoder, sigma, error),
    )


@pytest.mark.parametrize("iw_samples", [1, 7])
def test_the_bound_with_the_exact_posterior_is_the_likelihood(iw_samples):
    model = linear_vae()
    images = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1)).mul(0.4).clamp(-1, 1)
    matrix = model.decoder.matrix
    marginal = torch.distributions.MultivariateNormal(torch.zeros(64), 0.3**2 * torch.eye(64) + matrix @ matrix.T)
    wanted = marginal.log_prob(images.flatten(1)) + 64 * LEVEL
    torch.testing.assert_close(model.bound(images, iw_samples), wanted, rtol=1e-5, atol=1e-3)


def test_the_bound_of_a_wrong_posterior_rises_with_its_samples():
    exact, wrong = linear_vae(), linear_vae(error=0.5)
    images = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(1)).mul(0.4).clamp(-1, 1)
    bounds = [wrong.bound(images, samples).mean().item() for samples in (1, 10, 1000)]
    likelihood = exact.bound(images).mean().item()
    assert bounds[0] < bounds[1] - 0.1 < bounds[2] < likelihood + 0.02, (bounds, likelihood)
    assert bounds[2] == pytest.approx(likelihood, abs=0.3)


def test_the_bound_of_an_image_does_not_depend_on_its_batch():
    model = tiny(VAE)
    images = torch.cat([images for images, _ in make_batches(3, 8)])
    whole = model.bound(images, 4)
    parts = torch.cat([model.bound(part, 4) for part in torch.split(images.flip(0), 5)]).flip(0)
    torch.testing.assert_close(whole, parts, rtol=1e-6, atol=1e-5)
    assert not whole.equal(model.bound(images, 4, seed=1))
    with pytest.raises(SettingError) as error:
        model.bound(images, 0)
    assert error.value.setting == "iw_samples"


def test_the_bound_does_not_depend_on_how_much_is_made_at_once(monkeypatch):
    model, (images, labels) = tiny(VAE, num_classes=NUM_CLASSES), make_batches(1, 7)[0]
    whole = model.bound(images, 5, labels)
    monkeypatch.setattr("lightning_gans.models.vae.BOUND_NUMBERS", 3 * 5 * LATENT_DIM)
    monkeypatch.setattr("lightning_gans.models.vae.BOUND_ROWS", 6)
    torch.testing.assert_close(model.bound(images, 5, labels), whole, rtol=1e-6, atol=1e-5)
    noise = randomness.randn_for(images, 5 * LATENT_DIM, 0, Stream.POSTERIOR).view(7, 5, LATENT_DIM)
    mean, log_variance = model.encode(images, labels)
    weights = []
    for k in range(5):
        latents = mean + noise[:, k] * (0.5 * log_variance).exp()
        pixels = Independent(Bernoulli(logits=model.averaged("decoder")(latents, labels), validate_args=False), 3)
        log_q = Normal(mean, (0.5 * log_variance).exp()).log_prob(latents).sum(1)
        weights.append(pixels.log_prob((images + 1) / 2) + Normal(0.0, 1.0).log_prob(latents).sum(1) - log_q)
    torch.testing.assert_close(whole, torch.stack(weights).logsumexp(0) - math.log(5), rtol=1e-5, atol=1e-4)
    assert model.bound(images[:0], 5, labels[:0]).shape == (0,)


def test_gaussian_likelihoods_are_logged_in_bits_per_dimension(make_trainer):
    trainer = make_trainer()
    trainer.validate(tiny(VAE, likelihood="gaussian"), loader(make_batches(2)), verbose=False)
    bits = -trainer.callback_metrics["val/elbo"] / math.log(2) / 64
    assert trainer.callback_metrics["val/bits_per_dim"].item() == pytest.approx(bits.item(), rel=1e-5)
    trainer.validate(tiny(VAE), loader(make_batches(2)), verbose=False)
    assert "val/bits_per_dim" not in trainer.callback_metrics
