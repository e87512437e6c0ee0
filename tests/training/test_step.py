"""A training step: the batches that it collects, what it computes of them, its log, its memory."""

import weakref

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers.logger import DummyLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gans import GAN, VAE, ConditionalGAN, GenerativeModule, SettingError, randomness
from lightning_gans.randomness import Stream
from tests.toys import LATENT_DIM, MODELS, NUM_CLASSES, SHAPE, Toys, loader, make_batches, quiet_trainer, tiny

CASES = {
    "nonsaturating": (GAN, {}),
    "minimax": (GAN, {"loss": "minimax"}),
    "d_steps": (GAN, {"d_steps": 2}),
    "mismatch": (ConditionalGAN, {"mismatch_weight": 0.5}),
    "bernoulli": (VAE, {}),
    "gaussian": (VAE, {"likelihood": "gaussian"}),
    "encoder_steps": (VAE, {"encoder_steps": 2}),
}
STEPS = 50


class Plain(nn.Module):
    """A generator without BatchNorm."""

    def __init__(self, num_classes=0):
        super().__init__()
        self.num_classes = num_classes
        self.hidden = nn.Linear(LATENT_DIM + num_classes, 6)
        self.output = nn.Linear(6, 64)

    def forward(self, noise, labels=None):
        if labels is not None:
            noise = torch.cat([noise, nn.functional.one_hot(labels, self.num_classes)], 1)
        return self.output(self.hidden(noise).tanh()).tanh().view(-1, *SHAPE)


# --- accumulated batches ------------------------------------------------------------------------------------


def train(make_trainer, cls, accumulate, batch_size, **options):
    """Train fifty steps in float64, on rows that depend only on the product of the two sizes."""
    torch.manual_seed(0)
    rates = {"encoder_lr": 1e-3, "decoder_lr": 1e-3}
    if cls is not VAE:
        options["generator"] = Plain(NUM_CLASSES if cls is ConditionalGAN else 0)
        rates = {"generator_lr": 1e-3, "discriminator_lr": 1e-3}
    model = tiny(cls, accumulate_batches=accumulate, ema_half_life=100, **rates, **options).double()
    model.run_seed = 11
    trainer = make_trainer(max_steps=STEPS, max_epochs=-1, limit_val_batches=0)
    trainer.fit(model, Toys(num_images=1208, batch_size=batch_size, flip=False))
    assert trainer.global_step == STEPS
    return model


@pytest.mark.parametrize(
    ("case", "limit"),
    [
        *(("d_steps", None), ("mismatch", 0.05), ("gaussian", 0.05)),
        *(pytest.param(case, None, marks=pytest.mark.slow) for case in CASES if case != "d_steps"),
        pytest.param("d_steps", 0.05, marks=pytest.mark.slow),
    ],
)
def test_accumulated_batches_end_with_the_weights_of_one_large_batch(make_trainer, case, limit):
    cls, options = CASES[case]
    large = train(make_trainer, cls, 1, 12, gradient_clip_val=limit, **options)
    small = train(make_trainer, cls, 3, 4, gradient_clip_val=limit, **options)
    assert large.images_seen == small.images_seen
    for name, weight in large.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], weight, rtol=1e-10, atol=1e-12, msg=name)


def test_a_large_batch_is_not_a_small_one(make_trainer):
    large, small = train(make_trainer, GAN, 1, 12), train(make_trainer, GAN, 1, 4)
    assert (large.generator.hidden.weight - small.generator.hidden.weight).abs().max() > 1e-3


class Ordered(GAN):
    """Records when a loss is computed, and when it goes backward."""

    def noted(self, name, loss):
        self.__dict__.setdefault("events", []).append(name)
        loss.register_hook(lambda _: self.events.append(f"{name} backward"))
        return loss

    def discriminator_loss(self, *batch):
        return self.noted("d", super().discriminator_loss(*batch))

    def generator_loss(self, *batch):
        return self.noted("g", super().generator_loss(*batch))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_each_batch_goes_backward_before_the_next_goes_forward(make_trainer, accumulate):
    model = tiny(Ordered, accumulate_batches=accumulate, d_steps=2)
    make_trainer().fit(model, loader(make_batches(2 * accumulate)))
    assert model.events == ["d", "d backward"] * (2 * accumulate) + ["g", "g backward"] * accumulate


