import json

import pytest
import torch
from PIL import Image

from lightning_gans.datamodules import ArrayDataModule, ImageFolderDataModule
from lightning_gans.datamodules.label_files import read_labels
from lightning_gans.errors import DataError, SettingError

CSV = "file,smiling,angle\na.png,0,-30\nsub/b.png, 1 ,10.5\n"
MAPPING = {"a.png": {"smiling": 0, "angle": -30}, "sub/b.png": {"smiling": 1, "angle": 10.5}}
IN_ANY_ORDER = {"a.png": {"smiling": 0, "angle": -30}, "sub/b.png": {"angle": 10.5, "smiling": 1}}
LISTS = {"a.png": [0, -30], "sub/b.png": [1, 10.5]}
VALUES = {"a.png": [0.0, -30.0], "sub/b.png": [1.0, 10.5]}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("x.csv", CSV, ("smiling", "angle")),
        ("x.csv", "\ufeff" + CSV.replace("\n", "\r\n") + "\r\n", ("smiling", "angle")),
        ("x.csv", "smiling,file,angle\n0,a.png,-30\n1,sub/b.png,10.5", ("smiling", "angle")),
        ("x.json", MAPPING, ("smiling", "angle")),
        ("x.json", IN_ANY_ORDER, ("smiling", "angle")),
        ("x.json", LISTS, ("0", "1")),
        ("dataset.json", {"labels": [[name, values] for name, values in LISTS.items()]}, ("0", "1")),
    ],
)
def test_all_kinds_of_files_say_the_same(tmp_path, name, content, names):
    labels = read_labels(write(tmp_path / name, content))
    assert labels.names == names
    assert labels.values == VALUES
    chosen = read_labels(tmp_path / name, [names[1]])
    assert chosen.names == names[1:]
    assert chosen.of("sub/b.png") == [10.5]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("x.txt", CSV, [".csv"]),
        ("x.csv", "", ["line 1", "file"]),
        ("x.csv", "file,smiling\n", ["no entries"]),
        ("x.csv", "name,smiling\na.png,1\n", ["line 1", "file"]),
        ("x.csv", "file,a,a\na.png,1,2\n", ["line 1"]),
        ("x.csv", "file\na.png\n", ["line 2", "at least one attribute"]),
        ("x.csv", CSV + "c.png,1\n", ["line 4", "2 values", "3 columns"]),
        ("x.csv", CSV + "c.png,1,yes\n", ["line 4", "angle", "'yes'", "number"]),
        ("x.csv", CSV + "c.png,1,inf\n", ["line 4", "angle", "'inf'"]),
        ("x.csv", CSV + "c.png,,3\n", ["line 4", "smiling", "''"]),
        ("x.csv", CSV + "a.png,1,1\n", ["line 4", "a.png", "already"]),
        ("x.json", "{", ["JSON"]),
        ("x.json", [1], ["entry 0"]),
        ("x.json", 3, ["entry 0"]),
        ("x.json", {}, ["no entries"]),
        ("x.json", {"a.png": 3}, ["entry 0", "a list of numbers"]),
        ("x.json", {"a.png": [1, 2], "b.png": [1]}, ["entry 1", "'b.png'", "0, 1"]),
        ("x.json", {"a.png": {"x": 1}, "b.png": {"y": 1}}, ["entry 1", "'b.png'", "y", "x"]),
        ("x.json", {"a.png": ["one"]}, ["entry 0", "'one'"]),
        ("x.json", {"a.png": [None]}, ["entry 0", "number"]),
        ("x.json", {"a.png": []}, ["entry 0", "at least one attribute"]),
        ("x.json", {"labels": None}, ["entry 0"]),
    ],
)
def test_invalid_files_give_one_error_that_names_the_place(tmp_path, name, content, parts):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as error:
        read_labels(path)
    assert error.value.setting == str(path)
    assert len(str(error.value).splitlines()) == 1
    for part in (str(path), *parts):
        assert part in str(error.value)


