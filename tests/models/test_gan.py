import pytest
from torch import nn

from lightning_gans import GAN, SettingError
from tests.toys import SHAPE, loader, make_batches, tiny


def test_networks_have_the_given_widths():
    model = GAN(SHAPE, 5, generator_dims=[7, 9], discriminator_dims=[11], dropout=0.25)
    assert [layer.out_features for layer in model.generator.modules() if isinstance(layer, nn.Linear)] == [7, 9, 64]
    assert [layer.out_features for layer in model.discriminator.modules() if isinstance(layer, nn.Linear)] == [11, 1]
    assert [layer.p for layer in model.discriminator.modules() if isinstance(layer, nn.Dropout)] == [0.25]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("generator_dims", []),
        ("generator_dims", [8, 0]),
        ("discriminator_dims", []),
        ("discriminator_dims", [8, 0]),
        ("dropout", 1.5),
        ("latent_dim", -1),
        ("latent_dim", 0),
        ("image_shape", (8, 8)),
    ],
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError) as error:
        tiny(GAN, **{setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)


def test_color_images_train(make_trainer):
    model = tiny(GAN, image_shape=(3, 5, 7))
    make_trainer().fit(model, loader(make_batches(1, shape=(3, 5, 7))))
    assert model.sample(2, seed=0).shape == (2, 3, 5, 7)
