"""Terms of the losses: penalties, feature matching, auxiliary classifiers, wrong labels, custom ones; augmentation."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_gans import (
    DCGAN,
    GAN,
    R3GAN,
    VAE,
    VAEGAN,
    ConditionalGAN,
    CycleGAN,
    DataError,
    Pix2Pix,
    RecurrentGAN,
    ResNetGAN,
    SettingError,
    augment,
    load,
    losses,
    penalties,
    randomness,
)
from lightning_gans.networks import DCGANDiscriminator, MLPDiscriminator, MLPEncoder, MLPGenerator
from lightning_gans.randomness import Stream
from lightning_gans.training.regularizers import (
    BCR,
    CR,
    PENALTIES,
    R1,
    ZCR,
    FeatureMatching,
    LeCam,
    Regularizer,
    ZCRDiversity,
)
from tests.toys import LATENT_DIM, NUM_CLASSES, SHAPE, loader, make_batches, same, tiny, weights
from tests.training.stepping import first_losses, first_noise, gradients, like

SMOOTH = {"loss": "relativistic", "penalties": {"r1": 0.3, "r2": 0.7}}


def fit(trainer, model, batches):
    trainer.fit(model, loader(batches))
    return model


# --- penalties ----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_is_added_to_the_discriminators_loss_with_its_weight(make_trainer, name):
    (real, labels), plain = make_batches(1)[0], tiny(GAN)
    model = like(tiny(GAN, penalties={name: 3.0}), plain)
    with_penalty, _ = first_losses(make_trainer(), model, (real, labels))
    without, _ = first_losses(make_trainer(), plain, (real, labels))
    fake = model.generator(first_noise(model)).detach()
    penalty = 3 * by_hand(name, model, real, fake)
    torch.testing.assert_close(with_penalty, without + penalty)
    assert (with_penalty - without).item() > 1e-4
    found, of_plain = gradients(with_penalty, model.discriminator), gradients(without, plain.discriminator)
    for total, first, second in zip(found, of_plain, gradients(penalty, model.discriminator), strict=True):
        torch.testing.assert_close(total, first + second)


@pytest.mark.parametrize("d_steps", [1, 2])
def test_three_steps_of_relativistic_pairing_equal_a_hand_written_loop(make_trainer, d_steps):
    model = tiny(GAN, d_steps=d_steps, generator_lr=0.01, discriminator_lr=0.02, **SMOOTH).double()
    G, D = copy.deepcopy(model.generator), copy.deepcopy(model.discriminator)
    batches = make_batches(3 * d_steps, 4)
    fit(make_trainer(), model, batches)

    def half_squared_norm(images):
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(D(images).sum(), images, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean() / 2

    G_optimizer = torch.optim.Adam(G.parameters(), lr=0.01, betas=(0.5, 0.999))
    D_optimizer = torch.optim.Adam(D.parameters(), lr=0.02, betas=(0.5, 0.999))
    for number, (images, _) in enumerate(batches):
        step, update = divmod(number, d_steps)
        real = images.double()
        fake = G(randomness.randn((4, LATENT_DIM), model.run_seed, Stream.NOISE, step, update).double())
        D_optimizer.zero_grad()
        loss = -(D(real) - D(fake.detach())).sigmoid().log().mean()
        (loss + 0.3 * half_squared_norm(real) + 0.7 * half_squared_norm(fake)).backward()
        D_optimizer.step()
        if update == d_steps - 1:
            G_optimizer.zero_grad()
            (-(D(fake) - D(real)).sigmoid().log().mean()).backward()
            G_optimizer.step()
    for own, hand in ((model.generator, G), (model.discriminator, D)):
        for name, value in hand.state_dict().items():
            torch.testing.assert_close(own.state_dict()[name], value, rtol=0, atol=1e-12)


def test_a_lazy_penalty_comes_with_every_nth_update_and_n_times_its_weight(make_trainer):
    applied = []

    class Lazy(Regularizer):
        def __call__(self, turn):
            applied.append((turn.step.global_step, turn.step.update_index, self.weight_in(turn.step)))
            return turn.real.new_zeros(())

    model = tiny(GAN, regularizers=[Lazy(0.5, every=3)], d_steps=2)
    fit(make_trainer(), model, make_batches(6))
    assert applied == [(1, 0, 1.5), (2, 1, 1.5)]  # the third and the sixth of six updates


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
def test_feature_matching_is_added_to_the_generators_loss(make_trainer, norm, adversarial_weight):
    batch = make_batches(1)[0]
    options = {"feature_matching_norm": norm, "adversarial_weight": adversarial_weight}
    model = tiny(GAN, feature_matching=0.5, **options)
    _, found = first_losses(make_trainer(), model, batch)
    fake = model.generator(first_noise(model))
    features = [model.discriminator.hidden(images.flatten(1)) for images in (batch[0], fake)]
    wanted = 0.5 * losses.feature_matching_loss(*features, 1 if norm == "l1" else 2)
    wanted = wanted + adversarial_weight * losses.nonsaturating_generator_loss(model.discriminator(fake))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, model.generator), gradients(wanted, model.generator))


def test_the_feature_layer_is_the_one_named(make_trainer):
    batch, model = make_batches(1)[0], tiny(GAN, feature_matching=1.0, feature_layer="hidden", adversarial_weight=0.0)
    _, found = first_losses(make_trainer(), model, batch)
    fake = model.generator(first_noise(model))
    torch.testing.assert_close(found, losses.feature_matching_loss(batch[0], fake))  # its input: the pixels


def test_each_term_has_the_features_of_its_own_layer(make_trainer):
    batch = make_batches(1)[0]
    model = tiny(GAN, adversarial_weight=0.0, feature_matching=1.0, regularizers=[FeatureMatching(1.0, layer="hidden")])
    _, found = first_losses(make_trainer(), model, batch)
    fake = model.generator(first_noise(model))
    features = [model.discriminator.hidden(images.flatten(1)) for images in (batch[0], fake)]
    wanted = losses.feature_matching_loss(*features) + losses.feature_matching_loss(batch[0], fake)
    torch.testing.assert_close(found, wanted)


def test_a_feature_layer_that_is_not_called_is_invalid(make_trainer):
    class Unused(MLPDiscriminator):
        def __init__(self):
            super().__init__(SHAPE, [6])
            self.unused = nn.Linear(1, 1)

    model = tiny(GAN, discriminator=Unused(), feature_matching=1.0, feature_layer="unused")
    with pytest.raises(SettingError) as error:
        fit(make_trainer(), model, make_batches(1))
    assert error.value.setting == "feature_layer"


# --- auxiliary classifier ---------------------------------------------------------------------------------


class Classifying(nn.Module):
    """A discriminator with an auxiliary classifier."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(math.prod(SHAPE), 1 + NUM_CLASSES)

    def forward(self, images, labels=None):
        found = self.layer(images.flatten(1))
        return found[:, 0], found[:, 1:]


