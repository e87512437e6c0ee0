import copy
import itertools
import math

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn

from lightning_gans import GAN, VAE, ConditionalGAN, SettingError, losses, randomness
from lightning_gans.randomness import Stream
from tests.toys import LATENT_DIM, SHAPE, Updates, loader, make_batches, same, tiny, weights

NETWORKS = ("generator", "discriminator")


def fit(trainer, model, batches):
    trainer.fit(model, loader(batches))
    return model


# --- one update -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d_steps", [1, 3])
def test_each_update_changes_only_its_own_network(make_trainer, d_steps):
    model, updates = tiny(GAN, d_steps=d_steps), Updates()
    before = {name: weights(getattr(model, name)) for name in NETWORKS}
    fit(make_trainer(callbacks=[updates]), model, make_batches(2 * d_steps, 4))
    assert updates.names == (["discriminator"] * d_steps + ["generator"]) * 2
    assert [update.step for update in updates.seen] == [0] * (d_steps + 1) + [1] * (d_steps + 1)
    for update in updates.seen:
        active, other = NETWORKS if update.name == "generator" else NETWORKS[::-1]
        assert same(before[other], update.weights[other])
        assert not any(a.equal(b) for a, b in zip(before[active], update.weights[active], strict=True))
        before = update.weights


def test_each_update_gives_gradients_only_to_its_own_network(make_trainer):
    updates = Updates()
    fit(make_trainer(callbacks=[updates]), tiny(GAN), make_batches(1))
    of_d, of_g = (update.gradients for update in updates.seen)
    assert all(gradient is None for gradient in of_d["generator"])
    assert all(gradient is not None for gradient in of_d["discriminator"] + of_g["generator"])
    assert same(of_d["discriminator"], of_g["discriminator"])


@pytest.mark.parametrize("d_steps", [1, 3])
def test_the_generator_runs_once_for_each_batch(make_trainer, d_steps):
    model, sizes = tiny(GAN, d_steps=d_steps), []
    model.generator.register_forward_hook(lambda module, inputs, images: sizes.append(len(images)))
    fit(make_trainer(log_every_n_steps=1), model, make_batches(2 * d_steps, 4))
    assert sizes == [4] * (2 * d_steps)


def test_each_discriminator_update_sees_its_own_batch(make_trainer):
    seen = []

    class Judge(GAN):
        def discriminator_loss(self, real, fake, labels):
            seen.append((real, fake, fake.requires_grad))
            return super().discriminator_loss(real, fake, labels)

    batches = make_batches(3, 4)
    fit(make_trainer(), tiny(Judge, d_steps=3), batches)
    reals, fakes, gradients = zip(*seen, strict=True)
    assert same(list(reals), [images for images, _ in batches])
    assert not fakes[0].equal(fakes[1])
    assert gradients == (False, False, False)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    ("cls", "setting", "network"), [(GAN, "d_steps", "generator"), (VAE, "encoder_steps", "decoder")]
)
def test_global_step_counts_updates_of_the_network_that_makes_images(
    make_trainer, tmp_path, cls, setting, network, steps
):
    model = tiny(cls, **{setting: steps})
    versions = [(0, weights(getattr(model, network)))]

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            versions.append((trainer.global_step, weights(getattr(pl_module, network))))

    checkpoints = ModelCheckpoint(tmp_path / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=2)
    trainer = make_trainer(
        max_steps=4,
        callbacks=[Watch(), checkpoints],
        logger=CSVLogger(tmp_path, "logs", version=0),
        log_every_n_steps=1,
        enable_checkpointing=True,
    )
    fit(trainer, model, make_batches(6 * steps, 6))
    assert [step for step, _ in versions] == [batch // steps for batch in range(4 * steps + 1)]
    for (step, old), (next_step, new) in itertools.pairwise(versions):
        assert same(old, new) == (step == next_step)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step=2.ckpt", "step=4.ckpt"]
    header, *rows = (tmp_path / "logs/version_0/metrics.csv").read_text().splitlines()
    place = header.split(",").index("step")
    assert [row.split(",")[place] for row in rows] == ["1", "2", "3", "4"]


def test_scores_are_logged_on_the_loggers_rhythm(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path, "logs", version=0)
    fit(make_trainer(logger=logger, log_every_n_steps=2), tiny(GAN), make_batches(5))
    header, *rows = (tmp_path / "logs/version_0/metrics.csv").read_text().splitlines()
    assert set(header.split(",")) == {
        "step",
        *(f"train/{x}" for x in ("d_loss", "g_loss", "d_real", "d_fake")),
    }
    assert [row.split(",")[header.split(",").index("step")] for row in rows] == ["2", "4"]


def test_checkpoints_between_two_logged_steps_are_named_by_their_own(make_trainer, tmp_path):
    names = ModelCheckpoint(tmp_path / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=2)
    options = {"callbacks": [names], "logger": CSVLogger(tmp_path), "enable_checkpointing": True}
    trainer = make_trainer(max_epochs=2, log_every_n_steps=3, **options)
    trainer.fit(tiny(GAN), loader(make_batches(3)), loader(make_batches(1)))
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == ["step=2.ckpt", "step=4.ckpt", "step=6.ckpt"]


def test_logged_logits_are_those_the_discriminator_gave(make_trainer):
    means = []

    class Judge(GAN):
        def discriminator_loss(self, real, fake, labels):
            means.append((self.discriminator(images=real).mean().item(), self.discriminator(fake).mean().item()))
            return super().discriminator_loss(real, fake, labels)

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 1)

        def forward(self, images):
            return self.layer(images.flatten(1))

    trainer = make_trainer(log_every_n_steps=1)
    fit(trainer, tiny(Judge, discriminator=Named()), make_batches(1))
    logged = trainer.callback_metrics
    assert (logged["train/d_real"].item(), logged["train/d_fake"].item()) == pytest.approx(means[0])


