import pytest
import torch
from torch import nn

from lightning_gans import SettingError
from lightning_gans.networks import ResNetDiscriminator
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


def test_a_vector_mixes_the_scales_and_shifts_of_the_classes_with_those_of_plain_batchnorm():
    layer, images = ConditionalBatchNorm2d(4, 3).eval(), torch.randn(5, 4, 2, 2)
    nn.init.normal_(layer.scale.weight)
    nn.init.normal_(layer.shift.weight)
    torch.testing.assert_close(layer(images, torch.zeros(5, 3)), layer.norm(images))
    vectors = torch.rand(5, 3)
    differences = [layer(images, torch.full((5,), label)) - layer.norm(images) for label in range(3)]
    mixed = sum(vectors[:, label, None, None, None] * each for label, each in enumerate(differences))
    torch.testing.assert_close(layer(images, vectors), layer.norm(images) + mixed)


def test_vectors_are_appended_as_they_are():
    vectors = torch.tensor([[0.5, -2.0], [0.0, 1.0]])
    images = with_labels(torch.zeros(2, 1, 3, 3), vectors, 2)
    assert images[:, 1:].equal(vectors[:, :, None, None].expand(2, 2, 3, 3))


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_the_projection_is_linear_in_vectors(spectral_norm):
    network = ResNetDiscriminator((1, 8, 8), 4, num_classes=2, spectral_norm=spectral_norm).eval()
    images = torch.randn(6, 1, 8, 8)
    none, first, second = (
        network(images, torch.tensor([each]).expand(6, 2)) for each in ([0.0, 0], [1.0, 0], [0.0, 1])
    )
    torch.testing.assert_close(first, network(images, torch.zeros(6, dtype=torch.long)))
    found = network(images, torch.tensor([[0.3, -1.2]]).expand(6, 2))
    torch.testing.assert_close(found, none + 0.3 * (first - none) - 1.2 * (second - none))


def test_a_vector_takes_one_power_iteration():
    torch.manual_seed(0)
    networks = [ResNetDiscriminator((1, 8, 8), 4, num_classes=2) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    images = torch.randn(3, 1, 8, 8)
    networks[0](images, torch.zeros(3, dtype=torch.long))
    networks[1](images, torch.ones(3, 2))
    for name, value in networks[0].state_dict().items():
        assert value.equal(networks[1].state_dict()[name]), name


def test_conditional_batchnorm_trains_the_labels_that_came_and_no_other():
    layer = ConditionalBatchNorm2d(4, 3)
    layer(torch.randn(4, 4, 2, 2), torch.tensor([0, 2, 2, 0])).square().sum().backward()
    for embedding in (layer.scale, layer.shift):
        assert embedding.weight.grad.any(dim=1).tolist() == [True, False, True]
