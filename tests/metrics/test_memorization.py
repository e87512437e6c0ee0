import pytest
import torch
from scipy.stats import mannwhitneyu

from lightning_gans import SettingError
from lightning_gans.metrics import memorization as module
from lightning_gans.metrics.memorization import memorization, nearest


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_the_nearest_is_that_of_all_distances(dtype, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 7)
    points, others = (torch.randn(n, 5).mul(40).add(128).clamp(0, 255).to(dtype) for n in (6, 30))
    distances = torch.cdist(points.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")
    found = nearest(points, others)
    torch.testing.assert_close(found.distances, distances.min(1).values)
    assert found.places.equal(distances.argmin(1))
    copies = nearest(others[[3, 20]], others)
    assert copies.places.tolist() == [3, 20] and copies.distances.tolist() == [0, 0]
    with pytest.raises(SettingError) as caught:
        nearest(points, others[:0])
    assert caught.value.setting == "num_train"


def test_the_share_is_that_of_scipy_with_ties():
    fake, real = torch.randint(8, (50,)).double(), torch.randint(2, 12, (70,)).double()
    statistic = mannwhitneyu(real.numpy(), fake.numpy()).statistic
    assert float(memorization(fake, real)) == pytest.approx(statistic / (50 * 70))


def test_copies_are_told_from_new_images():
    train, new, held_out = (torch.randn(200, 8) for _ in range(3))
    real = nearest(held_out, train).distances
    assert memorization(nearest(train[:100], train).distances, real) == 1
    assert memorization(nearest(new, train).distances, real) == pytest.approx(0.5, abs=0.1)
    assert memorization(nearest(new + 100, train).distances, real) == 0
