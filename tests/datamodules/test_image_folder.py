import json
import logging
import math
import os
import signal
import struct
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import BmpImagePlugin, ExifTags, Image, ImageFile, PngImagePlugin

from lightning_gans.datamodules import ImageFolderDataModule
from lightning_gans.datamodules.decoded import DecodedPictures
from lightning_gans.errors import DataError, SettingError
from lightning_gans.io.pictures import read_picture

from .fakes import everything_in, lines_of


def paint(path, colour=(255, 0, 0), size=(20, 12), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def make(folder, **options):
    return ImageFolderDataModule(folder, **{"image_size": 8, "val_size": 1, "batch_size": 2, **options})


def cache_in(folder):
    (path,) = folder.glob("lightning_gans-pictures-train-3x8x8-*.images")
    return path


@pytest.fixture
def flat(tmp_path):
    for i in range(6):
        paint(tmp_path / "pictures" / f"{i}.png", (40 * i, 0, 0))
    return tmp_path / "pictures"


@pytest.fixture
def classes(tmp_path):
    for i in range(3):
        paint(tmp_path / "pets" / "dog" / f"{i}.png", (200, i, 0))
        paint(tmp_path / "pets" / "cat" / "indoors" / f"{i}.jpg", (0, 200, i))
    (tmp_path / "pets" / "notes").mkdir()
    (tmp_path / "pets" / "README.txt").write_text("not a picture")
    paint(tmp_path / "pets" / ".thumbnails" / "0.png")
    return tmp_path / "pets"


def test_a_flat_folder(flat):
    data = make(flat)
    images, labels = data.images("train")
    assert (images.shape, images.dtype, labels.dtype) == ((5, 3, 8, 8), torch.uint8, torch.int64)
    assert data.num_classes == 0 and list(data.class_names) == []
    assert labels.tolist() == [0] * 5
    reds = torch.cat([images, data.images("val")[0]])[:, 0, 0, 0]
    assert sorted(reds.tolist()) == [0, 40, 80, 120, 160, 200]


def test_classes_are_folders(classes):
    data = make(classes)
    images, labels = data.load_images("train")
    assert list(data.class_names) == ["cat", "dog"] and data.num_classes == 2
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (images[:3, 1, 4, 4] > 190).all() and (images[3:, 0, 4, 4] == 200).all()
    assert images[3:, 1, 0, 0].tolist() == [0, 1, 2]


def test_split_folders(tmp_path):
    for split, size in (("train", 4), ("val", 2), ("test", 3)):
        for i in range(size):
            paint(tmp_path / split / "a" / f"{i}.png")
            paint(tmp_path / split / "b" / f"{i}.png")
    data = make(tmp_path)
    data.prepare_data()
    data.setup()
    assert [len(data.images(split)[1]) for split in ("train", "val", "test")] == [8, 4, 6]


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train", "test": "test"},
        {"train": "Training", "val": "VALID", "test": "Testing"},
        {"train": "train_set", "val": "val2017", "test": "test-images"},
    ],
)
def test_only_folders_with_images_decide_what_is_a_split(tmp_path, names):
    for split, name in names.items():
        for i in range({"train": 4, "val": 2, "test": 3}[split]):
            paint(tmp_path / name / "cat" / f"{i}.png")
            paint(tmp_path / name / "dog" / f"{i}.png")
    (tmp_path / "notes").mkdir()
    paint(tmp_path / "__MACOSX" / "train" / "cat" / "._0.png")
    paint(tmp_path / "@eaDir" / "0.png" / "thumbnail.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.xml").touch()
    data = make(tmp_path, val_size=2)
    assert data.class_names == ["cat", "dog"]
    sizes = [len(data.images(split)[1]) for split in ("train", "val", "test")]
    assert sizes == ([8, 4, 6] if "val" in names else [6, 2, 6])


