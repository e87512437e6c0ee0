"""ADA and APA: the controller, what the discriminator is shown, checkpoints. The transformations have a file."""

import copy
from functools import partial

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

import lightning_gans
from lightning_gans import (
    ADA,
    DCGAN,
    GAN,
    VAEGAN,
    ConditionalGAN,
    CycleGAN,
    Pix2Pix,
    RecurrentGAN,
    SettingError,
    losses,
    randomness,
)
from lightning_gans.augment.pipeline import TRANSFORMS, transformed
from lightning_gans.randomness import Stream
from tests.toys import LATENT_DIM, SHAPE, loader, make_batches, same, tiny
from tests.training.stepping import first_losses, first_noise

BATCH = 8


def at(p, *names, **options):
    """Make an ADA whose p is known."""
    augment = ADA(**options)
    augment.state = {name: {"p": p, "counts": torch.zeros(3)} for name in names or ("discriminator",)}
    return augment


class Known(nn.Module):
    """Its logits are the mean values of the images; it does not learn."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return images.mean((1, 2, 3)) + 0 * self.unused


class Probabilities(Callback):
    """Records p after each update."""

    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, model, *_):
        self.found.append(model.augment.probability())


def bright(positive):
    """Return a batch in which that many of the 8 images have positive logits."""
    images = torch.full((BATCH, *SHAPE), -0.5)
    images[:positive] = 0.5
    return images


def probabilities(make_trainer, batches, augment, **options):
    model = tiny(GAN, discriminator=Known(), augment=augment, **options)
    recorder = Probabilities()
    make_trainer(callbacks=[recorder]).fit(model, loader(batches))
    return recorder.found


# --- the controller -----------------------------------------------------------------------------------------


def test_p_rises_to_1_with_a_discriminator_that_overfits_and_falls_to_0_with_one_that_does_not(make_trainer):
    sure, unsure = bright(8), bright(4)
    # 4 updates of 8 images change p by 32 / 100. Moving the pixels of a uniform image does not change its logit.
    augment = ADA(["blit"], ramp_images=100)
    found = probabilities(make_trainer, [sure] * 20 + [unsure] * 20, augment)
    assert found[:16] == [0.0] * 3 + [0.32] * 4 + [0.64] * 4 + [0.96] * 4 + [1.0]
    assert found[19:] == pytest.approx([1.0] * 4 + [0.68] * 4 + [0.36] * 4 + [0.04] * 4 + [0.0] * 5)


@pytest.mark.parametrize(("positive", "p"), [(6, 0.0), (7, 0.16), (8, 0.16)])
def test_the_target_is_a_share_of_images_that_the_discriminator_is_sure_of(make_trainer, positive, p):
    # r is 2 k / 8 - 1: 0.5 for 6 of 8 images, 0.75 for 7
    assert probabilities(make_trainer, [bright(positive)] * 4, ADA(["blit"], ramp_images=200))[-1] == p


def test_r_is_the_mean_over_the_interval(make_trainer):
    augment = ADA(["blit"], ramp_images=100)
    batches = [bright(8), bright(8), bright(8), bright(2)]  # r: 1, 1, 1, -0.5
    assert probabilities(make_trainer, batches * 2, augment)[-1] == pytest.approx(0.64)
    batches = [bright(8), bright(8), bright(1), bright(8)]  # r: 1, 1, -0.75, 1
    assert probabilities(make_trainer, batches, ADA(["blit"], ramp_images=100))[-1] == 0


@pytest.mark.parametrize("d_steps", [1, 2])
def test_updates_of_the_discriminator_count(make_trainer, d_steps):
    augment = ADA(["blit"], interval=2, ramp_images=1000)
    found = probabilities(make_trainer, [bright(8)] * 8, augment, d_steps=d_steps)
    assert found[-1] == pytest.approx(4 * 2 * BATCH / 1000)


@pytest.mark.parametrize(
    ("loss", "sign"),
    [
        *((name, lambda real, fake: real.sign()) for name in ("nonsaturating", "minimax", "hinge")),
        ("least_squares", lambda real, fake: (real - 0.5).sign()),
        *((name, lambda real, fake: (real - fake).sign()) for name in ("wasserstein", "relativistic")),
    ],
)
def test_the_sign_is_that_of_the_loss(make_trainer, loss, sign):
    assert loss in losses.ADVERSARIAL_LOSSES
    model, real = tiny(GAN, discriminator=Known(), augment=ADA(), loss=loss), torch.rand(BATCH, *SHAPE) * 2 - 0.3
    real = real.clamp(-1, 1) * torch.linspace(-1, 1, BATCH).view(-1, 1, 1, 1)
    trainer = make_trainer(log_every_n_steps=1)
    fake = model.generator(first_noise(model))
    wanted = sign(model.discriminator(real), model.discriminator(fake)).mean()
    trainer.fit(model, loader([real]))
    assert trainer.callback_metrics["train/ada_r"] == pytest.approx(wanted.item())
    assert abs(wanted) < 1


def test_p_is_logged(make_trainer):
    trainer = make_trainer(log_every_n_steps=1)
    trainer.fit(tiny(GAN, augment=at(0.25)), loader(make_batches(1)))
    assert trainer.callback_metrics["train/ada_p"] == 0.25


def test_a_loss_of_the_users_own_may_judge_all_at_once(make_trainer):
    class Together(GAN):
        def discriminator_loss(self, real, fake, labels):
            return losses.discriminator_loss(*self.logits(torch.cat([real, fake]), None).chunk(2))

    trainer, model = make_trainer(log_every_n_steps=1), tiny(Together, discriminator=Known(), augment=ADA(["blit"]))
    trainer.fit(model, loader([bright(6)]))
    assert trainer.callback_metrics["train/ada_r"] == 0.5


def test_every_discriminator_has_its_own_p(make_trainer):
    augment = ADA(ramp_images=40, interval=1)
    model = CycleGAN((1, 16, 16), width=4, num_blocks=1, num_layers=1, pool_size=2, augment=augment)
    batches = [(images, -images) for images, _ in make_batches(2, 2, (1, 16, 16))]
    make_trainer().fit(model, loader(batches))
    assert set(augment.state) == {"target_discriminator", "source_discriminator"}
    for state in augment.state.values():
        assert state["p"] in (0.0, pytest.approx(0.05), pytest.approx(0.1)) and not state["counts"].any()


# --- what is shown ------------------------------------------------------------------------------------------


def test_with_p_0_nothing_changes(make_trainer):
    first = tiny(DCGAN, d_steps=2)
    second = tiny(DCGAN, d_steps=2, augment=ADA(TRANSFORMS, 0.99, ramp_images=10**9, fakes_as_real=True))
    second.load_state_dict(first.state_dict())
    first.run_seed = second.run_seed = 3
    for model in (first, second):
        make_trainer().fit(model, loader(make_batches(6)))
    assert same(first, second)


def test_the_discriminator_sees_what_the_pipeline_returns(make_trainer):
    seen, model = [], tiny(GAN, augment=at(0.7, transforms=TRANSFORMS))
    model.discriminator.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    real = make_batches(1)[0][0]
    first_losses(make_trainer(), model, real)
    fake = model.generator(first_noise(model))

    def drawn(size, *key, place):
        return randomness.rand((BATCH, size), model.run_seed, Stream.AUGMENT, 0, *place, *key)

    for shown, images, place in zip(seen, (real, fake, fake), ((0, 0), (0, 1), (1, 0)), strict=True):
        wanted = transformed(images, TRANSFORMS, 0.7, partial(drawn, place=place))
        torch.testing.assert_close(shown, wanted)
        assert not shown.equal(images)


def test_a_source_is_changed_as_its_image_is(make_trainer):
    seen = []
    model = Pix2Pix((3, 16, 16), width=4, num_layers=1, norm="none", augment=at(0.9, transforms=("blit", "geometry")))
    model.discriminator.register_forward_pre_hook(lambda module, args: seen.append(args))
    images = make_batches(1, 8, (3, 16, 16))[0][0]
    first_losses(make_trainer(), model, (images, images.clone()))
    target, source = seen[0]
    assert target.equal(source) and not target.equal(images)
    assert not seen[1][1].equal(source)  # the fake and its source have their own numbers


@pytest.mark.parametrize("model", ["gan", "vae_gan"])
def test_some_real_images_are_replaced_by_generated_ones_in_the_discriminators_loss(make_trainer, model):
    given = {}
    augment = at(0.5, transforms=(), fakes_as_real=True)
    if model == "gan":
        model = tiny(ConditionalGAN, augment=augment)
    else:
        model = VAEGAN(SHAPE, LATENT_DIM, 3, width=4, augment=augment)
    own_loss = model.discriminator_loss

    def noting(real, fake, labels):
        given.update(real=real, fake=fake)
        return own_loss(real, fake, labels)

    model.discriminator_loss = noting
    batch = make_batches(1)[0]
    first_losses(make_trainer(), model, batch)
    replaced = randomness.rand((BATCH, 1), model.run_seed, Stream.REPLACE, 0, 0).flatten() < 0.5
    assert 0 < replaced.sum() < BATCH
    wanted = torch.where(replaced.view(-1, 1, 1, 1), given["fake"][-BATCH:], batch[0])
    assert given["real"].equal(wanted) and not given["real"].equal(batch[0])


# --- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", losses.ADVERSARIAL_LOSSES)
def test_every_loss_trains_with_ada_and_penalties(make_trainer, loss):
    options = {"penalties": {"r1": 0.1, "r2": 0.1}, "penalty_interval": 2, "batch_norm": False}
    augment = ADA(TRANSFORMS, -0.9, interval=1, ramp_images=20, fakes_as_real=True)
    start = tiny(DCGAN, loss=loss, augment=augment, **options)
    model = copy.deepcopy(start)
    make_trainer().fit(model, loader(make_batches(4)))
    assert not same(start.generator, model.generator) and not same(start.discriminator, model.discriminator)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_mixed_precision_trains(make_trainer):
    model = tiny(DCGAN, augment=at(0.9, transforms=TRANSFORMS), penalties={"r1": 0.1}, batch_norm=False)
    make_trainer(precision="bf16-mixed").fit(model, loader(make_batches(2)))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_checkpoint_has_p_and_loads_without_an_augmentation(make_trainer, tmp_path):
    augment, path = ADA(ramp_images=100, interval=3, target=-0.9), tmp_path / "last.ckpt"
    trainer = make_trainer()
    trainer.fit(tiny(GAN, augment=augment), loader(make_batches(5)))
    trainer.save_checkpoint(path)
    about = torch.load(path, weights_only=True)["lightning_gans"]
    assert about["missing"] == [] and "augment" not in about["arguments"]
    assert about["states"]["augment"]["discriminator"]["p"] == augment.probability() > 0
    assert lightning_gans.load(path).sample(2, seed=0).shape == (2, *SHAPE)
    again = ADA(ramp_images=100, interval=3, target=-0.9)
    make_trainer().fit(tiny(GAN, augment=again), loader(make_batches(5)), ckpt_path=path)
    assert again.probability() == augment.probability()
    assert again.state["discriminator"]["counts"].equal(augment.state["discriminator"]["counts"])


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("transforms", ["colour"], "colour"),
        *(("transforms", value, value) for value in ("color", [])),
        *(("target", value, value) for value in (1.0, -1.0, None)),
        *(("interval", value, value) for value in (0, 1.5)),
        ("ramp_images", 0, 0),
    ],
)
def test_settings_out_of_range_are_invalid(setting, value, named):
    with pytest.raises(SettingError) as error:
        ADA(**{setting: value})
    assert (error.value.setting, error.value.value) == (setting, named)


@pytest.mark.parametrize("value", [ADA, "ada", {"ada": 0.6}, None])
def test_augment_is_a_list_or_an_augmentation(value):
    with pytest.raises(SettingError) as error:
        tiny(GAN, augment=value)
    assert error.value.setting == "augment"


def test_sequences_are_not_augmented():
    with pytest.raises(SettingError) as error:
        RecurrentGAN(image_shape=(1, 8), hidden_dim=4, augment=ADA())
    assert error.value.setting == "augment"