def test_the_auxiliary_classifiers_cross_entropy_is_in_both_losses(make_trainer):
    batch = make_batches(1)[0]
    model = tiny(ConditionalGAN, discriminator=Classifying(), auxiliary_weight=0.25)
    of_d, of_g = first_losses(make_trainer(), model, batch)
    real, labels = batch
    fake = model.generator(first_noise(model), labels)
    (real_logits, real_classes), (fake_logits, fake_classes) = model.discriminator(real), model.discriminator(fake)
    entropies = [F.cross_entropy(classes, labels) for classes in (real_classes, fake_classes)]
    torch.testing.assert_close(of_d, losses.discriminator_loss(real_logits, fake_logits) + 0.25 * sum(entropies))
    torch.testing.assert_close(of_g, losses.nonsaturating_generator_loss(fake_logits) + 0.25 * entropies[1])
    none = like(tiny(ConditionalGAN, discriminator=Classifying(), auxiliary_weight=0.0), model)
    _, of_g = first_losses(make_trainer(), none, batch)
    torch.testing.assert_close(of_g, losses.nonsaturating_generator_loss(fake_logits))


def judged_sizes(model):
    """Note how many images each call of the discriminator judges."""
    sizes = []
    model.discriminator.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    return sizes


def test_feature_matching_alone_leaves_the_generator_its_class_loss(make_trainer):
    batch = make_batches(1)[0]
    options = {"feature_matching": 1.0, "adversarial_weight": 0.0}
    model = tiny(ConditionalGAN, discriminator=Classifying(), auxiliary_weight=0.25, **options)
    sizes = judged_sizes(model)
    _, of_g = first_losses(make_trainer(), model, batch)
    assert sizes == [8] * 4  # real and fake for either update: the fake's class and its features take one call
    real, labels = batch
    fake = model.generator(first_noise(model), labels)
    wanted = losses.feature_matching_loss(real.flatten(1), fake.flatten(1), 2)
    wanted = wanted + 0.25 * F.cross_entropy(model.discriminator(fake)[1], labels)
    torch.testing.assert_close(of_g, wanted)
    torch.testing.assert_close(gradients(of_g, model.generator), gradients(wanted, model.generator))