@pytest.mark.parametrize(
    ("folders", "classes", "named"),
    [
        (["train", "plane"], ["plane", "train"], "train"),
        (["val", "test"], ["test", "val"], "test, val"),
        (["pets/train/cat", "pets/test/cat"], ["pets"], "test, train"),
        (["cat/train", "cat/test", "dog/train"], ["cat", "dog"], "test, train"),
    ],
)
def test_folders_with_names_of_splits_that_count_as_classes_are_warned_about(tmp_path, folders, classes, named):
    for folder in folders:
        paint(tmp_path / folder / "0.png")
    with pytest.warns(UserWarning, match=f"the folders {named} count as classes"):
        make(tmp_path, val_size=0).load_images("train")
    assert make(tmp_path).class_names == classes


def test_images_beside_the_splits_are_warned_about(tmp_path):
    paint(tmp_path / "train" / "0.png")
    paint(tmp_path / "preview.png")
    with pytest.warns(UserWarning, match=r"Ignored images next to the split folders: preview\.png"):
        make(tmp_path).load_images("train")


def test_the_listing_is_logged(classes, caplog):
    with caplog.at_level("INFO"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make(classes).load_images("train")
    assert f"{classes}: 6 train images, 1 of them for validation. Classes: cat 3, dog 3." in caplog.messages


def test_shorter_side_is_resized_and_the_middle_cut_out(tmp_path):
    picture = Image.new("RGB", (40, 16), (0, 0, 0))
    picture.paste((255, 255, 255), (12, 0, 28, 16))  # the middle square is white
    picture.save(tmp_path / "wide.png")
    # The kernel reaches a pixel over the edge, as when the whole is resized first.
    wide = read_picture(tmp_path / "wide.png", (3, 8, 8))
    assert wide[:, :, 1:-1].min() == 255 and wide.min() > 230
    picture.rotate(90, expand=True).save(tmp_path / "tall.png")
    assert read_picture(tmp_path / "tall.png", (3, 16, 16)).min() == 255  # nothing is resized
    paint(tmp_path / "small.png", (10, 20, 30), (4, 5))
    assert read_picture(tmp_path / "small.png", (3, 8, 8))[:, 3, 3].tolist() == [10, 20, 30]


def test_channels(flat):
    assert make(flat, channels=1).images("train")[0].shape == (5, 1, 8, 8)


def test_modes_become_eight_bit(tmp_path):
    for mode, colour in (("L", 128), ("P", 3), ("RGBA", (9, 9, 9, 255)), ("LA", (7, 255)), ("1", 1)):
        paint(tmp_path / f"{mode}.png", colour, mode=mode)
        assert read_picture(tmp_path / f"{mode}.png", (3, 8, 8)).shape == (3, 8, 8)
    assert read_picture(tmp_path / "RGBA.png", (3, 8, 8))[0, 0, 0] == 9
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert (read_picture(tmp_path / "deep.png", (1, 8, 8)) == round(40_000 / 257)).all()


def turned(path, orientation, **options):
    """Write a picture whose left half is white, as a camera stores it that says how it was held."""
    picture = Image.new("RGB", (32, 16))
    picture.paste((255, 255, 255), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(path, exif=exif, **options)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_a_picture_that_was_held_sideways_is_turned_upright(tmp_path, name):
    white = {}
    for orientation in range(1, 9):
        turned(tmp_path / name, orientation)
        found = read_picture(tmp_path / name, (1, 16, 16), "stretch", convert=False)[0]
        sides = {"left": found[:, :4], "right": found[:, -4:], "top": found[:4], "bottom": found[-4:]}
        white[orientation] = [side for side, pixels in sides.items() if pixels.min() > 200]
    # The table of the EXIF standard, applied to "left".
    wanted = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}
    assert white == {orientation: [side] for orientation, side in wanted.items()}


def test_the_cut_is_of_the_upright_picture(tmp_path):
    turned(tmp_path / "a.png", 6)
    assert (read_picture(tmp_path / "a.png", (1, 32, 16))[0, :16] == 255).all()  # nothing is cut off or resized


def test_damaged_exif_data_are_passed_over(tmp_path):
    damaged = PngImagePlugin.PngInfo()
    damaged.add_text("Raw profile type exif", "exif\n4\n\nno number")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png", pnginfo=damaged)
    with Image.open(tmp_path / "a.png") as opened, pytest.raises(ValueError, match="non-hexadecimal"):
        opened.getexif()
    assert read_picture(tmp_path / "a.png", (3, 8, 8))[:, 4, 4].tolist() == [255, 0, 0]


def test_decoded_pictures_of_an_older_version_are_not_taken(flat, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr("lightning_gans.datamodules.image_folder._CACHE_VERSION", 2)  # left pictures sideways
        make(flat).prepare_data()
    make(flat).load_images("train")
    assert len(list(flat.glob("*.images"))) == 2


def test_files_of_other_settings_are_named(flat, caplog):
    def notes(**options):
        caplog.clear()
        make(flat, **options).prepare_data()
        return [text for text in caplog.messages if "*.images" in text]

    with caplog.at_level(logging.INFO):
        assert not notes()
        (note,) = notes(fit="pad")
        assert note.startswith(f"{flat} has 0 MiB")
        assert not notes(fit="pad")  # nothing was written


def write_16_bit_png(path, colour_type, pixel, size=9):
    """Write what PIL only reads: several channels of 16 bits."""
    rows = b"".join(b"\0" + struct.pack(f">{len(pixel)}H", *pixel) * size for _ in range(size))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", size, size, 16, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)


def write_16_bit_tiff(path, pixel, size=9):
    pixels = struct.pack("<3H", *pixel) * size**2
    at = 8 + len(pixels)  # where the bits of the channels stand, and then the table
    tags = {256: size, 257: size, 259: 1, 262: 2, 273: 8, 277: 3, 278: size, 279: len(pixels)}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()}
    entries[258] = struct.pack("<HHII", 258, 3, 3, at)
    table = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", at + 6) + pixels + struct.pack("<3H", 16, 16, 16) + table)


@pytest.mark.parametrize("kind", ["rgb.png", "rgba.png", "la.png", "rgb.tif", "rgb.ppm", "plain.ppm"])
def test_colours_of_16_bits_are_odd(tmp_path, kind):
    path, pixel = tmp_path / kind, (0, 40_000, 65_535)
    if kind == "rgb.png":
        write_16_bit_png(path, 2, pixel)
    elif kind == "rgba.png":
        write_16_bit_png(path, 6, (*pixel, 65_535))
    elif kind == "la.png":
        write_16_bit_png(path, 4, (40_000, 65_535))
    elif kind == "rgb.tif":
        write_16_bit_tiff(path, pixel)
    elif kind == "rgb.ppm":
        path.write_bytes(b"P6 9 9 65535\n" + struct.pack(">3H", *pixel) * 81)
    else:
        path.write_bytes(b"P3 9 9 65535\n" + b"0 40000 65535 " * 81)
    with pytest.raises(DataError, match="convert true"):
        read_picture(path, (3, 8, 8), convert=False)
    found = read_picture(path, (3, 8, 8), convert=True)[:, 4, 4]
    assert np.abs(found - ([156] * 3 if kind == "la.png" else np.array([0, 156, 255]))).max() <= 1


def test_plain_bits_are_read_as_they_are(tmp_path):
    (tmp_path / "bits.ppm").write_bytes(b"P1\n2 2\n0 1 1 0\n")
    assert read_picture(tmp_path / "bits.ppm", (1, 2, 2), convert=False).tolist() == [[[255, 0], [0, 255]]]


def test_a_bitmap_of_16_bits_a_pixel_has_less_than_8_a_channel(tmp_path):
    # 5, 6 and 5 bits, in rows of whole words.
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    header = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 16, 3, 128, 0, 0, 0, 0) + masks
    content = struct.pack("<2sIHHI", b"BM", 14 + len(header) + 128, 0, 0, 14 + len(header)) + header
    (tmp_path / "a.bmp").write_bytes(content + struct.pack("<H", 0xF800) * 64)
    assert read_picture(tmp_path / "a.bmp", (3, 8, 8), convert=False)[:, 4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.tif", "a.webp"])
def test_several_frames_are_odd(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    exact = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **exact)
    with pytest.raises(DataError, match="convert true"):
        read_picture(tmp_path / name, (3, 8, 8), convert=False)
    assert read_picture(tmp_path / name, (3, 8, 8), convert=True)[:, 4, 4].tolist() == [255, 0, 0]
    frames[0].save(tmp_path / name, save_all=True, **exact)
    assert read_picture(tmp_path / name, (3, 8, 8), convert=False)[:, 4, 4].tolist() == [255, 0, 0]


def test_previews_in_a_cameras_jpeg_are_no_frames(tmp_path):
    picture = Image.new("RGB", (8, 8), (255, 0, 0))
    picture.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    with Image.open(tmp_path / "a.jpg") as opened:
        assert opened.n_frames == 2
    assert read_picture(tmp_path / "a.jpg", (3, 8, 8), convert=False)[0].min() > 250


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_unreadable(tmp_path, value):
    values = np.full((9, 9), 0.5, np.float32)
    values[3, 3] = value
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError) as error:
        make(tmp_path, convert=True).prepare_data()
    assert error.value.setting == str(tmp_path / "a.tif")