def test_missing_files_and_columns(tmp_path):
    with pytest.raises(DataError) as error:
        read_labels(tmp_path / "none.csv")
    assert error.value.setting == str(tmp_path / "none.csv")
    with pytest.raises(SettingError) as error:
        read_labels(write(tmp_path / "x.csv", CSV), ["smile"])
    assert (error.value.setting, error.value.value) == ("label_columns", "smile")
    assert "smiling" in str(error.value)


@pytest.fixture
def folder(tmp_path):
    """Eight training pictures whose brightness is their first attribute, and three test pictures."""
    rows = ["file,level,odd"]
    for split, num in (("train", 8), ("test", 3)):
        for i in range(num):
            path = tmp_path / split / f"group{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 * i).save(path)
            rows.append(f"{split}/group{i % 2}/{i}.png,{20 * i},{i % 2}")
    write(tmp_path / "labels.csv", "\n".join(rows))
    return tmp_path


def make(folder, **options):
    settings = {"image_size": 8, "channels": 1, "val_size": 2, "batch_size": 2, "labels": "labels.csv"}
    return ImageFolderDataModule(folder, **settings | options)


def test_a_folder_with_labels(folder):
    data = make(folder)
    assert (data.class_names, data.num_classes) == (("level", "odd"), 2)
    for split, num in (("train", 6), ("val", 2), ("test", 3)):
        images, labels = data.images(split)
        assert labels.dtype == torch.float32
        assert labels.shape == (num, 2)
        level = images[:, 0, 0, 0].float()
        torch.testing.assert_close(labels, torch.stack([level / 140, level / 20 % 2], 1))
        torch.testing.assert_close(data.attributes.restore(labels)[:, 0], level)
    assert sorted(data.attributes.in_turn(6).tolist()) == sorted(data.images("train")[1].tolist())
    images, labels = next(iter(data.train_dataloader()))
    torch.testing.assert_close(labels[:, 0], (images[:, 0, 0, 0] + 1) * 127.5 / 140)


def test_the_test_split_alone_has_the_ranges_of_the_training_images(folder):
    assert make(folder).images("test")[1].equal(make(folder).images("test")[1])
    assert float(make(folder).images("test")[1][:, 0].max()) == pytest.approx(40 / 140)


def test_columns_and_limit(folder):
    data = make(folder, label_columns=["odd"], limit=4)
    assert data.class_names == ("odd",)
    assert data.images("train")[1].shape == (4, 1)
    with pytest.raises(SettingError) as error:
        make(folder, labels=None, label_columns=["odd"])
    assert error.value.setting == "label_columns"


def test_a_picture_without_an_entry(folder):
    text = (folder / "labels.csv").read_text().replace("train/group0/2.png", "train/group0/22.png")
    write(folder / "labels.csv", text)
    with pytest.raises(DataError) as error:
        make(folder).setup()
    assert (error.value.setting, error.value.value) == (str(folder / "labels.csv"), "train/group0/2.png")
    assert "Did you mean" in str(error.value)


def test_pictures_that_are_skipped_take_their_labels_along(folder):
    (folder / "train" / "group0" / "4.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="Skipped 1"):
        images, labels = make(folder, on_error="skip").images("train")
    torch.testing.assert_close(labels[:, 0], images[:, 0, 0, 0].float() / 140)


def test_arrays_with_vectors_as_labels(tmp_path):
    values = torch.rand(12, 3, generator=torch.Generator().manual_seed(0)) * 50
    data = ArrayDataModule(images=torch.zeros(12, 4, 4, dtype=torch.uint8).numpy(), labels=values, val_size=2)
    assert [*data.class_names] == ["0", "1", "2"]
    labels = torch.cat([data.images(split)[1] for split in ("train", "val")])
    assert (labels.amin(0).tolist(), labels.amax(0).tolist()) == ([0.0] * 3, [1.0] * 3)
    assert torch.isin(data.attributes.restore(labels), values).float().mean() > 0.9
    with pytest.raises(DataError):
        ArrayDataModule(images=torch.zeros(2, 4, 4).byte().numpy(), labels=[[1.0], [float("nan")]])
