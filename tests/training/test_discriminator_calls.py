"""The record of a discriminator's calls."""

import pytest
import torch
from torch import nn

from lightning_gans import GAN, ResNetGAN, SettingError
from lightning_gans.training.discriminator_calls import find_feature_layer, logits_of, record_calls
from tests.toys import tiny


class Classifying(nn.Module):
    """Returns logits and class logits."""

    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, images):
        found = self.output(self.hidden(images.flatten(1)))
        return found[:, 0], found[:, 1:]


def test_calls_are_recorded_with_what_they_returned():
    network, first, second = Classifying(), torch.rand(2, 1, 2, 2), torch.rand(2, 1, 2, 2)
    with record_calls(network, layers=[network.output, network.hidden]) as calls:
        answers = [network(first), network(images=second)]
    assert [call.images for call in calls] == [first, second]
    for call, (logits, classes) in zip(calls, answers, strict=True):
        assert call.logits is logits and call.classes is classes
        assert call.features[network.output].equal(network.hidden(call.images.flatten(1)))
        assert call.features[network.hidden].equal(call.images.flatten(1))
    network(first)
    assert len(calls) == 2
    assert not network._forward_hooks and not network._forward_pre_hooks and not network.output._forward_pre_hooks


def test_a_call_is_found_by_its_very_tensor():
    network, images = Classifying(), torch.rand(2, 1, 2, 2)
    with record_calls(network) as calls:
        network(images)
        network(images)
    assert calls.on(images) is calls[0]
    assert calls.on(images.clone()) is None
    assert not calls[0].features


@pytest.mark.parametrize("by_name", [False, True])
def test_the_network_sees_changed_images_and_the_record_has_the_original_ones(by_name):
    network, seen, images = Classifying(), [], torch.rand(2, 1, 2, 2, requires_grad=True)
    network.hidden.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with record_calls(network, lambda shown, index: shown * (index + 2)) as calls:
        for _ in range(2):
            network(images=images) if by_name else network(images)
    assert [flat.equal(images.flatten(1) * factor) for flat, factor in zip(seen, (2, 3), strict=True)] == [True, True]
    assert calls[0].images is images
    (gradient,) = torch.autograd.grad(calls[0].logits.sum(), images)
    assert gradient.abs().sum() > 0


def test_the_hooks_are_gone_after_an_error():
    network = Classifying()
    with pytest.raises(ZeroDivisionError), record_calls(network):
        raise ZeroDivisionError
    assert not network._forward_hooks and not network._forward_pre_hooks


# --- the feature layer --------------------------------------------------------------------------------------


def test_the_default_feature_layer_is_the_last_with_a_matrix():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Linear(2, 2), nn.ReLU())
    assert find_feature_layer(network, None) is network[2]
    assert find_feature_layer(network, "0") is network[0]


@pytest.mark.parametrize("name", ["nowhere", "", "2.weight"])
def test_a_name_that_is_not_a_layer_is_invalid(name):
    with pytest.raises(SettingError) as error:
        find_feature_layer(Classifying(), name)
    assert (error.value.setting, error.value.value) == ("feature_layer", name)
    assert error.value.allowed == ["hidden", "output"]


def test_a_network_without_matrices_has_no_default():
    with pytest.raises(SettingError) as error:
        find_feature_layer(nn.Sequential(nn.ReLU()), None)
    assert error.value.setting == "feature_layer"


def test_an_embedding_of_labels_and_a_parametrization_are_not_feature_layers():
    with pytest.raises(SettingError) as error:
        ResNetGAN((1, 16, 16), 4, 3, discriminator_width=4, feature_matching=1.0, feature_layer="projection")
    assert not any("projection" in name or "parametrizations" in name for name in error.value.allowed)


@pytest.mark.parametrize("options", [{"feature_layer": "nowhere"}, {"feature_matching": 1.0, "feature_layer": "hiden"}])
def test_models_check_the_layer_when_they_are_made(options):
    with pytest.raises(SettingError) as error:
        tiny(GAN, **options)
    assert error.value.setting == "feature_layer"


# --- logits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "found"), [((2,), (2,)), ((2, 1), (2,)), ((2, 1, 3, 3), (2, 1, 3, 3))])
def test_logits_are_a_number_an_image_or_patches(shape, found):
    assert logits_of(torch.zeros(shape), 2).shape == found
    assert logits_of((torch.zeros(shape), torch.zeros(2, 5)), 2).shape == found


@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (1, 2), (4, 1)])
def test_logits_of_another_shape_are_invalid(shape):
    with pytest.raises(SettingError) as error:
        logits_of(torch.zeros(shape), 2)
    assert (error.value.setting, error.value.value) == ("discriminator", list(shape))


@pytest.mark.parametrize(
    ("dtype", "found"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_logits_have_full_precision(dtype, found):
    assert logits_of(torch.zeros(2, dtype=dtype), 2).dtype == found
