"""The scores that torch-fidelity gives the same folders of pictures, with the same Inception weights."""

from types import SimpleNamespace

import pytest
import torch
import torch_fidelity
from PIL import Image
from torch.nn import functional
from torch_fidelity import feature_extractor_inceptionv3

from lightning_gans import GAN, GenerativeMetrics, ImageFolderDataModule
from lightning_gans.metrics import FrechetDistance, InceptionExtractor, InceptionScore, KernelDistance, PrecisionRecall
from lightning_gans.metrics.scores import Settings
from lightning_gans.scoring import score
from tests.inception_weights import write_inception_weights
from tests.toys import quiet_trainer, tiny

pytestmark = pytest.mark.timeout(300)  # the first test waits for all that is computed once

NUM = 24
AT_ONCE = 5  # small blocks are a third faster on a CPU; the last one of 24 pictures has to be filled up
NUM_WRONG = AT_ONCE  # a fifth of the pictures wrong is enough to be noticed
SUBSETS = {"num_subsets": 10, "subset_size": 12}


def make_pictures():
    """Make smooth colourful pictures, real and generated, uint8 ``(24, 3, 32, 32)``.

    Most generated ones resemble a real one each, so that little is enough to move them away from it. The last ones
    of either set have their like in none of the other.
    """
    source = torch.Generator().manual_seed(0)

    def smooth(num):
        pictures = functional.interpolate(torch.randn(num, 3, 8, 8, generator=source), size=(32, 32), mode="bicubic")
        return pictures / pictures.std((1, 2, 3), keepdim=True)

    def tints(num):
        return 0.3 * torch.randn(num, 3, 1, 1, generator=source)

    orange = torch.tensor([0.5, 0.0, -0.5]).view(3, 1, 1)
    forms, colours = smooth(19), tints(19)
    alike = 0.99 * forms[:15] + 0.15 * smooth(15)
    real = torch.cat([0.7 * forms + colours, 0.4 * smooth(5) + tints(5) - orange])
    fake = torch.cat([0.7 * alike + colours[:15], 0.5 * smooth(9) + tints(9) + orange])
    return tuple((127.5 * (1 + pictures.tanh())).round().byte() for pictures in (real, fake))