@pytest.fixture
def odd(tmp_path):
    """A folder with one picture of each odd kind among good ones."""
    folder = tmp_path / "odd"
    for name in ("a", "b", "c"):
        paint(folder / f"{name}.png", (10, 20, 30))
    paint(folder / "cmyk.jpg", (255, 0, 0, 0), mode="CMYK")
    paint(folder / "alpha.png", (255, 0, 0, 0), mode="RGBA")
    paint(folder / "opaque.png", (40, 50, 60, 255), mode="RGBA")
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 90, 80, 70])
    palette.save(folder / "palette.gif")
    palette.save(folder / "see_through.gif", transparency=1)
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(folder / "deep.png")
    write_16_bit_png(folder / "deep_colours.png", 2, (0, 40_000, 65_535))
    frames = [Image.new("RGB", (9, 9), colour) for colour in ((0, 0, 255), (255, 0, 0))]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


ODD = ["alpha.png", "cmyk.jpg", "deep.png", "deep_colours.png", "moving.gif", "see_through.gif"]
BROKEN = ["empty.png", "text.jpg"]


@pytest.mark.filterwarnings("ignore:Ignored files")
def test_odd_and_broken_pictures_are_refused_or_skipped_by_their_names(odd):
    for name in sorted(ODD + BROKEN):
        path = odd / name
        with pytest.raises(DataError) as error:
            make(odd).prepare_data()
        assert error.value.setting == str(path)
        path.unlink()
    assert len(make(odd).load_images("train")[0]) == 5


