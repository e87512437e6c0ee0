"""Pix2Pix and CycleGAN against their losses by hand, and what every model that translates can do."""

import copy
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_gans import SRGAN, CycleGAN, Pix2Pix, SettingError, load, randomness
from lightning_gans.models.translation import in_tiles
from lightning_gans.networks import PatchDiscriminator, SRResNet, UNet
from lightning_gans.randomness import Stream
from lightning_gans.training.regularizers import FeatureMatching
from tests.toys import Toys, Updates, loader, quiet_trainer, weights

SHAPE = (1, 8, 16)
# Neither BatchNorm nor dropout: how the batch is divided makes no difference.
MODELS = {
    Pix2Pix: {"width": 2, "norm": "none", "dropout": 0.0, "num_layers": 1},
    CycleGAN: {"width": 2, "num_blocks": 1, "num_layers": 1, "pool_size": 5, "affine": True, "cycle_noise": 0.1},
    SRGAN: {"width": 2, "num_blocks": 1, "norm": "none"},
}


def make(cls, image_shape=SHAPE, **options):
    """Make a model whose sources are as large as its targets."""
    same = {"source_shape": image_shape} if cls is SRGAN else {}
    return cls(image_shape, **{**same, **MODELS[cls], **options})


def tiny(cls, **options):
    torch.manual_seed(0)
    model = make(cls, **options)
    model.run_seed = 5
    return model


def pairs(count, size=4, source_shape=SHAPE, shape=SHAPE, seed=0):
    source = torch.Generator().manual_seed(seed)
    return [tuple(torch.rand(size, *s, generator=source) * 2 - 1 for s in (source_shape, shape)) for _ in range(count)]


def train(model, batches, folder, callbacks=(), checkpoint=None, **options):
    options = {"max_epochs": 1, "log_every_n_steps": 1, "num_sanity_val_steps": 0, **options}
    trainer = quiet_trainer(folder, callbacks=list(callbacks), **options)
    trainer.fit(model, loader(batches), ckpt_path=checkpoint)
    return trainer


def by_hand(loss, *networks):
    """Return each network's gradient of a loss, flat."""
    parameters = [list(network.parameters()) for network in networks]
    gradients = torch.autograd.grad(loss, [p for of in parameters for p in of])
    flat, start = [], 0
    for of in parameters:
        flat.append(torch.cat([g.flatten() for g in gradients[start : start + len(of)]]))
        start += len(of)
    return flat


def step_of(network, gradient, lr=2e-4):
    """Make Adam's first step by hand: the sign of the gradient, all but for epsilon."""
    start = 0
    for parameter in network.parameters():
        g = gradient[start : start + parameter.numel()].view_as(parameter)
        parameter.data -= lr * g / (g.abs() + 1e-8)
        start += parameter.numel()