class Saved:
    """A tensor that a graph keeps for its backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


def peak_of(trainer, model, batches):
    """Train one step and return the most numbers that graphs have kept for their backward passes at once."""
    alive, peaks = weakref.WeakSet(), []

    def pack(tensor):
        saved = Saved(tensor.detach())
        alive.add(saved)
        peaks.append(sum(other.tensor.numel() for other in alive))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        trainer.fit(model, loader(batches))
    return max(peaks)


@pytest.mark.parametrize("cls", MODELS)
def test_only_the_graph_of_one_batch_is_in_memory(make_trainer, cls):
    peaks = {
        accumulate: peak_of(make_trainer(), tiny(cls, accumulate_batches=accumulate), make_batches(accumulate))
        for accumulate in (1, 2, 4)
    }
    assert peaks[2] == peaks[4] <= peaks[1]


# --- collected batches --------------------------------------------------------------------------------------


class Steps(Callback):
    """Records ``global_step`` and the images seen after each batch."""

    def __init__(self):
        self.counts = []

    def on_train_batch_end(self, trainer, model, *_):
        self.counts.append((trainer.global_step, model.images_seen))


@pytest.mark.parametrize(("cls", "updates"), [(GAN, "d_steps"), (ConditionalGAN, "d_steps"), (VAE, "encoder_steps")])
def test_a_step_happens_once_all_its_batches_are_there(make_trainer, cls, updates):
    steps = Steps()
    make_trainer(callbacks=[steps]).fit(tiny(cls, accumulate_batches=2, **{updates: 2}), loader(make_batches(9)))
    assert steps.counts == [(0, 0)] * 3 + [(1, 32)] * 4 + [(2, 64)] * 2


def test_an_unfinished_step_ends_with_its_epoch(make_trainer):
    seen = []

    class Noted(GAN):
        def discriminator_loss(self, real, fake, labels):
            seen.append(real)
            return super().discriminator_loss(real, fake, labels)

    batches = make_batches(3)
    make_trainer(max_epochs=2).fit(tiny(Noted, d_steps=2), loader(batches))
    assert all(image.equal(batches[place][0]) for image, place in zip(seen, [0, 1, 0, 1], strict=True))


def test_a_fit_that_failed_leaves_no_batches_to_the_next(make_trainer):
    class Broken(Callback):
        def on_train_batch_end(self, *_):
            raise ZeroDivisionError

    model, steps = tiny(GAN, d_steps=2), Steps()
    with pytest.raises(ZeroDivisionError):
        make_trainer(callbacks=[Broken()]).fit(model, loader(make_batches(2)))
    make_trainer(callbacks=[steps]).fit(model, loader(make_batches(2)))
    assert [step for step, _ in steps.counts] == [0, 1]


def test_batchnorm_needs_more_than_one_image(make_trainer):
    with pytest.raises(SettingError) as error:
        make_trainer().fit(tiny(GAN), loader(make_batches(1, 1)))
    assert error.value.setting == "batch_size"


# --- random numbers -----------------------------------------------------------------------------------------


def test_noise_and_uniform_numbers_are_keyed_by_the_step_the_update_and_the_row(make_trainer):
    found = []

    class Drawing(GAN):
        def training_step(self, batch, batch_idx):
            generator_optimizer, _ = self.optimizers()
            with self.step(batch, updates=2) as step:
                for real, _ in step.batches():
                    found.append((step.noise(len(real)), step.uniform(len(real), 3, 1000, 7), step.first_row(8)))
                for real, _ in step.last_batches():
                    loss = self.generate(step.noise(len(real)), None).mean()
                    step.update(loss, generator_optimizer, counted=True)
                    found.append((step.noise(len(real)), None, step.first_row(8)))

    model = tiny(Drawing, accumulate_batches=2)
    make_trainer().fit(model, loader(make_batches(8)))
    for step in range(2):
        drawn = found[6 * step : 6 * step + 6]
        uniform = randomness.rand((16, 3), model.run_seed, 1000, step, 7)
        for index, (noise, numbers, first_row) in enumerate(drawn):
            update, position = (index // 2, index % 2) if index < 4 else (1, index % 2)
            all_noise = randomness.randn((16, LATENT_DIM), model.run_seed, Stream.NOISE, step, update)
            assert noise.equal(all_noise[8 * position :][:8]) and first_row == 8 * position
            assert numbers is None or numbers.equal(uniform[8 * position :][:8])


# --- the log ------------------------------------------------------------------------------------------------


def test_the_log_has_the_means_over_the_accumulated_batches(make_trainer):
    logged = {}
    images, labels = make_batches(1, 16)[0]
    for accumulate in (1, 4):
        torch.manual_seed(0)
        model = tiny(VAE, accumulate_batches=accumulate)
        model.run_seed = 11
        trainer = make_trainer(log_every_n_steps=1)
        trainer.fit(model, loader(list(zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True))))
        logged[accumulate] = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert logged[1].keys() >= {"train/elbo", "train/reconstruction", "train/kl"}
    assert logged[4] == pytest.approx(logged[1], rel=1e-5)


def test_the_log_has_the_last_of_several_updates(make_trainer):
    losses = []

    class Noted(GAN):
        def discriminator_loss(self, *batch):
            losses.append(super().discriminator_loss(*batch))
            return losses[-1]

    trainer = make_trainer(log_every_n_steps=1)
    trainer.fit(tiny(Noted, d_steps=3), loader(make_batches(3)))
    assert trainer.callback_metrics["train/d_loss"] == losses[-1] != losses[0]


class Rows(DummyLogger):
    """Keeps the rows that it is given."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_what_a_custom_loss_logs_is_in_the_row_of_the_losses(make_trainer, every):
    class Logging(GAN):
        def generator_loss(self, real, fake, labels):
            self.log("own", torch.tensor(float(self.global_step)))
            self.log_dict({"train/nan": float("nan"), "half": 0.5}, prog_bar=True)
            self.log("epoch", 1.0, on_step=False, on_epoch=True)
            self.log("unseen", 1.0, logger=False)
            return super().generator_loss(real, fake, labels)

    logger = Rows()
    trainer = make_trainer(logger=logger, log_every_n_steps=every)
    trainer.fit(tiny(Logging), loader(make_batches(6)))
    rows = [(step, row) for step, row in logger.rows if "own" in row]
    assert [(step, row["own"]) for step, row in rows] == [(s, s - 1) for s in range(every, 7, every)]
    assert all({"train/g_loss", "train/d_loss", "train/nan", "half"} <= row.keys() for _, row in rows)
    assert [row["epoch"] for _, row in logger.rows if "epoch" in row] == [1.0]
    assert not any("unseen" in row for _, row in logger.rows)
    assert trainer.callback_metrics["own"] == 5


