import pytest
from torch import nn

from lightning_gans import GAN, SettingError
from tests.toys import SHAPE, loader, make_batches, tiny


def test_widths_are_those_asked_for():
    model = GAN(SHAPE, 5, generator_dims=[7, 9], discriminator_dims=[11], dropout=0.25)
    assert [layer.out_features for layer in model.generator.modules() if isinstance(layer, nn.Linear)] == [7, 9, 64]
    assert [layer.out_features for layer in model.discriminator.modules() if isinstance(layer, nn.Linear)] == [11, 1]
    assert [layer.p for layer in model.discriminator.modules() if isinstance(layer, nn.Dropout)] == [0.25]


@pytest.mark.parametrize("setting", ["generator_dims", "discriminator_dims"])
@pytest.mark.parametrize("value", [[], [8, 0]])
def test_widths_out_of_range_are_refused(setting, value):
    with pytest.raises(SettingError, match=f"^{setting} is "):
        tiny(GAN, **{setting: value})


def test_a_dropout_that_is_no_share_is_refused():
    with pytest.raises(SettingError, match=r"dropout is 1\.5: it must be between 0 and 1"):
        tiny(GAN, dropout=1.5)


@pytest.mark.parametrize(("setting", "value"), [("latent_dim", -1), ("latent_dim", 0), ("image_shape", (8, 8))])
def test_sizes_out_of_range_are_refused_before_networks_are_made(setting, value):
    with pytest.raises(SettingError, match=setting):
        tiny(GAN, **{setting: value})


def test_colour_images_train(make_trainer):
    model = tiny(GAN, image_shape=(3, 5, 7))
    make_trainer().fit(model, loader(make_batches(1, shape=(3, 5, 7))))
    assert model.sample(2, seed=0).shape == (2, 3, 5, 7)
