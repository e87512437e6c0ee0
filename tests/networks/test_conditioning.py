import pytest
import torch

from lightning_gans import SettingError
from lightning_gans.networks.conditioning import with_labels


def test_labels_are_appended_one_hot():
    inputs = torch.randn(2, 9)
    one_hot = torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0]])
    found = with_labels(inputs, torch.tensor([2, 0]), 4)
    assert found.shape == (2, 13)
    assert found[:, :9].equal(inputs)
    assert found[:, 9:].equal(one_hot * found[0, 11])
    assert found[0, 11] >= 1
    images = torch.randn(2, 3, 5, 5)
    found = with_labels(images, torch.tensor([2, 0]), 4)
    assert found.shape == (2, 7, 5, 5)
    assert found[:, :3].equal(images)
    assert found[:, 3:].equal(one_hot[:, :, None, None].expand(2, 4, 5, 5))


def test_labels_take_the_inputs_type():
    assert with_labels(torch.zeros(1, 2, dtype=torch.bfloat16), torch.tensor([0]), 3).dtype == torch.bfloat16


def test_without_classes_inputs_are_left_as_they_are():
    inputs = torch.randn(2, 3)
    assert with_labels(inputs, None, 0) is inputs


@pytest.mark.parametrize(("labels", "num_classes"), [(None, 3), (torch.tensor([0, 1]), 0)])
def test_labels_have_to_fit_the_network(labels, num_classes):
    with pytest.raises(SettingError, match=f"num_classes={num_classes}"):
        with_labels(torch.zeros(2, 3), labels, num_classes)