# --- the losses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("loss", ["nonsaturating", "hinge"])
def test_the_updates_of_pix2pix_are_those_of_the_paper(tmp_path, loss, conditional):
    model = tiny(Pix2Pix, loss=loss, conditional=conditional)
    ((source, target),), seen = pairs(1), Updates()
    generator, discriminator = (copy.deepcopy(n).double() for n in (model.generator, model.discriminator))
    train(model, [(source, target)], tmp_path, [seen], precision="64-true")

    source, target = source.double(), target.double()
    fake = generator(source)

    def judged(images):
        return discriminator.layers(torch.cat([images, source], 1) if conditional else images)

    real_logits, fake_logits = judged(target), judged(fake.detach())
    if loss == "hinge":
        of_d = (1 - real_logits).clamp(min=0).mean() + (1 + fake_logits).clamp(min=0).mean()
    else:
        of_d = -real_logits.sigmoid().log().mean() - (1 - fake_logits.sigmoid()).log().mean()
    (d_gradient,) = by_hand(of_d, discriminator)
    step_of(discriminator, d_gradient)
    logits = judged(fake)
    adversarial = -logits.mean() if loss == "hinge" else -logits.sigmoid().log().mean()
    (g_gradient,) = by_hand(adversarial + 100 * (fake - target).abs().mean(), generator)

    assert seen.names == ["discriminator", "generator"]
    torch.testing.assert_close(seen.gradients_of("discriminator")[0], d_gradient, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(seen.gradients_of("generator")[0], g_gradient, rtol=1e-6, atol=1e-10)


def test_the_updates_of_cycle_gan_are_those_of_the_paper(tmp_path):
    """Also in the second step, in which a discriminator is shown an image of the first one."""
    model, batches, seen = tiny(CycleGAN, pool_size=2), pairs(2, size=2), Updates()
    names = model.trained_networks
    train(model, batches, tmp_path, [seen], precision="64-true")
    before = {
        name: value.double() for name, value in copy.deepcopy(tiny(CycleGAN, pool_size=2)).networks(names).items()
    }
    pools, exchanged = ([], []), 0
    for number, (source, target) in enumerate(batches):
        source, target = source.double(), target.double()
        if number:  # the weights after the first step; what Adam makes of gradients is torch's affair
            for network, after in zip(before.values(), seen.seen[3].weights.values(), strict=True):
                for parameter, value in zip(network.parameters(), after, strict=True):
                    parameter.data = value
        to_target, to_source, d_target, d_source = before.values()
        fakes, of_d = (to_target(source), to_source(target)), 0
        for key, (network, real, fake) in enumerate(((d_target, target, fakes[0]), (d_source, source, fakes[1]))):
            uniforms = randomness.rand_at(torch.arange(2), 2, 5, Stream.POOL, number, key)
            shown, pool = [], pools[key]
            for image, (chance, which) in zip(fake.detach(), uniforms.tolist(), strict=True):
                if len(pool) < 2:
                    pool.append(image)
                elif chance < 0.5:
                    pool[int(2 * which)], image = image, pool[int(2 * which)]
                    exchanged += 1
                shown.append(image)
            of_d = of_d + (network(real) - 1).square().mean() / 2 + network(torch.stack(shown)).square().mean() / 2
        wanted = dict(zip(names[2:], by_hand(of_d, d_target, d_source), strict=True))
        for name, network in zip(names[2:], (d_target, d_source), strict=True):
            after = next(u for u in seen.seen[4 * number :] if u.name == names[3]).weights[name]
            for parameter, value in zip(network.parameters(), after, strict=True):
                parameter.data = value
        of_g = (d_target(fakes[0]) - 1).square().mean() + (d_source(fakes[1]) - 1).square().mean()
        noises = [
            randomness.randn((2, target[0].numel()), 5, stream, number, 0).double().view_as(target)
            for stream in (Stream.NOISE_ON_TARGET, Stream.NOISE_ON_SOURCE)
        ]
        noisy = [fake + 0.1 * noise for fake, noise in zip(fakes, noises, strict=True)]
        cycle = (to_source(noisy[0]) - source).abs().mean() + (to_target(noisy[1]) - target).abs().mean()
        identity = (to_source(source) - source).abs().mean() + (to_target(target) - target).abs().mean()
        loss = of_g + 10 * cycle + 5 * identity
        wanted |= dict(zip(names[:2], by_hand(loss, to_target, to_source), strict=True))
        for name, gradient in wanted.items():
            torch.testing.assert_close(seen.gradients_of(name)[number], gradient, rtol=1e-8, atol=1e-11)
    assert seen.names == [*names[2:], *names[:2]] * 2
    assert exchanged > 0
    for pool, images in zip((model.target_pool, model.source_pool), pools, strict=True):
        torch.testing.assert_close(pool.images, torch.stack(images), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cls", MODELS)
def test_only_the_active_networks_get_gradients_and_change(cls, tmp_path):
    model, seen = tiny(cls, penalties={"r1": 1.0}, loss="relativistic"), Updates()
    first = {name: weights(network) for name, network in model.networks(model.trained_networks).items()}
    train(model, pairs(1), tmp_path, [seen])
    of_discriminators = [u for u in seen.seen if "discriminator" in u.name]
    generators = [name for name in first if "discriminator" not in name]
    for update in of_discriminators:
        assert all(g is None for name in generators for g in update.gradients[name])
        assert all(a.equal(b) for name in generators for a, b in zip(update.weights[name], first[name], strict=True))
    kept, last = of_discriminators[-1], seen.seen[-1]
    for name in set(first) - set(generators):
        for a, b in zip(
            kept.gradients[name] + kept.weights[name], last.gradients[name] + last.weights[name], strict=True
        ):
            assert a.equal(b)


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize(
    "loss",
    [
        "hinge",
        *(
            pytest.param(loss, marks=pytest.mark.slow)
            for loss in ("nonsaturating", "minimax", "least_squares", "wasserstein", "relativistic")
        ),
    ],
)
def test_every_loss_trains_every_network_and_its_average(cls, loss, tmp_path):
    options = {"penalties": {"r1": 1.0, "wgan_gp": 1.0}, "augment": ["color", "translation", "cutout"]}
    model = tiny(cls, loss=loss, regularizers=[FeatureMatching(1.0)], **options)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = train(model, pairs(2), tmp_path)
    for name in (*model.trained_networks, *(f"ema.{name}" for name in model.averaged_networks)):
        assert any(not model.state_dict()[k].equal(v) for k, v in first.items() if k.startswith(f"{name}.")), name
    logged = {name.removeprefix("train/") for name in trainer.callback_metrics}
    terms = {Pix2Pix: {"l1"}, CycleGAN: {"cycle", "identity"}, SRGAN: {"content"}}[cls]
    assert logged == {"d_loss", "g_loss", "d_real", "d_fake", "r1", "wgan_gp", *terms}
    assert all(value.isfinite() for value in trainer.callback_metrics.values())


@pytest.mark.parametrize("cls", MODELS)
def test_the_discriminators_are_updated_d_steps_times(cls, tmp_path):
    model, seen = tiny(cls, d_steps=2), Updates()
    trainer = train(model, pairs(5), tmp_path, [seen])
    of_discriminators = [name for name in model.trained_networks if "discriminator" in name]
    generators = [name for name in model.trained_networks if "discriminator" not in name]
    assert seen.names == (of_discriminators * 2 + generators) * 2  # the fifth batch waits for a sixth
    assert trainer.global_step == 2


def test_each_of_the_d_steps_has_its_own_batch(tmp_path):
    model, batches, seen = tiny(Pix2Pix, d_steps=2, l1_weight=0.0, loss="wasserstein"), pairs(2), Updates()
    generator, discriminator = (copy.deepcopy(n).double() for n in (model.generator, model.discriminator))
    train(model, batches, tmp_path, [seen], precision="64-true")
    for number, (source, target) in enumerate(batches):
        source, target = source.double(), target.double()
        fake = generator(source)
        (gradient,) = by_hand(
            (discriminator(fake.detach(), source) - discriminator(target, source)).mean(), discriminator
        )
        torch.testing.assert_close(seen.gradients_of("discriminator")[number], gradient, rtol=1e-8, atol=1e-12)
        for parameter, value in zip(
            discriminator.parameters(), seen.seen[number].weights["discriminator"], strict=True
        ):
            parameter.data = value
    (gradient,) = by_hand(-discriminator(fake, source).mean(), generator)
    torch.testing.assert_close(seen.gradients_of("generator")[0], gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("cls", MODELS)
def test_other_optimizers_step_by_their_own_rule(cls, tmp_path):
    rates = {True: 0.5, False: 0.25}
    options = {
        f"{player}_optimizer": partial(torch.optim.SGD, lr=rates[player == "discriminator"])
        for player in ("generator", "discriminator")
    }
    model, seen = tiny(cls, **options), Updates()
    first = {name: weights(network) for name, network in model.networks(model.trained_networks).items()}
    train(model, pairs(1), tmp_path, [seen])
    for update in seen.seen:
        lr = rates["discriminator" in update.name]
        moved = zip(first[update.name], update.weights[update.name], update.gradients[update.name], strict=True)
        for before, after, gradient in moved:
            torch.testing.assert_close(after, before - lr * gradient)
    assert set(model.trained_networks) == set(seen.names)


@pytest.mark.parametrize("cls", MODELS)
def test_the_second_decay_rate_ends_at_its_end(cls, tmp_path):
    trainer = train(tiny(cls, beta2_end=0.9), pairs(3), tmp_path)
    assert all(
        optimizer.param_groups[0]["betas"] == (pytest.approx(trainer.model.betas[0]), 0.9)
        for optimizer in trainer.optimizers
    )
    options = {"beta2_end": 0.9, "generator_optimizer": partial(torch.optim.SGD, lr=0.1)}
    with pytest.raises(SettingError) as error:
        train(tiny(cls, **options), pairs(1), tmp_path)
    assert (error.value.setting, error.value.value) == ("beta2_end", 0.9)


@pytest.mark.slow
def test_accumulated_batches_are_one_batch(tmp_path):
    (source, target), *_ = pairs(1, size=8)
    for cls in MODELS:
        whole, parts = tiny(cls), tiny(cls, accumulate_batches=2)
        train(whole, [(source, target)] * 3, tmp_path, precision="64-true")
        halves = [(source[k : k + 4], target[k : k + 4]) for k in (0, 4)]
        train(parts, halves * 3, tmp_path, precision="64-true")
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-9, atol=1e-9)


def test_a_source_is_augmented_like_its_translation(tmp_path):
    shown = []

    class Spy(PatchDiscriminator):
        def forward(self, images, condition):
            shown.append((images.detach().clone(), condition.detach().clone()))
            return super().forward(images, condition)

    policies = ["color", "translation", "cutout"]
    model = tiny(Pix2Pix, discriminator=Spy(2, 1, 2, "none"), augment=policies)
    shown.clear()  # of the check of its size
    ((source, _),) = pairs(1)
    train(model, [(source, source)], tmp_path)
    images, condition = shown[0]
    assert images.equal(condition) and not images.equal(source)


@pytest.mark.slow
def test_the_l1_weight_alone_fits_the_targets(tmp_path):
    """The control without a discriminator; and that with none of the distance."""
    source = pairs(1, size=16)[0][0]
    ends = {}
    for name, changes in {"l1": {"adversarial_weight": 0.0}, "gan": {"l1_weight": 0.0}}.items():
        model = tiny(Pix2Pix, width=4, ema_half_life=0, generator_lr=5e-3, **changes)
        before = (model.translate(source) + source).abs().mean()
        train(model, [(source, -source)] * 40, tmp_path)
        ends[name] = ((model.translate(source) + source).abs().mean() / before).item()
    assert ends["l1"] < 0.6 < 0.8 < ends["gan"]


# --- translations and checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MODELS)
def test_a_checkpoint_alone_rebuilds_the_model(cls, tmp_path):
    model = tiny(cls, source_shape=(2, 8, 16), identity_weight=0.0) if cls is CycleGAN else tiny(cls)
    batches = pairs(8, source_shape=model.source_shape)
    trainer = train(model, batches, tmp_path)
    trainer.save_checkpoint(tmp_path / "end.ckpt", weights_only=False)
    again = load(tmp_path / "end.ckpt")
    assert type(again) is cls and again.source_shape == model.source_shape
    source, target = batches[0]
    for ema in (True, False):
        assert again.translate(source, ema=ema).equal(model.translate(source, ema=ema))
    if cls is CycleGAN:
        assert again.translate(target, to="source").equal(model.translate(target, to="source"))
        assert again.target_pool.images.equal(model.target_pool.images) and again.target_pool.images.abs().min() > 0
    assert again.arguments == model.arguments
    torch.testing.assert_close(again(source), again.translate(source))


def test_a_translation_does_not_depend_on_its_batch_or_on_the_mode():
    model = tiny(Pix2Pix, norm="batch", dropout=0.5)
    images = torch.rand(60, *SHAPE) * 2 - 1
    whole = model.train().translate(images)
    assert model.generator.training and whole.dtype == torch.float32 and whole.shape == (60, *SHAPE)
    torch.testing.assert_close(model.eval().translate(images[50:53]), whole[50:53])
    assert model.translate(torch.zeros(2, 1, 24, 40)).shape == (2, 1, 24, 40)
    assert model.translate(images[:0]).shape == (0, *SHAPE)


def test_small_sources_are_enlarged(tmp_path):
    model = tiny(Pix2Pix, source_shape=(1, 4, 8))
    assert isinstance(model.generator, SRResNet) and model.generator.scale == 2
    train(model, pairs(2, source_shape=(1, 4, 8)), tmp_path)
    made = model.translate(torch.ones(3, 1, 6, 10))
    assert made.shape == (3, 1, 12, 20) and made.abs().max() <= 1
    assert isinstance(tiny(Pix2Pix, source_shape=(3, 8, 16)).generator, UNet)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_outside_of_holes_an_output_is_the_source_bit_for_bit(precision, tmp_path):
    model, data = tiny(Pix2Pix, image_shape=(1, 8, 8), inpaint=True), Toys(task="inpaint_random", flip=False)
    shown = []
    model.discriminator.register_forward_pre_hook(lambda _, given: shown.append([part.detach() for part in given]))
    trainer = quiet_trainer(tmp_path, max_steps=4, precision=precision, limit_val_batches=0)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "end.ckpt", weights_only=False)
    sources = torch.cat([source for source, _ in data.val_dataloader()])
    for outputs, source in ((load(tmp_path / "end.ckpt").translate(sources), sources), *shown):
        outside = source[:, -1:] < 0
        assert outside.any() and not outside.all()
        assert outputs[outside].equal(source[:, :-1][outside])
        assert not outputs[~outside].eq(0).any()  # the source's


def test_tasks_feed_the_models(tmp_path):
    for cls in MODELS:
        model, data = tiny(cls, image_shape=(1, 8, 8)), Toys(task="denoise", flip=False)
        trainer = quiet_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
        trainer.fit(model, data)
        predictions = torch.cat(trainer.predict(model, data))
        assert predictions.shape == (8, 1, 8, 8)
        assert predictions.equal(model.translate(torch.cat([source for source, _ in data.test_dataloader()])))


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: tiny(Pix2Pix).sample(2), "latent_dim"),
        (lambda: Pix2Pix((3, 100, 100), depth=3), "image_shape"),
        (lambda: Pix2Pix((1, 27, 28)), "image_shape"),
        (lambda: Pix2Pix(SHAPE, loss="l2"), "loss"),
        (lambda: Pix2Pix(SHAPE, l1_weight=-1), "l1_weight"),
        (lambda: CycleGAN(SHAPE, pool_size=-1), "pool_size"),
        (lambda: Pix2Pix(SHAPE, norm="layer"), "norm"),
        (lambda: Pix2Pix(SHAPE, SHAPE, inpaint=True), "source_shape"),
        (lambda: Pix2Pix((8, 16)), "image_shape"),
        (lambda: Pix2Pix(28), "image_shape"),
        *[
            (lambda cls=cls: cls((3, 32, 32), source_shape=(3, 32)), "source_shape")
            for cls in (Pix2Pix, CycleGAN, SRGAN)
        ],
        (lambda: Pix2Pix((3, 30, 31)), "image_shape"),
        (lambda: Pix2Pix((3, 32, 48), depth=5), "image_shape"),
        *[
            (lambda size=size: Pix2Pix((3, 32, 32), (3, *size)), "source_shape")
            for size in [(16, 8), (64, 64), (15, 16)]
        ],
        (lambda: Pix2Pix((3, 48, 48), (3, 16, 16)), "scale"),
        (lambda: in_tiles(torch.neg, torch.zeros(1, *SHAPE), 4, 4), "overlap"),
        (lambda: tiny(CycleGAN, source_shape=(1, 16, 16)), "source_shape"),
        (lambda: tiny(CycleGAN, source_shape=(3, 8, 16)), "identity_weight"),
        (lambda: tiny(CycleGAN).translate(torch.zeros(1, *SHAPE), to="both"), "to"),
        (lambda: tiny(CycleGAN).translate(torch.zeros(1, 2, 8, 16), to="source"), "image_shape"),
        (lambda: tiny(Pix2Pix).translate(torch.zeros(1, 2, 24, 16)), "source_shape"),
    ],
)
def test_invalid_settings_are_named(make, setting):
    with pytest.raises(SettingError) as error:
        make()
    assert error.value.setting == setting