def test_skipped_and_passed_over_pictures_are_named(odd):
    with pytest.warns(UserWarning) as warned:
        images, labels = make(odd, on_error="skip").load_images("train")
    said = [str(warning.message) for warning in warned]
    assert f"Skipped 8 unreadable images: {', '.join(sorted(ODD + BROKEN))}" in said
    assert "Ignored files that are not images: notes.txt" in said
    assert len(images) == len(labels) == 5


@pytest.mark.filterwarnings("ignore:Ignored files")
def test_odd_pictures_are_converted_on_request(odd):
    with pytest.warns(UserWarning, match="empty.png, text.jpg"):
        images, _ = make(odd, on_error="skip", convert=True).load_images("train")
    names = sorted(path.name for path in odd.iterdir() if path.suffix in (".png", ".jpg", ".gif"))
    colours = dict(zip([name for name in names if name not in BROKEN], images[:, :, 4, 4].tolist(), strict=True))
    assert colours["alpha.png"] == colours["see_through.gif"] == [255, 255, 255]
    assert colours["deep.png"] == [round(40_000 / 257)] * 3
    assert colours["deep_colours.png"] == [0, 156, 255] and colours["moving.gif"] == [0, 0, 255]
    assert colours["opaque.png"] == [40, 50, 60] and colours["palette.gif"] == [90, 80, 70]
    red, green, blue = colours["cmyk.jpg"]
    assert red < 30 and green > 225 and blue > 225  # cyan