class Together(ConditionalGAN):
    """Judges real and generated images in one call."""

    def discriminator_loss(self, real, fake, labels):
        logits = self.logits(torch.cat([real, fake]), torch.cat([labels, labels]))
        return losses.discriminator_loss(*logits.chunk(2))


def test_the_classifier_learns_beside_a_loss_that_judges_all_at_once(make_trainer):
    batch, first, found = make_batches(1)[0], tiny(ConditionalGAN, discriminator=Classifying()), []
    for model in (first, like(tiny(Together, discriminator=Classifying()), first)):
        loss, _ = first_losses(make_trainer(), model, batch)
        found.append([loss, *gradients(loss, model.discriminator)])
    torch.testing.assert_close(*found)


def test_without_a_classifier_nothing_is_judged_twice(make_trainer):
    for cls, options, wanted in (
        (Together, {}, [16, 8]),
        (ConditionalGAN, {}, [8, 8, 8]),
        (ConditionalGAN, {"feature_matching": 1.0, "adversarial_weight": 0.0}, [8, 8, 8, 8]),
    ):
        model = tiny(cls, **options)
        sizes = judged_sizes(model)
        first_losses(make_trainer(), model, make_batches(1)[0])
        assert sizes == wanted


# --- wrong labels -------------------------------------------------------------------------------------------


def test_real_images_with_wrong_labels_share_the_fakes_half_of_the_loss(make_trainer):
    batch = real, labels = make_batches(1)[0]
    model = tiny(ConditionalGAN, mismatch_weight=0.25)
    of_d, of_g = first_losses(make_trainer(), model, batch)
    fake = model.generator(first_noise(model), labels).detach()
    wrong = (labels + 1 + torch.arange(8) % (NUM_CLASSES - 1)) % NUM_CLASSES
    assert not (wrong == labels).any() and len((wrong - labels).remainder(NUM_CLASSES).unique()) == 2
    right, shown, mismatched = (model.discriminator(*pair) for pair in ((real, labels), (fake, labels), (real, wrong)))
    wanted = 0.75 * losses.discriminator_loss(right, shown) + 0.25 * losses.discriminator_loss(right, mismatched)
    torch.testing.assert_close(of_d, wanted)
    torch.testing.assert_close(gradients(of_d, model.discriminator), gradients(wanted, model.discriminator))
    torch.testing.assert_close(of_g, losses.nonsaturating_generator_loss(shown))


def test_wrong_labels_are_invalid_where_the_logit_does_not_see_them(make_trainer):
    options = {"mismatch_weight": 0.5, "num_classes": NUM_CLASSES}
    resnet = {"generator_width": 4, "discriminator_width": 4, "conditioning": "auxiliary"}
    ResNetGAN(SHAPE, LATENT_DIM, **{**options, "num_classes": 0}, **resnet)
    ResNetGAN(SHAPE, LATENT_DIM, **options, **{**resnet, "conditioning": "projection"})
    for model in (
        lambda: ResNetGAN(SHAPE, LATENT_DIM, **options, **resnet),
        lambda: tiny(ConditionalGAN, discriminator=Classifying(), **options),
    ):
        with pytest.raises(SettingError) as error:
            fit(make_trainer(), model(), make_batches(1))
        assert (error.value.setting, error.value.value) == ("mismatch_weight", 0.5)


