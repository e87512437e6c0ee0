"""Small affine transformations, against grid_sample and what must not change."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_gans import GAN, Affine, SettingError
from lightning_gans.augment.affine import NUM_UNIFORMS, affine
from tests.toys import loader, make_batches, tiny, weights

SIZES = {"degrees": 20.0, "shear": 0.4, "scale": 0.2, "shift": 0.1}


def by_grid_sample(images, uniforms):
    """Transform images with the maximal amounts of SIZES, weighted by uniform numbers."""
    height, width = images.shape[2:]
    grids = []
    for angle, slant, size, ratio, right, down in (2 * uniforms[:, 1:] - 1).tolist():
        turn = math.radians(SIZES["degrees"]) * angle
        size, ratio = math.exp(SIZES["scale"] * size), math.exp(SIZES["scale"] * ratio)
        matrix = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]).double()
        matrix = matrix @ torch.tensor([[size * ratio, 0], [0, size / ratio]]).double()
        matrix = matrix @ torch.tensor([[1, SIZES["shear"] * slant], [0, 1]]).double()
        y, x = torch.meshgrid(
            torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij"
        )
        x, y = x - SIZES["shift"] * width * right, y - SIZES["shift"] * height * down
        places = torch.einsum("ij,hwj->hwi", matrix, torch.stack([x, y], -1).double())
        grids.append(places / torch.tensor([(width - 1) / 2, (height - 1) / 2]))
    return F.grid_sample(images, torch.stack(grids), padding_mode="reflection", align_corners=True)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14)])
def test_it_is_grid_sample_on_a_known_grid(shape):
    images, uniforms = torch.rand(6, *shape).double(), torch.rand(6, NUM_UNIFORMS).double()
    torch.testing.assert_close(
        affine(images, uniforms, 1.0, **SIZES), by_grid_sample(images, uniforms), atol=1e-5, rtol=0
    )


def test_an_image_is_changed_with_probability_p_and_else_keeps_its_bits():
    images, uniforms = torch.rand(1000, 1, 4, 4), torch.rand(1000, NUM_UNIFORMS)
    same = (affine(images, uniforms, 0.3, **SIZES) == images).flatten(1).all(1)
    assert same.equal(uniforms[:, 0] >= 0.3)
    assert affine(images, uniforms, 0.0, **SIZES).equal(images)
    nothing = affine(images, uniforms, 1.0, degrees=0, shear=0, scale=0, shift=0)
    torch.testing.assert_close(nothing, images)


def test_it_can_be_differentiated_twice():
    images, uniforms = torch.rand(2, 1, 4, 5).double().requires_grad_(), torch.rand(2, NUM_UNIFORMS).double()
    assert torch.autograd.gradcheck(lambda x: affine(x, uniforms, 1.0, **SIZES), images)
    assert torch.autograd.gradgradcheck(lambda x: affine(x, uniforms, 1.0, **SIZES).square(), images)


def test_low_precision_is_kept():
    images, uniforms = torch.rand(2, 1, 4, 4), torch.rand(2, NUM_UNIFORMS)
    low = affine(images.bfloat16(), uniforms, 1.0, **SIZES)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), affine(images, uniforms, 1.0, **SIZES), atol=0.01, rtol=0.01)


def test_a_discriminator_with_a_gradient_penalty_is_trained_on_changed_images(make_trainer):
    trained = []
    for augment in ((), Affine(), Affine(0.0)):
        torch.manual_seed(0)
        model = tiny(GAN, augment=augment, penalties={"r1": 1.0})
        model.run_seed = 3
        make_trainer().fit(model, loader(make_batches(2)))
        trained.append(weights(model.discriminator)[0])
    assert trained[0].equal(trained[2]) and not trained[0].equal(trained[1]) and trained[1].isfinite().all()


@pytest.mark.parametrize("setting", [{"p": 1.5}, {"degrees": -1.0}, {"scale": math.nan}])
def test_a_setting_out_of_range_is_named(setting):
    with pytest.raises(SettingError) as error:
        Affine(**setting)
    assert error.value.setting == next(iter(setting))
