"""What is added to the losses: penalties, feature matching, an auxiliary classifier, augmentation, schedules."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_gans import (
    DCGAN,
    GAN,
    R3GAN,
    VAE,
    ConditionalGAN,
    RecurrentGAN,
    ResNetGAN,
    SettingError,
    augment,
    losses,
    penalties,
    randomness,
)
from lightning_gans.networks import DCGANDiscriminator, MLPDiscriminator, MLPEncoder, MLPGenerator
from lightning_gans.penalties import PENALTIES
from lightning_gans.randomness import Stream
from tests.toys import LATENT_DIM, NUM_CLASSES, SHAPE, loader, make_batches, same, tiny, weights

SMOOTH = {"loss": "relativistic", "penalties": {"r1": 0.3, "r2": 0.7}}


def fit(trainer, model, batches):
    trainer.fit(model, loader(batches))
    return model


def first_losses(model, trainer, batch):
    """Return both losses of a model's first step, with their graphs."""
    model.trainer = trainer
    found = list(model.losses_of(model.batch_parts(batch)[0]))
    assert len(found) == 2
    return found


@pytest.fixture
def trainer(make_trainer):
    trainer = make_trainer()
    fit(trainer, tiny(GAN), make_batches(1))
    trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.reset()
    assert trainer.global_step == 0
    return trainer


# --- penalties --------------------------------------------------------------------------------------------


def by_hand(name, model, real, fake):
    def discriminator(images):
        return model.discriminator(images).flatten()

    key = (model.run_seed, Stream.PENALTY, 0, 0)
    return {
        "r1": lambda: penalties.r1(discriminator, real),
        "r2": lambda: penalties.r2(discriminator, fake),
        "wgan_gp": lambda: penalties.wgan_gp(discriminator, real, fake, randomness.rand((8, 1), *key).flatten()),
        "dragan": lambda: penalties.dragan(
            discriminator,
            real,
            (rows := randomness.rand((8, 65), *key, 1))[:, 1:].view_as(real),
            rows[:, 0],
        ),
    }[name]()


@pytest.mark.parametrize("name", penalties.PENALTIES)
def test_a_penalty_is_added_to_the_discriminators_loss_with_its_weight(trainer, name):
    (real, labels), plain = make_batches(1)[0], tiny(GAN)
    model = tiny(GAN, penalties={name: 3.0})
    model.load_state_dict(plain.state_dict())
    model.run_seed = plain.run_seed
    with_penalty, _ = first_losses(model, trainer, (real, labels))
    without, _ = first_losses(plain, trainer, (real, labels))
    fake = model.generator(model.noise(8, 0)).detach()
    wanted = without + 3 * by_hand(name, model, real, fake)
    torch.testing.assert_close(with_penalty, wanted)
    assert (with_penalty - without).item() > 1e-4
    parameters = list(model.discriminator.parameters())
    found = torch.autograd.grad(with_penalty, parameters)
    of_plain = torch.autograd.grad(without, list(plain.discriminator.parameters()))
    of_penalty = torch.autograd.grad(3 * by_hand(name, model, real, fake), parameters, allow_unused=True)
    for total, first, second in zip(found, of_plain, of_penalty, strict=True):
        torch.testing.assert_close(total, first if second is None else first + second)