def test_ways_to_fit(tmp_path):
    picture = Image.new("RGB", (40, 16), (0, 200, 0))
    picture.paste((255, 255, 255), (12, 0, 28, 16))
    picture.save(tmp_path / "wide.png")
    padded = read_picture(tmp_path / "wide.png", (3, 20, 20), "pad")
    assert (padded[:, :6] == 0).all() and (padded[:, 14:] == 0).all() and (padded[1, 6:14] > 190).all()
    stretched = read_picture(tmp_path / "wide.png", (3, 20, 20), "stretch")
    assert (stretched[1] > 190).all() and stretched[0, 10, 0] < 5 and stretched[0, 10, 10] > 250
    tall = read_picture(tmp_path / "wide.png", (3, 32, 16), "crop")
    assert tall.shape == (3, 32, 16) and (tall[:, :, 8] == 255).all()
    assert make(tmp_path, image_size=[6, 10], val_size=0).image_shape == (3, 6, 10)
    assert make(tmp_path, image_size=np.int64(6), val_size=0).image_shape == (3, 6, 6)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at what Linux has mapped")
def test_decoded_pictures_are_mapped(flat):
    images, _ = make(flat).load_images("train")
    assert str(cache_in(flat)) in Path("/proc/self/maps").read_text()
    images.zero_()
    again, _ = make(flat).load_images("train")  # checked: changes are not written to the file
    assert again.any()


@pytest.mark.parametrize("device_resident", [True, False])
def test_pictures_that_do_not_fit_are_verified_when_they_are_read(flat, monkeypatch, device_resident):
    expected = make(flat, val_size=0.2).images("train")[0].clone()
    monkeypatch.setattr("lightning_gans.datamodules.image_folder.memory", lambda: 1.0)
    data = make(flat, val_size=0.2, device_resident=device_resident)
    assert data.images("train")[0].equal(expected)
    content = bytearray(cache_in(flat).read_bytes())
    content[3 * 3 * 64] ^= 1  # of the fourth of six
    cache_in(flat).write_bytes(content)
    images = make(flat, val_size=0.2).split_images("train").source
    assert len(images.images_at(torch.tensor([0, 5, 5]))) == 3
    rows = torch.tensor([2, 3])
    for read in (
        lambda: images.images_at(rows),
        lambda: images.images_at(slice(2, None)),
        lambda: images.gather(rows, None, torch.device("cpu"), torch.float32),
        lambda: images._copy_on(torch.device("meta")) if device_resident else images.images_at(slice(None)),
    ):
        with pytest.raises(DataError) as error:
            images.device_resident = device_resident
            read()
        assert error.value.setting == str(cache_in(flat))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs a file system with files that have holes")
def test_a_file_larger_than_the_memory_is_mapped(tmp_path):
    cache = DecodedPictures(tmp_path / "a.images", 1)
    shape = (3, 1024, 1024)
    num = int(3 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / math.prod(shape))
    text = json.dumps({"key": "k", "shape": shape, "types": ["uint8"], "left_out": [], "checksums": [0] * num}).encode()
    with open(cache.path, "wb") as file:
        file.truncate(num * math.prod(shape))
        file.seek(0, os.SEEK_END)
        file.write(text + struct.pack("<QI", len(text), zlib.crc32(text)))
    images, _, kept, checksums = cache.load("k")
    assert images.shape == (num, *shape) and len(kept) == len(checksums) == num and images[-1, 0, 0, 0] == 0


def test_files_of_other_runs_that_disappear_are_no_error(flat):
    (flat / "lightning_gans-other.images").symlink_to(flat / "deleted")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = make(flat)
        data.prepare_data()
    assert data._cache("train").path.is_file()


