"""DINOv2 and CLIP: the loading code on networks that the tests make."""

import hashlib

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, CLIPVisual, FeatureExtractorCLIP

from lightning_gans import DataError, SettingError
from lightning_gans.metrics import make_extractor

HUB = """
import torch
dependencies = ["torch"]
class Means(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))
    def forward(self, images):
        assert images.shape[2:] == (224, 224)
        return images.mean((2, 3)) * self.scale
def dinov2_vits14():
    return Means()
"""


class TinyCLIP(nn.Module):
    """The weights that the class reads from OpenAI's archives, in a small network."""

    def __init__(self):
        super().__init__()
        self.visual = CLIPVisual(16, 32, 1, 64, 8).visual
        self.text_projection = nn.Parameter(torch.zeros(1, 16))

    def forward(self, images):
        return self.visual(images)


@pytest.fixture
def clip_weights(tmp_path, monkeypatch):
    path = tmp_path / "clip.pt"
    torch.jit.trace(TinyCLIP().eval(), torch.zeros(1, 3, 32, 32)).save(path)
    monkeypatch.setitem(MODEL_METADATA["clip-vit-b-32"], "hash", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_clip_from_a_file(clip_weights):
    extractor = make_extractor("clip-vit-b-32", (3, 40, 40), str(clip_weights))
    images = torch.randint(256, (7, 3, 40, 40), dtype=torch.uint8)
    features, logits = extractor.extract(images)
    expected = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], str(clip_weights), verbose=False)(images)[0]
    torch.testing.assert_close(features, expected)
    assert logits is None
    assert extractor.describe()["num_features"] == 16
    assert extractor.identity()["extractor"] == "clip-vit-b-32"
    with pytest.raises(SettingError) as error:
        extractor.differentiable_features(torch.zeros(1, 3, 40, 40, requires_grad=True))
    assert (error.value.setting, error.value.value) == ("extractor", "clip-vit-b-32")
    gray = images[:, :1]
    torch.testing.assert_close(extractor.extract(gray)[0], extractor.extract(gray.expand(-1, 3, -1, -1))[0])


def test_an_archive_that_is_not_the_original_one_is_not_run(clip_weights):
    with pytest.raises(DataError, match="checksum"):
        make_extractor("clip-vit-b-16", (3, 40, 40), str(clip_weights))


def test_a_file_without_clip(tmp_path):
    path = tmp_path / "other.pt"
    path.write_text("no weights")
    with pytest.raises(DataError) as caught:
        make_extractor("clip-vit-l-14", (3, 32, 32), str(path))
    assert caught.value.value == "clip-vit-l-14"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of torch.hub after a download of DINOv2, with a small network in its place."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "facebookresearch_dinov2_main").mkdir()
    (tmp_path / "facebookresearch_dinov2_main" / "hubconf.py").write_text(HUB)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "dinov2_vits14_pretrain.pth").touch()


def test_dinov2_from_the_folder_of_torch_hub(hub):
    extractor = make_extractor("dinov2-vit-s-14", (3, 40, 40))
    white = torch.full((2, 3, 40, 40), 255, dtype=torch.uint8)
    features, logits = extractor.extract(white)
    expected = [(1 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    torch.testing.assert_close(features, torch.tensor([expected] * 2))
    assert logits is None


def test_dinov2_takes_no_file(hub):
    with pytest.raises(SettingError) as caught:
        make_extractor("dinov2-vit-s-14", (3, 40, 40), "weights.pth")
    assert caught.value.setting == "weights_path"


@pytest.mark.parametrize("name", ["dinov2-vit-l-14", "clip-vit-l-14-336px"])
def test_offline_without_weights(tmp_path, monkeypatch, name):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(DataError) as caught:
        make_extractor(name, (3, 40, 40))
    assert (caught.value.setting, caught.value.value) == ("extractor", name)