@pytest.mark.parametrize("d_steps", [1, 2])
def test_three_steps_of_relativistic_pairing_equal_a_hand_written_loop(make_trainer, d_steps):
    model = tiny(GAN, d_steps=d_steps, generator_lr=0.01, discriminator_lr=0.02, **SMOOTH).double()
    G, D = copy.deepcopy(model.generator), copy.deepcopy(model.discriminator)
    batches = make_batches(3, 4 * d_steps)
    fit(make_trainer(), model, batches)

    def half_squared_norm(images):
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(D(images).sum(), images, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean() / 2

    G_optimizer = torch.optim.Adam(G.parameters(), lr=0.01, betas=(0.5, 0.999))
    D_optimizer = torch.optim.Adam(D.parameters(), lr=0.02, betas=(0.5, 0.999))
    for step, (images, _) in enumerate(batches):
        for part, real in enumerate(images.double().split(4)):
            fake = G(randomness.randn((4, LATENT_DIM), model.run_seed, Stream.NOISE, step, part).double())
            D_optimizer.zero_grad()
            loss = -(D(real) - D(fake.detach())).sigmoid().log().mean()
            (loss + 0.3 * half_squared_norm(real) + 0.7 * half_squared_norm(fake)).backward()
            D_optimizer.step()
        G_optimizer.zero_grad()
        (-(D(fake) - D(real)).sigmoid().log().mean()).backward()
        G_optimizer.step()
    for own, hand in ((model.generator, G), (model.discriminator, D)):
        for name, value in hand.state_dict().items():
            torch.testing.assert_close(own.state_dict()[name], value, rtol=0, atol=1e-12)


def test_a_lazy_penalty_comes_at_every_so_manieth_update_with_its_weight_times_that(make_trainer):
    weights = []

    class Noted(GAN):
        def penalty_weights(self, number):
            weights.append((number, dict(super().penalty_weights(number))))
            return super().penalty_weights(number)

    fit(make_trainer(), tiny(Noted, penalties={"r1": 0.5}, penalty_interval=3, d_steps=2), make_batches(3, 8))
    assert weights == [(number, {"r1": 1.5} if number % 3 == 2 else {}) for number in range(6)]


def test_the_logits_of_the_loss_serve_the_penalties(make_trainer):
    calls = []
    model = tiny(GAN, **SMOOTH)
    model.discriminator.register_forward_hook(lambda *_: calls.append(1))
    fit(make_trainer(), model, make_batches(1))
    assert len(calls) == 4  # real and fake in the discriminator's update, fake and real in the generator's


def test_under_autocast_penalties_have_a_forward_pass_of_their_own(make_trainer):
    types = []
    model = tiny(GAN, penalties={"r1": 1.0})
    model.discriminator.register_forward_hook(lambda module, inputs, logits: types.append(logits.dtype))
    fit(make_trainer(precision="bf16-mixed"), model, make_batches(1))
    assert types == [torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16]


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: DCGAN(SHAPE, LATENT_DIM, width=4, batch_norm=False, dense_dims=[6], **options),
        lambda **options: ResNetGAN(SHAPE, LATENT_DIM, generator_width=4, discriminator_width=4, **options),
        lambda **options: R3GAN(SHAPE, LATENT_DIM, widths=[8, 4], blocks=1, **options),
        lambda **options: RecurrentGAN(SHAPE, LATENT_DIM, hidden_dim=4, cell="gru", **options),
        lambda **options: RecurrentGAN(SHAPE, LATENT_DIM, hidden_dim=4, cell="lstm", **options),
    ],
    ids=["dcgan", "resnet", "r3gan", "gru", "lstm"],
)
def test_every_penalty_differentiates_every_network_under_autocast(make_trainer, make):
    model = make(penalties=dict.fromkeys(PENALTIES, 0.1), augment=["color"])
    before = weights(model.discriminator)
    fit(make_trainer(precision="bf16-mixed"), model, make_batches(1))
    assert not same(before, weights(model.discriminator))


def test_lazy_penalties_are_logged_where_the_rhythms_meet(make_trainer):
    trainer = make_trainer(log_every_n_steps=4)
    fit(trainer, tiny(GAN, penalties={"r1": 1.0}, penalty_interval=2), make_batches(4))
    assert "train/r1" in trainer.callback_metrics


def test_penalties_are_logged_unweighted(make_trainer):
    trainer = make_trainer(log_every_n_steps=1)
    fit(trainer, tiny(GAN, penalties={"r1": 0.0, "r2": 100.0}), make_batches(1))
    logged = trainer.callback_metrics
    assert "train/r1" not in logged
    assert 0 < logged["train/r2"] < logged["train/d_loss"] / 100


def test_a_loss_of_the_users_own_is_penalized_too(make_trainer):
    class Mine(GAN):
        def discriminator_loss(self, real, fake, labels):
            return self.discriminator(fake).mean() - self.discriminator(real).mean()

    trainer = make_trainer(log_every_n_steps=1)
    fit(trainer, tiny(Mine, penalties={"wgan_gp": 10.0}), make_batches(1))
    logged = {name.removeprefix("train/"): value.item() for name, value in trainer.callback_metrics.items()}
    assert logged["d_loss"] == pytest.approx(logged["d_fake"] - logged["d_real"] + 10 * logged["wgan_gp"], rel=1e-4)