class Painter(GAN):
    """A model whose samples are painted already."""

    def sample(self, num_samples=None, labels=None, *, seed=None, start=0, ema=True):
        return self.pictures[start : start + num_samples] / 127.5 - 1


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folders of PNGs and a file of weights that was made for them."""
    root = tmp_path_factory.mktemp("parity")
    real, fake = make_pictures()
    for folder, pictures in {"real/train": real, "real/val": real[:1], "fake": fake}.items():
        (root / folder).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(root / folder / f"{number:02}.png")
    weights = write_inception_weights(root / "weights.pth", torch.cat([real[::4], fake[::4]]))
    yield SimpleNamespace(root=root, weights=str(weights), real=real, fake=fake)
    weights.unlink()  # 95 MB, which pytest would keep


@pytest.fixture(scope="module")
def fidelity(files):
    """What torch-fidelity makes of the folders."""
    return torch_fidelity.calculate_metrics(
        input1=str(files.root / "fake"),
        input2=str(files.root / "real/train"),
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_layer_prc="2048",
        feature_extractor_weights_path=files.weights,
        kid_subsets=SUBSETS["num_subsets"],
        kid_subset_size=SUBSETS["subset_size"],
        batch_size=AT_ONCE,
        cuda=False,
        cache=False,
        save_cpu_ram=True,  # without processes that load the pictures
        verbose=False,
    )


@pytest.fixture(scope="module")
def ours(files):
    """What a trainer makes of them, and what its extractor was shown and saw."""
    model = tiny(Painter, image_shape=(3, 32, 32))
    model.pictures = files.fake
    callback = GenerativeMetrics(
        metrics=["fid", "inception_score", "precision", "recall"],
        num_samples=NUM,
        extractor="inception",
        weights_path=files.weights,
        floor=False,
        cache_dir=str(files.root / "cache"),
    )
    trainer = quiet_trainer(files.root, callbacks=[callback])
    data = ImageFolderDataModule(files.root / "real", image_size=32, cache_dir=files.root / "cache")
    seen = []
    extract = InceptionExtractor.extract

    def noted(self, images):
        features, logits = extract(self, images)
        seen.append(SimpleNamespace(images=images, features=features, logits=logits))
        return features, logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InceptionExtractor, "block_size", AT_ONCE)
        patch.setattr(InceptionExtractor, "extract", noted)
        trainer.validate(model, data, verbose=False)
    real, fake = seen
    return SimpleNamespace(real=real, fake=fake, scores=trainer.callback_metrics)


def compute(metric, ours):
    metric.update(ours.real.features, real=True)
    metric.update(ours.fake.features, real=False)
    return metric.compute()


def frechet_distance(real, fake):
    """Return the Fréchet distance within the space that the features span, which takes no time."""
    basis = torch.linalg.svd(torch.cat([real, fake]).double(), full_matrices=False).Vh
    metric = FrechetDistance(len(basis))
    metric.update(real.double() @ basis.T, real=True)
    metric.update(fake.double() @ basis.T, real=False)
    return float(metric.compute())


def test_metrics_of_the_extractors_features_are_those_of_torch_fidelity(ours, fidelity):
    # Where all pictures look alike to the network, everything agrees with everything.
    assert fidelity["frechet_inception_distance"] > 10
    assert fidelity["inception_score_mean"] > 1.5
    assert 0.1 < fidelity["precision"] < 0.9
    assert 0.1 < fidelity["recall"] < 0.9 and abs(fidelity["precision"] - fidelity["recall"]) > 0.05

    distance = frechet_distance(ours.real.features, ours.fake.features)
    assert distance == pytest.approx(fidelity["frechet_inception_distance"], rel=1e-3)
    inception_score = InceptionScore(1008, keep_order=True)
    inception_score.update(ours.fake.logits)
    mean, deviation = map(float, inception_score.compute())
    assert mean == pytest.approx(fidelity["inception_score_mean"], rel=1e-4)
    assert deviation == pytest.approx(fidelity["inception_score_std"], rel=1e-3)
    mean, deviation = map(float, compute(KernelDistance(2048, **SUBSETS, keep_order=True), ours))
    assert mean == pytest.approx(fidelity["kernel_inception_distance_mean"], rel=1e-4)
    assert deviation == pytest.approx(fidelity["kernel_inception_distance_std"], rel=1e-3)
    # Numbers of pictures: torch-fidelity divides them in float32.
    counts = [round(float(share) * NUM, 4) for share in compute(PrecisionRecall(2048), ours)]
    assert counts == [round(fidelity[name] * NUM, 4) for name in ("precision", "recall")]


def test_a_trainer_logs_the_scores_of_torch_fidelity(files, ours, fidelity):
    assert ours.real.images.equal(files.real) and ours.fake.images.equal(files.fake)
    scores = {name: float(value) for name, value in ours.scores.items()}
    assert scores == {
        "val/fid": pytest.approx(fidelity["frechet_inception_distance"], rel=1e-3),
        "val/inception_score": pytest.approx(fidelity["inception_score_mean"], rel=1e-4),
        "val/precision": pytest.approx(fidelity["precision"], abs=1e-6),
        "val/recall": pytest.approx(fidelity["recall"], abs=1e-6),
    }


def test_two_folders_get_the_scores_of_torch_fidelity(files, ours, fidelity, monkeypatch):
    def known(self, images):  # the features of these images, which took seconds
        seen = ours.real if images.equal(ours.real.images) else ours.fake
        assert images.equal(seen.images)
        return seen.features, seen.logits

    monkeypatch.setattr(InceptionExtractor, "extract", known)
    record = score(
        files.root / "fake",
        files.root / "real" / "train",
        metrics=["fid", "inception_score", "kid", "precision", "recall"],
        extractor="inception",
        weights_path=files.weights,
        settings=Settings(kid_subsets=SUBSETS["num_subsets"], kid_subset_size=SUBSETS["subset_size"]),
        floor=False,
    )
    assert record["scores"] == {
        "fid": pytest.approx(fidelity["frechet_inception_distance"], rel=1e-3),
        "inception_score": pytest.approx(fidelity["inception_score_mean"], rel=1e-4),
        "kid": pytest.approx(fidelity["kernel_inception_distance_mean"], rel=1e-3),
        "kid_std": pytest.approx(fidelity["kernel_inception_distance_std"], rel=1e-3),
        "precision": pytest.approx(fidelity["precision"], abs=1e-6),
        "recall": pytest.approx(fidelity["recall"], abs=1e-6),
    }


def resize_as_torch_does(images, size, align_corners):
    return functional.interpolate(images, size, mode="bilinear", align_corners=align_corners)


@pytest.mark.parametrize("mistake", ["swapped channels", "resize"])
def test_a_mistake_breaks_the_agreement(monkeypatch, files, ours, fidelity, mistake):
    expected = pytest.approx(fidelity["frechet_inception_distance"], rel=1e-3)
    assert frechet_distance(ours.real.features, ours.fake.features) == expected
    images = files.fake[:NUM_WRONG]
    if mistake == "swapped channels":
        images = images.flip(1)
    else:
        name = "interpolate_bilinear_2d_like_tensorflow1x"
        monkeypatch.setattr(feature_extractor_inceptionv3, name, resize_as_torch_does)
    wrong = ours.fake.features.clone()
    monkeypatch.setattr(InceptionExtractor, "block_size", AT_ONCE)
    wrong[:NUM_WRONG], _ = InceptionExtractor(files.weights).extract(images)
    assert frechet_distance(ours.real.features, wrong) != expected
