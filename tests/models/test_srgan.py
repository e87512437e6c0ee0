"""SRGAN against its losses by hand: the content, the game, and the training before it."""

import copy
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from lightning_gans import SRGAN, DataError, GenerativeMetrics, SettingError, load
from lightning_gans.metrics import Translations
from lightning_gans.metrics.extractors import MNISTExtractor
from lightning_gans.networks import SRGANDiscriminator, SRResNet, efficientnet
from tests.callbacks.test_scores import Extractor
from tests.models.test_translation import by_hand, pairs, run, step_of, train
from tests.toys import Toys, Updates, quiet_trainer, same, weights

SHAPE, SMALL = (1, 8, 16), (1, 2, 4)
NETWORK = pytest.mark.skipif(find_spec("efficientnet_lite_pytorch") is None, reason="needs the extra efficientnet")


def tiny(**options):
    torch.manual_seed(0)
    model = SRGAN(SHAPE, **{"width": 2, "num_blocks": 1, "norm": "none", **options})
    model.run_seed = 5
    return model


def small_pairs(count, size=4):
    return pairs(count, size, SMALL, SHAPE)


class Features(nn.Module):
    """Two layers of features; they depend on the mode."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 3), nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), nn.BatchNorm2d(2))

    def forward(self, images):
        features = self.one(images)
        return features, self.two(features)


@pytest.fixture
def installed(monkeypatch):
    """Undo what all other tests get."""
    monkeypatch.setattr(efficientnet, "find_spec", find_spec)


# --- the losses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["pixels", "features"])
def test_the_updates_are_those_of_the_paper(tmp_path, content):
    network = Features().double() if content == "features" else nn.Identity()
    options = {"content_weight": 0.3, "adversarial_weight": 0.2}
    model, seen = tiny(content=network if content == "features" else content, **options), Updates()
    frozen = copy.deepcopy(network).eval()
    generator, discriminator = (copy.deepcopy(n).double() for n in (model.generator, model.discriminator))
    ((source, target),) = small_pairs(1)
    train(model, [(source, target)], tmp_path, [seen], precision="64-true")

    source, target = source.double(), target.double()
    fake = generator(source)
    of_d = -discriminator(target).sigmoid().log().mean() - (1 - discriminator(fake.detach()).sigmoid()).log().mean()
    (d_gradient,) = by_hand(of_d, discriminator)
    step_of(discriminator, d_gradient, lr=1e-4)
    if content == "features":
        distance = sum((a - b).square().mean() for a, b in zip(frozen(fake), frozen(target), strict=True)) / 2
    else:
        distance = (fake - target).square().mean()
    (g_gradient,) = by_hand(0.3 * distance - 0.2 * discriminator(fake).sigmoid().log().mean(), generator)

    assert seen.names == ["discriminator", "generator"]
    torch.testing.assert_close(seen.gradients_of("discriminator")[0], d_gradient, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(seen.gradients_of("generator")[0], g_gradient, rtol=1e-6, atol=1e-10)


def test_the_content_network_is_frozen_and_no_part_of_the_model(tmp_path):
    network = Features()
    before = copy.deepcopy(network.state_dict())
    model = tiny(content=network, regularizers=[])
    trainer = train(model, small_pairs(2), tmp_path)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    assert not {id(p) for p in network.parameters()} & {id(p) for p in model.parameters()}
    model.note_arguments(content={"class_path": "tests.models.test_srgan.Features"})  # as the command line does
    trainer.save_checkpoint(tmp_path / "end.ckpt", weights_only=False)
    again = load(tmp_path / "end.ckpt")
    assert again.state_dict().keys() == tiny().state_dict().keys()
    assert again.translate(small_pairs(1)[0][0]).equal(model.translate(small_pairs(1)[0][0]))


@NETWORK
def test_the_content_of_efficientnet_is_the_metric_perceptual(installed):
    images = torch.randint(256, (2, 2, 3, 224, 224), dtype=torch.uint8)
    outputs, targets = images // 2 + 60, images.flip(0) // 3
    outputs, targets = outputs[0], targets[0]
    metric = Translations(["perceptual"])
    metric.update(outputs, targets)
    model = SRGAN((3, 224, 224), width=1, num_blocks=1, content="efficientnet")
    fake = (outputs / 127.5 - 1).requires_grad_()
    loss = model.content_loss(fake, targets / 127.5 - 1)
    assert loss.item() == pytest.approx(metric.compute()["perceptual"].item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, fake)
    assert (gradient.abs().flatten(1).sum(1) > 0).all()


@NETWORK
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_efficientnet_trains_the_generator_on_small_images(installed, tmp_path, precision):
    model = tiny(content="efficientnet", adversarial_weight=0.0)
    first = weights(model.generator)
    trainer = train(model, small_pairs(1), tmp_path, precision=precision)
    assert not same(first, [weight.float() for weight in weights(model.generator)])
    assert trainer.callback_metrics["train/content"].isfinite()
    assert "efficientnet" in model.arguments["content"]


def test_a_missing_network_is_named_before_the_first_step_but_not_needed_to_translate(tmp_path):
    model = tiny(content="efficientnet")
    first = weights(model.discriminator)
    with pytest.raises(DataError) as error:
        train(model, small_pairs(1), tmp_path)
    assert error.value.setting == "efficientnet" and same(first, weights(model.discriminator))
    assert model.translate(torch.zeros(1, *SMALL)).shape == (1, *SHAPE)


# --- the training before the game -----------------------------------------------------------------------------------


def test_pretraining_is_the_mean_squared_error_of_the_generator_alone(tmp_path):
    model, seen = tiny(pretrain_steps=2, content=Features(), content_weight=3.0), Updates()
    generator, first = copy.deepcopy(model.generator).double(), weights(model.discriminator)
    batches = small_pairs(4)
    train(model, batches, tmp_path, [seen], precision="64-true")
    assert seen.names == ["generator", "generator"] + ["discriminator", "generator"] * 2
    assert [update.step for update in seen.seen] == sorted(update.step for update in seen.seen)
    source, target = (side.double() for side in batches[0])
    (gradient,) = by_hand((generator(source) - target).square().mean(), generator)
    torch.testing.assert_close(seen.gradients_of("generator")[0], gradient, rtol=1e-8, atol=1e-12)
    assert same(seen.seen[1].weights["discriminator"], [weight.double() for weight in first])


def test_each_stage_logs_its_own_terms(tmp_path):
    logged = []
    for steps in (0, 1):
        trainer = train(tiny(pretrain_steps=steps), small_pairs(1), tmp_path)
        logged.append({name.removeprefix("train/") for name in trainer.callback_metrics})
    assert logged == [{"content", "g_loss", "d_loss", "d_real", "d_fake"}, {"mse"}]


@pytest.mark.parametrize("accumulate_batches", [1, 2])
def test_without_the_adversarial_weight_it_is_srresnet(tmp_path, accumulate_batches):
    """The discriminator is not called, and the content of pixels is that of the pretraining."""

    class Silent(SRGANDiscriminator):
        def forward(self, images):
            assert not self.training  # the check of its size
            return super().forward(images)

    ends = []
    for options in ({"adversarial_weight": 0.0}, {"pretrain_steps": 10}):
        model = tiny(discriminator=Silent(SHAPE, 2), accumulate_batches=accumulate_batches, **options)
        train(model, small_pairs(4), tmp_path)
        ends.append(weights(model.generator))
    assert same(*ends)


def test_srgan_starts_from_the_checkpoint_of_an_srresnet(tmp_path):
    trainer = train(tiny(adversarial_weight=0.0), small_pairs(2), tmp_path)
    trainer.save_checkpoint(tmp_path / "srresnet.ckpt", weights_only=False)
    model = tiny()
    model.load_weights(tmp_path / "srresnet.ckpt")
    assert same(model.generator, trainer.lightning_module.generator)
    assert same(model.ema["generator"], trainer.lightning_module.ema["generator"])


@pytest.mark.parametrize("part", [3, 6])
def test_a_resumed_run_ends_with_the_same_bits_in_both_stages(tmp_path, part):
    options = {"norm": "batch", "precision": "32-true", "pretrain_steps": 5}
    whole = run(SRGAN, tmp_path, steps=9, **options)
    run(SRGAN, tmp_path, steps=part, **options).save_checkpoint(tmp_path / "part.ckpt", weights_only=False)
    again = run(SRGAN, tmp_path, steps=9, rank=3, checkpoint=tmp_path / "part.ckpt", **options)
    for name, value in whole.lightning_module.state_dict().items():
        assert again.lightning_module.state_dict()[name].equal(value), name


# --- sizes, data and errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "sources", "scale"),
    [((3, 96, 96), None, 4), ((1, 28, 28), None, 4), ((3, 64, 32), (1, 32, 16), 2), ((1, 16, 8), (1, 16, 8), 1)],
)
def test_sources_are_a_quarter_or_what_they_are_said_to_be(shape, sources, scale):
    model = SRGAN(shape, sources, width=2, num_blocks=1)
    assert isinstance(model.generator, SRResNet) and model.generator.scale == scale
    assert model.source_shape == (sources or (shape[0], shape[1] // 4, shape[2] // 4))
    made = model.translate(torch.zeros(2, model.source_shape[0], 6, 10))
    assert made.shape == (2, shape[0], 6 * scale, 10 * scale)
    assert model.discriminator(torch.zeros(2, *shape)).shape == (2, 1)


def test_the_tasks_of_super_resolution_feed_it_and_translations_are_scored(tmp_path):
    data = Toys(num_images=400, val_size=200, task="super_resolution_x4", flip=False)
    model = SRGAN((1, 8, 8), width=2, num_blocks=1)
    callback = GenerativeMetrics(extractor=Extractor())
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=2, num_sanity_val_steps=0, callbacks=[callback])
    trainer.fit(model, data)
    assert {"val/psnr", "val/ssim", "val/l1", "val/fid"} <= trainer.callback_metrics.keys()
    assert torch.cat(trainer.predict(model, data)).shape[1:] == (1, 8, 8)


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: SRGAN((3, 30, 32)), "source_shape"),
        (lambda: SRGAN((3, 32, 32), (3, 16, 8)), "source_shape"),
        (lambda: SRGAN((3, 24, 24), (3, 8, 8)), "scale"),
        (lambda: SRGAN((1, 2, 2)), "image_shape"),
        (lambda: SRGAN((3, 32)), "image_shape"),
        (lambda: tiny(content="vgg"), "content"),
        (lambda: tiny(content=MNISTExtractor()), "content"),
        (lambda: SRGAN((4, 32, 32), content="efficientnet"), "content"),
        (lambda: tiny(content=nn.Conv2d(3, 3, 1)), "content"),
        (lambda: tiny(content=nn.Sequential(nn.Flatten(), nn.LSTM(128, 2))), "content"),
        (lambda: tiny(content_weight=-1.0), "content_weight"),
        (lambda: tiny(content_weight=0.0, adversarial_weight=0.0), "content_weight"),
        (lambda: tiny(pretrain_steps=-1), "pretrain_steps"),
        (lambda: tiny(norm="layer"), "norm"),
        (lambda: tiny(norm="instance"), "norm"),
    ],
)
def test_invalid_settings_are_named(make, setting):
    with pytest.raises(SettingError) as error:
        make()
    assert error.value.setting == setting