# --- feature matching -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("adversarial_weight", [0.0, 2.0])
def test_feature_matching_is_added_to_the_generators_loss(trainer, norm, adversarial_weight):
    batch = make_batches(1)[0]
    options = {"feature_matching_norm": norm, "adversarial_weight": adversarial_weight}
    model = tiny(GAN, feature_matching=0.5, **options)
    _, found = first_losses(model, trainer, batch)
    fake = model.generator(model.noise(8, 0))
    features = [model.discriminator.hidden(images.flatten(1)) for images in (batch[0], fake)]
    wanted = 0.5 * losses.feature_matching_loss(*features, 1 if norm == "l1" else 2)
    wanted = wanted + adversarial_weight * losses.nonsaturating_generator_loss(model.discriminator(fake))
    torch.testing.assert_close(found, wanted)
    generator = list(model.generator.parameters())
    for own, hand in zip(torch.autograd.grad(found, generator), torch.autograd.grad(wanted, generator), strict=True):
        torch.testing.assert_close(own, hand)


def test_the_feature_layer_is_the_one_named(trainer):
    batch, model = make_batches(1)[0], tiny(GAN, feature_matching=1.0, feature_layer="hidden", adversarial_weight=0.0)
    _, found = first_losses(model, trainer, batch)
    fake = model.generator(model.noise(8, 0))
    torch.testing.assert_close(found, losses.feature_matching_loss(batch[0], fake))  # its input: the pixels
    with pytest.raises(SettingError, match=r"feature_layer is 'hiden': choose from hidden"):
        tiny(GAN, feature_matching=1.0, feature_layer="hiden")


def test_a_discriminator_whose_features_are_watched_is_not_compiled():
    model = tiny(GAN, feature_matching=1.0)
    with pytest.warns(UserWarning, match="not compiled: feature_matching"):
        assert model.compilable_networks() == ("generator",)


# --- auxiliary classifier ---------------------------------------------------------------------------------


