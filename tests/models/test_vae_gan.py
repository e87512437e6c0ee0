import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from lightning_gans import losses, randomness
from lightning_gans.errors import SettingError
from lightning_gans.models.vae_gan import VAEGAN
from lightning_gans.randomness import Stream
from lightning_gans.training.discriminator_calls import find_feature_layer, record_calls
from tests.toys import LATENT_DIM, NUM_CLASSES, SHAPE, Toys, Updates, loader, make_batches, same, weights

NETWORKS = ("encoder", "decoder", "discriminator")


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(64, 6), nn.Linear(6, 2 * LATENT_DIM)

    def forward(self, images):
        return self.output(self.hidden(images.flatten(1)).tanh()).chunk(2, 1)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(LATENT_DIM, 6), nn.Linear(6, 64)

    def forward(self, latents):
        return self.output(self.hidden(latents).tanh()).tanh().view(-1, *SHAPE)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(64, 5), nn.Linear(5, 1)

    def forward(self, images):
        return self.output(self.hidden(images.flatten(1)).tanh())


def plain(**options):
    """Make a model without BatchNorm, in float64."""
    torch.manual_seed(1)
    networks = {"encoder": Encoder(), "decoder": Decoder(), "discriminator": Discriminator()}
    model = VAEGAN(SHAPE, LATENT_DIM, **networks, **options).double()
    model.run_seed = 3
    return model


def conv(**options):
    return VAEGAN(**{"image_shape": SHAPE, "latent_dim": LATENT_DIM, "width": 4, **options})


def noise_of(num, stream=Stream.NOISE):
    """Return the noise of the first update of a run with the seed of ``plain``."""
    return randomness.randn((num, LATENT_DIM), 3, stream, 0, 0).double()


def gradients_of_a_step(trainer, images, **options):
    """Return each network's gradients in the first step.

    The learning rates are so small that the encoder and the decoder see the initial discriminator.
    """
    model, updates = plain(**options, encoder_lr=1e-20, decoder_lr=1e-20, discriminator_lr=1e-20), Updates()
    trainer.callbacks.append(updates)
    trainer.fit(model, loader([(images,)]))
    first = updates.seen[0]
    assert updates.names == ["discriminator", "encoder", "decoder"]
    assert first.gradients["encoder"] == first.gradients["decoder"] == [None] * 4
    return {update.name: update.gradients[update.name] for update in updates.seen}


def check_gradients(found, losses, by_hand):
    """Compare the gradients of some networks with those of losses computed by hand."""
    for name, loss in losses.items():
        wanted = torch.autograd.grad(loss, list(getattr(by_hand, name).parameters()), retain_graph=True)
        for gradient, value in zip(found[name], wanted, strict=True):
            torch.testing.assert_close(gradient, value, rtol=1e-9, atol=1e-12)


def three_losses(model, images, gamma, kl_weight, loss):
    """The losses of algorithm 1, each from a forward pass of its own."""
    x = images.double()
    mean, log_variance = model.encoder(x)
    z = mean + noise_of(len(x), Stream.POSTERIOR) * log_variance.exp().sqrt()
    decoded, sampled = model.decoder(z), model.decoder(noise_of(len(x)))

    def features(pictures):
        return model.discriminator.hidden(pictures.flatten(1)).tanh()

    def logits(pictures):
        return model.discriminator.output(features(pictures))[:, 0]

    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_variance.exp().sqrt()),
        torch.distributions.Normal(torch.zeros_like(mean), 1.0),
    ).sum(1)
    error = ((features(x) - features(decoded)) ** 2).sum(1).mean() / 2
    gan = (
        logits(x).sigmoid().log().mean()
        + (1 - logits(decoded).sigmoid()).log().mean()
        + (1 - logits(sampled).sigmoid()).log().mean()
    )
    fooling = gan if loss == "minimax" else -F.logsigmoid(logits(decoded)).mean() - F.logsigmoid(logits(sampled)).mean()
    return {"encoder": kl_weight * kl.mean() + error, "decoder": gamma * error + fooling, "discriminator": -gan}


@pytest.mark.parametrize("loss", ["minimax", "nonsaturating"])
def test_each_network_gets_the_gradient_of_its_own_loss(make_trainer, loss):
    weighing = {"gamma": 0.3, "kl_weight": 0.7, "loss": loss}
    images, by_hand = make_batches(1)[0][0], plain(**weighing)
    found = gradients_of_a_step(make_trainer(), images, **weighing)
    check_gradients(found, three_losses(by_hand, images, **weighing), by_hand)