@pytest.mark.parametrize("d_steps", [1, 4])
def test_a_data_loader_and_a_data_module_mean_the_same_by_batch_size(make_trainer, d_steps):
    """Each update of the discriminator sees ``batch_size`` images, from either."""
    sizes = []

    class Sizes(GAN):
        def discriminator_loss(self, real, fake, labels):
            sizes.append(len(real))
            return super().discriminator_loss(real, fake, labels)

    data = Toys(num_images=40, batch_size=8)
    for source in (data, DataLoader(TensorDataset(torch.randn(32, *SHAPE).clamp(-1, 1)), batch_size=8)):
        trainer = make_trainer()
        trainer.fit(tiny(Sizes, d_steps=d_steps), source)
        assert trainer.global_step == 4 // d_steps
    assert sizes == [8] * 8


# --- a step of a custom model -------------------------------------------------------------------------------


class TwoPlayers(GenerativeModule):
    """Two generators that learn the mean image, each with its own optimizer."""

    trained_networks = averaged_networks = ("first", "second")

    def __init__(self):
        super().__init__(SHAPE, LATENT_DIM)
        self.first, self.second = Plain(), Plain()
        self.create_ema()

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        with self.step(batch) as step:
            for images, _ in step.batches():
                for network, optimizer in ((self.first, first), (self.second, second)):
                    loss = (network(step.noise(len(images))) - images).square().mean()
                    step.update(loss, optimizer, counted=optimizer is second)
                    step.log(loss=loss)

    def configure_optimizers(self):
        return [torch.optim.SGD(network.parameters(), 0.1) for network in (self.first, self.second)]


def test_a_custom_training_step_of_two_players_gets_all_parts(make_trainer, tmp_path):
    model = TwoPlayers()
    trainer = make_trainer(log_every_n_steps=1)
    trainer.fit(model, loader(make_batches(3)))
    assert (trainer.global_step, model.images_seen) == (3, 24)
    assert trainer.callback_metrics["train/loss"] > 0
    assert not model.ema["second"].output.weight.equal(model.second.output.weight)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    again = TwoPlayers()
    quiet_trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(
        again, loader(make_batches(3)), ckpt_path=tmp_path / "own.ckpt"
    )
    assert (again.images_seen, again.run_seed) == (48, model.run_seed)


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize(("setting", "value"), [("accumulate_batches", 0), ("accumulate_batches", -1)])
def test_settings_out_of_range_are_invalid(cls, setting, value):
    with pytest.raises(SettingError) as error:
        tiny(cls, **{setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)


def test_a_step_without_a_counted_update_is_an_error(make_trainer):
    class Forgotten(GAN):
        def training_step(self, batch, batch_idx):
            g_optimizer, _ = self.optimizers()
            with self.step(batch) as step:
                for real, _ in step.batches():
                    step.update(self.generator(step.noise(len(real))).mean(), g_optimizer)

    with pytest.raises(SettingError) as error:
        make_trainer().fit(tiny(Forgotten), loader(make_batches(1)))
    assert error.value.setting == "counted"
