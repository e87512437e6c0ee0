import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from lightning_gans import GAN, DataError, DigitsDataModule, GenerativeMetrics, SettingError, StackedMNISTDataModule
from lightning_gans.metrics import (
    MNISTExtractor,
    ModuleExtractor,
    StackedMNISTExtractor,
    make_extractor,
)
from lightning_gans.metrics.extractors import base, inception
from lightning_gans.metrics.extractors.base import hash_module
from tests.toys import Toys, tiny

SHAPE = (1, 4, 4)
BLOCK = ModuleExtractor.block_size


class Network(nn.Module):
    """A small network that also remembers what it was shown."""

    def __init__(self, with_logits=False):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
        self.head = nn.Linear(5, 3)
        self.with_logits = with_logits
        self.shown = []

    def forward(self, images):
        self.shown.append(images)
        features = self.layers(images)
        return (features, self.head(features)) if self.with_logits else features


class Giving(nn.Module):
    """Turns images into whatever a function makes of them."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


def make_images(count):
    return torch.randint(256, (count, *SHAPE), dtype=torch.uint8)


# --- which extractor --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_grey_images_get_the_digit_classifier(name):
    assert type(make_extractor(name, (1, 28, 28))) is MNISTExtractor


@pytest.mark.parametrize(("name", "channels"), [("auto", 3), ("inception", 3), ("inception", 1)])
def test_the_others_get_inception_or_an_error_that_names_its_weights(name, channels):
    with pytest.raises(DataError) as caught:
        make_extractor(name, (channels, 32, 32))
    assert inception.FILE_NAME in caught.value.setting


@pytest.mark.parametrize("channels", [1, 3])
def test_the_place_of_the_weights_reaches_inception(tmp_path, channels):
    with pytest.raises(DataError) as caught:
        make_extractor("auto", (channels, 32, 32), str(tmp_path / "nowhere.pth"))
    assert caught.value.value == str(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("name", "shape", "value"),
    [
        ("inceptoin", (1, 28, 28), "inceptoin"),
        ("mnist", (3, 32, 32), "mnist"),
        ("stacked_mnist", (1, 28, 28), "stacked_mnist"),
        ("inception", (2, 32, 32), "inception"),
    ],
)
def test_invalid_extractors(name, shape, value):
    with pytest.raises(SettingError) as caught:
        make_extractor(name, shape)
    assert (caught.value.setting, caught.value.value) == ("extractor", value)


def test_there_is_none_for_images_of_other_channels_but_a_custom_network():
    with pytest.raises(DataError, match="4 channels") as caught:
        make_extractor("auto", (4, 32, 32))
    assert caught.value.setting == "extractor"
    assert make_extractor(torch.nn.Flatten(), (4, 32, 32)).extract(torch.zeros(2, 4, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("extractor", "weights_path", "preferred", "found"),
    [("auto", None, "digits", "digits"), ("auto", None, None, "mnist"), ("mnist", None, "digits", "mnist")],
)
def test_a_data_set_may_prefer_one(extractor, weights_path, preferred, found):
    assert make_extractor(extractor, (1, 28, 28), weights_path, preferred).name == found


def test_a_file_of_weights_that_an_extractor_does_not_read_is_an_error():
    with pytest.raises(SettingError) as caught:
        make_extractor("mnist", (1, 28, 28), "weights.pth")
    assert (caught.value.setting, caught.value.value) == ("weights_path", "weights.pth")


def test_inceptions_weights_count_more_than_what_a_data_set_prefers(tmp_path):
    with pytest.raises(DataError) as caught:
        make_extractor("auto", (1, 28, 28), str(tmp_path / "nowhere.pth"), "digits")
    assert caught.value.value == str(tmp_path / "nowhere.pth")


def test_rgb_pictures_get_the_digit_classifier_on_each_channel_where_it_is_named():
    assert type(make_extractor("stacked_mnist", (3, 28, 28))) is StackedMNISTExtractor


def test_a_network_of_ones_own():
    network = Network()
    extractor = make_extractor(network, (3, 9, 9))
    assert extractor.module is network
    assert make_extractor(extractor, SHAPE) is extractor


# --- what the network is shown ----------------------------------------------------------------------------


def test_images_reach_the_network_as_float32_between_minus_one_and_one():
    network = Network()
    images = make_images(BLOCK)
    images[0, 0, 0] = torch.tensor([0, 51, 204, 255])
    ModuleExtractor(network).extract(images)
    (shown,) = network.shown
    assert shown.dtype == torch.float32
    assert (shown.min(), shown.max()) == (-1, 1)
    torch.testing.assert_close(shown[0, 0, 0], torch.tensor([-1.0, -0.6, 0.6, 1.0]))
    torch.testing.assert_close((shown + 1) * 127.5, images.float())


@pytest.mark.parametrize(
    ("count", "calls"), [(1, 1), (BLOCK - 1, 1), (BLOCK, 1), (BLOCK + 1, 2), (3 * BLOCK, 3), (3 * BLOCK + 7, 4)]
)
def test_the_network_sees_whole_blocks_only(count, calls):
    network = Network(with_logits=True)
    features, logits = ModuleExtractor(network).extract(make_images(count))
    assert [len(shown) for shown in network.shown] == [BLOCK] * calls
    assert (len(features), len(logits)) == (count, count)


def test_an_accelerator_may_see_larger_blocks(monkeypatch):
    # A device without numbers stands in for it, whose arithmetic has no precision to set.
    monkeypatch.setattr(base, "true_float32", lambda device: nullcontext())
    seen = []

    def look(images):
        seen.append(len(images))
        return torch.zeros(len(images), 3)

    extractor = ModuleExtractor(Giving(look))
    extractor.block_size, extractor.accelerator_block_size = 4, 6
    extractor.extract(make_images(9))
    extractor.extract(make_images(9).to("meta"))
    extractor.accelerator_block_size = None
    extractor.extract(make_images(9).to("meta"))
    assert seen == [4, 4, 4, 6, 6, 4, 4, 4]


def test_features_come_in_the_order_of_the_images():
    images = make_images(2 * BLOCK + 30)
    features, _ = ModuleExtractor(nn.Flatten()).extract(images)
    torch.testing.assert_close((features + 1) * 127.5, images.flatten(1).float())


def test_images_in_whole_blocks_give_the_same_bits_however_many_are_asked_for_at_once():
    extractor = ModuleExtractor(Network(with_logits=True))
    images = make_images(4 * BLOCK + 30)
    together = extractor.extract(images)
    for size in (BLOCK, 2 * BLOCK, 3 * BLOCK):
        parts = [extractor.extract(part) for part in images.split(size)]
        for whole, pieces in zip(together, zip(*parts, strict=True), strict=True):
            assert torch.cat(pieces).equal(whole)


@pytest.mark.parametrize("with_logits", [True, False])
def test_features_with_logits_and_without(with_logits):
    network = Network(with_logits)
    images = make_images(7)
    features, logits = ModuleExtractor(network).extract(images)
    wanted = network.layers(images.float() / 127.5 - 1)
    torch.testing.assert_close(features, wanted)
    if with_logits:
        torch.testing.assert_close(logits, network.head(wanted))
    else:
        assert logits is None


def test_a_pair_of_features_and_none():
    features, logits = ModuleExtractor(Giving(lambda images: (images.flatten(1), None))).extract(make_images(3))
    assert features.shape == (3, 16)
    assert logits is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_features_are_float32(dtype):
    features, _ = ModuleExtractor(Giving(lambda images: images.flatten(1).to(dtype))).extract(make_images(3))
    assert features.dtype == torch.float32


def test_precision_of_a_trainer_does_not_reach_the_network():
    network = Network(with_logits=True)
    extractor = ModuleExtractor(network)
    images = make_images(40)
    wanted = extractor.extract(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = extractor.extract(images)
        rounded = network(images.float() / 127.5 - 1)[0]
    assert all(first.equal(second) for first, second in zip(found, wanted, strict=True))
    assert rounded.dtype == torch.bfloat16  # it would have


def precisions():
    backends = torch.backends
    switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    return [switch.fp32_precision for switch in switches]


@pytest.fixture(params=["older", "newer"])
def with_less_precision(request):
    """Both of torch's ways to allow less than float32, each of which refuses to read what the other has set."""
    matmul, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.fp32_precision
    if request.param == "older":
        torch.set_float32_matmul_precision("medium")
    else:
        matmul.fp32_precision = "tf32"
    yield
    if request.param == "older":
        torch.set_float32_matmul_precision("highest")
    matmul.fp32_precision = before


