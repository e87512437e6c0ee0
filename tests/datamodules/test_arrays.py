"""Images with their own values: arrays, and folders of deep pictures and arrays."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gans import (
    DCGAN,
    VAE,
    ArrayDataModule,
    CycleGAN,
    DataError,
    ImageFolderDataModule,
    PairedFolderDataModule,
    Pix2Pix,
    SettingError,
    UnpairedFolderDataModule,
    load,
)
from lightning_gans.datamodules.scaling import order_statistics
from lightning_gans.io.arrays import Scale
from tests.datamodules.fakes import lines_of

OBLONG = (96, 160)
NUM = 8


def floats(num=NUM, channels=5, size=OBLONG):
    return np.random.default_rng(0).normal(300, 40, (num, channels, *size)).astype(np.float32)


def shorts(num=NUM, channels=1, size=OBLONG):
    return np.random.default_rng(1).integers(0, 65536, (num, channels, *size), np.uint16)


def write_tiff(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = map(Image.fromarray, image)
    first.save(path, save_all=True, append_images=others)


def write_array(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, image)


@pytest.fixture
def sides(tmp_path):
    """Write arrays of five channels, and 16-bit pictures of the same names."""
    for k, (source, target) in enumerate(zip(floats(), shorts(), strict=True)):
        write_array(tmp_path / "a" / f"{k}.npy", source.transpose(1, 2, 0))
        write_tiff(tmp_path / "b" / f"{k}.tif", target)
    return tmp_path / "a", tmp_path / "b"


def rows_of(data, split="train"):
    """Return the rows of a split, which are the numbers of its files."""
    data.images(split)
    return data._split(split)[1].numpy()


# --- order and scale ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.uint8])
def test_percentiles_are_those_of_all_values(dtype):
    values = (np.random.default_rng(0).standard_cauchy(10_007) * 40).astype(np.float32)
    values = values if dtype == np.float32 else np.abs(values).clip(0, 200).astype(dtype)
    percentages = (0, 0.5, 31, 50, 99.5, 100)
    blocks = lambda: iter(torch.split(torch.from_numpy(values.astype(np.float32)), 999))  # noqa: E731
    assert order_statistics(blocks, percentages) == np.percentile(values, percentages, method="lower").tolist()


def test_the_range_is_by_type_or_given_or_that_of_the_training_images_with_a_warning():
    images = {"uint8": shorts().astype(np.uint8), "uint16": shorts(), "float32": floats()}
    for dtype, high in (("uint8", 255), ("uint16", 65535)):
        assert ArrayDataModule(images=images[dtype]).image_scale == Scale(0, high, dtype)
    assert ArrayDataModule(images=images["uint16"], value_range=[0, 4000]).image_scale == Scale(0, 4000, "uint16")
    for options, shares in (({}, [0, 100]), ({"percentiles": [0.5, 99.5]}, [0.5, 99.5])):
        data = ArrayDataModule(images=images["float32"], val_size=3, **options)
        training = images["float32"][rows_of(data)]
        wanted = np.percentile(training, shares, method="lower").tolist()
        assert [data.image_scale.low, data.image_scale.high] == wanted
        assert wanted != np.percentile(images["float32"], shares, method="lower").tolist()
    with pytest.warns(UserWarning, match="range from") as found:
        data = ArrayDataModule(images=images["float32"], val_size=3)
        data.images("train"), data.images("val")
    assert len(found) == 1 and "value_range" in str(found[0].message)


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("value_range", {"value_range": [4, 4]}),
        ("value_range", {"value_range": [0]}),
        ("value_range", {"value_range": [0, "x"]}),
        ("value_range", {"value_range": [-1e308, 1e308]}),
        ("value_range", {"value_range": [1, 1 + 1e-12]}),
        ("percentiles", {"percentiles": [1, 101]}),
        ("percentiles", {"percentiles": [0.5, 99.5], "value_range": [0, 1]}),
        ("channels", {"channels": 0}),
        ("path", {"images": None}),
        ("path", {"path": "a.npz"}),
    ],
)
def test_settings_that_make_no_sense(setting, options):
    with pytest.raises(SettingError) as error:
        ArrayDataModule(**{"images": shorts(), **options})
    assert error.value.setting == setting
    lines_of(error)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e39])
def test_values_that_float32_does_not_hold_are_an_error(value):
    images = np.zeros((20, 8, 8))
    images[3, 4, 5] = value
    with pytest.raises(DataError) as error:
        ArrayDataModule(images=images)
    assert error.value.setting == "images"


@pytest.mark.parametrize("bounds", [[0, 1], [1000, 2000]])
def test_a_range_without_values_is_an_error(bounds):
    data = ArrayDataModule(images=np.array([1, 1000] * 10, np.uint16)[:, None, None], value_range=bounds)
    with pytest.raises(SettingError) as error:
        data.images("train")
    assert (error.value.setting, error.value.value) == ("value_range", bounds)


def test_a_range_of_two_values_has_values():
    data = ArrayDataModule(images=np.array([1, 1000] * 10, np.uint16)[:, None, None], value_range=[1, 1000])
    assert data.images("train")[0].unique().tolist() == [-1, 1]


def test_images_that_are_all_alike_have_no_range():
    with pytest.raises(DataError, match="no range"):
        ArrayDataModule(images=np.full((20, 8, 8), 2.5)).images("train")


# --- one array ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NHW"])
@pytest.mark.parametrize("suffix", ["npy", "npz", None])
def test_an_array_in_any_layout_and_place(tmp_path, layout, suffix):
    values = floats(channels=1 if layout == "NHW" else 5)
    array = {"NCHW": values, "NHWC": values.transpose(0, 2, 3, 1), "NHW": values[:, 0]}[layout]
    path, labels = tmp_path / f"a.{suffix}", np.arange(NUM) % 3
    if suffix == "npy":
        np.save(path, array)
    elif suffix == "npz":
        np.savez(path, images=array, labels=labels)
    given = {"images": array, "labels": labels} if suffix is None else {"path": path}
    data = ArrayDataModule(**given, value_range=[0, 600], val_size=0.25)
    images, found = data.images("train")
    assert data.image_shape == values.shape[1:] and images.dtype == torch.float32
    assert np.abs(data.image_scale.restore(images) - values[rows_of(data)]).max() < 600 / 65535
    assert data.num_classes == (0 if suffix == "npy" else 3)
    assert found.tolist() == (labels[rows_of(data)].tolist() if suffix != "npy" else [0] * 6)


def test_the_channels_are_the_shorter_axis_unless_they_are_given():
    square = np.zeros((9, 5, 8, 3), np.uint8)
    assert ArrayDataModule(images=square).image_shape == (3, 5, 8)
    assert ArrayDataModule(images=square, channels=5).image_shape == (5, 8, 3)
    with pytest.raises(DataError, match="with 4 channels"):
        ArrayDataModule(images=square, channels=4)


def test_bytes_stay_bytes_and_16_bits_stay_16():
    for array, stored in ((shorts().astype(np.uint8), torch.uint8), (shorts(), torch.int16), (floats(), torch.float32)):
        data = ArrayDataModule(images=array, value_range=None if array.itemsize < 4 else [0, 600])
        images, _ = data.images("train")
        assert data._set("train").images.dtype == stored
        assert images.dtype == (torch.uint8 if stored == torch.uint8 else torch.float32)
        assert data.split_images("train")[:].dtype == torch.uint8


def test_a_type_of_values_in_the_order_of_another_machine():
    data = ArrayDataModule(images=shorts().astype(">u2"), val_size=0.25)
    assert (data.image_scale.restore(data.images("train")[0]) == shorts()[rows_of(data)]).all()


@pytest.mark.parametrize(
    "array", [np.zeros((4, 8)), np.zeros((4, 0, 8)), np.full((4, 8, 8), np.inf), np.full((4, 8, 8), "a"), np.zeros(3)]
)
def test_what_is_not_images_is_named(tmp_path, array):
    np.savez(tmp_path / "a.npz", images=array)
    for given, named in (({"images": array}, "images"), ({"path": tmp_path / "a.npz"}, str(tmp_path / "a.npz"))):
        with pytest.raises(DataError) as error:
            ArrayDataModule(**given)
        assert error.value.setting == named
        lines_of(error)


def test_files_that_are_not_arrays_are_named(tmp_path):
    np.savez(tmp_path / "other.npz", pictures=shorts())
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "a.txt").write_bytes(b"")
    for name in ("other.npz", "damaged.npy", "a.txt", "nowhere.npy"):
        with pytest.raises(DataError) as error:
            ArrayDataModule(tmp_path / name)
        assert error.value.setting == str(tmp_path / name)


# --- folders ------------------------------------------------------------------------------------------------------


def test_pictures_of_16_bits_are_restored(sides):
    data = ImageFolderDataModule(sides[1], OBLONG, channels=1, val_size=2, batch_size=6)
    images, _ = data.images("train")
    assert (data.image_scale.restore(images) == shorts()[rows_of(data)]).all()
    ((batch, _), *_) = map(tuple, data.train_dataloader())
    assert batch.shape == (6, 1, *OBLONG) and batch.dtype == torch.float32


def test_arrays_are_restored_in_class_folders_and_splits(tmp_path):
    values = floats()
    for k, image in enumerate(values):
        split = "test" if k > 5 else "train"
        write_array(tmp_path / split / f"{'ab'[k % 2]}" / f"{k}.npy", image)
    data = ImageFolderDataModule(tmp_path, OBLONG, channels=5, value_range=[0, 600], val_size=2)
    images, labels = data.images("test")
    assert data.class_names == ["a", "b"] and labels.tolist() == [0, 1]
    assert np.abs(data.image_scale.restore(images) - values[6:]).max() < 600 / 65535


def test_pages_of_a_tiff_are_channels(tmp_path):
    for k, image in enumerate(shorts(channels=4)):
        write_tiff(tmp_path / f"{k}.tif", image)
    data = ImageFolderDataModule(tmp_path, OBLONG, channels=4, val_size=2)
    assert (data.image_scale.restore(data.images("val")[0]) == shorts(channels=4)[rows_of(data, "val")]).all()


def test_arrays_are_ignored_next_to_pictures(sides):
    write_array(sides[1] / "features.npy", np.zeros((3, 4)))
    with pytest.warns(UserWarning, match=r"not images: features\.npy"):
        assert len(ImageFolderDataModule(sides[1], OBLONG, channels=1, val_size=2).images("train")[0]) == 6


def test_deep_images_are_decoded_once(sides, monkeypatch):
    expected = ImageFolderDataModule(sides[0], OBLONG, channels=5, val_size=2).images("train")[0]
    monkeypatch.setattr("lightning_gans.datamodules.image_folder.read_picture", None)
    data = ImageFolderDataModule(sides[0], OBLONG, channels=5, val_size=2)
    assert data.images("train")[0].equal(expected)
    other = ImageFolderDataModule(sides[0], OBLONG, channels=5, val_size=2, percentiles=[10, 90])
    assert (other.images("train")[0].abs() == 1).float().mean() > 0.15


def test_deep_images_larger_than_the_memory_are_verified_when_read(sides, monkeypatch):
    monkeypatch.setattr("lightning_gans.datamodules.image_folder.memory", lambda: 1.0)
    data = ImageFolderDataModule(sides[1], OBLONG, channels=1, val_size=2)
    assert (data.image_scale.restore(data.images("train")[0]) == shorts()[rows_of(data)]).all()
    assert not data._set("train")._unverified[rows_of(data)].any()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_images_of_another_type_are_named(sides, on_error):
    Image.new("L", OBLONG[::-1]).save(sides[1] / "3.tif")
    data = ImageFolderDataModule(sides[1], OBLONG, channels=1, val_size=2, on_error=on_error)
    if on_error == "raise":
        with pytest.raises(DataError, match="uint8, but the first image") as error:
            data.prepare_data()
        assert error.value.setting == str(sides[1] / "3.tif")
        lines_of(error)
    else:
        with pytest.warns(UserWarning, match=r"Skipped 1 .*3\.tif"):
            assert len(data.images("train")[0]) == 5


def test_a_split_of_another_type_is_named(tmp_path):
    for k in range(4):
        write_tiff(tmp_path / "train" / f"{k}.tif", shorts()[k])
    data = ImageFolderDataModule(tmp_path, OBLONG, channels=1, val_size=1)
    data.prepare_data()
    Image.new("L", OBLONG[::-1]).save(tmp_path / "0.tif")
    (tmp_path / "test").mkdir()
    (tmp_path / "0.tif").rename(tmp_path / "test" / "0.tif")
    data = ImageFolderDataModule(tmp_path, OBLONG, channels=1, val_size=1)
    with pytest.raises(DataError, match="all images need the same type") as error:
        data.prepare_data()
        data.setup()
    assert error.value.setting in (str(tmp_path / "train"), str(tmp_path / "test"))


def test_other_channels_than_those_of_the_files_are_named(sides):
    with pytest.raises(DataError, match="3 channels") as error:
        ImageFolderDataModule(sides[0], OBLONG, channels=3).prepare_data()
    assert error.value.setting == str(sides[0] / "0.npy")


def test_converted_pictures_have_8_bits(sides):
    data = ImageFolderDataModule(sides[1], OBLONG, channels=1, convert=True, val_size=2)
    assert data.images("train")[0].dtype == torch.uint8 and data.image_scale == Scale()


# --- pairs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swap", [False, True])
def test_pairs_have_a_scale_on_each_side(sides, swap):
    channels = {"channels": 5, "source_channels": 1} if swap else {"channels": 1, "source_channels": 5}
    data = PairedFolderDataModule(*sides, OBLONG, swap=swap, val_size=2, percentiles=[0, 100], **channels)
    pair = data.split_pairs("val")[:]
    found = [scale.restore(side) for scale, side in zip((data.source_scale, data.image_scale), pair, strict=True)]
    source, target = found[::-1] if swap else found
    rows = rows_of(data, "val")
    assert (source.dtype, target.dtype) == (np.float32, np.uint16)
    training = rows_of(data)
    low, high = floats()[training].min(), floats()[training].max()
    assert np.abs(source - floats()[rows].clip(low, high)).max() < (high - low) / 65535
    low, high = shorts()[training].min(), shorts()[training].max()
    assert (target == shorts()[rows].clip(low, high)).all()


def test_pairs_may_have_ranges_of_their_own(sides):
    options = {"channels": 1, "source_channels": 5, "val_size": 2}
    data = PairedFolderDataModule(*sides, OBLONG, value_range=[0, 9], source_value_range=[300, 302], **options)
    assert (data.source_scale, data.image_scale) == (Scale(300, 302, "float32"), Scale(0, 9, "uint16"))
    data = PairedFolderDataModule(*sides, OBLONG, source_value_range=[300, 302], **options)
    assert (data.source_scale, data.image_scale) == (Scale(300, 302, "float32"), Scale(0, 65535, "uint16"))
    with pytest.raises(SettingError) as error:
        PairedFolderDataModule(*sides, OBLONG, source_value_range=[2, 1], **options)
    assert error.value.setting == "source_value_range"


def test_both_sides_in_one_array(tmp_path):
    for k, image in enumerate(floats()):
        write_array(tmp_path / f"{k}.npy", np.concatenate([image, image + 1], 2).transpose(1, 2, 0))
    data = PairedFolderDataModule(tmp_path, image_size=OBLONG, channels=5, value_range=[0, 600], val_size=2)
    source, target = (data.image_scale.restore(side) for side in data.split_pairs("val")[:])
    assert np.abs(target - source - 1).max() < 600 / 65535


def test_pairs_of_different_sizes_are_named(sides):
    write_array(sides[0] / "3.npy", floats()[3, :, :, :-1])
    with pytest.raises(DataError, match="differ in size, 159 x 96 and 160 x 96"):
        PairedFolderDataModule(*sides, OBLONG, channels=1, source_channels=5).prepare_data()


def test_sets_without_pairs_have_a_scale_each(sides):
    for k, image in enumerate(shorts(channels=5)):
        write_array(sides[1].parent / "c" / f"{k}.npy", image)
    data = UnpairedFolderDataModule(
        sides[0], sides[1].parent / "c", image_size=OBLONG, channels=5, val_size=2, percentiles=[0, 100]
    )
    source, target = data.split_pairs("val")[:]
    assert (data.source_scale.dtype, data.image_scale.dtype) == ("float32", "uint16")
    assert source.abs().max() <= 1 and np.abs(data.source_scale.restore(source).mean() - 300) < 10
    training = shorts(channels=5)[data._split("train")[1].numpy()]
    wanted = shorts(channels=5)[data._split("val")[1].numpy()].clip(training.min(), training.max())
    assert (data.image_scale.restore(target) == wanted).all()


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["DCGAN", "VAE", "Pix2Pix", "CycleGAN"])
def test_models_train_on_them_and_their_checkpoints_know_the_scale(sides, make_trainer, tmp_path, kind):
    shape = (5, *OBLONG)
    if kind == "Pix2Pix":
        data = PairedFolderDataModule(*sides, OBLONG, channels=1, source_channels=5, batch_size=2, val_size=2)
        model = Pix2Pix((1, *OBLONG), shape, width=4, num_layers=1)
    else:
        data = ArrayDataModule(images=floats(), batch_size=2, val_size=2, percentiles=[0.5, 99.5])
        model = {
            "DCGAN": lambda: DCGAN(shape, 8, width=4),
            "VAE": lambda: VAE(shape, 8, architecture="conv", likelihood="gaussian", width=4),
            "CycleGAN": lambda: CycleGAN(shape, width=4, num_blocks=1, num_layers=1, pool_size=2),
        }[kind]()
    if kind == "CycleGAN":
        data.task = lambda images, draws: (images, images.flip(-1))
    trainer = make_trainer(max_steps=2)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = load(tmp_path / "a.ckpt")
    assert (again.source_scale, again.image_scale) == (data.source_scale, data.image_scale)
    assert again.image_scale.dtype == ("uint16" if kind == "Pix2Pix" else "float32")
    again.image_scale = Scale()
    make_trainer().test(again, data.val_dataloader(), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert again.image_scale == data.image_scale  # from the checkpoint, as the loader is alone


@pytest.mark.parametrize(
    "scales",
    [[], "x", [{}], [{}, {"low": 2, "high": 1}], [{}, {"dtype": "tree"}], [{}, {"low": "0"}], [{}, {"depth": 16}]],
)
def test_a_damaged_scale_in_a_checkpoint_is_an_error(make_trainer, tmp_path, scales):
    trainer = make_trainer(max_steps=1)
    trainer.fit(DCGAN((1, 8, 8), 4, width=4), ArrayDataModule(images=shorts(size=(8, 8)), batch_size=2, val_size=2))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert json.dumps(checkpoint["lightning_gans"]["scales"])  # plain types
    checkpoint["lightning_gans"]["scales"] = scales
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(DataError) as error:
        load(tmp_path / "a.ckpt")
    assert error.value.setting == "scales"
