from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_gans import R3GAN, SettingError, load
from lightning_gans.training.regularizers import GradientPenalty
from tests.toys import SHAPE, loader, make_batches, same, weights

SMALL = {"image_shape": SHAPE, "latent_dim": 4, "widths": (4, 4), "blocks": 1, "label_dim": 3}


def weights_of_penalties(model, step=None):
    """Return the weights of the gradient penalties by name, in a step or without schedule."""
    penalties = [r for r in model.regularizers if isinstance(r, GradientPenalty)]
    return {r.name: r.weight if step is None else r.weight_in(step) for r in penalties}


@pytest.mark.parametrize("classes", [0, 3])
def test_it_trains_with_the_papers_loss_and_penalties(make_trainer, classes):
    model = R3GAN(**SMALL, num_classes=classes)
    assert model.loss == "relativistic"
    assert weights_of_penalties(model) == {"r1": 0.05, "r2": 0.05}
    before = weights(model.generator), weights(model.discriminator)
    trainer = make_trainer()
    trainer.fit(model, loader(make_batches(3)))
    assert trainer.global_step == 3
    assert not same(before[0], model.generator)
    assert not same(before[1], model.discriminator)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_samples_are_clamped_and_what_training_sees_is_not():
    class Loud(nn.Module):
        def forward(self, noise):
            return 5 * noise[:, :1, None, None].expand(-1, *SHAPE)

    model = R3GAN(**SMALL, generator=Loud(), ema_half_life=0)
    images = model.sample(20, seed=0)
    assert images.min() == -1 and images.max() == 1
    noise = torch.randn(20, 4)
    assert model.generate(noise, None).equal(Loud()(noise))


def test_all_schedules_of_the_paper_can_be_set(make_trainer):
    model = R3GAN(
        **SMALL,
        betas=(0.0, 0.9),
        beta2_end=0.99,
        penalty_end=0.1,
        lr_schedule="cosine",
        lr_end=0.25,
        ema_start=0.0,
        schedule_images=16,
        augment=("color", "translation", "cutout"),
    )
    make_trainer().fit(model, loader(make_batches(3)))
    for optimizer in model.optimizers():
        (group,) = optimizer.param_groups
        assert group["lr"] == pytest.approx(0.25 * 2e-4)
        assert group["betas"] == pytest.approx((0.0, 0.99))
    step = SimpleNamespace(module=model)
    assert weights_of_penalties(model, step) == pytest.approx({"r1": 0.005, "r2": 0.005})


def test_a_checkpoint_makes_the_model_again(make_trainer, tmp_path):
    model = R3GAN(**SMALL, num_classes=3, penalties={"r1": 1.0}, group_width=2)
    trainer = make_trainer()
    trainer.fit(model, loader(make_batches(2)))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = load(tmp_path / "model.ckpt")
    assert weights_of_penalties(again) == {"r1": 1.0} and again.betas == model.betas and again.loss == "relativistic"
    assert again.sample(5, seed=1).equal(model.sample(5, seed=1))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("widths", (4,)),
        ("blocks", (1, 1, 1)),
        ("group_width", 3),
        ("latent_dim", 0),
        ("label_dim", 0),
        ("image_shape", (1, 9, 9)),
    ],
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError, match=f"^{setting} is "):
        R3GAN(**{**SMALL, setting: value})


@pytest.mark.parametrize(
    ("image_shape", "patch_size", "setting"),
    [((1, 28, 28), 4, "patch_size"), ((1, 28, 28), 3, "patch_size"), ((1, 30, 30), 1, "image_shape")],
)
def test_the_patch_size_has_to_fit_the_image(image_shape, patch_size, setting):
    with pytest.raises(SettingError, match=f"^{setting} is "):
        R3GAN(image_shape, 4, widths=(4, 4), blocks=1, patch_size=patch_size)
