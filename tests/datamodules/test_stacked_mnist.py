import pytest
import torch

from lightning_gans.datamodules import MNISTDataModule, StackedMNISTDataModule
from lightning_gans.datamodules.stacked_mnist import draw_triples
from lightning_gans.errors import DataError, SettingError

from ..fake_sets import write_mnist
from .fakes import everything_in


@pytest.fixture
def folder(tmp_path):
    write_mnist(tmp_path)
    return tmp_path


def make(folder, **options):
    return StackedMNISTDataModule(folder, **{"num_images": 50, "num_test_images": 20, "batch_size": 4, **options})


@pytest.mark.parametrize(("split", "num"), [("train", 50), ("test", 20)])
@pytest.mark.parametrize("size", [28, 32])
def test_the_channels_are_digits_of_the_split_and_the_label_is_read_from_red_to_blue(folder, offline, split, num, size):
    before = everything_in(folder)
    data = make(folder, image_size=size)
    images, labels = data.images(split)
    assert images.shape == (num, *data.image_shape) == (num, 3, size, size)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    digits, values = MNISTDataModule(folder, image_size=size).load_images(split)
    value_of = {digit.numpy().tobytes(): str(value) for digit, value in zip(digits, values.tolist(), strict=True)}
    for image, label in zip(images, labels.tolist(), strict=True):
        name = "".join(value_of[channel.numpy().tobytes()] for channel in image)
        assert data.class_names[label] == name
    assert everything_in(folder) == before


def test_every_triple_is_as_likely_as_any_other():
    counts = torch.stack([(draw_triples(7, 30_000, "train") == digit).sum(0) for digit in range(7)])
    assert ((counts / 30_000 - 1 / 7).abs() < 4 * (6 / 49 / 30_000) ** 0.5).all()
    first, second, third = draw_triples(5, 12_500, "train").unbind(1)
    counts = (25 * first + 5 * second + third).bincount(minlength=125)  # each is to come 100 times
    assert (counts - 100).square().sum() / 100 < 124 + 4 * (2 * 124) ** 0.5  # chi-squared


def test_the_triples_are_the_same_on_every_machine():
    assert draw_triples(60_000, 2, "train").tolist() == [[42483, 14728, 38509], [14895, 27960, 38282]]
    assert draw_triples(10_000, 2, "test").tolist() == [[1162, 3651, 7002], [8945, 882, 4488]]


def test_the_triples_are_the_same_whatever_was_drawn_before(folder):
    first, labels = make(folder).images("train")
    torch.manual_seed(123)
    second, again = make(folder, split_seed=9).images("train")
    assert first.equal(second) and labels.equal(again)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_smaller_set_is_the_beginning_of_a_larger_one(split):
    assert draw_triples(96, 500, split)[:33].equal(draw_triples(96, 33, split))


def test_the_splits_have_other_triples():
    assert not draw_triples(96, 20, "train").equal(draw_triples(96, 20, "test"))


def test_batches_are_the_pictures_in_another_order(folder):
    data = make(folder, val_size=8)
    data.setup("fit")
    batches = list(data.train_dataloader())
    rows = torch.cat([batch.rows for batch in batches])
    assert len(rows) == 40 == len(rows.unique())  # the rest of an epoch is left out
    images, labels = (torch.cat(parts) for parts in zip(*(batch.to("cpu") for batch in batches), strict=True))
    wanted, names = data.load_images("train")
    torch.testing.assert_close(images, wanted[rows] / 127.5 - 1)
    assert labels.equal(names[rows])


@pytest.mark.parametrize("split", ["val", "test"])
def test_batches_of_an_evaluation_are_the_pictures_in_their_order(folder, split):
    data = make(folder, val_size=8)
    batches = [batch.to("cpu") for batch in getattr(data, f"{split}_dataloader")()]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    wanted, names = data.images(split)
    torch.testing.assert_close(images, wanted / 127.5 - 1)
    assert labels.equal(names)


def test_pictures_set_aside_are_no_others_and_do_not_train(folder):
    data = make(folder, val_size=8)
    whole, _ = data.load_images("train")
    parts = [data.images(split)[0] for split in ("train", "val")]
    assert [len(part) for part in parts] == [42, 8]
    assert sorted(map(hash_of, torch.cat(parts))) == sorted(map(hash_of, whole))


def hash_of(image):
    return hash(image.numpy().tobytes())


def test_the_test_pictures_validate_where_none_are_set_aside(folder):
    data = make(folder)
    assert len(data.images("train")[0]) == 50
    for found, wanted in zip(data.images("val"), data.images("test"), strict=True):
        assert found.equal(wanted)


def test_the_digits_alone_are_kept_in_memory(folder):
    data = make(folder, num_images=10_000)
    data.setup("fit")
    source = data.train_dataloader().source
    assert source.images.nbytes == 96 * 28 * 28
    assert len(source) == 10_000 == len(data.train_dataloader()) * 4


def test_numbers_are_those_of_the_paper():
    data = StackedMNISTDataModule()
    assert (data.num_images, data.num_test_images) == (128_000, 26_000)
    assert data.num_classes == 1000 == len(set(data.class_names))
    assert (data.class_names[0], data.class_names[407]) == ("000", "407")


@pytest.mark.parametrize("name", ["num_images", "num_test_images", "image_size"])
@pytest.mark.parametrize("value", [0, 28.5])
def test_settings_out_of_range(name, value):
    with pytest.raises(SettingError) as error:
        StackedMNISTDataModule(**{name: value})
    assert (error.value.setting, error.value.value) == (name, value)


def test_an_unknown_split(folder):
    with pytest.raises(SettingError) as error:
        make(folder).images("tets")
    assert (error.value.setting, error.value.allowed) == ("split", ["train", "val", "test"])


@pytest.mark.parametrize("download", [True, False])
def test_offline_and_missing(tmp_path, offline, download):
    with pytest.raises(DataError) as error:
        StackedMNISTDataModule(tmp_path, download=download).prepare_data()
    assert error.value.setting == str(tmp_path / "MNIST" / "raw")
