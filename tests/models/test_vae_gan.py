import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from lightning_gans.errors import SettingError
from lightning_gans.models.vae_gan import VAEGAN
from lightning_gans.randomness import Stream
from tests.toys import LATENT_DIM, NUM_CLASSES, SHAPE, Toys, loader, make_batches, placed, same, weights

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


def plain(cls=VAEGAN, **options):
    """Make a model without BatchNorm, in float64."""
    torch.manual_seed(1)
    networks = {"encoder": Encoder(), "decoder": Decoder(), "discriminator": Discriminator()}
    model = cls(SHAPE, LATENT_DIM, **networks, **options).double()
    model.run_seed = 3
    return model


def conv(**options):
    return VAEGAN(**{"image_shape": SHAPE, "latent_dim": LATENT_DIM, "width": 4, **options})


class Watched(VAEGAN):
    """Notes the gradients and the weights of each update."""

    def update(self, losses, *optimizers, counted=False):
        before = {name: weights(getattr(self, name)) for name in NETWORKS}
        mean = super().update(losses, *optimizers, counted=counted)
        changed = [name for name in NETWORKS if not same(before[name], getattr(self, name))]
        gradients = {name: [p.grad for p in getattr(self, name).parameters()] for name in NETWORKS}
        gradients = {name: [None if g is None else g.clone() for g in of] for name, of in gradients.items()}
        self.__dict__.setdefault("notes", []).append((counted, changed, gradients))
        return mean


def three_losses(model, images, gamma, kl_weight, loss):
    """The losses of algorithm 1, each from a forward pass of its own."""
    x = images.double()
    mean, log_variance = model.encoder(x)
    z = mean + placed(model).noise(len(x), 0, Stream.POSTERIOR) * log_variance.exp().sqrt()
    prior = model.noise(len(x), 0, Stream.NOISE)
    decoded, sampled = model.decoder(z), model.decoder(prior)

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
    return kl_weight * kl.mean() + error, gamma * error + fooling, -gan


@pytest.mark.parametrize("loss", ["minimax", "nonsaturating"])
def test_each_network_gets_the_gradient_of_its_own_loss(make_trainer, loss):
    weighing = {"gamma": 0.3, "kl_weight": 0.7, "loss": loss}
    # Rates so small that the discriminator the other two see is the one of the start.
    model = plain(Watched, **weighing, encoder_lr=1e-20, decoder_lr=1e-20, discriminator_lr=1e-20)
    images, _ = make_batches(1)[0]
    by_hand = plain(**weighing)
    wanted = [
        torch.autograd.grad(value, list(getattr(by_hand, name).parameters()), retain_graph=True)
        for name, value in zip(NETWORKS, three_losses(by_hand, images, **weighing), strict=True)
    ]
    make_trainer().fit(model, loader([(images,)]))
    (_, _, of_discriminator), (_, _, of_both) = model.notes
    found = of_both["encoder"], of_both["decoder"], of_discriminator["discriminator"]
    for gradients, right in zip(found, wanted, strict=True):
        for gradient, value in zip(gradients, right, strict=True):
            torch.testing.assert_close(gradient, value, rtol=1e-10, atol=1e-12)
    assert of_discriminator["encoder"] == [None] * 4
    assert of_discriminator["decoder"] == [None] * 4


def test_the_discriminator_goes_first_and_the_other_two_together(make_trainer, tmp_path):
    model, calls = plain(Watched), []
    for name in NETWORKS:
        getattr(model, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    trainer = make_trainer(log_every_n_steps=1)
    trainer.fit(model, loader(make_batches(3)))
    assert [(counted, changed) for counted, changed, _ in model.notes] == [
        (False, ["discriminator"]),
        (True, ["encoder", "decoder"]),
    ] * 3
    assert calls == ["encoder", "decoder", *["discriminator"] * 4] * 3
    assert trainer.global_step == 3
    logged = {"d_loss", "g_loss", "kl", "reconstruction", "d_real", "d_fake"}
    assert {f"train/{name}" for name in logged} <= set(trainer.callback_metrics)
    assert trainer.callback_metrics["train/reconstruction"] < 0


def test_accumulated_batches_are_one_large_batch(make_trainer):
    whole, parts = plain(), plain(accumulate_batches=2)
    for model in (whole, parts):
        make_trainer().fit(model, loader(make_batches(3)))
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
        ("loss", "hinge"),
        ("encoder_lr", 0.0),
        ("decoder_lr", 0.0),
        ("discriminator_lr", 0.0),
        ("feature_layer", "nowhere"),
        ("latent_dim", 0),
        ("betas", (0.5, 1.5)),
        ("weight_decay", -1.0),
    ],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(SettingError, match=setting):
        conv(**{setting: value})


def test_the_features_are_what_the_layer_named_is_given():
    model, images = conv(image_shape=(1, 16, 16)).eval(), torch.randn(2, 1, 16, 16)
    hidden = model.discriminator.layers(images)
    assert model.judge(images)[0].equal(hidden)
    model.feature_layer = "layers.2"
    assert model.judge(images)[0].equal(model.discriminator.layers[:2](images).flatten(1))