@pytest.mark.parametrize("size", [(64, 64), (50, 90), (20, 70), (24, 24), (8, 100)])
def test_tiles_are_the_whole_image_away_from_their_edges(size):
    network = nn.Sequential(nn.Conv2d(2, 3, 5, padding=2), nn.Upsample(scale_factor=2), nn.Conv2d(3, 1, 3, padding=1))
    images = torch.rand(2, 2, *size)
    with torch.no_grad():
        whole, tiled = network(images), in_tiles(network, images, 24, 8)
        # As many of its pixels as an output depends on are wrong at the edge of a tile: 3 of the source.
        trusted = torch.ones(size, dtype=torch.bool)
        for dim, side in enumerate(size):
            starts = [*range(0, max(0, side - 24), 16), max(0, side - 24)]
            edges = [k for start in starts for k in (start, start + 24) if 0 < k < side]
            for edge in edges:
                trusted.movedim(dim, 0)[edge - 3 : edge + 3] = False
    assert tiled.shape == whole.shape
    trusted = trusted.repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(tiled[:, :, trusted], whole[:, :, trusted])
    assert bool((~trusted).any()) == (max(size) > 24) == (not torch.allclose(tiled, whole, atol=1e-3))


def test_tiles_are_blended_linearly():
    shown = iter((0.0, 1.0))
    made = in_tiles(lambda part: torch.full_like(part, next(shown)), torch.zeros(1, 1, 4, 12), 8, 4)
    assert made[0, 0, 2].tolist() == pytest.approx([0] * 4 + [0.2, 0.4, 0.6, 0.8] + [1] * 4)


