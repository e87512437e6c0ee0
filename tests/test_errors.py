"""Checks of settings: one error that names the setting, its value and what is allowed."""

import errno
import math
import pickle

import numpy as np
import pytest
import torch

from lightning_gans import (
    ADA,
    DCGAN,
    GAN,
    R3GAN,
    SRGAN,
    VAE,
    VAEGAN,
    VQVAE,
    ConditionalGAN,
    FastGAN,
    GenerativeMetrics,
    ImageFolderDataModule,
    RecurrentGAN,
    ResNetGAN,
    RotatedMNISTDataModule,
    SettingError,
)
from lightning_gans.errors import (
    DataError,
    UnwritableError,
    check_counts,
    check_not_negative,
    check_positive,
    check_repeats,
    check_share,
    check_widths,
    in_section,
)
from tests.toys import NUM_CLASSES, SHAPE, tiny


def test_a_path_with_line_breaks_stays_in_its_line():
    error = DataError("a\nb.png is damaged.\nReplace it.", setting="a\nb.png")
    assert str(error) == "a\\nb.png is damaged.\nReplace it." and error.setting == "a\nb.png"


@pytest.mark.parametrize("check", [check_positive, check_not_negative, check_share])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400, True, "a", None, [1.0]])
def test_what_is_no_finite_number_is_none(check, value):
    with pytest.raises(SettingError, match=r"^x is .*: it must be a finite number\.$"):
        check(y=1.0, x=value)


def test_whole_numbers_are_told_by_their_type():
    check_counts(x=3, y=np.int64(1))
    check_counts(least=0, x=0)
    for value in (2.5, 2.0, "2", None, True):
        with pytest.raises(SettingError, match=f"^x is {value!r}: it must be a whole number"):
            check_counts(x=value)
    with pytest.raises(SettingError, match=r"^x is 2147483648: it must be 2,147,483,647 or less"):
        check_counts(x=2**31)
    with pytest.raises(SettingError, match=r"^x is 1001: it must be 1,000 or less"):
        check_repeats(x=1001)
    with pytest.raises(SettingError, match=r"^x is 0: it must be a whole number, 1 or more"):
        check_counts(x=0)
    with pytest.raises(SettingError, match=r"^x is -1: it must be a whole number, 0 or more"):
        check_counts(least=0, x=-1)


@pytest.mark.parametrize(
    ("message", "setting", "wanted", "wanted_setting"),
    [
        ("extractor is 'vgg'", "extractor", "metrics.extractor is 'vgg'", "metrics.extractor"),
        ("the extractor fails", "extractor", "metrics: the extractor fails", "metrics.extractor"),
        ("/a/b.pt does not exist.", "/a/b.pt", "metrics: /a/b.pt does not exist.", "/a/b.pt"),
        ("it is damaged.", "", "metrics: it is damaged.", ""),
    ],
)
def test_errors_of_a_section_name_it(message, setting, wanted, wanted_setting):
    with pytest.raises(DataError) as error, in_section("metrics"):
        raise DataError(message, setting=setting)
    assert (str(error.value), error.value.setting) == (wanted, wanted_setting)


@pytest.mark.parametrize("value", [8, "8", None, [8.5], [8, 0], []])
def test_widths_are_a_list_of_whole_numbers(value):
    check_widths(x=(8, np.int64(4)))
    with pytest.raises(SettingError, match=r"^x is .*: it must be a list of at least one layer width"):
        check_widths(x=value)


COUNTS = [
    (GAN, "latent_dim"),
    (GAN, "accumulate_batches"),
    (GAN, "penalty_interval"),
    (GAN, "d_steps"),
    (DCGAN, "width"),
    (DCGAN, "discriminator_width"),
    (ConditionalGAN, "num_classes"),
    (ConditionalGAN, "width"),
    (VAE, "num_classes"),
    (VAE, "encoder_steps"),
    (VAE, "importance_samples"),
    (VAE, "width"),
]


@pytest.mark.parametrize(("cls", "name"), COUNTS, ids=lambda value: getattr(value, "__name__", value))
def test_models_refuse_fractions_of_a_count(cls, name):
    with pytest.raises(SettingError, match=r"is 2\.5: it must be a whole number") as told:
        tiny(cls, **{name: 2.5})
    assert str(told.value).startswith((name, "width"))


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (GAN, "latent_dim", None),
        (GAN, "generator", 3),
        (GAN, "lr_schedule", np.ones(2)),
        (GAN, "regularizers", torch.tensor(3.0)),
        (GAN, "feature_layer", []),
        (FastGAN, "regularizers", 1.5),
        (VAEGAN, "discriminator", 1.5),
        (VQVAE, "encoder", 1.5),
        (SRGAN, "generator", "x"),
        (SRGAN, "discriminator", 1.5),
        (RecurrentGAN, "step_noise", "x"),
        (GenerativeMetrics, "metrics", 1.5),
        (GenerativeMetrics, "own", 1.5),
        (ADA, "transforms", 1.5),
        (RotatedMNISTDataModule, "digits", 1.5),
        (ImageFolderDataModule, "image_size", torch.tensor(3.0)),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_name(tmp_path, cls, name, value):
    needed = {"data_dir": tmp_path} if cls is ImageFolderDataModule else {}
    with pytest.raises(SettingError) as told:
        cls(**needed, **{name: value})
    assert told.value.setting.split(".")[-1] == name