@pytest.mark.parametrize("failing", [False, True])
def test_settings_of_the_backends_are_put_back(with_less_precision, failing):
    seen = []

    def look(images):
        seen.append(precisions())
        return images if failing else images.flatten(1)

    extractor = ModuleExtractor(Giving(look))
    before = precisions()
    assert before[0] == "tf32"
    if failing:
        with pytest.raises(SettingError):
            extractor.extract(make_images(2))
    else:
        extractor.extract(make_images(2))
    assert seen == [["ieee"] * 4]
    assert precisions() == before


def test_the_network_gets_no_gradient_and_may_be_trained_elsewhere():
    network = Network().train()
    state = copy.deepcopy(network.state_dict())
    extractor = ModuleExtractor(network)
    features, _ = extractor.extract(make_images(300))
    assert not any(module.training for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert not features.requires_grad
    assert all(network.state_dict()[name].equal(value) for name, value in state.items())


def test_images_are_left_as_they_were():
    images = make_images(5)
    before = images.clone()
    ModuleExtractor(Giving(lambda shown: shown.mul_(0).flatten(1))).extract(images)
    assert images.equal(before)


# --- what the network gives -------------------------------------------------------------------------------

WRONG = {
    "pictures": (lambda images: images, [BLOCK, 1, 4, 4]),
    "no batch": (lambda images: images.mean(), []),
    "fewer rows": (lambda images: images.flatten(1)[1:], [BLOCK - 1, 16]),
    "no columns": (lambda images: images.flatten(1)[:, :0], [BLOCK, 0]),
    "logits": (lambda images: (images.flatten(1), images), [BLOCK, 1, 4, 4]),
    "one number an image": (lambda images: images.mean((1, 2, 3)), [BLOCK]),
    "not a number": (lambda images: images.flatten(1) * torch.nan, None),
    "infinite": (lambda images: images.flatten(1) / 0, None),
    "infinite logits": (lambda images: (images.flatten(1), images.flatten(1) / 0), None),
    "too large for float32": (lambda images: images.flatten(1).double() * 1e300, None),
}


@pytest.mark.parametrize(("function", "shape"), WRONG.values(), ids=WRONG)
def test_networks_with_invalid_results(function, shape):
    with pytest.raises(SettingError) as caught:
        ModuleExtractor(Giving(function)).extract(make_images(3))
    assert (caught.value.setting, caught.value.value) == ("extractor", shape)


# --- what is said of it -----------------------------------------------------------------------------------


def test_a_protocol_says_which_network_it_was():
    network = Network()
    extractor = ModuleExtractor(network)
    digest = hash_module(network)
    extractor.extract(make_images(3))
    assert extractor.describe() == {
        "extractor": f"{__name__}.Network",
        "weights_sha256": digest,
        "num_features": 5,
        "resize": "none",
    }
    assert extractor.class_names == ()


def test_the_hash_changes_with_any_weight_and_any_buffer():
    network = Network()
    hashes = {hash_module(network)}
    for tensor in network.state_dict().values():
        place = tensor.view(-1)[-1:]
        before = place.clone()
        place += 1
        hashes.add(hash_module(network))
        place.copy_(before)
    assert len(hashes) == 1 + len(network.state_dict())
    assert hash_module(network) in hashes


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)),
        (nn.ParameterDict({"a": torch.zeros(2)}), nn.ParameterDict({"b": torch.zeros(2)})),
        (nn.ParameterDict({"a": torch.zeros(2)}), nn.ParameterDict({"a": torch.zeros(1, dtype=torch.float64)})),
    ],
    ids=["shapes", "names", "types"],
)
def test_the_hash_is_of_names_shapes_and_types_too(first, second):
    for module in (first, second):
        nn.utils.vector_to_parameters(torch.zeros(99), module.parameters())
    assert hash_module(first) != hash_module(second)


