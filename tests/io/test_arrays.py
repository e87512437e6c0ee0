"""Values of any depth: their scale, and their files."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gans import DataError
from lightning_gans.io.arrays import Scale, from_stored, stored_type, suffix_for, to_stored, write_values
from lightning_gans.io.pictures import from_bytes, opened_picture, read_picture, to_bytes

TYPES = ("uint8", "uint16", "int16", "int32", "float16", "float32", "float64", "bool")


def values(dtype, channels=1, size=(6, 8)):
    """Make random values that cover a type of whole numbers, or some range of floats."""
    random = np.random.default_rng(0)
    if dtype == "bool":
        return random.random((channels, *size)) < 0.5
    if np.dtype(dtype).kind == "f":
        return random.normal(300, 40, (channels, *size)).astype(dtype)
    bounds = np.iinfo(dtype)
    return random.integers(bounds.min, bounds.max, (channels, *size), dtype, endpoint=True)


def own_scale(array):
    return Scale(float(array.min()), float(array.max()), array.dtype.name)


def read(path, channels, **options):
    with opened_picture(path, convert=False, channels=channels, own_values=True) as picture:
        return picture.values


@pytest.mark.parametrize("dtype", TYPES)
def test_values_become_images_and_values_again(dtype):
    array = values(dtype, 3)
    scale = own_scale(array)
    images = scale.normalize(torch.from_numpy(array.astype(np.float32)))
    again = scale.restore(images)
    assert images.dtype == torch.float32 and images.min() == -1 and images.max() == 1
    assert again.dtype == dtype and again.shape == array.shape
    # float32 has 24 bits, and float16 has 11
    step = max((scale.high - scale.low) * 2**-22, np.spacing(np.float16(scale.high)) if dtype == "float16" else 0)
    assert np.abs(again.astype(float) - array.astype(float)).max() <= step
    if dtype in ("uint8", "uint16", "int16", "bool"):
        assert (again == array).all()


def test_the_scale_of_bytes_is_that_of_all_other_pictures():
    levels = torch.arange(256, dtype=torch.uint8)
    images = torch.linspace(-1.1, 1.1, 10_001)
    assert Scale().normalize(levels).equal(from_bytes(levels))
    assert torch.from_numpy(Scale().restore(images)).equal(to_bytes(images))


def test_values_outside_of_the_range_are_clipped():
    scale = Scale(-10, 10, "int8")
    assert scale.normalize(torch.tensor([-100, 0, 11])).tolist() == [-1, 0, 1]
    assert Scale(-1000, 1000, "int8").restore(torch.tensor([-2.0, 1.0])).tolist() == [-128, 127]


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_kept_in_memory_has_the_values(dtype):
    array = values(dtype)
    stored = to_stored(array)
    wanted = {"uint8": 1, "bool": 1, "uint16": 2}.get(dtype, 4)
    assert stored.element_size() == stored_type(dtype).itemsize == wanted
    assert (from_stored(stored).numpy() == array.astype(np.float32)).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64", "bool"])
@pytest.mark.parametrize("like", ["", ".png", ".tif", ".npy"])
def test_a_file_of_the_kind_that_is_exact_holds_the_values(tmp_path, dtype, channels, like):
    array = values(dtype, channels)
    suffix = suffix_for(array, like)
    assert suffix in (like, ".npy") or (suffix, dtype) == (".png", "uint8") or like == ""
    if suffix == ".png":
        assert dtype in ("uint8", "uint16") and channels <= 4
    path = tmp_path / f"a{suffix}"
    with open(path, "wb") as file:
        write_values(array, file, suffix)
    if suffix == ".png" and dtype == "uint8":
        assert (read_picture(path, array.shape, convert=False) == array).all()
    else:
        again = read(path, channels)
        assert again.dtype == dtype and (again == array).all()


def test_color_with_16_bits_is_a_png_that_pil_reads_as_well(tmp_path):
    array = values("uint16", 3)
    with open(tmp_path / "a.png", "wb") as file:
        write_values(array, file, ".png")
    with Image.open(tmp_path / "a.png") as picture:
        assert (np.asarray(picture).transpose(2, 0, 1) == array >> 8).all()


DAMAGED = """
import sys
from lightning_gans.errors import DataError
from lightning_gans.io.pictures import read_picture

