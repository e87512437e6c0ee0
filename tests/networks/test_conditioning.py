import pytest
import torch
from torch import nn

from lightning_gans import SettingError
from lightning_gans.networks.conditioning import ConditionalBatchNorm1d, ConditionalBatchNorm2d, with_labels


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
    with pytest.raises(SettingError) as error:
        with_labels(torch.zeros(2, 3), labels, num_classes)
    assert error.value.setting == "labels"


@pytest.mark.parametrize(
    ("conditional", "batch_norm", "size"),
    [(ConditionalBatchNorm1d, nn.BatchNorm1d, ()), (ConditionalBatchNorm2d, nn.BatchNorm2d, (5, 5))],
)
@pytest.mark.parametrize("training", [True, False])
def test_conditional_batchnorm_is_batchnorm_with_the_scale_and_shift_of_the_label(
    conditional, batch_norm, size, training
):
    torch.manual_seed(0)
    layer = conditional(4, 3)
    nn.init.normal_(layer.scale.weight)
    nn.init.normal_(layer.shift.weight)
    images, labels = torch.randn(12, 4, *size) * 3 + 2, torch.arange(12) % 3
    layer(images, labels)  # running statistics to evaluate with
    found = layer.train(training)(images, labels)
    for label in range(3):
        plain = batch_norm(4)
        plain(images)
        plain.weight, plain.bias = nn.Parameter(layer.scale.weight[label]), nn.Parameter(layer.shift.weight[label])
        wanted = plain.train(training)(images)  # the statistics are those of all labels
        torch.testing.assert_close(found[labels == label], wanted[labels == label])
        assert layer.norm.running_var.allclose(plain.running_var)


def test_conditional_batchnorm_starts_as_batchnorm():
    images = torch.randn(6, 4, 5, 5)
    found = ConditionalBatchNorm2d(4, 3)(images, torch.arange(6) % 3)
    torch.testing.assert_close(found, nn.BatchNorm2d(4)(images))
    with pytest.raises(SettingError) as error:
        ConditionalBatchNorm2d(4, 0)
    assert (error.value.setting, error.value.value) == ("num_classes", 0)


def test_conditional_batchnorm_trains_the_labels_that_came_and_no_other():
    layer = ConditionalBatchNorm2d(4, 3)
    layer(torch.randn(4, 4, 2, 2), torch.tensor([0, 2, 2, 0])).square().sum().backward()
    for embedding in (layer.scale, layer.shift):
        assert embedding.weight.grad.any(dim=1).tolist() == [True, False, True]