def game(loss, real, fake):
    """The two players' losses of one game."""
    pair = losses.ADVERSARIAL_LOSSES[loss]
    return pair.discriminator(real, fake), pair.generator(fake, real) if pair.pairs else pair.generator(fake)


@pytest.mark.parametrize("loss", ["least_squares", "hinge", "wasserstein", "relativistic"])
def test_other_losses_are_two_games(make_trainer, loss):
    """Against the reconstructions and against the samples; penalties and feature matching are those of all models."""
    options = {"loss": loss, "gamma": 0.3, "penalties": {"r1": 0.7, "r2": 0.4}, "feature_matching": 0.6}
    by_hand, (images, _) = plain(), make_batches(1)[0]
    x = images.double().requires_grad_()
    mean, log_variance = by_hand.encoder(x)
    latents = mean + noise_of(len(x), Stream.POSTERIOR) * log_variance.exp().sqrt()
    fakes = [by_hand.decoder(latents), by_hand.decoder(noise_of(len(x)))]

    def features(pictures):
        return by_hand.discriminator.hidden(pictures.flatten(1)).tanh()

    real, *fake = (by_hand.discriminator(pictures)[:, 0] for pictures in (x, *fakes))
    (d_one, g_one), (d_two, g_two) = (game(loss, real, logits) for logits in fake)

    def squared_gradients(logits, at):
        gradients = torch.autograd.grad(logits.sum(), at, create_graph=True)
        return torch.cat(gradients).square().sum((1, 2, 3)).mean() / 2

    judged = [pictures.detach().requires_grad_() for pictures in fakes]
    d_loss = d_one + d_two + 0.7 * squared_gradients(by_hand.discriminator(x), [x])
    d_loss = d_loss + 0.4 * squared_gradients(
        torch.cat([by_hand.discriminator(pictures) for pictures in judged]), judged
    )
    error = (features(x) - features(fakes[0])).square().sum(1).mean() / 2
    distance = (features(x).mean(0) - features(torch.cat(fakes)).mean(0)).square().sum()
    g_loss = 0.3 * error + g_one + g_two + 0.6 * distance
    found = gradients_of_a_step(make_trainer(), images, **options)
    check_gradients(found, {"discriminator": d_loss, "decoder": g_loss}, by_hand)


@pytest.mark.parametrize("penalty", ["r1", "r2", "wgan_gp", "dragan"])
def test_penalties_under_autocast(make_trainer, penalty):
    model = conv(penalties={penalty: 1.0}, augment=["translation"], loss="relativistic")
    trainer = make_trainer(precision="bf16-mixed", log_every_n_steps=1)
    trainer.fit(model, loader(make_batches(2)))
    assert trainer.callback_metrics[f"train/{penalty}"].isfinite()


def test_the_error_is_that_of_features_of_what_is_not_augmented(make_trainer):
    logged = []
    for augment in ([], ["color", "translation", "cutout"]):
        model, trainer = plain(augment=augment, discriminator_lr=1e-20), make_trainer(log_every_n_steps=1)
        trainer.fit(model, loader(make_batches(1)))
        logged.append({name: value.item() for name, value in trainer.callback_metrics.items()})
    assert logged[0]["train/reconstruction"] == pytest.approx(logged[1]["train/reconstruction"], rel=1e-9)
    assert logged[0]["train/d_real"] != pytest.approx(logged[1]["train/d_real"], rel=1e-3)


def test_an_auxiliary_classifier_learns_from_both_kinds_of_fakes(make_trainer):
    class Classifying(Discriminator):
        def __init__(self):
            super().__init__()
            self.classes = nn.Linear(5, NUM_CLASSES)

        def forward(self, images, labels):
            hidden = self.hidden(images.flatten(1)).tanh()
            return self.output(hidden), self.classes(hidden)

    gradients = []
    for weight in (0.0, 1.0):
        networks = {"discriminator": Classifying(), "num_classes": NUM_CLASSES, "feature_layer": "output"}
        model = conv(**networks, auxiliary_weight=weight)
        make_trainer().fit(model, loader(make_batches(1)))
        gradient = model.discriminator.classes.weight.grad
        gradients.append(0.0 if gradient is None else gradient.abs().sum().item())
    assert gradients[0] == 0 < gradients[1]