# --- a second way of computing ----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["nonsaturating", "minimax"])
@pytest.mark.parametrize("d_steps", [1, 2])
def test_three_steps_equal_a_hand_written_loop(make_trainer, d_steps, loss):
    model = tiny(GAN, d_steps=d_steps, loss=loss, generator_lr=0.01, discriminator_lr=0.02).double()
    G, D = copy.deepcopy(model.generator), copy.deepcopy(model.discriminator)
    batches = make_batches(3 * d_steps, 4)
    fit(make_trainer(), model, batches)

    G_optimizer = torch.optim.Adam(G.parameters(), lr=0.01, betas=(0.5, 0.999))
    D_optimizer = torch.optim.Adam(D.parameters(), lr=0.02, betas=(0.5, 0.999))
    for step in range(3):
        for number in range(d_steps):
            real = batches[step * d_steps + number][0].double()
            fake = G(randomness.randn((4, LATENT_DIM), model.run_seed, Stream.NOISE, step, number).double())
            D_optimizer.zero_grad()
            (-D(real).sigmoid().log().mean() - (1 - D(fake.detach()).sigmoid()).log().mean()).backward()
            D_optimizer.step()
        G_optimizer.zero_grad()
        if loss == "minimax":
            (1 - D(fake).sigmoid()).log().mean().backward()
        else:
            (-D(fake).sigmoid().log().mean()).backward()
        G_optimizer.step()

    for own, by_hand in ((model.generator, G), (model.discriminator, D)):
        assert own.state_dict().keys() == by_hand.state_dict().keys()
        for name, value in by_hand.state_dict().items():
            torch.testing.assert_close(own.state_dict()[name], value, rtol=0, atol=1e-12)


# --- precision and hooks ----------------------------------------------------------------------------------


class Caching(MixedPrecision):
    """Keeps the low-precision weights until the step is over, as torch does unless told otherwise."""

    def autocast_context_manager(self):
        return torch.autocast("cpu", torch.bfloat16)


class Fresh(GAN):
    """Compares the logits of the generator's update with those that the weights of this moment give."""

    differences = ()

    def generator_loss(self, real, fake, labels):
        logits = self.logits(fake, labels)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            self.differences += ((logits - self.logits(fake, labels)).abs().max().item(),)
        return losses.nonsaturating_generator_loss(logits)


@pytest.mark.parametrize("precision", [MixedPrecision, Caching])
def test_the_generators_update_sees_the_discriminators_new_weights_under_autocast(make_trainer, precision):
    trainer = make_trainer(plugins=[precision("bf16-mixed", "cpu")])
    model = fit(trainer, tiny(Fresh, discriminator_lr=0.1), make_batches(2))
    assert model.differences == (0.0, 0.0)


def test_without_clearing_autocasts_cache_it_would_not(make_trainer, monkeypatch):
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: None)
    trainer = make_trainer(plugins=[Caching("bf16-mixed", "cpu")])
    model = fit(trainer, tiny(Fresh, discriminator_lr=0.1), make_batches(2))
    assert min(model.differences) > 0.01


class Hooked(GAN):
    """Records the networks whose optimizers the hook ``on_before_optimizer_step`` gets."""

    seen = ()

    def on_before_optimizer_step(self, optimizer):
        places = [id(known) for known in self.optimizers(use_pl_optimizer=False)]
        self.seen += (self.trained_networks[places.index(id(optimizer))],)


@pytest.mark.parametrize("d_steps", [1, 3])
def test_the_optimizer_hook_is_called_for_both_optimizers(make_trainer, d_steps):
    model = fit(make_trainer(), tiny(Hooked, d_steps=d_steps), make_batches(2 * d_steps, 4))
    assert list(model.seen) == (["discriminator"] * d_steps + ["generator"]) * 2


def test_bfloat16_weights_train_and_sample(make_trainer):
    model = fit(make_trainer(precision="bf16-true"), tiny(GAN), make_batches(2))
    assert model.generator.output.weight.dtype == torch.bfloat16
    assert model.sample(2, seed=0).dtype == torch.float32


# --- custom losses and networks ----------------------------------------------------------------


