import math

import pytest
import torch

from lightning_gans import DSpritesDataModule, SettingError


@pytest.fixture(scope="module")
def sprites():
    """All images of 32 pixels, as ``(shape, scale, orientation, x, y, 32, 32)``."""
    data = DSpritesDataModule(image_size=32, val_size=1)
    images, labels = data.load_images("train")
    assert images.dtype == torch.uint8 and set(images[:: 1024 * 7].unique().tolist()) == {0, 255}
    assert labels.tolist() == [0] * 61_440 + [1] * 61_440 + [2] * 61_440
    return images.view(*data.factor_sizes, 32, 32) > 0


def center(pictures):
    """Return the mean column and the mean row of the white pixels."""
    pictures, places = pictures.double(), torch.arange(32, dtype=torch.float64)
    area = pictures.sum((-2, -1))
    return (pictures.sum(-2) * places).sum(-1) / area, (pictures.sum(-1) * places).sum(-1) / area


def test_the_official_data_have_these_factors():
    data = DSpritesDataModule()
    assert data.image_shape == (1, 64, 64)
    assert dict(zip(data.factor_names, data.factor_sizes, strict=True)) == {
        **{"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
    }
    assert math.prod(data.factor_sizes) == 737_280


def test_a_step_of_a_position_is_a_pixel(sprites):
    x, y = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    for shape in (0, 1):  # they are symmetric about their center
        for found, wanted in zip(center(sprites[shape, :, 7]), (x, y), strict=True):
            torch.testing.assert_close(found, (8 + wanted).double().expand(6, 16, 16))
    assert sprites[:, :, :, 3, 4, :-1, :-2].equal(sprites[:, :, :, 5, 5, 1:, 2:])  # nothing is cut off


def test_the_area_grows_with_the_square_of_the_scale(sprites):
    areas = sprites[:, :, :, 8, 8].sum((-2, -1)).double().mean(2)
    scales = torch.linspace(0.5, 1, 6, dtype=torch.float64)
    torch.testing.assert_close(areas / areas[:, -1:], scales.square().expand(3, 6), rtol=0.06, atol=0)


def test_orientations_turn_the_sprites(sprites):
    middle = sprites[:, -1, :, 8, 8, 1:, 1:]  # the sprite's center is the center of these 31 pixels
    assert middle[:, 0].equal(middle[:, 39])  # 0 and 2 pi
    assert middle[1, 0].sum(1).amax() > 1.5 * middle[1, 0].sum(0).amax()  # the ellipse lies
    ellipse = middle[1].double().flatten(1)
    quarter = torch.rot90(middle[1, 0].double(), dims=(0, 1)).flatten()
    agreement = ellipse @ quarter / quarter.sum()
    assert {int(agreement[:20].argmax()), int(agreement[20:].argmax()) + 20} <= {9, 10, 29, 30}
    assert len({tuple(picture.flatten().tolist()) for picture in middle[2]}) > 30  # the heart has no symmetry
    heart = middle[2, 0]
    assert heart.equal(heart.flip(1)) and not heart.equal(heart.flip(0))
    assert heart[:15].sum() > heart[16:].sum()  # its tip is below


def test_factors_belong_to_the_images_of_a_split():
    data = DSpritesDataModule(image_size=16, val_size=0.25, batch_size=4)
    whole = data.load_images("train")[0].view(*data.factor_sizes, 16, 16)
    for split, num in (("train", 34_560), ("val", 11_520), ("test", 11_520)):
        images, labels = data.images(split)
        factors = data.factors(split)
        assert factors.shape == (num, 5) and labels.equal(factors[:, 0])
        assert images[:, 0].equal(whole[tuple(factors.T)])


@pytest.mark.parametrize("image_size", [12, 30, 64.0])
def test_sizes_that_cannot_be_drawn(image_size):
    with pytest.raises(SettingError) as error:
        DSpritesDataModule(image_size=image_size)
    assert error.value.setting == "image_size"


def test_too_large_images_are_an_error(monkeypatch):
    monkeypatch.setattr("lightning_gans.datamodules.base.memory", lambda: 1e9)
    with pytest.raises(SettingError) as error:
        DSpritesDataModule()
    assert error.value.setting == "image_size"