def test_a_disk_without_room(flat, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.warns(UserWarning, match="cannot be written"):
        assert len(make(flat).load_images("train")[0]) == 6
    monkeypatch.setattr("lightning_gans.datamodules.image_folder.memory", lambda: 1.0)
    with pytest.raises(DataError) as error:
        make(flat).load_images("train")
    assert error.value.setting.endswith(".images")


def test_the_order_is_that_of_the_names(flat, monkeypatch):
    expected = make(flat).load_images("train")[0]
    names = sorted(flat.iterdir(), reverse=True)
    monkeypatch.setattr(type(flat), "iterdir", lambda self: iter(names))
    assert make(flat, cache_dir=flat / "elsewhere").load_images("train")[0].equal(expected)


def test_pictures_are_decoded_once(flat, monkeypatch):
    data = make(flat)
    data.prepare_data()
    expected = data.load_images("train")
    assert list(flat.glob("lightning*")) == [cache_in(flat)]
    monkeypatch.setattr("lightning_gans.datamodules.image_folder.read_picture", None)
    again = make(flat)
    again.prepare_data()
    for found, wanted in zip(again.load_images("train"), expected, strict=True):
        assert found.equal(wanted)


def test_a_changed_picture_is_decoded_anew(flat):
    make(flat).prepare_data()
    paint(flat / "0.png", (77, 0, 0))
    os.utime(flat / "0.png", ns=(1, 1))
    assert make(flat).load_images("train")[0][0, 0, 0, 0] == 77
    paint(flat / "6.png", (78, 0, 0))
    assert len(make(flat).load_images("train")[0]) == 7
    assert len(list(flat.glob("lightning*"))) == 1


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "about", "footer"])
def test_a_damaged_cache_is_made_anew_with_a_warning(flat, damage):
    expected = make(flat).load_images("train")[0].clone()  # not the file, which is damaged in its place
    cache = cache_in(flat)
    before = cache.read_bytes()
    content = bytearray(before)
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "bit":
        content[100] ^= 1
    elif damage == "empty":
        content.clear()
    else:
        content[-20 if damage == "about" else -10] ^= 1
    cache.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert make(flat).load_images("train")[0].equal(expected)
    assert cache.read_bytes() == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make(flat).load_images("train")[0].equal(expected)


def test_a_decoding_that_is_killed_leaves_nothing_that_is_taken_for_whole(flat, monkeypatch):
    expected = make(flat).load_images("train")[0]
    paint(flat / "6.png", (78, 0, 0))
    saved = DecodedPictures.save

    def killed(self, *args):  # before the description is written
        with monkeypatch.context() as patch:
            patch.setattr("json.dumps", lambda about: 1 / 0)
            return saved(self, *args)

    monkeypatch.setattr(DecodedPictures, "save", killed)
    with pytest.raises(ZeroDivisionError):
        make(flat).load_images("train")
    monkeypatch.setattr(DecodedPictures, "save", saved)
    assert len(make(flat).load_images("train")[0]) == 7
    (flat / "6.png").unlink()
    assert make(flat).load_images("train")[0].equal(expected)


@pytest.mark.parametrize("other", [{"fit": "pad"}, {"convert": True}, {"on_error": "skip"}, {"channels": 1}])
def test_other_settings_have_another_file(flat, other):
    for size in ((20, 12), (12, 20)):
        paint(flat / "6.png", (0, 90, 0), size)
        expected = [
            make(flat, cache_dir=flat.parent / "fresh" / str(i), **options).load_images("train")[0].clone()
            for i, options in enumerate(({}, other))
        ]
        for options, wanted in zip(({}, other, {}), (*expected, expected[0]), strict=True):
            assert make(flat, **options).load_images("train")[0].equal(wanted)
    assert len(list(flat.glob("*.images"))) == 2