class Classifying(nn.Module):
    """A discriminator with an auxiliary classifier."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(math.prod(SHAPE), 1 + NUM_CLASSES)

    def forward(self, images, labels=None):
        found = self.layer(images.flatten(1))
        return found[:, 0], found[:, 1:]


def test_the_auxiliary_classifiers_cross_entropy_is_in_both_losses(trainer):
    batch = make_batches(1)[0]
    model = tiny(ConditionalGAN, discriminator=Classifying(), auxiliary_weight=0.25)
    of_d, of_g = first_losses(model, trainer, batch)
    real, labels = batch
    fake = model.generator(model.noise(8, 0), labels)
    (real_logits, real_classes), (fake_logits, fake_classes) = model.discriminator(real), model.discriminator(fake)
    entropies = [F.cross_entropy(classes, labels) for classes in (real_classes, fake_classes)]
    torch.testing.assert_close(of_d, losses.discriminator_loss(real_logits, fake_logits) + 0.25 * sum(entropies))
    torch.testing.assert_close(of_g, losses.nonsaturating_generator_loss(fake_logits) + 0.25 * entropies[1])
    none = tiny(ConditionalGAN, discriminator=Classifying(), auxiliary_weight=0.0)
    none.load_state_dict(model.state_dict())
    none.run_seed = model.run_seed
    torch.testing.assert_close(first_losses(none, trainer, batch)[1], losses.nonsaturating_generator_loss(fake_logits))


def judged_sizes(model):
    """Note how many images each call of the discriminator judges."""
    sizes = []
    model.discriminator.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    return sizes


def test_feature_matching_alone_leaves_the_generator_its_class_loss(trainer):
    batch = make_batches(1)[0]
    options = {"feature_matching": 1.0, "adversarial_weight": 0.0}
    model = tiny(ConditionalGAN, discriminator=Classifying(), auxiliary_weight=0.25, **options)
    sizes = judged_sizes(model)
    _, of_g = first_losses(model, trainer, batch)
    assert sizes == [8] * 4  # real and fake for either update: the fake's class and its features take one call
    real, labels = batch
    fake = model.generator(model.noise(8, 0), labels)
    wanted = losses.feature_matching_loss(real.flatten(1), fake.flatten(1), 2)
    wanted = wanted + 0.25 * F.cross_entropy(model.discriminator(fake)[1], labels)
    torch.testing.assert_close(of_g, wanted)
    generator = list(model.generator.parameters())
    for own, hand in zip(torch.autograd.grad(of_g, generator), torch.autograd.grad(wanted, generator), strict=True):
        torch.testing.assert_close(own, hand)


class Together(ConditionalGAN):
    """Judges real and generated images in one call."""

    def discriminator_loss(self, real, fake, labels):
        logits = self.logits(torch.cat([real, fake]), torch.cat([labels, labels]))
        return losses.discriminator_loss(*logits.chunk(2))


def test_the_classifier_learns_beside_a_loss_that_judges_all_at_once(trainer):
    batch, first, found = make_batches(1)[0], tiny(ConditionalGAN, discriminator=Classifying()), []
    for model in (first, tiny(Together, discriminator=Classifying())):
        model.load_state_dict(first.state_dict())
        model.run_seed = first.run_seed
        loss, _ = first_losses(model, trainer, batch)
        found.append([loss, *torch.autograd.grad(loss, list(model.discriminator.parameters()))])
    for apart, together in zip(*found, strict=True):
        torch.testing.assert_close(together, apart)


def test_without_a_classifier_nothing_is_judged_twice(trainer):
    for cls, options, wanted in (
        (Together, {}, [16, 8]),
        (ConditionalGAN, {}, [8, 8, 8]),
        (ConditionalGAN, {"feature_matching": 1.0, "adversarial_weight": 0.0}, [8, 8, 8, 8]),
    ):
        model = tiny(cls, **options)
        sizes = judged_sizes(model)
        first_losses(model, trainer, make_batches(1)[0])
        assert sizes == wanted


def test_wrong_labels_are_refused_where_the_logit_does_not_see_them(make_trainer):
    options = {"mismatch_weight": 0.5, "num_classes": NUM_CLASSES}
    resnet = {"generator_width": 4, "discriminator_width": 4, "conditioning": "auxiliary"}
    message = r"^mismatch_weight is 0\.5: it must be 0 with an auxiliary classifier"
    with pytest.raises(SettingError, match=message):
        ResNetGAN(SHAPE, LATENT_DIM, **options, **resnet)
    ResNetGAN(SHAPE, LATENT_DIM, **{**options, "num_classes": 0}, **resnet)
    ResNetGAN(SHAPE, LATENT_DIM, **options, **{**resnet, "conditioning": "projection"})
    with pytest.raises(SettingError, match=message):
        fit(make_trainer(), tiny(ConditionalGAN, discriminator=Classifying(), **options), make_batches(1))


# --- augmentation -----------------------------------------------------------------------------------------


def test_the_discriminator_sees_augmented_images_and_the_loss_the_others(make_trainer):
    seen, given = [], []

    class Mine(GAN):
        def discriminator_loss(self, real, fake, labels):
            given.extend([real, fake])
            return self.discriminator(fake).mean() - self.discriminator(images=real).mean()

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 1)

        def forward(self, images):
            seen.append(images)
            return self.layer(images.flatten(1))

    batch = make_batches(1)[0]
    model = tiny(Mine, discriminator=Named(), augment=["translation"])
    fit(make_trainer(), model, [batch])
    assert given[0].equal(batch[0])
    key = (model.run_seed, Stream.AUGMENT, 0)
    for place, images, row in ((0, given[1], (0, 0)), (1, given[0], (0, 1))):
        uniforms = randomness.rand((8, augment.NUM_UNIFORMS), *key, *row)
        torch.testing.assert_close(seen[place], augment.diff_augment(images, ["translation"], uniforms))
        assert not seen[place].equal(images)
    uniforms = randomness.rand((8, augment.NUM_UNIFORMS), *key, 1, 0)
    torch.testing.assert_close(seen[2], augment.diff_augment(given[1], ["translation"], uniforms))


def test_penalties_are_of_the_image_before_its_augmentation(trainer):
    batch, model = make_batches(1)[0], tiny(GAN, penalties={"r1": 1.0}, augment=["cutout"])
    found, _ = first_losses(model, trainer, batch)
    fake = model.generator(model.noise(8, 0)).detach()

    def discriminator(images, call):
        uniforms = model.uniform(8, augment.NUM_UNIFORMS, Stream.AUGMENT, 0, call)
        return model.discriminator(augment.diff_augment(images, ["cutout"], uniforms)).flatten()

    wanted = losses.discriminator_loss(discriminator(batch[0], 0), discriminator(fake, 1))
    wanted = wanted + penalties.r1(lambda images: discriminator(images, 0), batch[0])
    torch.testing.assert_close(found, wanted)


def test_outside_of_a_step_nothing_is_augmented(make_trainer):
    model = fit(make_trainer(), tiny(GAN, augment=["color"]), make_batches(1))
    images = make_batches(1)[0][0]
    assert model.logits(images, None).equal(model.discriminator(images).flatten())
    assert not model.discriminator._forward_pre_hooks and not model.discriminator._forward_hooks


# --- schedules --------------------------------------------------------------------------------------------


class Noted(Callback):
    """Notes what the schedules have set after each step."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, model, *args):
        groups = [optimizer.param_groups[0] for optimizer in model.optimizers()]
        weights = model.penalty_weights(0)
        self.rows.append([*(group["betas"][1] for group in groups), groups[0]["lr"], weights["r1"]])


