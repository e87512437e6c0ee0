import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from lightning_gans import SettingError
from lightning_gans.metrics import DensityCoverage, PrecisionRecall, manifold


def compute(cls, real, fake, k):
    metric = cls(real.shape[1], k=k)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return tuple(value.item() for value in metric.compute())


def squared_distances(points, others):
    points, others = points.double().numpy(), others.double().numpy()
    return np.array([((point - others) ** 2).sum(1) for point in points])


def squared_radii(points, k):
    distances = squared_distances(points, points)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, axis=1)[:, k - 1]


def precision_and_recall(real, fake, k):
    distances = squared_distances(real, fake)
    precision = (distances <= squared_radii(real, k)[:, None]).any(axis=0).mean()
    recall = (distances <= squared_radii(fake, k)[None, :]).any(axis=1).mean()
    return precision, recall


def density_and_coverage(real, fake, k):
    within = squared_distances(real, fake) < squared_radii(real, k)[:, None]
    return within.sum() / (k * len(fake)), within.any(axis=1).mean()


def make_sets():
    def normal(*shape, seed):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def integers(*shape, seed):
        return torch.randint(3, shape, generator=torch.Generator().manual_seed(seed)).float()

    wide, flat = normal(61, 96, seed=0), normal(61, 2, seed=1)
    few = wide[:1].repeat(61, 1)
    few[:5] = wide[:5]
    return {
        "in the plane": (flat, normal(47, 2, seed=2) * 1.2),
        "wide": (wide, normal(47, 96, seed=3) * 1.05),
        "ties and duplicates": (integers(61, 2, seed=4), integers(47, 2, seed=5)),
        "ties in 96 dimensions": (integers(61, 96, seed=6), integers(47, 96, seed=7)),
        "the same points": (wide, wide.clone()),
        "the same points in the plane": (flat, flat.clone()),
        "constant fakes": (wide, wide[3:4].repeat(47, 1)),
        "constant fakes far away": (flat, torch.full((47, 2), 100.0)),
        "all constant": (torch.ones(61, 96), torch.ones(47, 96)),
        "reals that are mostly one point": (few, wide[:47]),
        "fakes that are copies": (wide, torch.cat([wide[10:40], normal(17, 96, seed=8)])),
        "copies in the plane": (flat, torch.cat([flat[10:40], normal(17, 2, seed=9)])),
        "far from zero": (normal(61, 96, seed=10) + 1e4, normal(47, 96, seed=11) + 1e4),
        "far from zero in the plane": (flat + 1e4, normal(47, 2, seed=12) + 1e4),
        "close together, far from zero": (wide * 0.01 + 1e4, normal(47, 96, seed=13) * 0.01 + 1e4),
    }


SETS = make_sets()


@pytest.mark.parametrize("chunk_bytes", [2**26, 61 * 8 * 9, 1])  # all at once; 9 rows or a few more; one row
@pytest.mark.parametrize(("real", "fake"), SETS.values(), ids=SETS)
def test_every_count_is_that_of_plain_differences(monkeypatch, real, fake, chunk_bytes):
    monkeypatch.setattr(manifold, "_CHUNK_BYTES", chunk_bytes)
    for k in (1, 5, 40):
        assert compute(PrecisionRecall, real, fake, k) == precision_and_recall(real, fake, k)
        assert compute(DensityCoverage, real, fake, k) == density_and_coverage(real, fake, k)


@pytest.mark.parametrize("chunk_bytes", [2**26, 61 * 8 * 9, 1])
@pytest.mark.parametrize("points", [real for real, _ in SETS.values()], ids=SETS)
def test_squared_distances_to_neighbors(monkeypatch, points, chunk_bytes):
    monkeypatch.setattr(manifold, "_CHUNK_BYTES", chunk_bytes)
    found = manifold.nearest_squared_distances(points.double(), 60).numpy()
    assert (found[:, :-1] <= found[:, 1:]).all()
    for k in (1, 2, 60):
        np.testing.assert_allclose(found[:, k - 1], squared_radii(points, k), rtol=1e-13)


def test_more_ties_at_the_rim_than_are_settled_at_once():
    real, fake = torch.zeros(300, 3), torch.zeros(310, 3)
    real[0] = 1
    assert compute(PrecisionRecall, real, fake, 3) == precision_and_recall(real, fake, 3) == (1.0, 299 / 300)


def test_the_rim_counts_for_one_metric_and_not_for_the_other():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii 1, 1, 1, 8
    fake = torch.tensor([[-1.0], [1.5], [18.0], [30.0]])  # on a rim, in two balls, on a rim, nowhere; radii 2.5, …, 12
    precision, recall = compute(PrecisionRecall, real, fake, 1)
    assert (precision, recall) == (3 / 4, 1.0)
    density, coverage = compute(DensityCoverage, real, fake, 1)
    assert (density, coverage) == (2 / 4, 2 / 4)


def test_density_may_exceed_one_and_coverage_not():
    real = torch.randn(50, 3)
    density, coverage = compute(DensityCoverage, real, real.mean(0, keepdim=True).repeat(7, 1), 25)
    assert density > 1
    assert coverage <= 1


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_same_as_torch_fidelity(k):
    real, fake = torch.randn(150, 8, dtype=torch.float64), torch.randn(130, 8, dtype=torch.float64) + 0.7
    theirs = prc_features_to_metric(
        fake, real, prc_neighborhood=k, prc_batch_size=10000, save_cpu_ram=False, verbose=False
    )
    # Theirs are means in float32.
    wanted = (theirs["precision"], theirs["recall"])
    assert compute(PrecisionRecall, real, fake, k) == pytest.approx(wanted, abs=1e-6)
    assert 0 < wanted[0] < 1 and 0 < wanted[1] < 1


@pytest.mark.parametrize(
    ("cls", "num_real", "num_fake", "setting"),
    [
        (PrecisionRecall, 4, 20, "k"),
        (PrecisionRecall, 20, 4, "k"),
        (DensityCoverage, 4, 20, "k"),
        (DensityCoverage, 20, 0, "num_fake"),
    ],
)
def test_too_few_images(cls, num_real, num_fake, setting):
    with pytest.raises(SettingError) as caught:
        compute(cls, torch.randn(num_real, 3), torch.randn(num_fake, 3), k=4)
    assert caught.value.setting == setting


def test_one_image_more_than_k_is_enough():
    assert compute(PrecisionRecall, torch.randn(5, 3), torch.randn(5, 3), k=4)
    assert compute(DensityCoverage, torch.randn(5, 3), torch.randn(1, 3), k=4)


@pytest.mark.parametrize("cls", [PrecisionRecall, DensityCoverage])
def test_no_neighbor_at_all(cls):
    with pytest.raises(SettingError) as caught:
        cls(3, k=0)
    assert caught.value.setting == "k"


def test_points_that_differ_by_rounding_alone():
    centre = torch.rand(1, 2048)
    real, fake = (centre * (1 + 1e-7 * torch.randn(count, 2048)) for count in (80, 60))
    assert compute(PrecisionRecall, real, fake, 3) == precision_and_recall(real, fake, 3)