content, name = open(sys.argv[1], "rb").read(), sys.argv[1] + ".damaged.png"
refused = 0
for place in range(8, len(content)):
    for changed in (content[:place], content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]):
        open(name, "wb").write(changed)
        try:
            read_picture(name, (3, 4, 4), own_values=True)
        except DataError:
            refused += 1
print(refused)
"""


def test_a_damaged_png_with_16_bits_is_an_error_and_not_the_end_of_the_process(tmp_path):
    path = tmp_path / "a.png"
    with open(path, "wb") as file:
        write_values(np.arange(48, dtype=np.uint16).reshape(3, 4, 4) * 1000, file, ".png")
    done = subprocess.run([sys.executable, "-c", DAMAGED, path], capture_output=True, text=True)
    assert done.returncode == 0
    assert int(done.stdout) > 1.9 * (path.stat().st_size - 8)


@pytest.mark.parametrize("array", [np.zeros((0, 28)), np.zeros((3, 3), np.complex64)])
def test_an_array_without_values_or_of_complex_ones_is_no_picture(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match="is not a picture"):
        read_picture(tmp_path / "a.npy", (1, 28, 28), own_values=True)


def test_a_kind_of_file_that_cannot_hold_the_values_is_an_error(tmp_path):
    for array, suffix in ((values("float32"), ".png"), (values("uint8", 5), ".png"), (values("float64"), ".tif")):
        with open(tmp_path / "a", "wb") as file, pytest.raises(ValueError, match="cannot hold"):
            write_values(array, file, suffix)


@pytest.mark.parametrize("layout", ["HWC", "CHW", "HW"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_array_has_its_channels_first_or_last_or_none(tmp_path, layout, suffix):
    array = values("float32", 1 if layout == "HW" else 5)
    path = tmp_path / f"a{suffix}"
    given = {"HWC": array.transpose(1, 2, 0), "CHW": array, "HW": array[0]}[layout]
    np.save(path, given) if suffix == ".npy" else np.savez(path, image=given)
    with opened_picture(path, channels=len(array), own_values=True) as picture:
        assert (picture.values == array).all() and picture.size == (8, 6)
        with open(tmp_path / "b.npy", "wb") as file:
            write_values(picture.values, file, ".npy", picture.axis)
    assert np.load(tmp_path / "b.npy").shape == given.shape


@pytest.mark.parametrize("dtype", ["uint16", "float32", "uint8"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_an_array_is_fitted_like_a_picture(tmp_path, dtype, fit):
    array = 64 + values("uint8", 3, (30, 20)) // 2  # PIL clips bytes after each of its two passes
    Image.fromarray(array.transpose(1, 2, 0)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", array.astype(dtype) * dtype_factor(dtype))
    shape = (3, 12, 12)
    found = read_picture(tmp_path / "a.npy", shape, fit, own_values=True)
    wanted = read_picture(tmp_path / "a.png", shape, fit)
    assert found.dtype == dtype and found.shape == shape
    assert np.abs(found.astype(float) / dtype_factor(dtype) - wanted).max() < 1.01  # and rounds them


def dtype_factor(dtype):
    return np.array({"uint16": 200, "float32": 0.01, "uint8": 1}[dtype], dtype)


def test_16_bits_without_own_values_are_an_error_or_8_bits(tmp_path):
    Image.fromarray(values("uint16")[0]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="convert true"):
        read_picture(tmp_path / "a.png", (1, 6, 8), convert=False)
    found = read_picture(tmp_path / "a.png", (1, 6, 8))
    assert (found == np.rint(values("uint16") / 257)).all()


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (values("float32", 4), "shape"),
        (np.full((5, 6, 8), np.nan), "finite"),
        (np.full((5, 6, 8), 1j), "complex"),
        (np.full((5, 6, 8), "a"), "type"),
    ],
)
def test_an_array_that_is_not_an_image_is_named(tmp_path, array, named):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=named) as error:
        read_picture(tmp_path / "a.npy", (5, 6, 8), own_values=True)
    assert error.value.setting == str(tmp_path / "a.npy")


def test_an_archive_of_several_arrays_is_not_an_image(tmp_path):
    np.savez(tmp_path / "a.npz", values("uint8"), values("uint8"))
    with pytest.raises(DataError, match="2 arrays"):
        read_picture(tmp_path / "a.npz", (1, 6, 8), own_values=True)


def test_other_numbers_of_channels_are_an_error(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    Image.fromarray(values("uint16")[0]).save(tmp_path / "b.png")
    pages = [Image.fromarray(page) for page in values("uint16", 5)]
    pages[0].save(tmp_path / "c.tif", save_all=True, append_images=pages[1:])
    for name, channels in (("a.png", 5), ("b.png", 3), ("c.tif", 4)):
        with pytest.raises(DataError, match=f"instead of {channels}"):
            read_picture(tmp_path / name, (channels, 6, 8), convert=False, own_values=True)
    for name, channels in (("b.png", 3), ("c.tif", 3)):  # gray becomes RGB, and the first page is taken
        found = read_picture(tmp_path / name, (channels, 6, 8), own_values=True)
        wanted = np.rint((values("uint16") if name == "b.png" else values("uint16", 5)[:1]) / 257)
        assert found.dtype == np.uint8 and (found == wanted).all()


def test_opacity_is_the_last_of_two_or_four_channels(tmp_path):
    array = values("uint8", 4)
    Image.fromarray(array.transpose(1, 2, 0)).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png", (4, 6, 8), convert=False) == array).all()
    with pytest.raises(DataError, match="transparent"):
        read_picture(tmp_path / "a.png", (3, 6, 8), convert=False)


def write_interleaved_tiff(path):
    """Write 16 bits per channel of RGB, of which PIL keeps 8."""
    from tests.datamodules.test_image_folder import write_16_bit_tiff

    write_16_bit_tiff(path, (0, 40_000, 65_535))


def test_a_tiff_that_pil_cannot_read_names_the_extra(tmp_path, monkeypatch):
    write_interleaved_tiff(tmp_path / "a.tif")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(DataError, match=r"lightning_gans\[tiff\]") as error:
        read_picture(tmp_path / "a.tif", (3, 9, 9), convert=False, own_values=True)
    assert error.value.setting == str(tmp_path / "a.tif")
    monkeypatch.setattr("lightning_gans.io.arrays.find_spec", lambda name: None)
    found = read_picture(tmp_path / "a.tif", (3, 9, 9), own_values=True)
    assert found.dtype == np.uint8 and found[:, 4, 4].tolist() == [0, 156, 255]


def test_a_tiff_whose_pages_form_a_circle_is_damaged(tmp_path):
    """tifffile follows them for ever."""
    tifffile = pytest.importorskip("tifffile")
    write_interleaved_tiff(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        first, last = file.pages[0].offset, file.pages[-1]
        place = last.offset + 2 + 12 * len(last.tags)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    assert int.from_bytes(content[place : place + 4], "little") == 0
    content[place : place + 4] = first.to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match="circle"):
        read_picture(tmp_path / "a.tif", (3, 9, 9), own_values=True)


def test_tifffile_reads_what_pil_cannot(tmp_path):
    pytest.importorskip("tifffile")
    write_interleaved_tiff(tmp_path / "a.tif")
    found = read_picture(tmp_path / "a.tif", (3, 9, 9), own_values=True)
    assert found.dtype == np.uint16 and found[:, 4, 4].tolist() == [0, 40_000, 65_535]