def test_two_folders_of_one_name_do_not_share_a_file(flat, tmp_path):
    paint(tmp_path / "other" / "pictures" / "0.png", (9, 9, 9))
    for _ in range(2):
        assert len(make(flat, cache_dir=tmp_path / "cache").load_images("train")[0]) == 6
        assert len(make(tmp_path / "other" / "pictures", cache_dir=tmp_path / "cache").load_images("train")[0]) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_file_that_another_process_replaces_at_once_is_still_read(flat, monkeypatch):
    make(flat).prepare_data()
    paint(flat / "6.png", (78, 0, 0))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (replace(source, target), os.unlink(target)))
    assert make(flat).load_images("train")[0][:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200, 78]


def test_a_long_name_of_the_folder(tmp_path):
    folder = tmp_path / ("ä" * 125)
    paint(folder / "0.png")
    make(folder).prepare_data()
    assert len(list(folder.glob("*.images"))) == 1


def test_ctrl_c_stops_the_workers_after_one_picture_each(flat, monkeypatch):
    read, begun = read_picture, []

    def slow(path, *args, **options):
        begun.append(path)
        if len(begun) == 2:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.005)
        return read(path, *args, **options)

    for i in range(200):
        os.link(flat / "0.png", flat / f"more{i}.png")
    monkeypatch.setattr("lightning_gans.datamodules.image_folder.read_picture", slow)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        make(flat).prepare_data()
    assert len(begun) < 30  # of chunks of 64


def test_a_folder_that_cannot_be_written_to_is_read(flat, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lightning_gans.datamodules.decoded.replacing", refuse)
    before = everything_in(flat)
    with pytest.warns(UserWarning, match="cannot be written"):
        assert len(make(flat).images("train")[0]) == 5
    assert everything_in(flat) == before


def test_cache_dir(flat, tmp_path):
    before = everything_in(flat)
    make(flat, cache_dir=tmp_path / "cache").prepare_data()
    assert everything_in(flat) == before
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_other_formats_and_what_is_not_a_file_are_unreadable(flat, tmp_path):
    (flat / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    Image.new("RGB", (8, 8)).save(flat / "2.png", format="ICO")
    (flat / "3.png").unlink()
    os.mkfifo(flat / "3.png")
    for name in ("1.png", "2.png", "3.png"):
        with pytest.raises(DataError) as error:
            read_picture(flat / name, (3, 8, 8))
        assert error.value.setting == str(flat / name)
    with pytest.warns(UserWarning, match=r"Skipped 3 unreadable images: 1\.png, 2\.png, 3\.png"):
        make(flat, on_error="skip").load_images("train")


def test_one_large_picture_is_decoded_at_a_time(tmp_path, monkeypatch):
    active, most = [], []
    load = ImageFile.ImageFile.load

    def slow(self):
        active.append(self)
        most.append(len(active))
        time.sleep(0.01)
        active.pop()
        return load(self)

    for i in range(4):
        paint(tmp_path / f"{i}.bmp", mode="L", colour=9)
    monkeypatch.setattr(BmpImagePlugin.BmpImageFile, "load", slow)
    for limit, expected in ((10, {1}), (10_000, {1, 2, 3, 4})):
        most.clear()
        monkeypatch.setattr("lightning_gans.io.pictures._LARGE_PIXELS", limit)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda path: read_picture(path, (1, 8, 8)), sorted(tmp_path.iterdir())))
        assert set(most) <= expected and (limit == 10 or len(set(most)) > 1)


@pytest.mark.parametrize("content", [b"", b"no picture"], ids=["empty", "text"])
def test_an_unreadable_picture(flat, content):
    (flat / "3.png").write_bytes(content)
    with pytest.raises(DataError) as error:
        make(flat).prepare_data()
    assert error.value.setting == str(flat / "3.png")
    assert "on_error skip" in lines_of(error)
    assert not list(flat.glob("lightning*"))
    for _ in range(2):  # also when it comes from the cache
        with pytest.warns(UserWarning, match=r"3\.png"):
            images, labels = make(flat, on_error="skip").load_images("train")
        assert images[:, 0, 0, 0].tolist() == [0, 40, 80, 160, 200] and len(labels) == 5