def test_the_discriminator_goes_first_and_the_other_two_together(make_trainer, tmp_path):
    model, updates, calls = plain(), Updates(), []
    before = {name: weights(getattr(model, name)) for name in NETWORKS}
    for name in NETWORKS:
        getattr(model, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    trainer = make_trainer(log_every_n_steps=1, callbacks=[updates])
    trainer.fit(model, loader(make_batches(3)))
    assert updates.names == ["discriminator", "encoder", "decoder"] * 3
    assert [update.step for update in updates.seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for update in updates.seen:
        assert [name for name in NETWORKS if not same(before[name], update.weights[name])] == [update.name]
        before = update.weights
    assert calls == ["encoder", "decoder", *["discriminator"] * 4] * 3
    assert trainer.global_step == 3
    logged = {"d_loss", "g_loss", "kl", "reconstruction", "d_real", "d_fake"}
    assert {f"train/{name}" for name in logged} <= set(trainer.callback_metrics)
    assert trainer.callback_metrics["train/reconstruction"] < 0


REGULARIZED = {
    "penalties": {"loss": "relativistic", "penalties": {"r1": 0.5, "r2": 0.3, "wgan_gp": 0.2}},
    "augmented": {"loss": "hinge", "augment": ["color", "translation"]},
}


@pytest.mark.parametrize("case", ["plain", *REGULARIZED])
def test_accumulated_batches_are_one_large_batch(make_trainer, case):
    options, large = REGULARIZED.get(case, {}), make_batches(3)
    halves = [half for batch in large for half in zip(*(part.split(4) for part in batch), strict=True)]
    whole, parts = plain(**options), plain(**options, accumulate_batches=2)
    make_trainer().fit(whole, loader(large))
    make_trainer().fit(parts, loader(halves))
    for name in NETWORKS:
        for a, b in zip(getattr(whole, name).parameters(), getattr(parts, name).parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"num_classes": NUM_CLASSES}, {"accumulate_batches": 2}])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_resumed_run_ends_as_the_one_that_never_stopped(make_trainer, tmp_path, options, precision):
    def run(path=None, **more):
        torch.manual_seed(0 if path is None else 9)
        model = conv(lr_schedule="cosine", **options)
        if path is None:
            model.run_seed = 5
        data = Toys(batch_size=8 // model.accumulate_batches)
        make_trainer(max_epochs=2, precision=precision, **more).fit(model, data, ckpt_path=path)
        return model

    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    whole = run(callbacks=[saving], enable_checkpointing=True)
    assert whole.images_seen == 64
    again = run(tmp_path / "step=3.ckpt")
    assert all(a.equal(b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(value.isfinite().all() for value in again.state_dict().values())


@pytest.mark.parametrize("num_classes", [0, NUM_CLASSES])
def test_samples_reconstructions_and_predictions_are_images(make_trainer, num_classes):
    model, batches = conv(num_classes=num_classes), make_batches(2)
    assert model.sample(3, seed=0).shape == (3, *SHAPE)
    found = make_trainer().predict(model, loader(batches))
    for images, (batch, labels) in zip(found, batches, strict=True):
        assert images.shape == batch.shape
        assert images.abs().max() <= 1
        assert images.equal(model.reconstruct(batch, labels if num_classes else None))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("gamma", -1.0),
        ("kl_weight", -1.0),
        ("loss", "hing"),
        ("encoder_lr", 0.0),
        ("decoder_lr", 0.0),
        ("discriminator_lr", 0.0),
        ("feature_layer", "nowhere"),
        ("latent_dim", 0),
        ("betas", (0.5, 1.5)),
        ("weight_decay", -1.0),
    ],
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError) as error:
        conv(**{setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)


def test_features_are_the_input_of_the_named_layer():
    model, images = conv(image_shape=(1, 16, 16)).eval(), torch.randn(2, 1, 16, 16)

    def features(name):
        layer = find_feature_layer(model.discriminator, name)
        with record_calls(model.discriminator, layers=[layer]) as calls:
            model.logits(images, None)
        return calls[0].features[layer]

    assert features(None).equal(model.discriminator.layers(images))
    assert features("layers.2").equal(model.discriminator.layers[:2](images))
