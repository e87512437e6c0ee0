import pytest

from lightning_gans import DCGAN, SettingError
from tests.toys import loader, make_batches, tiny


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_images_of_the_usual_sizes_train(make_trainer, shape):
    model = tiny(DCGAN, image_shape=shape, width=2)
    make_trainer().fit(model, loader(make_batches(2, 4, shape)))
    assert model.sample(2, seed=0).shape == (2, *shape)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("image_shape", (1, 30, 30)),
        ("image_shape", (28, 28)),
        ("image_shape", (1, 28, 30)),
        ("latent_dim", -1),
        ("width", 0),
        ("discriminator_width", 0),
    ],
)
def test_sizes_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError, match=f"^{setting} is "):
        tiny(DCGAN, **{setting: value})


def test_dense_dims_are_shown_in_the_order_given():
    with pytest.raises(SettingError) as error:
        tiny(DCGAN, dense_dims=[0, 8])
    assert (error.value.setting, error.value.value) == ("dense_dims", [0, 8])