def test_the_hash_is_the_same_for_a_copy_wherever_it_lies():
    network = nn.Conv2d(3, 4, 3)
    digest = hash_module(network)
    assert hash_module(copy.deepcopy(network)) == digest
    assert hash_module(copy.deepcopy(network).to(memory_format=torch.channels_last)) == digest
    assert hash_module(network.eval().requires_grad_(False)) == digest
    if torch.cuda.is_available():
        assert hash_module(network.cuda()) == digest


def test_networks_without_weights_differ_by_their_settings():
    hashes = [hash_module(nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Flatten())) for size in (2, 3, 2)]
    assert hashes[0] == hashes[2] != hashes[1]


def test_networks_without_weights_differ_by_their_code():
    class Features(nn.Module):
        def forward(self, images):
            return images.flatten(1)

    first = hash_module(Features())

    class Features(nn.Module):
        def forward(self, images):
            return images.flatten(1) * 2

    assert hash_module(Features()) != first


def test_networks_differ_by_buffers_that_are_not_stored():
    def network(value):
        network = nn.Flatten()
        network.register_buffer("scale", torch.tensor(value), persistent=False)
        return network

    assert hash_module(network(1.0)) == hash_module(network(1.0)) != hash_module(network(2.0))


# --- the digit classifier on each channel -----------------------------------------------------------------