@pytest.mark.parametrize(
    ("shapes", "setting"),
    [(((3, 8, 16), SHAPE), "source_shape"), ((SHAPE, (1, 8, 8)), "image_shape")],
)
def test_data_of_another_shape_are_named_before_the_first_update(tmp_path, shapes, setting):
    for cls in MODELS:
        model = tiny(cls)
        before = weights(model)
        with pytest.raises(SettingError) as error:
            train(model, pairs(1, source_shape=shapes[0], shape=shapes[1]), tmp_path)
        assert error.value.setting == setting
        assert all(a.equal(b) for a, b in zip(before, weights(model), strict=True))


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: Pix2Pix((3, 16, 16)), "num_layers"),
        (lambda: tiny(Pix2Pix, discriminator=PatchDiscriminator(3, 1, 2)), "in_channels"),
        (lambda: tiny(Pix2Pix, discriminator=nn.Linear(7, 1)), "discriminator"),  # takes no source
        (lambda: tiny(CycleGAN, num_layers=3), "num_layers"),
        (lambda: tiny(CycleGAN, source_discriminator=nn.Conv2d(2, 1, 1)), "source_discriminator"),
        (lambda: tiny(CycleGAN, target_discriminator=nn.Conv2d(1, 1, 9)), "target_discriminator"),
        (lambda: tiny(SRGAN, discriminator=nn.Sequential(nn.Flatten(), nn.Linear(64, 1))), "discriminator"),
        (lambda: tiny(SRGAN, discriminator=nn.Sequential(nn.Flatten(), nn.Linear(128, 2))), "discriminator"),
    ],
)
def test_a_discriminator_that_cannot_take_the_images_is_named_at_once(make, setting):
    with pytest.raises(SettingError) as error:
        make()
    assert error.value.setting == setting