def test_a_truncated_picture(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "0.jpg")
    (tmp_path / "0.jpg").write_bytes((tmp_path / "0.jpg").read_bytes()[:3000])
    for on_error, named in (("raise", tmp_path / "0.jpg"), ("skip", tmp_path)):  # none is left
        with pytest.raises(DataError) as error:
            make(tmp_path, on_error=on_error).prepare_data()
        assert error.value.setting == str(named)


def test_labels_stay_with_their_pictures_when_some_are_skipped(classes):
    (classes / "cat" / "indoors" / "1.jpg").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1\.jpg"):
        images, labels = make(classes, on_error="skip").load_images("train")
    assert labels.tolist() == [0, 0, 1, 1, 1]
    assert (images[:2, 1, 4, 4] > 190).all()


def test_a_link_to_nowhere_is_an_unreadable_picture(classes):
    (classes / "dog" / "lost.png").symlink_to(classes / "nowhere.png")
    with pytest.raises(DataError) as error:
        make(classes).prepare_data()
    assert error.value.setting == str(classes / "dog" / "lost.png")
    for _ in range(2):  # also when it comes from the cache
        with pytest.warns(UserWarning, match=r"lost\.png"):
            images, labels = make(classes, on_error="skip").load_images("train")
        assert labels.tolist() == [0, 0, 0, 1, 1, 1] and len(images) == 6
    (classes / "nowhere.png").write_bytes((classes / "dog" / "0.png").read_bytes())
    assert len(ImageFolderDataModule(classes / "dog", 8, on_error="skip").load_images("train")[0]) == 4


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="their file systems have no such names")
def test_names_that_are_not_utf8(flat):
    os.rename(flat / "3.png", os.fsencode(flat) + b"/3\xff.png")
    data = make(flat)
    data.prepare_data()
    assert data.load_images("train")[0][:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200]


def test_links_count_no_picture_twice(classes):
    (classes / "cat" / "up").symlink_to(classes)
    (classes / "cat" / "indoors" / "itself").symlink_to(classes / "cat" / "indoors")
    (classes / "dog" / "beside").symlink_to(classes.parent / "elsewhere")
    (classes / "dog" / "again").symlink_to(classes.parent / "elsewhere")
    (classes / "loop").symlink_to(classes)
    paint(classes.parent / "elsewhere" / "3.png", (200, 3, 0))
    (classes.parent / "pets_by_link").symlink_to(classes)
    for root in (classes, classes.parent / "pets_by_link"):
        data = make(root)
        images, labels = data.load_images("train")
        assert data.class_names == ["cat", "dog"]
        assert labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
        assert sorted(images[3:, 1, 0, 0].tolist()) == [0, 1, 2, 3]


def test_two_folders_of_one_split(tmp_path):
    for name in ("train", "val", "valid"):
        paint(tmp_path / name / "0.png")
    with pytest.raises(DataError) as error:
        make(tmp_path).prepare_data()
    assert (error.value.setting, error.value.value) == (str(tmp_path), ["val", "valid"])


def test_invalid_folders(tmp_path, classes):
    (tmp_path / "empty").mkdir()
    paint(classes / "loose.png")
    paint(tmp_path / "split" / "train" / "a" / "0.png")
    paint(tmp_path / "split" / "test" / "b" / "0.png")
    for folder, named in (("nowhere", "nowhere"), ("empty", "empty"), ("pets", "pets"), ("split", "split/test")):
        with pytest.raises(DataError) as error:
            make(tmp_path / folder).prepare_data()
        assert error.value.setting == str(tmp_path / named)
        lines_of(error)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("image_size", value) for value in (0, [8, 8, 8], "16", 1.5, [8, 8.5], None)),
        ("channels", 0),
        ("on_error", "skp"),
        ("val_size", "x"),
        ("fit", "crob"),
    ],
)
def test_settings_out_of_range(flat, setting, value):
    with pytest.raises(SettingError) as error:
        make(flat, **{setting: value}).prepare_data()
    assert (error.value.setting, error.value.value) == (setting, value)