@pytest.mark.parametrize("loss", ["nonsaturating", "minimax"])
def test_the_loss_is_the_one_asked_for(loss):
    model, (real, _) = tiny(GAN, loss=loss), make_batches(1)[0]
    wanted = {
        "nonsaturating": losses.nonsaturating_generator_loss,
        "minimax": losses.minimax_generator_loss,
    }[loss](model.discriminator(real).flatten())
    torch.testing.assert_close(model.generator_loss(real, real, None), wanted)


def test_a_subclass_overrides_the_losses(make_trainer):
    class Wasserstein(GAN):
        def generator_loss(self, real, fake, labels):
            return -self.discriminator(fake).mean()

        def discriminator_loss(self, real, fake, labels):
            return self.discriminator(fake).mean() - self.discriminator(real).mean()

    trainer = make_trainer(log_every_n_steps=1)
    fit(trainer, tiny(Wasserstein), make_batches(1))
    logged = trainer.callback_metrics
    wanted = logged["train/d_fake"] - logged["train/d_real"]
    torch.testing.assert_close(logged["train/d_loss"], wanted)


class Penalized(GAN):
    """Has a setting of its own."""

    def __init__(self, gp_weight=10.0, **options):
        super().__init__(**options)
        self.gp_weight = gp_weight


def test_a_subclass_adds_settings_and_forwards_the_others():
    model = tiny(Penalized, gp_weight=3.0, d_steps=2, lr_schedule="linear")
    assert (model.gp_weight, model.d_steps, model.lr_schedule) == (3.0, 2, "linear")


@pytest.mark.parametrize("cls", [GAN, Penalized, ConditionalGAN, VAE])
def test_a_typo_in_a_setting_is_a_type_error(cls):
    with pytest.raises(TypeError, match="latent_dims"):
        cls(latent_dims=3)


class Logits(nn.Module):
    """A discriminator with logits of any shape."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape
        self.layer = nn.Linear(64, math.prod(shape))

    def forward(self, images, labels=None):
        return self.layer(images.flatten(1)).reshape(len(images), *self.shape)


def test_networks_are_replaced_by_custom_ones(make_trainer):
    generator = nn.Sequential(nn.Linear(LATENT_DIM, 64), nn.Tanh(), nn.Unflatten(1, SHAPE))
    discriminator = Logits()
    before = weights(generator), weights(discriminator)
    model = fit(make_trainer(), tiny(GAN, generator=generator, discriminator=discriminator), make_batches(1))
    assert model.generator is generator
    assert model.discriminator is discriminator
    assert not same(before[0], generator)
    assert not same(before[1], discriminator)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_logits_are_flattened(shape):
    images, labels = make_batches(1)[0]
    assert tiny(GAN, discriminator=Logits(*shape)).logits(images, None).shape == (8,)
    assert tiny(ConditionalGAN, discriminator=Logits(*shape)).logits(images, labels).shape == (8,)


def test_logits_of_patches_train(make_trainer):
    model, images = tiny(GAN, discriminator=Logits(1, 2, 3)), make_batches(1)[0][0]
    before = weights(model.discriminator)
    fit(make_trainer(), model, make_batches(1))
    assert not same(before, model.discriminator)
    assert model.logits(images, None).shape == (8, 1, 2, 3)


def test_several_logits_of_an_image_are_invalid(make_trainer):
    with pytest.raises(SettingError) as error:
        fit(make_trainer(), tiny(GAN, discriminator=Logits(2)), make_batches(1))
    assert (error.value.setting, error.value.value) == ("discriminator", [8, 2])


# --- settings and data that do not fit --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("d_steps", 0),
        ("generator_lr", -1e-3),
        ("discriminator_lr", 0.0),
        ("loss", "wgan"),
        ("generator_lr", float("nan")),
        ("betas", (0.5, 1.5)),
        ("betas", (0.5, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("betas", (0.5, 0.9, 0.99)),
        ("weight_decay", -1.0),
    ],
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError) as error:
        tiny(GAN, **{setting: value})
    assert (error.value.setting, error.value.value) == (setting, pytest.approx(value, nan_ok=True))


def test_the_nearest_loss_is_named():
    with pytest.raises(SettingError, match="Did you mean 'minimax'"):
        tiny(GAN, loss="minmax")


def test_dropout_is_keyed_by_the_step(make_trainer):
    def trained():
        model = tiny(GAN, dropout=0.5)
        model.load_state_dict(start)
        model.run_seed = 3
        torch.manual_seed(torch.seed())
        return fit(make_trainer(), model, make_batches(2))

    start = tiny(GAN, dropout=0.5).state_dict()
    assert same(trained(), trained())


def test_a_step_leaves_the_global_random_stream_unchanged(make_trainer):
    states = []

    class Watch(Callback):
        def on_train_batch_start(self, *args):
            states.append(torch.get_rng_state())

        def on_train_batch_end(self, *args):
            states.append(torch.get_rng_state())

    fit(make_trainer(callbacks=[Watch()]), tiny(GAN, dropout=0.5), make_batches(1))
    assert states[0].equal(states[1])