# --- LeCam ------------------------------------------------------------------------------------------------


def test_lecam_pulls_logits_to_the_averages_of_the_earlier_updates(make_trainer):
    seen = []

    class Noting(LeCam):
        def __call__(self, turn):
            term = super().__call__(turn)
            seen.append((turn.logits(turn.real).detach(), turn.logits(turn.fake).detach(), term.item()))
            return term

    model = tiny(GAN, regularizers=[Noting(0.5, decay=0.8)], d_steps=2, discriminator_lr=0.1)
    fit(make_trainer(), model, make_batches(6))
    assert len(seen) == 6
    for update, (real, fake, term) in enumerate(seen):
        # The weights of the earlier updates are 1, 0.8, 0.64 ..., from the last one to the first.
        weights = [0.8**age for age in range(update)]
        of_real, of_fake = (
            sum(w * seen[update - 1 - age][kind].mean() for age, w in enumerate(weights)) / sum(weights, start=1e-30)
            for kind in (0, 1)
        )
        wanted = (real - of_fake).square().mean() + (fake - of_real).square().mean()
        assert term == pytest.approx(wanted.item(), rel=1e-5)
    assert seen[-1][2] != pytest.approx((seen[-1][0].square().mean() + seen[-1][1].square().mean()).item(), rel=0.01)


def test_lecam_has_averages_for_each_discriminator(make_trainer):
    term = LeCam(0.5)
    model = CycleGAN((1, 16, 16), width=4, num_blocks=1, num_layers=1, pool_size=2, regularizers=[term])
    images = [(images, -images) for images, _ in make_batches(2, 2, (1, 16, 16))]
    fit(make_trainer(), model, images)
    assert set(term.state) == {"target_discriminator", "source_discriminator"}
    assert not term.state["target_discriminator"].equal(term.state["source_discriminator"])


def test_a_state_is_in_checkpoints_and_does_not_outlive_another_run(make_trainer, tmp_path):
    term, path = LeCam(0.5), tmp_path / "last.ckpt"
    trainer = make_trainer()
    trainer.fit(tiny(GAN, regularizers=[term]), loader(make_batches(2)))
    trainer.save_checkpoint(path)
    again = LeCam(0.5)
    trainer = make_trainer()
    trainer.fit(tiny(GAN, regularizers=[again]), loader(make_batches(2)), ckpt_path=path)
    assert again.state["discriminator"].equal(term.state["discriminator"])
    assert load(path).sample(2, seed=0).shape == (2, *SHAPE)  # without the regularizer
    content = torch.load(path, weights_only=True)
    for damaged in ([], {"lecam": 1}):
        content["lightning_gans"]["states"] = damaged
        torch.save(content, path)
        with pytest.raises(DataError):
            make_trainer().fit(tiny(GAN, regularizers=[LeCam(0.5)]), loader(make_batches(2)), ckpt_path=path)


class Counting(Regularizer):
    """Counts its calls."""

    def __call__(self, turn):
        self.state["calls"] = self.state.get("calls", 0) + 1
        return turn.logits(turn.real).square().mean()


def test_a_state_follows_its_term_to_another_place_in_the_list(make_trainer, tmp_path):
    path = tmp_path / "last.ckpt"
    trainer = make_trainer()
    trainer.fit(tiny(GAN, regularizers=[Counting(0.1), Counting(0.2, every=2)]), loader(make_batches(4)))
    trainer.save_checkpoint(path)
    first, second = Counting(0.1), Counting(0.2, every=2)
    model = tiny(GAN, penalties={"r1": 0.1}, regularizers=[LeCam(0.1), first, second])
    with pytest.warns(UserWarning, match="The run continues with lecam, r1, unlike before"):
        make_trainer().fit(model, loader(make_batches(4)), ckpt_path=path)
    assert (first.state["calls"], second.state["calls"]) == (4, 2)


