import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from lightning_gans.datamodules import MNISTDataModule, RotatedMNISTDataModule
from lightning_gans.datamodules.rotated_mnist import rotated
from lightning_gans.errors import SettingError

from ..fake_sets import write_mnist


@pytest.fixture
def folder(tmp_path):
    write_mnist(tmp_path, num_train=30, num_test=12)
    return tmp_path


def make(folder, **options):
    return RotatedMNISTDataModule(data_dir=folder, **{"val_size": 6, "batch_size": 4, **options})


@pytest.mark.parametrize("size", [28, 13])
def test_rotation_is_torchvisions(size):
    images = torch.randint(256, (5, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    angles = torch.tensor([0.0, 10, -45, 45, 90])
    pairs = zip(images, angles.tolist(), strict=True)
    wanted = torch.stack([rotate(image, angle, InterpolationMode.BILINEAR) for image, angle in pairs])
    assert rotated(images, angles).equal(wanted)


def test_labels_are_the_angles(folder):
    data = make(folder, val_size=0)
    images, labels = data.images("train")
    angles = data.attributes.restore(labels)[:, 0]
    assert (labels.min(), labels.max()) == (0, 1)
    assert 20 < angles.abs().max() <= 45
    originals = MNISTDataModule(folder, val_size=0).images("train")[0]
    difference = images.int() - rotated(originals, angles).int()
    assert difference.abs().max() <= 1  # restored angles are rounded


def test_angles_are_a_function_of_the_seed_and_the_place(folder):
    first, again, other = (make(folder, angle_seed=seed).images("test") for seed in (0, 0, 1))
    assert all(one.equal(two) for one, two in zip(first, again, strict=True))
    assert not first[1].equal(other[1])
    assert make(folder, max_angle=90).attributes.highs[0] == pytest.approx(2 * make(folder).attributes.highs[0])


def test_digits(folder):
    _, digits = MNISTDataModule(folder, val_size=0).images("train")
    chosen = make(folder, digits=[3, 7], val_size=0)
    assert len(chosen.images("train")[0]) == torch.isin(digits, torch.tensor([3, 7])).sum()


@pytest.mark.parametrize(
    ("setting", "value"), [("digits", [10]), ("digits", []), ("max_angle", 0), ("angle_seed", 0.5)]
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError) as error:
        RotatedMNISTDataModule(**{setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)