def test_checking_a_discriminator_changes_neither_it_nor_the_random_numbers():
    discriminator = PatchDiscriminator(2, 1, 2)
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    model = tiny(Pix2Pix)
    state = torch.get_rng_state()
    model.discriminator = discriminator
    model.check_discriminator("discriminator", SHAPE, SHAPE)
    assert discriminator.training and torch.get_rng_state().equal(state)
    assert all(value.equal(before[name]) for name, value in discriminator.state_dict().items())


def test_a_generator_of_another_shape_is_named(tmp_path):
    with pytest.raises(SettingError) as error:
        train(tiny(Pix2Pix, generator=nn.Conv2d(1, 3, 1)), pairs(1), tmp_path)
    assert error.value.setting == "image_shape" and error.value.allowed == (3, 8, 16)


# --- resuming and processes -----------------------------------------------------------------------------------------


def run(cls, folder, processes=1, rank=0, steps=50, checkpoint=None, precision="64-true", **options):
    """Train on pairs made from single images; the networks are to become the first process's."""
    torch.manual_seed(rank)
    model = make(cls, (1, 8, 8), **options)
    model.run_seed = 5 + rank
    data = Toys(num_images=60, batch_size=4 // processes, task="denoise", jitter=2, flip=False)
    trainer = quiet_trainer(
        folder,
        precision=precision,
        max_epochs=-1,
        max_steps=steps,
        limit_val_batches=0,
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
    )
    trainer.fit(model, data, ckpt_path=checkpoint)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("cls", [Pix2Pix, CycleGAN])  # SRGAN has a test of its own
def test_a_resumed_run_ends_with_the_same_bits(cls, tmp_path):
    """The pools are full by then."""
    options = {"norm": "instance", "precision": "32-true"}
    whole = run(cls, tmp_path, steps=40, **options)
    part = run(cls, tmp_path, steps=17, **options)
    part.save_checkpoint(tmp_path / "part.ckpt", weights_only=False)
    again = run(cls, tmp_path, steps=40, rank=3, checkpoint=tmp_path / "part.ckpt", **options)
    assert again.global_step == whole.global_step == 40
    for name, value in whole.lightning_module.state_dict().items():
        assert again.lightning_module.state_dict()[name].equal(value), name
    for one, other in zip(whole.optimizers, again.optimizers, strict=True):
        for first, second in zip(one.state_dict()["state"].values(), other.state_dict()["state"].values(), strict=True):
            assert all(first[key].equal(second[key]) for key in first)


# With InstanceNorm, rounding errors grow a millionfold in 50 steps, in one process as well. Biases before
# it are left out: their gradients are rounding errors, which Adam makes large.
DIVIDED = [*((cls, "none", 50) for cls in MODELS), (CycleGAN, "instance", 5)]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_make_the_updates_of_one(tmp_path):
    """The pools are full and exchange images by then."""
    code = (
        "import os, torch; from pathlib import Path; from tests.models import test_translation as t\n"
        "rank = int(os.environ.get('LOCAL_RANK', '0'))\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "for case, (cls, norm, steps) in enumerate(t.DIVIDED):\n"
        "    trainer = t.run(cls, folder, processes=2, rank=rank, norm=norm, steps=steps)\n"
        "    torch.save(dict(trainer.lightning_module.state_dict()), folder / f'{case}-{rank}.pt')\n"
    )
    (tmp_path / "run.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=350
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for case, (cls, norm, steps) in enumerate(DIVIDED):
        alone = run(cls, tmp_path, norm=norm, steps=steps).lightning_module.state_dict()
        for rank in range(2):
            found = torch.load(tmp_path / f"{case}-{rank}.pt")
            for name, value in alone.items():
                if norm == "none" or not name.endswith("bias"):
                    assert (found[name] - value).norm() <= 1e-10 * max(1.0, value.norm()), (cls.__name__, rank, name)


def test_an_image_without_a_batch_is_told_what_is_missing():
    with pytest.raises(SettingError, match="channel dimension is missing"):
        tiny(Pix2Pix).translate(torch.zeros(SHAPE))
