"""Pairs of images from folders."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gans import DataError, PairedFolderDataModule, SettingError, UnpairedFolderDataModule
from lightning_gans.io.pictures import from_bytes
from tests.toys import Toys

NUM = 7


def picture(k, size=(8, 8), mode="RGB"):
    """Make a picture whose first pixel has the value of its number."""
    pixels = np.random.default_rng(k).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[0, 0] = k
    return Image.fromarray(pixels).convert(mode)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def folders(tmp_path):
    for k in range(NUM):
        write(tmp_path / "a" / f"{k}.png", picture(k))
        write(tmp_path / "b" / f"{k}.bmp", picture(100 + k))
    return tmp_path / "a", tmp_path / "b"


def paired(*folders, **options):
    options = {"image_size": 8, "val_size": 2, "batch_size": 2, **options}
    return PairedFolderDataModule(*folders, **options)


def fed(data, split="train", epoch=0):
    data.setup("fit")
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    loader.sampler.set_epoch(epoch)
    return [tuple(batch) for batch in loader]


def numbers(batches, side):
    """Return the numbers of the pictures, which their first pixels have."""
    pixels = torch.cat([pair[side] for pair in batches])[:, 0, 0, 0]
    return ((pixels + 1) * 127.5).round().int().tolist()


def test_pairs_have_the_same_name_in_two_folders(folders):
    data = paired(*folders)
    pairs = fed(data) + fed(data, "val")
    sources, targets = numbers(pairs, 0), numbers(pairs, 1)
    assert targets == [100 + k for k in sources]
    assert len(set(sources)) == 6  # four of five in training, as a batch has two
    for source, target in pairs:
        for k, one, other in zip(numbers([(source, target)], 0), source, target, strict=True):
            wanted = [torch.from_numpy(np.array(picture(j))).permute(2, 0, 1) for j in (k, 100 + k)]
            assert one.equal(from_bytes(wanted[0])) and other.equal(from_bytes(wanted[1]))


def test_images_are_the_targets(folders):
    images, _ = paired(*folders).images("val")
    assert images.shape == (2, 3, 8, 8) and images.dtype == torch.uint8
    assert images[:, 0, 0, 0].min() >= 100
    assert paired(*folders).split_images("train").shape == (5, 3, 8, 8)


def test_side_by_side_is_the_same_as_two_folders(folders, tmp_path):
    for k in range(NUM):
        both = Image.new("RGB", (16, 8))
        both.paste(picture(k), (0, 0))
        both.paste(picture(100 + k), (8, 0))
        write(tmp_path / "both" / f"{k}.png", both)
    for two, one in zip(fed(paired(*folders)), fed(paired(tmp_path / "both")), strict=True):
        assert two[0].equal(one[0]) and two[1].equal(one[1])
    for two, one in zip(fed(paired(*folders)), fed(paired(tmp_path / "both", swap=True)), strict=True):
        assert two[0].equal(one[1]) and two[1].equal(one[0])


def test_sides_may_have_other_channels_and_shapes(folders):
    data = paired(*folders, source_channels=1, image_size=[4, 6], fit="stretch")
    ((source, target), *_) = fed(data)
    assert source.shape == (2, 1, 4, 6) and target.shape == (2, 3, 4, 6)
    assert data.image_shape == (3, 4, 6) and data.source_shape == (1, 4, 6)


def test_mirrors_and_jitter_change_both_sides_alike(folders, tmp_path):
    options = {"horizontal_flip": True, "jitter": 3}
    for source, target in fed(paired(folders[0], folders[0], **options)):
        assert source.equal(target)
    plain, changed = paired(*folders), paired(*folders, **options)
    assert not any(a[0].equal(b[0]) for a, b in zip(fed(plain), fed(changed), strict=True))


def test_pairs_are_kept_until_either_side_changes(folders, monkeypatch):
    fed(paired(*folders))
    decoded = []
    real = PairedFolderDataModule._decode
    monkeypatch.setattr(
        PairedFolderDataModule, "_decode", lambda self, path: (decoded.append(path), real(self, path))[1]
    )
    fed(paired(*folders))
    assert decoded == []
    write(folders[1] / "3.bmp", picture(9, (16, 16)).resize((8, 8)))
    fed(paired(*folders))
    assert len(decoded) == NUM


def test_split_folders_are_matched_within_themselves(tmp_path):
    for side in ("a", "b"):
        for split, first in (("train", 0), ("val", 50)):
            for k in range(3):
                write(tmp_path / side / split / f"{k}.png", picture(first + k + 100 * (side == "b")))
    data = paired(tmp_path / "a", tmp_path / "b")
    assert sorted(numbers(fed(data, "val"), 0)) == [50, 51, 52]
    assert sorted(numbers(fed(data, "val"), 1)) == [150, 151, 152]


def spoil_name(a, b):
    (b / "3.bmp").rename(b / "other.bmp")


def spoil_size(a, b):
    write(b / "3.bmp", picture(3, (8, 9)))


def spoil_target(a, b):
    for path in b.iterdir():
        path.unlink()


def spoil_source(a, b):
    for path in a.iterdir():
        path.unlink()


def spoil_twice(a, b):
    write(b / "3.png", picture(3))


@pytest.mark.parametrize(
    ("spoil", "setting"),
    [(spoil_name, "b"), (spoil_size, "a/3.png"), (spoil_target, "b"), (spoil_source, "a"), (spoil_twice, "b")],
)
def test_what_is_not_a_pair_is_named_before_the_first_step(folders, spoil, setting):
    spoil(*folders)
    with pytest.raises(DataError) as error:
        paired(*folders).prepare_data()
    assert error.value.setting == str(folders[0].parent / setting)


def test_a_name_without_a_partner_is_in_the_message(folders):
    write(folders[0] / "alone.png", picture(0))
    with pytest.raises(DataError, match=r"alone\.png") as error:
        paired(*folders).prepare_data()
    assert error.value.value == ["alone.png"]


def test_a_side_by_side_picture_of_odd_width(tmp_path):
    for k in range(4):
        write(tmp_path / f"{k}.png", picture(k, (16 + (k == 2), 8)))
    with pytest.raises(DataError) as error:
        paired(tmp_path).prepare_data()
    assert error.value.setting == str(tmp_path / "2.png")
    assert "17 pixels wide" in str(error.value)
    data = paired(tmp_path, on_error="skip", val_size=1, batch_size=1)
    with pytest.warns(UserWarning, match="Skipped 1"):
        assert len(data.images("train")[0]) == 2


def test_invalid_channels(tmp_path):
    with pytest.raises(SettingError) as error:
        paired(tmp_path, source_channels=0)
    assert error.value.setting == "source_channels"


# --- without pairs -------------------------------------------------------------------------------------------------


@pytest.fixture
def sides(tmp_path):
    """Make seven pictures and three."""
    for k in range(7):
        write(tmp_path / "many" / f"{k}.png", picture(k))
    for k in range(3):
        write(tmp_path / "few" / f"{k}.png", picture(100 + k))
    return tmp_path / "many", tmp_path / "few"


def unpaired(*folders, **options):
    return UnpairedFolderDataModule(*folders, **{"image_size": 8, "val_size": 1, "batch_size": 2, **options})


@pytest.mark.parametrize("swapped", [False, True])
def test_an_epoch_is_that_of_the_larger_side_and_repeats_the_smaller(sides, swapped):
    data = unpaired(*(sides[::-1] if swapped else sides))
    large, small = (1, 0) if swapped else (0, 1)
    partners = []
    for epoch in range(12):
        pairs = fed(data, epoch=epoch)
        assert len(set(numbers(pairs, large))) == 6
        counts = [numbers(pairs, small).count(k) for k in set(numbers(pairs, small))]
        assert counts == [3, 3]
        partners.append(dict(zip(numbers(pairs, large), numbers(pairs, small), strict=True)))
    assert len({tuple(sorted(of.items())) for of in partners}) > 6
    assert all(len({of[k] for of in partners}) == 2 for k in partners[0])  # everybody meets everybody
    again = fed(unpaired(*(sides[::-1] if swapped else sides)), epoch=3)
    assert dict(zip(numbers(again, large), numbers(again, small), strict=True)) == partners[3]


def test_the_pairs_of_a_validation_are_fixed(sides):
    data = unpaired(*sides, val_size=2, batch_size=1)
    assert [numbers(fed(data, "val", epoch), 1) for epoch in (0, 1)] == [numbers(fed(data, "val"), 1)] * 2
    assert len(fed(data, "val")) == 2
    assert data.images("val")[0][:, 0, 0, 0].tolist() == numbers(fed(data, "val"), 1)


def test_a_side_is_changed_on_its_own(sides):
    first = fed(unpaired(sides[0], sides[0], val_size=1, horizontal_flip=True, jitter=2))
    assert not all(source.equal(target) for source, target in first)
    few = from_bytes(unpaired(*sides).images("train")[0])
    targets = torch.cat([t for epoch in range(8) for _, t in fed(unpaired(*sides, horizontal_flip=True), epoch=epoch)])
    mirrored = [any(t.equal(image.flip(-1)) for image in few) for t in targets]
    assert 0.2 < sum(mirrored) / len(mirrored) < 0.8


def test_two_processes_see_what_one_sees_of_both_sides(sides):
    def pairs(processes, rank, batch_size):
        data = unpaired(*sides, batch_size=batch_size, jitter=1, horizontal_flip=True)
        data._place = lambda: (processes, rank)
        return [torch.cat(side) for side in zip(*fed(data), strict=True)]

    alone, together = pairs(1, 0, 2), [pairs(2, rank, 1) for rank in range(2)]
    for side in range(2):
        rows = torch.stack([part[side] for part in together], 1).flatten(0, 1)
        assert rows.equal(alone[side])


@pytest.mark.parametrize("side", [0, 1])
def test_an_empty_side_is_named(sides, side):
    for path in sides[side].iterdir():
        path.unlink()
    with pytest.raises(DataError) as error:
        unpaired(*sides).prepare_data()
    assert error.value.setting == str(sides[side])


@pytest.mark.parametrize("make", [paired, unpaired])
@pytest.mark.parametrize("side", [0, 1])
def test_a_side_that_is_no_folder_is_named(sides, make, side):
    folders = list(sides)
    folders[side] = sides[0].parent / "nowhere"
    with pytest.raises(DataError) as error:
        make(*folders).prepare_data()
    assert error.value.setting == str(folders[side])


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_pairs_by_their_places_are_those_of_the_loader(sides, split):
    apart = unpaired(*sides, val_size=2, batch_size=3)
    together = Toys(num_images=30, task="inpaint_strokes", val_size=9)
    for data in (apart, together):
        pairs = data.split_pairs(split)
        batches = map(tuple, data.val_dataloader() if split == "val" else data.test_dataloader())
        wanted = [torch.cat(side) for side in zip(*batches, strict=True)]
        assert len(pairs) == len(wanted[0]) and data.paired == (data is together)
        for places in (slice(None), slice(1, 2), slice(2, 99)):
            assert all(found.equal(side[places]) for found, side in zip(pairs[places], wanted, strict=True))
    with pytest.raises(SettingError) as error:
        apart.split_pairs("train")
    assert error.value.setting == "split"
