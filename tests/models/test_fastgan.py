from importlib.util import find_spec

import pytest
import torch
from torch import nn

from lightning_gans import DataError, FastGAN, SettingError, load, losses
from lightning_gans.models.fastgan import Reconstruction
from lightning_gans.networks import DCGANDiscriminator, FastGANDiscriminator, efficientnet
from tests.toys import loader, make_batches, same, weights

SHAPE = (1, 32, 32)


def small(**options):
    return FastGAN(**{"image_shape": SHAPE, "latent_dim": 3, "width": 2, **options})


def fit(make_trainer, model, steps=2, batches=2, **options):
    model.run_seed = 0
    trainer = make_trainer(max_steps=steps, max_epochs=-1, log_every_n_steps=1, **options)
    trainer.fit(model, loader(make_batches(batches, 4, SHAPE)))
    return trainer


def test_a_step_trains_all_weights_of_both_networks(make_trainer):
    model = small()
    before = weights(model.generator), weights(model.discriminator)
    fit(make_trainer, model)
    for network, old in zip((model.generator, model.discriminator), before, strict=True):
        assert not [name for (name, new), was in zip(network.named_parameters(), old, strict=True) if new.equal(was)]


def test_the_discriminators_loss_has_the_reconstruction(make_trainer):
    logged = {}
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        trainer = fit(make_trainer, small(reconstruction_weight=weight), steps=1)
        logged[weight] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    term = logged[0.5]["train/reconstruction"]
    assert term > 0.1 and "train/reconstruction" not in logged[0.0]
    assert logged[0.5]["train/d_loss"] - logged[0.0]["train/d_loss"] == pytest.approx(0.5 * term, rel=1e-4)


@pytest.mark.parametrize("augment", [(), ("color", "translation")])
def test_real_images_are_reconstructed_as_they_were_seen(make_trainer, monkeypatch, augment):
    seen = []
    reconstruct = FastGANDiscriminator.reconstruct

    def noted(self, known, places):
        seen.append((known.images.detach().clone(), places))
        return reconstruct(self, known, places)

    monkeypatch.setattr(FastGANDiscriminator, "reconstruct", noted)
    fit(make_trainer, small(augment=augment), steps=2, batches=2)
    batches = [images for images, _ in make_batches(2, 4, SHAPE)]
    assert len(seen) == 2  # the generator's loss has none
    assert [shown.equal(real) for (shown, _), real in zip(seen, batches, strict=True)] == 2 * [not augment]
    assert not seen[0][1].equal(seen[1][1])


def test_reconstructions_get_better(make_trainer):
    terms = []
    for steps in (1, 30):
        torch.manual_seed(0)
        trainer = fit(make_trainer, small(width=4, discriminator_lr=5e-3, augment=()), steps=steps, batches=1)
        terms.append(float(trainer.callback_metrics["train/reconstruction"]))
    assert terms[1] < 0.9 * terms[0]


def test_the_distance_is_that_of_features():
    class Features(nn.Module):
        def forward(self, images):
            return [images, 3 * images[:, :, ::2, ::2]]

    distance = Reconstruction(1.0, "efficientnet")
    distance.__dict__["network"] = Features()
    images, targets = torch.rand(2, 3, 8, 8, requires_grad=True), torch.rand(2, 3, 8, 8)
    wanted = losses.feature_distance(Features()(images), Features()(targets)).mean()
    assert distance.between(images, targets).item() == pytest.approx(wanted.item())
    distance.between(images, targets).backward()
    assert images.grad.abs().sum() > 0
    assert Reconstruction(1.0).between(images, targets).item() == pytest.approx((images - targets).abs().mean().item())


@pytest.mark.skipif(find_spec("efficientnet_lite_pytorch") is None, reason="needs the extra efficientnet")
def test_efficientnet_belongs_to_training_only(make_trainer, monkeypatch):
    monkeypatch.setattr(efficientnet, "find_spec", find_spec)
    model = small(reconstruction_loss="efficientnet")
    trainer = fit(make_trainer, model, steps=1, batches=1)
    assert 0 < float(trainer.callback_metrics["train/reconstruction"]) < 20
    assert not any("network" in name for name in model.state_dict())


def test_without_efficientnet_nothing_is_trained(make_trainer):
    model = small(reconstruction_loss="efficientnet")
    before = weights(model)
    with pytest.raises(DataError) as error:
        fit(make_trainer, model)
    assert error.value.setting == "efficientnet" and same(before, weights(model))


def test_defaults_are_the_papers():
    model = small()
    assert (model.loss, model.augment.policies) == ("hinge", ("color", "translation"))
    assert (model.generator_lr, model.discriminator_lr, model.betas) == (2e-4, 2e-4, (0.5, 0.999))


def test_a_checkpoint_makes_the_same_samples(make_trainer, tmp_path):
    model = small(reconstruction_weight=2.0, discriminator_width=1)
    trainer = fit(make_trainer, model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = load(tmp_path / "model.ckpt")
    assert isinstance(again, FastGAN) and again.reconstruction_weight == 2.0
    assert again.sample(3, seed=1).equal(model.sample(3, seed=1))
    assert model.sample(3, seed=1)[1:].allclose(model.sample(2, seed=1, start=1), atol=1e-5)


def test_without_reconstruction_any_discriminator_will_do(make_trainer):
    other = DCGANDiscriminator(SHAPE, 2)
    fit(make_trainer, small(discriminator=other, reconstruction_weight=0.0))
    with pytest.raises(SettingError, match=r"^reconstruction_weight is "):
        small(discriminator=other)
    assert set(small().not_compiled()) == {"discriminator"} and not small(reconstruction_weight=0.0).not_compiled()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("image_shape", (1, 16, 16)),
        ("latent_dim", 0),
        ("width", 0),
        ("discriminator_width", 0),
        ("num_classes", 3),
        ("reconstruction_weight", -1.0),
        ("reconstruction_loss", "lpips"),
        ("image_shape", (2, 30, 30)),
    ],
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError) as error:
        small(**{setting: value})
    assert error.value.setting == setting


def test_efficientnet_takes_one_or_three_channels():
    with pytest.raises(SettingError, match=r"^reconstruction_loss is "):
        small(image_shape=(2, 32, 32), reconstruction_loss="efficientnet")
