import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gans import SettingError
from lightning_gans.io.pictures import grid, save_png, sheet_size, to_image, to_uint8


def test_bytes_are_the_nearest_levels():
    levels = torch.arange(256)
    images = (levels / 127.5 - 1).view(1, 1, 16, 16)
    assert to_uint8(images).flatten().equal(levels.to(torch.uint8))
    assert to_uint8(images + 0.4 / 127.5).flatten()[:255].equal(levels[:255].to(torch.uint8))
    outside = torch.tensor([-9.0, -1.0, 1.0, 9.0]).view(1, 1, 2, 2)
    assert to_uint8(outside).flatten().tolist() == [0, 0, 255, 255]


def test_bytes_have_their_channels_last():
    images = torch.rand(2, 3, 4, 5) * 2 - 1
    found = to_uint8(images)
    assert found.shape == (2, 4, 5, 3)
    assert found[1, 2, 3, 0] == ((images[1, 0, 2, 3] + 1) * 127.5).round()
    assert to_uint8(images.bfloat16()).dtype == torch.uint8


@pytest.mark.parametrize(
    ("size", "number", "columns", "wanted"),
    [(28, 6, 3, (3 * 58 + 2, 2 * 58 + 2)), (64, 4, 4, (4 * 66 + 2, 68)), (100, 3, 2, (206, 206)), (8, 1, 1, (68, 68))],
)
def test_the_sheet_has_room_for_every_picture(size, number, columns, wanted):
    assert grid(torch.zeros(number, 1, size, size), columns=columns).size == wanted
    assert sheet_size(number, columns, size, size) == wanted


def test_pictures_stand_in_rows():
    levels = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    sheet = np.asarray(grid(levels.view(5, 1, 1, 1).expand(5, 1, 64, 64), columns=3))
    for index, value in enumerate([0, 64, 128, 191, 255]):
        row, column = divmod(index, 3)
        block = sheet[2 + 66 * row :, 2 + 66 * column :][:64, :64]
        assert (block == value).all()
    assert (sheet[2 + 66 :, 2 + 132 :] == 255).all()


def test_small_pictures_are_enlarged_by_whole_pixels():
    image = torch.rand(1, 3, 28, 28) * 2 - 1
    sheet = torch.from_numpy(np.array(grid(image, columns=1)))[2:-2, 2:-2]
    assert sheet.equal(to_uint8(image)[0].repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_a_title_and_labels_make_room_for_themselves():
    images = torch.zeros(4, 1, 64, 64)
    plain = grid(images, columns=2)
    titled = grid(images, columns=2, title="GAN")
    labelled = grid(images, columns=2, row_labels=["zero", "a much longer label"])
    assert titled.height > plain.height
    assert titled.width == plain.width
    assert labelled.width > plain.width
    assert labelled.height == plain.height
    assert (np.asarray(titled)[:20] < 128).any()
    left = np.asarray(labelled)[:, : labelled.width - plain.width]
    assert (left[: plain.height // 2] < 128).any()
    assert (left[plain.height // 2 :] < 128).any()
    assert grid(images[:1], columns=1, title="a title that is longer than the picture").width > 68


def test_what_is_not_images_is_refused():
    with pytest.raises(SettingError) as error:
        grid(torch.zeros(1, 8, 8), columns=1)
    assert (error.value.setting, error.value.allowed) == ("images", "(N, C, H, W)")
    for wrong in (None, [[1.0]], torch.zeros(2, 0, 8, 8)):
        with pytest.raises(SettingError, match="A grid needs images"):
            grid(wrong)
    for columns in (0, -2, 1.5):
        with pytest.raises(SettingError, match="columns is"):
            grid(torch.zeros(2, 1, 8, 8), columns=columns)


def test_other_channels_are_shown_by_the_first_ones():
    images = torch.rand(4, 5, 64, 64) * 2 - 1
    for channels, shown in ((5, images[:, :3]), (2, images[:, :1])):
        assert grid(images[:, :channels]).tobytes() == grid(shown).tobytes()


def test_a_sheet_of_nothing_is_empty():
    assert grid(torch.zeros(0, 1, 8, 8), columns=2).height == 68


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pictures_are_saved_without_loss(tmp_path, channels, mode):
    picture = torch.randint(256, (8, 9, channels), dtype=torch.uint8)
    path = tmp_path / "folder" / "picture.png"
    save_png(to_image(picture), path)
    with Image.open(path) as found:
        assert found.mode == mode
        assert (np.asarray(found).reshape(8, 9, channels) == picture.numpy()).all()
    assert len(list(path.parent.iterdir())) == 1