@pytest.mark.parametrize(("before", "after", "said"), [(0.5, None, "without counting"), (None, 0.5, "with counting")])
def test_a_resumed_run_says_which_terms_it_lacks(make_trainer, tmp_path, before, after, said):
    path = tmp_path / "last.ckpt"
    trainer = make_trainer()
    trainer.fit(tiny(GAN, regularizers=[Counting(before)] if before else []), loader(make_batches(2)))
    trainer.save_checkpoint(path)
    model = tiny(GAN, regularizers=[Counting(after)] if after else [])
    with pytest.warns(UserWarning, match=f"The run continues {said}, unlike before"):
        make_trainer().fit(model, loader(make_batches(2)), ckpt_path=path)
    content = torch.load(path, weights_only=True)
    for damaged in ([1], 5, "abc"):
        content["lightning_gans"]["terms"] = damaged
        torch.save(content, path)
        with pytest.raises(DataError):
            load(path)


@pytest.mark.parametrize(
    ("body", "setting"),
    [
        ({"name": "d_loss"}, "G_Wrong.name"),
        ({"name": "augment"}, "G_Wrong.name"),
        ({"name": "r1.2"}, "G_Wrong.name"),
        ({"players": "generator"}, "g_wrong.players"),
        ({"players": ("Generator",), "name": "g_wrong"}, "g_wrong.players"),
        ({"__init__": lambda self: None}, "G_Wrong"),
    ],
)
def test_a_class_that_cannot_work_is_refused(body, setting):
    cls = type("G_Wrong", (Regularizer,), body)
    with pytest.raises(SettingError) as error:
        tiny(GAN, regularizers=[cls() if "__init__" in body else cls(1.0)])
    assert error.value.setting == setting


# --- consistency ------------------------------------------------------------------------------------------


def flipped_and_shifted(images, uniforms):
    """Change images one by one: mirror below 1/2, then shift by -1, 0 or 1 of 8 pixels, with zeros from outside."""
    changed = []
    for image, (mirror, down, right) in zip(images, uniforms.tolist(), strict=True):
        image = image.flip(2) if mirror < 0.5 else image
        down, right = int(3 * down) - 1, int(3 * right) - 1
        changed.append(F.pad(image, (right, -right, down, -down)))
    return torch.stack(changed)


@pytest.mark.parametrize("cls", [CR, BCR])
def test_consistency_is_the_change_of_the_logits(make_trainer, cls):
    (real, labels), plain = make_batches(1)[0], tiny(ConditionalGAN)
    model = like(tiny(ConditionalGAN, regularizers=[cls(10.0)]), plain)
    (found, of_g), (without, plain_of_g) = (first_losses(make_trainer(), m, (real, labels)) for m in (model, plain))
    fake = model.generator(first_noise(model), labels).detach()
    term = 0
    for key, images in enumerate((real, fake) if cls is BCR else (real,)):
        changed = flipped_and_shifted(images, randomness.rand((8, 3), model.run_seed, Stream.CONSISTENCY, 0, 0, key))
        assert not changed.equal(images)
        difference = model.discriminator(images, labels) - model.discriminator(changed, labels)
        term = term + 10 * difference.square().mean()
    torch.testing.assert_close(found, without + term)
    networks = (model.discriminator, plain.discriminator, model.discriminator)
    of_each = map(gradients, (found, without, term), networks)
    for total, one, other in zip(*of_each, strict=True):
        torch.testing.assert_close(total, one + other)
    assert of_g.equal(plain_of_g)


def test_a_source_is_changed_as_its_image_is(make_trainer):
    shown = []
    options = {"width": 4, "num_layers": 1, "norm": "none", "regularizers": [BCR(1.0)]}
    model = Pix2Pix((1, 16, 16), **options)
    model.discriminator.register_forward_pre_hook(lambda module, args: shown.append(args))
    images = make_batches(1, 8, (1, 16, 16))[0][0]
    first_losses(make_trainer(), model, (images, images.clone()))
    target, source = shown[2]  # real and fake, then the changed real
    assert target.equal(source) and not target.equal(images)
    fake, source_of_fake = shown[3]
    assert fake.shape == source_of_fake.shape and not source_of_fake.equal(source)