@pytest.fixture(scope="module")
def stacked():
    """What the extractor says of RGB pictures of three digits, and what that of grey digits says of each channel."""
    extractor, of_digits = StackedMNISTExtractor(), MNISTExtractor()
    extractor.block_size = of_digits.block_size = 60
    images = DigitsDataModule().images("train")[0][:180].view(60, 3, 28, 28)
    return extractor.extract(images), [of_digits.extract(channel.unsqueeze(1)) for channel in images.unbind(1)]


def test_features_of_the_channels_stand_side_by_side(stacked):
    (features, _), channels = stacked
    assert features.shape == (60, StackedMNISTExtractor.num_features)
    for found, (wanted, _) in zip(features.split(96, dim=1), channels, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_logits_are_the_log_probabilities_of_independent_digits(stacked):
    (_, logits), channels = stacked
    red, green, blue = (logits.double().softmax(1) for _, logits in channels)
    wanted = torch.einsum("na,nb,nc->nabc", red, green, blue).reshape(60, 1000)
    torch.testing.assert_close(logits.double().exp(), wanted, rtol=1e-3, atol=1e-6)
    named = [100 * a + 10 * b + c for a, b, c in zip(*(logits.argmax(1) for _, logits in channels), strict=True)]
    assert logits.argmax(1).tolist() == named
    assert len(set(map(int, named))) > 30


def test_its_classes_are_those_of_stacked_mnist():
    assert StackedMNISTExtractor.class_names == StackedMNISTDataModule.class_names


def test_its_features_are_not_taken_for_those_of_grey_digits():
    assert StackedMNISTExtractor().identity() != MNISTExtractor().identity()


@pytest.mark.parametrize("images", [torch.zeros(4, 1, 28, 28), torch.zeros(4, 28, 28, dtype=torch.uint8)])
@pytest.mark.parametrize("extractor", [MNISTExtractor(), ModuleExtractor(nn.Flatten())])
def test_images_that_are_not_bytes_raise(extractor, images):
    with pytest.raises(SettingError) as caught:
        extractor.extract(images)
    assert (caught.value.setting, caught.value.allowed) == ("images", "uint8 (N, C, H, W)")


def test_a_network_may_return_a_mapping():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 3))
    images = torch.randint(256, (7, 1, 8, 8), dtype=torch.uint8)
    of_nodes = create_feature_extractor(network, {"1": "features", "2": "logits"})
    features, logits = ModuleExtractor(of_nodes).extract(images)
    assert (features.shape, logits.shape) == ((7, 5), (7, 3))
    features, logits = ModuleExtractor(create_feature_extractor(network, ["1"])).extract(images)
    assert features.shape == (7, 5) and logits is None


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


@pytest.mark.parametrize(
    "function",
    [lambda x: {"map": x}, lambda x: [], lambda x: (x, x, x), lambda x: "text", lambda x: x @ torch.ones(3, 3)],
)
def test_a_network_that_fails_raises_before_the_first_step(make_trainer, function):
    trainer = make_trainer(callbacks=[GenerativeMetrics(num_samples=50, extractor=Returns(function))])
    with pytest.raises(SettingError) as caught:
        trainer.fit(tiny(GAN), Toys())
    assert caught.value.setting == "metrics.extractor"
    assert trainer.global_step == 0
