"""GIF and MP4 files: their frames, sizes and times, whole or not at all."""

import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gans import DataError, SettingError
from lightning_gans.io import animations
from lightning_gans.io.animations import check_animation_length, save_animation
from lightning_gans.io.pictures import to_uint8


def noise(num, *shape):
    return torch.rand(num, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def gif_frames(path):
    """Return the frames of a GIF as RGB, and their durations in milliseconds."""
    with Image.open(path) as opened:
        frames, durations = [], []
        for place in range(opened.n_frames):
            opened.seek(place)
            frames.append(np.asarray(opened.convert("RGB")))
            durations.append(opened.info["duration"])
        return np.stack(frames), durations, opened.info.get("loop")


def test_the_frames_of_a_gray_gif_are_the_images(tmp_path):
    images = noise(5, 1, 28, 28)
    save_animation(images, tmp_path / "a.gif")
    frames, durations, loop = gif_frames(tmp_path / "a.gif")
    assert frames.shape == (5, 252, 252, 3) and loop == 0 and durations == [40] * 5
    assert np.array_equal(frames[:, ::9, ::9], to_uint8(images).expand(-1, -1, -1, 3))
    assert np.array_equal(frames[:, 8::9, 8::9], frames[:, ::9, ::9])


def test_the_frames_of_a_color_gif_are_close(tmp_path):
    images = torch.linspace(-1, 1, 48).view(1, 3, 4, 4) * torch.tensor([1.0, -1.0, 0.5]).view(3, 1, 1, 1)
    save_animation(images, tmp_path / "a.gif")
    frames = gif_frames(tmp_path / "a.gif")[0]
    assert np.array_equal(frames[:, ::64, ::64], to_uint8(images))  # 16 colors fit into the palette


@pytest.mark.parametrize("fps", [1, 7.5, 24, 30, 50])
def test_rounded_times_do_not_add_up_to_another_length(tmp_path, fps):
    save_animation(noise(31, 1, 4, 4), tmp_path / "a.gif", fps)
    durations = gif_frames(tmp_path / "a.gif")[1]
    assert len(durations) == 31
    assert np.allclose(np.cumsum(durations), 1000 * np.arange(1, 32) / fps, atol=5.1)


@pytest.mark.parametrize(
    ("shape", "path", "fps", "setting"),
    [
        ((2, 1, 8, 8), "a.png", 25, "path"),
        ((2, 1, 8, 8), "a.gif", 0, "fps"),
        ((2, 1, 8, 8), "a.gif", 60, "fps"),
        ((2, 1, 8, 8), "a.gif", float("nan"), "fps"),
        ((2, 2, 8, 8), "a.gif", 25, "images"),
        ((0, 1, 8, 8), "a.gif", 25, "images"),
        ((2, 1, 8), "a.gif", 25, "images"),
    ],
)
def test_what_cannot_be_written_is_an_error(tmp_path, monkeypatch, shape, path, fps, setting):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError) as error:
        save_animation(torch.zeros(shape), path, fps)
    assert error.value.setting == setting and not list(tmp_path.iterdir())


def test_too_many_frames_are_an_error():
    check_animation_length("--frames", 16, 2**20, (1, 32, 32))
    with pytest.raises(SettingError) as error:
        check_animation_length("--frames", 17, 2**20 + 1, (1, 32, 32))
    assert (error.value.setting, error.value.value, error.value.allowed) == ("--frames", 17, 2**20)


@pytest.fixture
def writer(monkeypatch):
    """Put a writer with the interface of imageio-ffmpeg in its place, and return what it gets."""
    got = {"frames": []}

    def write_frames(path, size, pix_fmt_in, **options):
        got.update(path=path, size=size, pixels=pix_fmt_in, **options)
        try:
            while True:
                got["frames"].append((yield))
                if got.get("full"):
                    raise OSError("the disk is full")
        except GeneratorExit:
            if not got.get("fails"):
                with open(path, "wb") as file:
                    file.write(b"".join(got["frames"]))

    module = type(sys)("imageio_ffmpeg")
    module.write_frames = write_frames
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", module)
    monkeypatch.setattr(animations, "find_spec", lambda name: object())
    return got


@pytest.mark.parametrize(("shape", "size"), [((1, 28, 28), 252), ((3, 15, 15), 510), ((3, 300, 300), 300)])
def test_the_writer_of_an_mp4_gets_frames_of_even_sizes(tmp_path, writer, shape, size):
    images = noise(3, *shape)
    save_animation(images, tmp_path / "a.mp4", fps=12.5)
    assert writer["size"] == (size, size) and writer["fps"] == 12.5
    assert writer["pixels"] == {1: "gray", 3: "rgb24"}[shape[0]]
    frames = np.stack([np.frombuffer(frame, np.uint8) for frame in writer["frames"]])
    factor = size // shape[1]
    found = frames.reshape(3, size, size, shape[0])[:, ::factor, ::factor]
    assert np.array_equal(found, to_uint8(images))
    assert (tmp_path / "a.mp4").read_bytes() == frames.tobytes()


@pytest.mark.parametrize("failure", ["full", "fails"])
def test_an_mp4_that_is_not_complete_leaves_the_old_file(tmp_path, writer, failure):
    (tmp_path / "a.mp4").write_bytes(b"old")
    writer[failure] = True
    with pytest.raises((OSError, DataError)):
        save_animation(noise(3, 1, 8, 8), tmp_path / "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"old"


def test_an_mp4_without_its_packages_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(animations, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=re.escape("pip install 'lightning_gans[video]'")):
        save_animation(noise(3, 1, 8, 8), tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_ffmpeg_writes_what_it_reads_back(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    levels = torch.linspace(-1, 1, 10).view(10, 1, 1, 1).expand(-1, 1, 28, 28)
    save_animation(levels, tmp_path / "a.mp4", fps=10)
    reader = ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    about = next(reader)
    frames = np.stack([np.frombuffer(frame, np.uint8) for frame in reader]).reshape(10, 252, 252, 3)
    assert about["size"] == (252, 252) and about["fps"] == 10 and about["codec"] == "h264"
    assert np.abs(frames.mean((1, 2, 3)) - np.linspace(0, 255, 10)).max() < 4
    content = (tmp_path / "a.mp4").read_bytes()
    assert content[4:8] == b"ftyp" and content.index(b"moov") < content.index(b"mdat")  # plays while it loads