def test_zcr_perturbs_the_latents(make_trainer):
    real, plain = make_batches(1)[0][0], tiny(DCGAN)
    model = like(tiny(DCGAN, regularizers=[ZCR(5.0, sigma=0.2), ZCRDiversity(0.5, sigma=0.2)]), plain)
    (found, of_g), (without, plain_of_g) = (first_losses(make_trainer(), m, real) for m in (model, plain))
    noise = randomness.randn((8, LATENT_DIM), model.run_seed, Stream.CONSISTENCY, 0, 0)
    fake, near = (model.generator(z) for z in (first_noise(model), first_noise(model) + 0.2 * noise))
    difference = model.discriminator(fake.detach()) - model.discriminator(near.detach())
    torch.testing.assert_close(found, without + 5 * difference.square().mean())
    torch.testing.assert_close(of_g, plain_of_g - 0.5 * (fake - near).square().mean())
    wanted = gradients(-0.5 * (fake - near).square().mean(), model.generator)
    for total, one, other in zip(
        gradients(of_g, model.generator), gradients(plain_of_g, plain.generator), wanted, strict=True
    ):
        torch.testing.assert_close(total, one + other)
    assert all(gradient.isfinite().all() for gradient in wanted) and any(gradient.any() for gradient in wanted)


@pytest.mark.parametrize(
    ("make", "term"),
    [
        (lambda **options: RecurrentGAN((1, 8), hidden_dim=4, **options), CR(1.0)),
        (lambda **options: VAEGAN(SHAPE, LATENT_DIM, width=4, **options), ZCR(1.0)),
        (lambda **options: Pix2Pix((1, 16, 16), width=4, num_layers=1, **options), ZCRDiversity(1.0)),
    ],
    ids=["sequences", "an encoder", "no noise"],
)
def test_consistency_where_it_has_no_meaning_is_invalid(make_trainer, make, term):
    model = make(regularizers=[term])
    images = 2 * torch.rand(4, *model.image_shape) - 1
    with pytest.raises(SettingError) as error:
        make_trainer().fit(model, loader([(images, images) if model.batch_kind == "pairs" else images]))
    assert (error.value.setting, error.value.value) == ("regularizers", term)


# --- custom ones --------------------------------------------------------------------------------------------


class Brightness(Regularizer):
    """Pulls the mean of generated images to 0, in the generator's loss."""

    players = ("generator",)

    def __call__(self, turn):
        return turn.fake.mean().square()


def test_a_custom_regularizer_is_added_to_a_players_loss_and_logged(make_trainer):
    batch, plain = make_batches(1)[0], tiny(GAN)
    model = like(tiny(GAN, regularizers=[Brightness(2.0)]), plain)
    found, without = first_losses(make_trainer(), model, batch), first_losses(make_trainer(), plain, batch)
    fake = model.generator(first_noise(model))
    torch.testing.assert_close(found, [without[0], without[1] + 2 * fake.mean().square()])
    trainer = make_trainer(log_every_n_steps=1)
    fit(trainer, model, [batch])
    assert trainer.callback_metrics["train/brightness"] == pytest.approx(fake.mean().item() ** 2, rel=1e-4)
    assert "regularizers" not in model.arguments


def test_a_turn_has_its_own_random_numbers_for_each_image(make_trainer):
    found = []

    class Drawing(Regularizer):
        def __call__(self, turn):
            found.append((turn.uniform(2, 1000, 5), turn.uniform(2, 1000, 5, sets=2)))
            return turn.real.new_zeros(())

    model = tiny(GAN, regularizers=[Drawing(1.0)], d_steps=2)
    fit(make_trainer(), model, make_batches(2))
    assert len(found) == 2
    for update, (one, two) in enumerate(found):
        rows = randomness.rand((8, 4), model.run_seed, 1000, 0, update, 5)
        assert one.equal(randomness.rand((8, 2), model.run_seed, 1000, 0, update, 5))
        assert two.equal(torch.cat([rows[:, :2], rows[:, 2:]]))