@pytest.mark.parametrize(("horizon", "length"), [(None, 4), (16, 2), (64, 8)])
def test_schedules_go_along_half_a_cosine_and_then_stay(make_trainer, horizon, length):
    noted = Noted()
    model = tiny(
        GAN,
        penalties={"r1": 2.0},
        penalty_end=0.1,
        betas=(0.0, 0.9),
        beta2_end=0.99,
        generator_lr=1.0,
        lr_schedule="cosine",
        lr_end=0.25,
        schedule_images=horizon,
    )
    fit(make_trainer(callbacks=[noted], max_steps=4), model, make_batches(4, 8))
    for step, row in enumerate(noted.rows, start=1):
        left = (1 + math.cos(math.pi * min(step / length, 1))) / 2
        wanted = [0.99 - 0.09 * left] * 2 + [0.25 + 0.75 * left, 2 * (0.1 + 0.9 * left)]
        assert row == pytest.approx(wanted)
    assert noted.rows[0][0] != noted.rows[1][0]


def test_the_half_life_rises_from_its_start(make_trainer):
    def averaged(**options):
        model = tiny(GAN, ema_half_life=100, ema_ramp=1e9, generator_lr=0.1, **options)
        start = model.generator.output.bias.detach().clone()
        fit(make_trainer(max_steps=4), model, make_batches(4, 8))
        return start, model.generator.output.bias, model.generator_ema.output.bias

    _, weights, average = averaged(ema_start=0.0, schedule_images=10**9)
    torch.testing.assert_close(average, weights)  # still without memory
    start, weights, average = averaged()
    assert (average - start).abs().max() < (average - weights).abs().max()


@pytest.mark.parametrize("options", [{"beta2_end": 0.9}, {"penalties": {"r1": 1.0}, "penalty_end": 0.5}])
def test_a_schedule_without_an_end_is_refused(make_trainer, options):
    with pytest.raises(SettingError, match=r"schedule needs an end: set --trainer\.max_epochs"):
        make_trainer(max_epochs=-1).fit(tiny(GAN, **options), loader(make_batches(1)))


