"""InfoGAN against channels whose mutual information is known, and against a loop by hand."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from lightning_gans import CollapseWatchdog, GenerativeMetrics, InfoGAN, SettingError, randomness
from lightning_gans.latents import traverse, walk
from lightning_gans.metrics import samples
from lightning_gans.models.infogan import Recognition
from lightning_gans.networks import DCGANDiscriminator
from lightning_gans.randomness import Stream
from tests.toys import NUM_CLASSES, SHAPE, Toys, loader, make_batches, same, weights

SMALL = {"latent_dim": 4, "num_classes": NUM_CLASSES, "width": 4, "dense_dims": [6], "recognition_dims": [5]}


def tiny(**options):
    torch.manual_seed(0)
    return InfoGAN(SHAPE, **{**SMALL, **options})


# --- the bound --------------------------------------------------------------------------------------------


def bound(model, recognition, latents, labels):
    """Return the lower bound of the mutual information in nats."""
    return model.entropy() - model.info_loss(recognition, latents, labels)[1].item()


def test_the_bound_of_a_class_is_the_mutual_information_if_q_is_the_posterior():
    model = tiny(num_classes=4, continuous_dim=0)
    latents, labels = torch.zeros(40, 4), torch.arange(40) % 4
    seen = torch.where(torch.arange(40) < 28, labels, (labels + 1 + torch.arange(40) // 4 % 3) % 4)
    assert (
        torch.bincount(4 * labels + seen, minlength=16)
        .view(4, 4)
        .equal(torch.ones(4, 4).long() + 6 * torch.eye(4).long())
    )
    posterior = torch.full((4, 4), 0.1) + 0.6 * torch.eye(4)  # right in seven of ten cases
    information = math.log(4) + 0.7 * math.log(0.7) + 0.3 * math.log(0.1)
    q, none = posterior.log()[seen], torch.zeros(40, 0)
    assert bound(model, Recognition(q, none, none), latents, labels) == pytest.approx(information, abs=1e-6)

    other = torch.full((4, 4), 0.2) + 0.2 * torch.eye(4)  # the bound is lower by the divergence of the posteriors
    divergence = 0.7 * math.log(0.7 / 0.4) + 0.3 * math.log(0.1 / 0.2)
    q = other.log()[seen]
    assert bound(model, Recognition(q, none, none), latents, labels) == pytest.approx(
        information - divergence, abs=1e-6
    )


def test_the_bound_of_continuous_codes_is_that_of_a_gaussian_channel():
    model = tiny(num_classes=0, continuous_dim=2)
    latents = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(1))
    variances = torch.tensor([0.25, 4.0])
    seen = latents[:, :2] + variances.sqrt() * noise
    mean, variance = seen / (1 + variances), variances / (1 + variances)
    none = torch.zeros(len(seen), 0)
    q = Recognition(none, mean, variance.log().expand_as(mean))
    information = 0.5 * (1 + 1 / variances).log().sum().item()  # Shannon's formula
    assert bound(model, q, latents, None) == pytest.approx(information, abs=0.01)
    wide = q._replace(log_variance=q.log_variance + math.log(2))  # too wide by a factor of 2
    divergence = 2 * 0.5 * (0.5 - 1 + math.log(2))
    assert bound(model, wide, latents, None) == pytest.approx(information - divergence, abs=0.01)


def test_the_weights_and_the_gradient_of_the_bound():
    model = tiny(categorical_weight=0.7, continuous_weight=0.2, continuous_dim=1)
    logits, mean, log_variance = torch.randn(5, 3), torch.randn(5, 1), torch.randn(5, 1)
    latents, labels = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    q = Recognition(*(part.requires_grad_() for part in (logits, mean, log_variance)))
    weighted, plain = model.info_loss(q, latents, labels)
    ahead = (latents[:, :1] - mean) / log_variance.exp()
    gradients = (
        0.7 * (logits.softmax(1) - F.one_hot(labels, 3)) / 5,
        -0.2 * ahead / 5,
        0.2 * (0.5 - 0.5 * ahead.square() * log_variance.exp()) / 5,
    )
    for found, wanted in zip(torch.autograd.grad(weighted, q), gradients, strict=True):
        torch.testing.assert_close(found, wanted)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    of_class, of_codes = F.cross_entropy(logits, labels), -normal.log_prob(latents[:, :1]).mean()
    torch.testing.assert_close(plain, of_class + of_codes)
    torch.testing.assert_close(weighted, 0.7 * of_class + 0.2 * of_codes)


# --- training ---------------------------------------------------------------------------------------------


def test_updates_equal_a_hand_written_loop(make_trainer):
    options = {"generator_lr": 0.01, "discriminator_lr": 0.02, "categorical_weight": 0.5, "continuous_weight": 0.3}
    batches = make_batches(3)
    model, by_hand = tiny(**options).double(), tiny(**options).double()
    model.run_seed = 3
    trainer = make_trainer(log_every_n_steps=1)
    trainer.fit(model, loader(batches))

    generator, discriminator = by_hand.generator, by_hand.discriminator
    g_adam = torch.optim.Adam(generator.parameters(), lr=0.01, betas=(0.5, 0.999))
    d_adam = torch.optim.Adam(discriminator.parameters(), lr=0.02, betas=(0.5, 0.999))

    def info(parameters, weights_of_codes):
        logits, mean, log_variance = parameters.split([3, 2, 2], 1)
        normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        terms = F.cross_entropy(logits, labels), -normal.log_prob(z[:, :2]).sum(1).mean()
        return sum(weight * term for weight, term in zip(weights_of_codes, terms, strict=True))

    for step, (real, _) in enumerate(batches):
        z = randomness.randn((8, 4), 3, Stream.NOISE, step, 0).double()
        labels = (3 * randomness.rand((8, 1), 3, Stream.LABELS, step, 0)).long().flatten()
        fake = generator(z, labels)
        on_real, (on_fake, parameters) = discriminator(real.double())[0], discriminator(fake.detach())
        by_hand.zero_grad()
        (F.softplus(-on_real).mean() + F.softplus(on_fake).mean() + info(parameters, (0.5, 0.3))).backward()
        d_adam.step()
        on_fake, parameters = discriminator(fake)
        by_hand.zero_grad()
        (F.softplus(-on_fake).mean() + info(parameters, (0.5, 0.3))).backward()
        g_adam.step()
    assert trainer.callback_metrics["train/info_loss"].item() == pytest.approx(info(parameters, (1, 1)).item())
    for network in ("generator", "discriminator"):
        for one, other in zip(weights(getattr(model, network)), weights(getattr(by_hand, network)), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_labels_of_the_data_are_neither_needed_nor_used(make_trainer):
    trained = []
    for batches in (make_batches(2), [images for images, _ in make_batches(2)]):
        model = tiny()
        model.run_seed = 0
        make_trainer().fit(model, loader(batches))
        trained.append(weights(model.generator))
    assert same(*trained)


def test_the_codes_of_a_step_are_uniform_and_the_same_when_drawn_again(make_trainer):
    drawn = []

    class Watched(InfoGAN):
        def draw_latents(self, step, num):
            drawn.append(super().draw_latents(step, num))
            return drawn[-1]

    torch.manual_seed(0)
    model = Watched(SHAPE, **SMALL, accumulate_batches=2, d_steps=2)
    make_trainer().fit(model, loader(make_batches(4, size=300)))
    first, second, third, fourth, fifth, sixth = drawn  # two updates of the discriminator, one of the generator
    for one, other in ((third, fifth), (fourth, sixth)):
        assert one[0].equal(other[0]) and one[1].equal(other[1])
    labels = torch.stack([labels for _, labels in (first, second, third, fourth)])
    assert len({tuple(row) for row in labels.tolist()}) == 4
    assert (labels.flatten().bincount(minlength=3) - 400).abs().max() < 4 * math.sqrt(1200 * 2 / 9)


@pytest.mark.parametrize("of_data", [False, True])
def test_neither_scores_nor_the_watchdog_compare_codes_with_labels(make_trainer, monkeypatch, of_data):
    model = tiny()
    monkeypatch.setattr(InfoGAN, "labels_of_data", of_data)  # True is the control
    watchdog = CollapseWatchdog(every_n_steps=1)
    metrics = GenerativeMetrics(metrics=["fid", "fid_class"], num_samples=20, floor=False)
    assert samples.num_classes(model) == 3 and samples.num_labels(model) == 3 * of_data
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer = make_trainer(callbacks=[watchdog, metrics])
        trainer.fit(model, Toys())
    cannot = [str(warning.message) for warning in told if "cannot measure" in str(warning.message)]
    assert bool(cannot) == of_data == ("d_accuracy" not in watchdog.values)
    assert ("val/fid_class/0" in trainer.callback_metrics) == of_data
    assert trainer.callback_metrics["val/fid"].isfinite()


def test_a_penalty_and_augmentation_work_with_two_heads(make_trainer):
    options = {"penalties": {"r1": 1.0, "wgan_gp": 1.0}, "augment": ["translation"]}
    model = tiny(batch_norm=False, feature_matching=0.1, **options)
    before = weights(model.discriminator)
    make_trainer().fit(model, loader(make_batches(2)))
    assert not any(one.equal(other) for one, other in zip(before, weights(model.discriminator), strict=True))


# --- samples ----------------------------------------------------------------------------------------------


def test_classes_are_labels_and_the_first_latents_are_the_continuous_codes():
    model = tiny().eval()
    first, second = (model.sample(labels=[label] * 3, seed=0) for label in (0, 1))
    assert not first.equal(second)
    assert model.sample(6, seed=0).equal(model.sample(labels=[0, 1, 2, 0, 1, 2], seed=0))
    rows = traverse(model, [0, 1], label=2, steps=3)
    point = model.latents(1, seed=0)
    point[0, 0] = 3.0
    torch.testing.assert_close(rows[0, 2:], model.decode(point, torch.tensor([2])))
    assert walk(model, [1, 2], labels=1, frames=2).shape == (3, *SHAPE)


def test_recognition_splits_the_head_and_changes_nothing(make_trainer):
    model, (images, _) = tiny(), make_batches(1)[0]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = model.recognize(images)
    assert [tuple(part.shape) for part in found] == [(8, 3), (8, 2), (8, 2)]
    assert model.training and all(value.equal(state[name]) for name, value in model.state_dict().items())
    with model.evaluating():
        assert torch.cat(found, 1).equal(model.discriminator(images)[1])
    (predicted,) = make_trainer().predict(model, loader([images]))
    assert predicted.shape == images.shape


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("continuous_dim", 5),
        ("continuous_dim", -1),
        ("categorical_weight", -0.1),
        ("continuous_weight", -1),
        ("mismatch_weight", 0.5),
        ("recognition_dims", []),
        ("dense_dims", [0]),
        ("width", 0),
        ("num_classes", -1),
    ],
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError) as error:
        tiny(**{setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)


def test_without_codes_there_is_no_infogan():
    with pytest.raises(SettingError) as error:
        tiny(num_classes=0, continuous_dim=0)
    assert error.value.setting == "continuous_dim"
    assert tiny(num_classes=0).sample(2, seed=0).shape == (2, *SHAPE)


def test_a_discriminator_without_a_recognition_head_is_invalid(make_trainer):
    model = tiny(discriminator=torch.nn.Sequential(DCGANDiscriminator(SHAPE, 4)))
    with pytest.raises(SettingError, match="the output of the discriminator"):
        make_trainer().fit(model, loader(make_batches(1)))