@pytest.mark.parametrize(("player", "updates"), [("discriminator", [1, 3, 5, 7]), ("generator", [1, 3])])
def test_a_lazy_term_counts_the_updates_of_its_player(make_trainer, player, updates):
    found = []

    class Lazy(Regularizer):
        players = (player,)

        def __call__(self, turn):
            found.append(turn.step.global_step * (2 if player == "discriminator" else 1) + turn.step.update_index)
            return turn.fake.sum() * 0

    fit(make_trainer(), tiny(GAN, regularizers=[Lazy(1.0, every=2)], d_steps=2), make_batches(8))
    found = found if player == "discriminator" else [step - 1 for step in found]  # the number of the last update is 1
    assert found == updates


# --- augmentation -------------------------------------------------------------------------------------------


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


def test_penalties_are_of_the_image_before_its_augmentation(make_trainer):
    batch, model = make_batches(1)[0], tiny(GAN, penalties={"r1": 1.0}, augment=["cutout"])
    found, _ = first_losses(make_trainer(), model, batch)
    fake = model.generator(first_noise(model)).detach()

    def discriminator(images, call):
        uniforms = randomness.rand((8, augment.NUM_UNIFORMS), model.run_seed, Stream.AUGMENT, 0, 0, call)
        return model.discriminator(augment.diff_augment(images, ["cutout"], uniforms)).flatten()

    wanted = losses.discriminator_loss(discriminator(batch[0], 0), discriminator(fake, 1))
    wanted = wanted + penalties.r1(lambda images: discriminator(images, 0), batch[0])
    torch.testing.assert_close(found, wanted)


def test_outside_of_a_step_nothing_is_augmented(make_trainer):
    model = fit(make_trainer(), tiny(GAN, augment=["color"]), make_batches(1))
    images = make_batches(1)[0][0]
    assert model.logits(images, None).equal(model.discriminator(images).flatten())
    assert not model.discriminator._forward_pre_hooks and not model.discriminator._forward_hooks


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "setting", "value"),
    [
        ({"penalties": {"r3": 1.0}}, "penalties", "r3"),
        ({"penalties": {1: 0.5}}, "penalties", 1),
        ({"penalties": ["r1"]}, "penalties", ["r1"]),
        *(({"penalties": {"r1": weight}}, "penalties.r1", weight) for weight in (-1.0, math.inf, None)),
        ({"penalty_interval": 0}, "penalty_interval", 0),
        ({"penalty_end": 1.5}, "penalty_end", 1.5),
        ({"feature_matching": -1.0}, "feature_matching", -1.0),
        ({"feature_matching_norm": "l3"}, "feature_matching_norm", "l3"),
        ({"auxiliary_weight": -1.0}, "auxiliary_weight", -1.0),
        ({"mismatch_weight": 1.0}, "mismatch_weight", 1.0),
        ({"mismatch_weight": -0.5}, "mismatch_weight", -0.5),
        ({"adversarial_weight": 0.0}, "adversarial_weight", 0),
        ({"augment": "color"}, "augment", "color"),
        ({"augment": ["colour"]}, "augment", "colour"),
    ],
)
def test_settings_out_of_range_are_invalid(options, setting, value):
    with pytest.raises(SettingError) as error:
        tiny(GAN, **options)
    assert (error.value.setting, error.value.value) == (setting, value)


@pytest.mark.parametrize(
    ("options", "setting"),
    [({"weight": -1.0}, "brightness.weight"), ({"weight": 1, "every": 0}, "every"), ({"weight": 1, "end": 2}, "end")],
)
def test_settings_of_a_custom_regularizer_are_checked(options, setting):
    with pytest.raises(SettingError) as error:
        Brightness(**options)
    assert error.value.setting == setting


@pytest.mark.parametrize(
    ("cls", "networks", "setting", "allowed"),
    [
        (
            ConditionalGAN,
            {"discriminator": MLPDiscriminator(SHAPE, num_classes=5)},
            "discriminator.num_classes",
            3,
        ),
        (ConditionalGAN, {"generator": MLPGenerator(SHAPE, 4, [6], num_classes=0)}, "generator.num_classes", 3),
        (GAN, {"generator": MLPGenerator(SHAPE, 7, [6])}, "generator.latent_dim", LATENT_DIM),
        (GAN, {"discriminator": DCGANDiscriminator((3, 8, 8), 4)}, "discriminator.image_shape", SHAPE),
        (VAE, {"encoder": MLPEncoder(SHAPE, 5, [6])}, "encoder.latent_dim", LATENT_DIM),
    ],
)
def test_networks_of_other_sizes_than_the_models_are_invalid(cls, networks, setting, allowed):
    with pytest.raises(SettingError) as error:
        tiny(cls, **networks)
    assert (error.value.setting, error.value.allowed) == (setting, allowed)