@pytest.mark.parametrize(
    "options",
    [{"beta2_end": 0.9}, {"penalties": {"r1": 1.0}, "penalty_end": 0.5}, {"lr_schedule": "linear"}, {"ema_start": 0.5}],
)
def test_a_schedule_over_a_loader_without_a_length_is_refused_or_has_an_end(make_trainer, options):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from make_batches(4)

    def run(**limits):
        model = tiny(GAN, **options)
        make_trainer(**limits).fit(model, DataLoader(Stream(), batch_size=None))
        return model

    with pytest.raises(SettingError, match=r"schedule needs an end, and the loader does not say how many batches"):
        run(max_epochs=2)
    assert run(max_steps=3).progress() == 1
    assert run(max_epochs=2, limit_train_batches=4).progress() == 1


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalties": {"r3": 1.0}}, "penalties is 'r3': choose from wgan_gp, r1, r2, dragan"),
        ({"penalties": {"r1": -1.0}}, r"penalties\.r1 is -1.0: it must be 0 or more"),
        ({"penalties": {"r1": math.inf}}, r"penalties\.r1 is inf: it must be a finite number"),
        ({"penalties": {"r1": None}}, r"penalties\.r1 is None: it must be a finite number"),
        ({"penalties": {1: 0.5}}, "penalties is 1: choose from"),
        ({"penalties": ["r1"]}, r"penalties is \['r1'\]: give the weight of each by its name"),
        ({"penalty_interval": 0}, "penalty_interval is 0"),
        ({"penalty_end": 1.5}, "penalty_end is 1.5: it must be between 0 and 1"),
        ({"beta2_end": 1.0}, "beta2_end is 1.0: .*from 0 to below 1"),
        ({"ema_start": -0.1}, "ema_start is -0.1"),
        ({"schedule_images": 0}, "schedule_images is 0"),
        ({"feature_matching": -1.0}, "feature_matching is -1.0"),
        ({"feature_layer": "nowhere"}, "feature_layer is 'nowhere': choose from hidden"),
        ({"feature_layer": ""}, "feature_layer is '': choose from hidden"),  # would be the images
        ({"feature_matching_norm": "l3"}, "feature_matching_norm is 'l3': choose from l1, l2"),
        ({"adversarial_weight": 0.0}, "the generator has no loss"),
        ({"augment": "color"}, "augment is 'color': give a list"),
        ({"augment": ["colour"]}, "augment is 'colour': choose from color, translation, cutout.*'color'"),
    ],
)
def test_what_there_is_not_is_refused_by_its_name(options, message):
    with pytest.raises(SettingError, match=message):
        tiny(GAN, **options)


def test_an_embedding_of_labels_has_no_features_of_images():
    with pytest.raises(SettingError, match=r"feature_layer is 'projection': choose from (?!.*projection)"):
        ResNetGAN((1, 16, 16), 4, 3, discriminator_width=4, feature_matching=1.0, feature_layer="projection")


@pytest.mark.parametrize(
    ("cls", "networks", "message"),
    [
        (
            ConditionalGAN,
            {"discriminator": MLPDiscriminator(SHAPE, [6], num_classes=5)},
            r"discriminator\.num_classes is 5, but the model's num_classes is 3",
        ),
        (
            ConditionalGAN,
            {"generator": MLPGenerator(SHAPE, 4, [6], num_classes=0)},
            r"generator\.num_classes is 0, but",
        ),
        (
            GAN,
            {"generator": MLPGenerator(SHAPE, 7, [6])},
            r"generator\.latent_dim is 7, but the model's latent_dim is 4: make",
        ),
        (
            GAN,
            {"discriminator": DCGANDiscriminator((3, 8, 8), 4)},
            r"discriminator\.image_shape is \[3, 8, 8\], but .* \[1, 8, 8\]",
        ),
        (VAE, {"encoder": MLPEncoder(SHAPE, 5, [6])}, r"encoder\.latent_dim is 5, but"),
    ],
)
def test_networks_of_other_sizes_than_the_models_are_refused(cls, networks, message):
    with pytest.raises(SettingError, match=message):
        tiny(cls, **networks)


def test_what_a_network_of_the_users_own_calls_its_classes_is_its_own_matter():
    class Own(MLPDiscriminator):
        """Has as many classes as logits."""

    network = Own(SHAPE, [6])
    network.num_classes = 1
    tiny(GAN, discriminator=network)


def test_sequences_are_not_augmented():
    with pytest.raises(SettingError, match=r"augment is \['cutout'\]: it is for images"):
        RecurrentGAN(image_shape=(1, 8), hidden_dim=4, augment=["cutout"])


@pytest.mark.parametrize("cls", [GAN, DCGAN, ConditionalGAN])
@pytest.mark.parametrize("loss", losses.ADVERSARIAL_LOSSES)
def test_every_loss_trains_every_model_with_penalties(make_trainer, cls, loss):
    start = tiny(cls, loss=loss, penalties=dict.fromkeys(penalties.PENALTIES, 0.1), generator_lr=0.01)
    model = fit(make_trainer(), copy.deepcopy(start), make_batches(2))
    assert not same(start.generator, model.generator)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
