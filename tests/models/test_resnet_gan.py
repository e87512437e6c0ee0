import pytest
import torch
from torch import nn

from lightning_gans import ResNetGAN, SettingError, load
from lightning_gans.networks import ResNetDiscriminator
from tests.toys import LATENT_DIM, NUM_CLASSES, SHAPE, loader, make_batches, weights

ATTENTIVE = {
    "image_shape": (1, 16, 16),
    "attention": [8],
    "generator_width": 8,
    "discriminator_width": 8,
    "loss": "hinge",
}
BIGGAN = {
    "architecture": "biggan",
    "generator_width": 384,
    "discriminator_width": 192,
    "attention": [16],
    "generator_spectral_norm": True,
    "loss": "hinge",
}
SETTINGS = {
    "sngan": {"loss": "hinge"},
    "wgan_gp": {"loss": "wasserstein", "penalties": {"wgan_gp": 10.0}, "spectral_norm": False},
    "both": {"loss": "hinge", "penalties": {"r1": 1.0}, "augment": ["color", "translation", "cutout"]},
    "projection": {"loss": "hinge", "num_classes": NUM_CLASSES},
    "auxiliary": {"loss": "hinge", "num_classes": NUM_CLASSES, "conditioning": "auxiliary"},
    "sagan": {"num_classes": NUM_CLASSES, "generator_spectral_norm": True, **ATTENTIVE},
    "sagan_penalized": {"penalties": {"r1": 1.0}, **ATTENTIVE},
    "biggan": {"architecture": "biggan", "num_classes": NUM_CLASSES, "latent_dim": 6, **ATTENTIVE},
    "biggan_unconditional": {"architecture": "biggan", "latent_dim": 6, **ATTENTIVE},
}


def small(**options):
    known = {"image_shape": SHAPE, "latent_dim": LATENT_DIM, "generator_width": 6, "discriminator_width": 4}
    return ResNetGAN(**{**known, **options})


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_trains_both_networks(name, make_trainer):
    model = small(d_steps=2, betas=(0.0, 0.9), **SETTINGS[name])
    before = weights(model.generator), weights(model.discriminator)
    make_trainer().fit(model, loader(make_batches(4, 8, model.image_shape)))
    for network, old in zip((model.generator, model.discriminator), before, strict=True):
        still = [key for (key, p), was in zip(network.named_parameters(), old, strict=True) if p.equal(was)]
        # Differences of logits, as these losses are where no margin is met, do not depend on the last bias.
        assert set(still) <= ({"output.bias"} if network is model.discriminator else set())
    labels = [0, 2] if model.num_classes else None
    assert model.sample(2, labels, seed=0).shape == (2, *model.image_shape)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_images_of_the_usual_sizes_train(make_trainer, shape):
    model = small(image_shape=shape, generator_width=2, discriminator_width=2)
    make_trainer().fit(model, loader(make_batches(2, 4, shape)))
    assert model.sample(2, seed=0).shape == (2, *shape)


@pytest.mark.parametrize("name", ["projection", "sagan", "biggan"])
def test_a_checkpoint_keeps_the_singular_vectors(name, make_trainer, tmp_path):
    model = small(**SETTINGS[name])
    trainer = make_trainer()
    trainer.fit(model, loader(make_batches(2, 4, model.image_shape)))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load(tmp_path / "model.ckpt")
    assert isinstance(loaded, ResNetGAN)
    images, labels = make_batches(1, 4, model.image_shape)[0]
    for mode in (False, True):  # with the vectors that were, and as they go on
        one, other = (m.discriminator.train(mode)(images, labels) for m in (model, loaded))
        assert one.equal(other)
    assert model.sample(4, seed=1).equal(loaded.sample(4, seed=1))


def test_only_the_discriminator_is_spectrally_normalized():
    model = small()
    names = [name for name, _ in model.named_parameters() if "parametrizations" in name]
    assert names and all(name.startswith("discriminator.") for name in names)
    assert not any("parametrizations" in name for name, _ in small(spectral_norm=False).named_parameters())


def test_the_generator_of_sagan_is_normalized_too():
    model = small(**SETTINGS["sagan"])
    names = {name for name, _ in model.generator.named_parameters() if "parametrizations" in name}
    assert len(names) == 1 + 2 * 3 + 4 + 1  # not the embeddings in BatchNorm, which start with ones
    assert not any("norms" in name for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "latent_dim"), [(32, 80), (64, 100)])
def test_biggan_trains_at_its_full_size(size, latent_dim, make_trainer):
    model = ResNetGAN((3, size, size), latent_dim, 10, **BIGGAN, ema_half_life=0)
    before = weights(model.generator), weights(model.discriminator)
    if size == 32:
        assert [sum(map(torch.numel, old)) for old in before] == [9_416_196, 2_415_170]
    make_trainer(max_steps=1).fit(model, loader(make_batches(1, 2, (3, size, size))))
    for network, old in zip((model.generator, model.discriminator), before, strict=True):
        moved = [not p.equal(was) for p, was in zip(network.parameters(), old, strict=True)]
        assert sum(moved) > 0.8 * len(moved)  # not those behind a gain of 0
        assert all(p.isfinite().all() for p in network.parameters())


def test_networks_may_be_replaced():
    mine = ResNetDiscriminator(SHAPE, 3)
    model = small(discriminator=mine, generator=nn.Sequential(nn.Linear(LATENT_DIM, 64), nn.Unflatten(1, SHAPE)))
    assert model.discriminator is mine
    assert model.sample(2, seed=0).shape == (2, *SHAPE)


def test_defaults_are_the_papers_networks_for_cifar():
    model = ResNetGAN(ema_half_life=0)
    assert sum(p.numel() for p in model.generator.parameters()) == 4_276_739
    assert sum(p.numel() for p in model.discriminator.parameters()) == 1_053_825
    sagan = ResNetGAN(num_classes=10, attention=[16], ema_half_life=0)
    assert sum(p.numel() for p in sagan.generator.parameters()) == 4_386_308
    assert sum(p.numel() for p in sagan.discriminator.parameters()) == 1_075_586


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("image_shape", (1, 30, 30)),
        ("image_shape", (8, 8)),
        ("latent_dim", 0),
        ("conditioning", "concat"),
        ("architecture", "bigan"),
        ("attention", [16]),
        ("generator_width", 0),
        ("discriminator_width", 0),
    ],
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError, match=f"(^{setting}|^width) is "):
        small(**{setting: value})