def test_a_custom_network_may_mean_something_else_by_num_classes():
    class Own(MLPDiscriminator):
        """Has as many classes as logits."""

    network = Own(SHAPE, [6])
    network.num_classes = 1
    tiny(GAN, discriminator=network)


def test_sequences_are_not_augmented():
    with pytest.raises(SettingError) as error:
        RecurrentGAN(image_shape=(1, 8), hidden_dim=4, augment=["cutout"])
    assert error.value.setting == "augment"


@pytest.mark.parametrize("cls", [GAN, DCGAN, ConditionalGAN])
@pytest.mark.parametrize("loss", losses.ADVERSARIAL_LOSSES)
def test_every_loss_trains_every_model_with_penalties(make_trainer, cls, loss):
    start = tiny(cls, loss=loss, penalties=dict.fromkeys(PENALTIES, 0.1), generator_lr=0.01)
    model = fit(make_trainer(), copy.deepcopy(start), make_batches(2))
    assert not same(start.generator, model.generator)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_generator_loss_of_weight_0_is_not_computed(make_trainer):
    class Unused(GAN):
        def generator_loss(self, real, fake, labels):
            raise AssertionError("this has the weight 0")

    fit(make_trainer(), tiny(Unused, adversarial_weight=0.0, feature_matching=1.0, dropout=0.5), make_batches(2))


@pytest.mark.parametrize("make", [lambda **o: tiny(GAN, **o), lambda **o: VAEGAN(SHAPE, LATENT_DIM, width=4, **o)])
@pytest.mark.parametrize("value", [R1(1.0), R1, [R1], {"r1": 1.0}, None, [R1(1.0), "r2"]])
def test_regularizers_are_a_list_of_instances(make, value):
    with pytest.raises(SettingError) as error:
        make(regularizers=value)
    assert error.value.setting == "regularizers"


class Off(Regularizer):
    """Returns what is not a scalar."""

    def __call__(self, turn):
        return {"rows": turn.logits(turn.real), "number": 1.0}[self.kind]


@pytest.mark.parametrize("kind", ["rows", "number"])
def test_a_term_is_a_scalar(make_trainer, kind):
    term = Off(1.0)
    term.kind = kind
    with pytest.raises(SettingError, match=r"Off\(1\.0.*a scalar"):
        make_trainer().fit(tiny(GAN, regularizers=[term]), loader(make_batches(1)))


def test_a_loss_is_a_scalar(make_trainer):
    class Rows(GAN):
        def generator_loss(self, real, fake, labels):
            return self.logits(fake, labels)

    with pytest.raises(SettingError) as error:
        make_trainer().fit(tiny(Rows), loader(make_batches(1)))
    assert (error.value.setting, error.value.value) == ("loss", [8])


class Both(Regularizer):
    """Has a term in both losses: 1 in the discriminator's, 2 in the generator's."""

    players = ("discriminator", "generator")

    def __call__(self, turn):
        return turn.fake.mean() * 0 + {"discriminator": 1, "generator": 2}[turn.player]


class OfGenerator(R1):
    players = ("generator",)
    name = "r1"

    def __call__(self, turn):
        return turn.fake.mean() * 0 + 3


def test_terms_of_both_players_have_a_key_each(make_trainer):
    trainer = make_trainer(log_every_n_steps=1)
    terms = [Both(1.0), OfGenerator(1.0)]
    trainer.fit(tiny(GAN, penalties={"r1": 1.0, "r2": 1.0}, regularizers=terms), loader(make_batches(1)))
    logged = trainer.callback_metrics
    assert (logged["train/d_both"], logged["train/g_both"], logged["train/g_r1"]) == (1, 2, 3)
    assert {"train/d_r1", "train/r2"} <= logged.keys() and not {"train/r1", "train/both"} & logged.keys()
