import math
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError
from torchmetrics.image import (
    LearnedPerceptualImagePatchSimilarity,
    MultiScaleStructuralSimilarityIndexMeasure,
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
)

from lightning_gans import DataError, SettingError
from lightning_gans.metrics import Translations
from lightning_gans.networks import efficientnet

BATCHES = (1, 4, 2)
NETWORK = pytest.mark.skipif(find_spec("efficientnet_lite_pytorch") is None, reason="needs the extra efficientnet")


def pairs(num=7, channels=3, size=20):
    """Return smooth images and their noisy copies, each noisier than the one before."""
    source = torch.Generator().manual_seed(0)
    targets = F.interpolate(torch.rand(num, channels, 5, 5, generator=source) * 255, (size, size), mode="bilinear")
    noise = torch.randn(targets.shape, generator=source) * torch.linspace(3, 60, num).view(-1, 1, 1, 1)
    return (targets + noise).clamp(0, 255).byte(), targets.byte()


def in_batches(metric, images, sizes=BATCHES):
    for outputs, targets in zip(*(each.split(sizes) for each in images), strict=True):
        metric.update(outputs, targets)
    return {name: value.item() for name, value in metric.compute().items()}


def at_once(metric, images):
    metric.update(*(each.double() for each in images))
    return metric.compute().item()


@pytest.mark.parametrize("channels", [1, 3])
def test_uneven_batches_get_torchmetrics_result_of_all_pairs(channels):
    images = pairs(channels=channels)
    psnr = PeakSignalNoiseRatio(255.0, dim=(1, 2, 3), reduction="elementwise_mean")
    wanted = {
        "psnr": at_once(psnr, images),
        "ssim": at_once(StructuralSimilarityIndexMeasure(data_range=255.0), images),
        "l1": at_once(MeanAbsoluteError(), images) / 127.5,
    }
    metric = Translations()
    assert in_batches(metric, images) == pytest.approx(wanted, rel=1e-6)
    assert metric.left_out() == {"ms_ssim": "it needs images of 176 x 176 or more"}
    values = metric.values()
    assert values["psnr"].sort(descending=True).values.equal(values["psnr"])  # the noise grows
    assert values["ssim"].mean().item() == pytest.approx(wanted["ssim"], rel=1e-6)
    metric.reset()
    assert in_batches(metric, images, 7) == pytest.approx(wanted, rel=1e-6)


def test_the_smallest_images_of_each_metric():
    images = pairs(1, 1, 176)
    wanted = at_once(MultiScaleStructuralSimilarityIndexMeasure(data_range=255.0), images)
    assert in_batches(Translations(["ms_ssim"]), images, 1) == pytest.approx({"ms_ssim": wanted}, rel=1e-6)
    assert in_batches(Translations(), [each[:, :, :175, :] for each in images], 1).keys() == {"psnr", "ssim", "l1"}
    assert in_batches(Translations(), [each[:, :, :6, :6] for each in images], 1).keys() == {"psnr", "ssim", "l1"}
    assert in_batches(Translations(), [each[:, :, :5, :6] for each in images], 1).keys() == {"psnr", "l1"}


@pytest.mark.parametrize("offset", [1, 51, 255])
def test_a_constant_offset(offset):
    targets = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    luminance = (0.01 * 255) ** 2 / (offset**2 + (0.01 * 255) ** 2)  # the contrasts are equal
    wanted = {"psnr": 20 * math.log10(255 / offset), "ssim": luminance, "l1": offset / 127.5}
    assert in_batches(Translations(), (targets + offset, targets), 2) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_equal_images():
    outputs, targets = pairs()
    metric = Translations()
    assert in_batches(metric, (targets, targets)) == {"ssim": pytest.approx(1), "l1": 0}
    assert metric.left_out()["psnr"] == "it is infinite, as 7 of 7 outputs are equal to their targets"
    metric.update(outputs, targets)
    assert metric.compute().keys() == {"ssim", "l1"} and metric.values()["psnr"].isfinite().sum() == 7
    assert "7 of 14" in metric.left_out()["psnr"]


def test_floats_are_rounded_to_256_levels():
    outputs, targets = pairs()
    floats = [(each.float() + 0.3) / 127.5 - 1 for each in (outputs, targets)]
    assert in_batches(Translations(["psnr", "ssim"]), floats) == in_batches(
        Translations(["psnr", "ssim"]), (outputs, targets)
    )


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((2, 3, 8, 8), (2, 3, 8, 9)), ((2, 3, 8, 8), (1, 3, 8, 8)), ((2, 2, 8, 8),) * 2, ((8, 8),) * 2],
)
def test_invalid_shapes(outputs, targets):
    with pytest.raises(SettingError) as caught:
        Translations().update(torch.zeros(outputs), torch.zeros(targets))
    assert (caught.value.value, caught.value.allowed) == (list(outputs), list(targets))


def test_other_errors():
    with pytest.raises(SettingError, match="choose from psnr"):
        Translations(["psrn"])
    with pytest.raises(SettingError, match="number of pairs"), pytest.warns(UserWarning, match="before the ``update``"):
        Translations().compute()
    with pytest.raises(DataError, match="finite"):
        Translations().update(torch.full((1, 1, 8, 8), torch.nan), torch.zeros(1, 1, 8, 8))


def alexnet_features():
    """Return AlexNet's convolutions, untrained, without its large linear layers."""
    layers = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for width, new_width in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(width, new_width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def test_lpips_is_that_of_torchmetrics(monkeypatch, tmp_path):
    with pytest.raises(DataError) as caught:
        Translations(["lpips"])
    name = "alexnet-owt-7be5be79.pth"
    assert caught.value.setting.endswith(f"hub/checkpoints/{name}") and "https://" in str(caught.value)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = tmp_path / "hub" / "checkpoints" / name
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match="does not contain"):
        Translations(["lpips"])

    features = alexnet_features()
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights: SimpleNamespace(features=features))
    outputs, targets = pairs(size=31)
    theirs = LearnedPerceptualImagePatchSimilarity("alex")
    theirs.update(outputs / 127.5 - 1, targets / 127.5 - 1)
    ours = Translations(["lpips"])
    assert in_batches(ours, (outputs, targets)) == {"lpips": pytest.approx(theirs.compute().item(), rel=1e-5)}
    assert len(set(ours.values()["lpips"].tolist())) == 7
    assert ours.describe()["lpips"].startswith("AlexNet, weights ")
    assert in_batches(Translations(["lpips"]), (outputs[:, :1], targets[:, :1])).keys() == {"lpips"}
    ours.reset()
    assert in_batches(ours, (outputs[:, :, :30], targets[:, :, :30])) == {}


@NETWORK
def test_the_perceptual_distance_is_that_of_the_angles_between_features(monkeypatch):
    monkeypatch.setattr(efficientnet, "find_spec", find_spec)
    metric, images = Translations(["perceptual"]).train(), pairs(2, size=32)
    (found,) = in_batches(metric, images, [1, 1]).values()
    maps = [metric.efficientnet.maps(each) for each in images]
    assert [each.shape[1:] for each in maps[0]] == [
        (16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)
    ]  # fmt: skip
    layers = [2 - 2 * F.cosine_similarity(a, b).mean() for a, b in zip(*maps, strict=True)]
    assert found == pytest.approx(torch.stack(layers).mean().item(), rel=1e-4)
    assert metric.values()["perceptual"].diff() > 0  # the noise grows
    metric.reset()
    assert in_batches(metric, (images[1][:1],) * 2, 1) == {"perceptual": 0}
    assert not any(weight.requires_grad for weight in metric.parameters())
