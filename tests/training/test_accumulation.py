"""Several small batches make the update of one large one, with the memory of a small one."""

import weakref

import pytest
import torch
from torch import nn

from lightning_gans import GAN, VAE, ConditionalGAN, SettingError
from tests.toys import LATENT_DIM, MODELS, NUM_CLASSES, SHAPE, Toys, loader, make_batches, tiny

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


RATES = {
    GAN: {"generator_lr": 1e-3, "discriminator_lr": 1e-3, "ema_half_life": 100},
    VAE: {"encoder_lr": 1e-3, "decoder_lr": 1e-3, "ema_half_life": 100},
}


def train(make_trainer, cls, accumulate, batch_size, **options):
    """Train fifty updates in float64, on rows that depend on the product of the two sizes alone."""
    torch.manual_seed(0)
    if cls is not VAE:
        options["generator"] = Plain(NUM_CLASSES if cls is ConditionalGAN else 0)
    rates = RATES[VAE if cls is VAE else GAN]
    model = tiny(cls, accumulate_batches=accumulate, **rates, **options).double()
    model.run_seed = 11
    trainer = make_trainer(max_steps=STEPS, max_epochs=-1, limit_val_batches=0)
    trainer.fit(model, Toys(num_images=1208, batch_size=batch_size))
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
def test_accumulated_batches_end_with_the_weights_of_one_as_large(make_trainer, case, limit):
    cls, options = CASES[case]
    large = train(make_trainer, cls, 1, 12, gradient_clip_val=limit, **options)
    small = train(make_trainer, cls, 3, 4, gradient_clip_val=limit, **options)
    assert large.images_seen == small.images_seen
    for name, weight in large.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], weight, rtol=1e-10, atol=1e-12, msg=name)


def test_a_large_batch_is_not_a_small_one(make_trainer):
    large, small = train(make_trainer, GAN, 1, 12), train(make_trainer, GAN, 1, 4)
    assert (large.generator.hidden.weight - small.generator.hidden.weight).abs().max() > 1e-3


# --- memory -----------------------------------------------------------------------------------------------


class Ordered(GAN):
    """Notes when a loss is made, and when it goes backward."""

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
    make_trainer().fit(model, loader(make_batches(1, 12)))
    assert model.events == ["d", "d backward"] * (2 * accumulate) + ["g", "g backward"] * accumulate


class Saved:
    """A tensor that a graph keeps for its backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


def peak_of(trainer, model, batch):
    """Train one step and return the most numbers that graphs have kept for their backward passes at once."""
    alive, peaks = weakref.WeakSet(), []

    def pack(tensor):
        saved = Saved(tensor.detach())
        alive.add(saved)
        peaks.append(sum(other.tensor.numel() for other in alive))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        trainer.fit(model, loader([batch]))
    return max(peaks)


@pytest.mark.parametrize("cls", MODELS)
def test_the_graphs_of_one_batch_are_kept_at_a_time(make_trainer, cls):
    peaks = {}
    for accumulate in (1, 2, 4):
        model = tiny(cls, accumulate_batches=accumulate)
        peaks[accumulate] = peak_of(make_trainer(), model, make_batches(1, 8 * accumulate)[0])
    assert peaks[2] == peaks[4] <= peaks[1]


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "steps"), [(GAN, "d_steps"), (ConditionalGAN, "d_steps"), (VAE, "encoder_steps")])
def test_a_step_takes_the_batches_of_all_its_updates(cls, steps):
    assert tiny(cls, accumulate_batches=3).batches_per_step == 3
    assert tiny(cls, **{steps: 2}).batches_per_step == 2
    assert tiny(cls, accumulate_batches=3, **{steps: 2}).batches_per_step == 6


def test_an_update_returns_the_mean_of_its_losses(make_trainer):
    seen, means = [], []

    class Mean(GAN):
        def discriminator_loss(self, *batch):
            seen.append(super().discriminator_loss(*batch))
            return seen[-1]

        def update(self, losses, *optimizers, counted=False):
            means.append(super().update(losses, *optimizers, counted=counted))
            return means[-1]

    make_trainer().fit(tiny(Mean, accumulate_batches=4), loader(make_batches(1, 16)))
    assert means[0].item() == pytest.approx(torch.stack(seen).mean().item(), rel=1e-6)
    assert not means[0].requires_grad


def test_what_is_logged_is_the_mean_over_the_batches(make_trainer):
    logged = {}
    for accumulate in (1, 4):
        torch.manual_seed(0)
        model = tiny(VAE, accumulate_batches=accumulate)
        model.run_seed = 11
        trainer = make_trainer(log_every_n_steps=1)
        trainer.fit(model, loader(make_batches(1, 16)))
        logged[accumulate] = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert logged[1].keys() >= {"train/elbo", "train/reconstruction", "train/kl"}
    assert logged[4] == pytest.approx(logged[1], rel=1e-5)


@pytest.mark.parametrize("options", [{"accumulate_batches": 3}, {"d_steps": 3}])
def test_a_batch_that_does_not_divide_is_refused(make_trainer, options):
    with pytest.raises(SettingError, match=r"^one step takes 3 batches, and the loader gave 8 images, .*multiple of 3"):
        make_trainer().fit(tiny(GAN, **options), loader(make_batches(1, 8)))


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("setting", [{"accumulate_batches": 0}, {"accumulate_batches": -1}, {"gradient_clip_val": -1}])
def test_settings_out_of_range_are_refused(cls, setting):
    (name, value), *_ = setting.items()
    with pytest.raises(SettingError, match=f"{name} is {value}: "):
        tiny(cls, **setting)