@pytest.mark.parametrize("cls", [ResNetGAN, R3GAN, RecurrentGAN])
def test_models_of_other_networks_refuse_half_a_class(cls):
    with pytest.raises(SettingError, match=r"^num_classes is 2\.5: it must be a whole number"):
        cls(SHAPE, 4, num_classes=2.5)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (R3GAN, {"widths": 8}, "widths is 8: there are 2 stages"),
        (R3GAN, {"widths": (8, 4.5)}, r"widths is \[8, 4\.5\]: there are 2 stages"),
        (R3GAN, {"widths": (8, 4), "blocks": 1.5}, r"blocks is 1\.5: there are 2 stages"),
        (R3GAN, {"widths": (8, 4), "group_width": 2.5}, r"group_width is 2\.5: it must be a whole number"),
        (ResNetGAN, {"generator_width": 2.5}, r"width is 2\.5: it must be a whole number"),
        (RecurrentGAN, {"hidden_dim": 2.5}, r"hidden_dim is 2\.5: it must be a whole number"),
        (RecurrentGAN, {"step_noise": 0.5}, r"step_noise is 0\.5"),
    ],
)
def test_sizes_of_other_networks_are_whole_numbers(cls, options, message):
    with pytest.raises(SettingError, match=f"^{message}"):
        cls(SHAPE, 4, **options)


@pytest.mark.parametrize("cls", [GAN, VAE])
@pytest.mark.parametrize("value", [28, "28", None, (1, 8.0, 8), (1, 8)])
def test_the_shape_of_images_is_a_list_of_three_whole_numbers(cls, value):
    with pytest.raises(SettingError, match=r"^image_shape is .*: give \[channels, height, width\]"):
        tiny(cls, image_shape=value)


@pytest.mark.parametrize("value", [math.inf, math.nan, "a", None])
@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (GAN, "generator_lr"),
        (GAN, "ema_half_life"),
        (GAN, "ema_ramp"),
        (GAN, "weight_decay"),
        (GAN, "feature_matching"),
        (GAN, "mismatch_weight"),
        (GAN, "lr_end"),
        (VAE, "beta"),
    ],
)
def test_models_refuse_what_is_no_finite_number(cls, name, value):
    with pytest.raises(SettingError, match=f"^{name} is {value!r}: it must be a finite number"):
        tiny(cls, **{name: value})


@pytest.mark.parametrize("value", [0.5, None, "ab", (0.5, "a"), (0.5, math.nan)])
def test_decay_rates_are_two_numbers(value):
    with pytest.raises(SettingError, match=r"^betas is .*: it must be two decay rates"):
        tiny(GAN, betas=value)
    with pytest.raises(SettingError, match=r"^beta2_end is 'a': it must be a decay rate"):
        tiny(GAN, beta2_end="a")


@pytest.mark.parametrize("value", [None, 1, {"color": 1}])
def test_changes_to_the_images_are_a_list(value):
    with pytest.raises(SettingError, match=r"^augment is .*: give a list, of color, translation, cutout"):
        tiny(GAN, augment=value)


@pytest.mark.parametrize("cls", [GAN, DCGAN])
def test_models_without_labels_name_one_that_has_them(cls):
    with pytest.raises(SettingError, match=f"^num_classes is 10, but {cls.__name__} has no labels: .*ConditionalGAN"):
        cls(num_classes=10)


def test_numbers_of_numpy_are_numbers():
    model = tiny(ConditionalGAN, num_classes=np.int64(NUM_CLASSES), generator_lr=np.float32(1e-3), d_steps=np.int64(2))
    assert model.sample(2, seed=0).isfinite().all()
    assert torch.is_tensor(tiny(VAE, likelihood="gaussian", sigma=np.float32(0.5)).log_sigma)


def test_what_cannot_be_written_is_told_in_other_processes_too():
    error = UnwritableError("a/b", OSError(errno.ENOSPC, "No space left on device"))
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "a/b cannot be written: No space left on device."
