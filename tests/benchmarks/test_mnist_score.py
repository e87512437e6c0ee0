import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mnist_score.py"
spec = importlib.util.spec_from_file_location("mnist_score", SCRIPT)
mnist_score = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mnist_score)


def random_covariance(size, generator):
    factor = torch.randn(size, size, dtype=torch.float64, generator=generator)
    return factor @ factor.T / size


def brute_force_precision(real, fake, k):
    """Share of fakes within some real point's k-th nearest distance, point by point."""
    inside = 0
    for point in fake:
        for j, centre in enumerate(real):
            others = sorted(np.linalg.norm(centre - real[i]) for i in range(len(real)) if i != j)
            if np.linalg.norm(point - centre) <= others[k - 1]:
                inside += 1
                break
    return inside / len(fake)


@pytest.fixture
def digits(monkeypatch):
    """Two sets of noise in place of MNIST, an untrained scorer that passes, and a tiny reference GAN."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (128, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(128) % 10
    monkeypatch.setattr(mnist_score, "load_mnist", lambda folder, train: (images, labels))
    monkeypatch.setattr(mnist_score, "MINIMUM_ACCURACY", 0.0)
    monkeypatch.setattr(mnist_score, "train_scorer", lambda images, labels, seed: mnist_score.Scorer().eval())
    train_reference = mnist_score.train_reference
    monkeypatch.setattr(
        mnist_score,
        "train_reference",
        lambda images, seed: train_reference(images, seed, epochs=1, num_samples=50),
    )
    return images, labels


def run(tmp_path, *arguments):
    scorer = tmp_path / "cache" / "scorer.pt"
    return mnist_score.main([*map(str, arguments), "--scorer", str(scorer), "--data_dir", str(tmp_path)])


def test_frechet_distance_of_diagonal_gaussians_has_its_closed_form():
    mean1, mean2 = torch.tensor([0.0, 1, 2]).double(), torch.tensor([1.0, 1, 0]).double()
    scale1, scale2 = torch.tensor([1.0, 2, 0]).double(), torch.tensor([3.0, 2, 1]).double()
    distance = mnist_score.frechet_from_moments(mean1, scale1.square().diag(), mean2, scale2.square().diag())
    expected = (mean1 - mean2).square().sum() + (scale1 - scale2).square().sum()
    assert distance == pytest.approx(expected.item(), abs=1e-9)


def test_frechet_distance_agrees_with_scipy():
    generator = torch.Generator().manual_seed(0)
    covariance1, covariance2 = random_covariance(20, generator), random_covariance(20, generator)
    mean1, mean2 = torch.randn(2, 20, dtype=torch.float64, generator=generator)
    root = scipy.linalg.sqrtm((covariance1 @ covariance2).numpy()).real
    expected = (mean1 - mean2).square().sum() + (covariance1 + covariance2).trace() - 2 * np.trace(root)
    distance = mnist_score.frechet_from_moments(mean1, covariance1, mean2, covariance2)
    assert distance == pytest.approx(expected.item(), rel=1e-6)


def test_frechet_distance_takes_moments_as_numpy_does():
    generator = torch.Generator().manual_seed(0)
    features1, features2 = torch.randn(200, 6, generator=generator), torch.rand(90, 6, generator=generator)
    moments = []
    for features in (features1.double().numpy(), features2.double().numpy()):
        moments += [torch.from_numpy(features.mean(axis=0)), torch.from_numpy(np.cov(features, rowvar=False))]
    expected = mnist_score.frechet_from_moments(*moments)
    assert mnist_score.frechet_distance(features1, features2) == pytest.approx(expected, rel=1e-9)


def test_identical_sets():
    features = torch.randn(300, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert mnist_score.frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert mnist_score.precision_recall(features, features) == (1.0, 1.0)


def test_precision_and_recall_agree_with_brute_force():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    fake = 0.5 + torch.randn(30, 3, dtype=torch.float64, generator=generator)
    precision, recall = mnist_score.precision_recall(real, fake, k=3)
    assert precision == pytest.approx(brute_force_precision(real.numpy(), fake.numpy(), 3))
    assert recall == pytest.approx(brute_force_precision(fake.numpy(), real.numpy(), 3))
    assert 0 < precision < 1
    assert 0 < recall < 1


@pytest.mark.parametrize("shape", [(7, 28, 28), (7, 28, 28, 1), (7, 1, 28, 28)])
def test_load_npz_takes_three_layouts(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "s.npz", images=pixels, labels=np.arange(7, dtype=np.int32))
    images, labels = mnist_score.load_npz(tmp_path / "s.npz")
    assert np.array_equal(images.numpy(), pixels.reshape(7, 28, 28))
    assert labels.tolist() == list(range(7))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((7, 28, 28), np.float32)}, r"images are float32 \(7, 28, 28\)"),
        ({"images": np.zeros((7, 32, 32, 1), np.uint8)}, r"images are uint8 \(7, 32, 32, 1\)"),
        ({"images": np.zeros((5, 28, 28), np.uint8)}, "5 images are too few"),
        ({"pictures": np.zeros((7, 28, 28), np.uint8)}, "no array named images"),
        ({"images": np.zeros((7, 28, 28), np.uint8), "labels": np.zeros(3, int)}, "labels are int"),
    ],
)
def test_unfit_files_are_one_sentence_and_exit_code_1(tmp_path, capsys, arrays, message):
    np.savez(tmp_path / "s.npz", **arrays)
    assert run(tmp_path, tmp_path / "s.npz") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(mnist_score.ScoreError, match=message):
        mnist_score.load_npz(tmp_path / "s.npz")


def test_files_that_are_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("text.npz", "one.npy", "missing.npz"):
        with pytest.raises(mnist_score.ScoreError, match=name):
            mnist_score.load_npz(tmp_path / name)


def test_report_holds_scorer_reference_floor_and_files(tmp_path, capsys, digits):
    images, labels = digits
    np.savez(tmp_path / "same.npz", images=images.numpy(), labels=labels.numpy())
    report_path = tmp_path / "score.json"
    arguments = [tmp_path / "same.npz", "--reference_seeds", 0, 1, "--floor", "--json", report_path]
    assert run(tmp_path, *arguments) == 0
    report = json.loads(report_path.read_text())

    assert report["scorer"]["seed"] == 0
    assert len(report["scorer"]["sha256"]) == 64
    distances = [row["distance"] for row in report["reference"]["seeds"]]
    assert report["reference"]["mean"] == pytest.approx(sum(distances) / 2)
    assert report["floor"]["halves"]["num_samples"] == 64
    assert report["floor"]["halves"]["distance"] > 0
    assert report["floor"]["train"]["distance"] == pytest.approx(0, abs=1e-6)  # here they are the test digits
    (row,) = report["files"]
    assert row["distance"] == pytest.approx(0, abs=1e-6)
    assert row["label_accuracy"] == report["scorer"]["accuracy"]
    assert (row["precision"], row["recall"]) == (1.0, 1.0)
    assert {"torch", "threads", "date"} <= report.keys()
    assert "same.npz" in capsys.readouterr().out


def test_scorer_and_reference_are_cached(tmp_path, monkeypatch, digits):
    assert run(tmp_path, "--reference_seeds", 0) == 0
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [
        "reference-v1-seed0.npz",
        "scorer.pt",
    ]
    monkeypatch.setattr(mnist_score, "train_scorer", None)
    monkeypatch.setattr(mnist_score, "train_reference", None)
    assert run(tmp_path, "--reference_seeds", 0) == 0


def test_a_scorer_of_another_seed_or_damaged_is_refused(tmp_path, capsys, digits):
    assert run(tmp_path, "--reference_seeds") == 0
    assert run(tmp_path, "--reference_seeds", "--scorer_seed", 1) == 1
    assert "has seed 0" in capsys.readouterr().err

    path = tmp_path / "cache" / "scorer.pt"
    record = torch.load(path, weights_only=True)
    record["state_dict"]["classifier.bias"] += 1
    torch.save(record, path)
    assert run(tmp_path, "--reference_seeds") == 1
    assert "damaged" in capsys.readouterr().err

    path.write_bytes(b"no scorer")
    assert run(tmp_path, "--reference_seeds") == 1
    assert "not a scorer" in capsys.readouterr().err


def test_a_weak_scorer_is_refused_and_not_cached(tmp_path, monkeypatch, capsys, digits):
    monkeypatch.setattr(mnist_score, "MINIMUM_ACCURACY", 0.994)
    assert run(tmp_path, "--reference_seeds") == 1
    assert "below the 99.4%" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_training_depends_on_the_seed_alone_and_leaves_the_global_stream():
    images = torch.randint(0, 256, (200, 28, 28), dtype=torch.uint8)
    labels = torch.arange(200) % 10
    state = torch.get_rng_state()
    first, again, other = (
        mnist_score.train_scorer(images, labels, seed, epochs=1, batch_size=50) for seed in (0, 0, 1)
    )
    samples = [mnist_score.train_reference(images, seed, epochs=1, num_samples=10) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert mnist_score.weights_hash(first) == mnist_score.weights_hash(again)
    assert mnist_score.weights_hash(first) != mnist_score.weights_hash(other)
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    assert samples[0].shape == (10, 28, 28)


def test_augment_moves_a_digit_by_little():
    images = torch.full((50, 1, 28, 28), -1.0)
    images[:, :, 10:18, 10:18] = 1
    moved = mnist_score.augment(images)
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)
    assert moved[:, :, 13:15, 13:15].min() == pytest.approx(1, abs=1e-5)  # the middle of the square stays
    assert moved[:, :, :6].max() == pytest.approx(-1, abs=1e-5)
