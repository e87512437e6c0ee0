import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lightning_gans
from lightning_gans import SettingError
from lightning_gans.metrics import DensityCoverage, InceptionScore, KernelDistance, MongeDistance, PrecisionRecall
from tests.metrics import ranks


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """Return what each process of each world computes; all metrics and worlds in one start of Python."""
    folder = tmp_path_factory.mktemp("ranks")
    roots = [str(Path(package.__file__).parent.parent) for package in (lightning_gans, sys.modules["tests"])]
    subprocess.run(
        [sys.executable, "-m", "tests.metrics.ranks", str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(roots), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=120,
        capture_output=True,
    )
    return {world: [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)] for world in ranks.WORLDS}


@pytest.fixture(scope="module")
def alone():
    metrics = ranks.make_metrics()
    ranks.update(metrics, ranks.make_rows().items())
    return ranks.compute(metrics)


@pytest.mark.parametrize("world", ranks.WORLDS)
@pytest.mark.parametrize("when", ["first", "second"])
@pytest.mark.parametrize("name", ranks.make_metrics())
def test_every_process_computes_what_one_alone_does(computed, alone, name, when, world):
    found = [results[when][name] for results in computed[world]]
    if name == "fid":  # sums of sums round in another way
        assert found == pytest.approx([alone[name]] * world, rel=1e-9)
        assert len(set(found)) == 1
    else:
        assert found == [alone[name]] * world


@pytest.mark.parametrize("world", ranks.WORLDS)
def test_each_process_keeps_its_own_rows_alone(computed, world):
    for rank, results in enumerate(computed[world]):
        sizes = {kind: sum(batches[rank]) for kind, batches in ranks.WORLDS[world].items()}
        for name, kept in results["kept"].items():
            wanted = {f"{kind}_features": size for kind, size in sizes.items()}
            of_fakes = {"inception_score": "logits", "translations": "pairs"}
            assert kept == ({of_fakes[name]: sizes["fake"]} if name in of_fakes else wanted)


TWO_SETS = [KernelDistance, PrecisionRecall, DensityCoverage]


@pytest.mark.parametrize("shape", [(5, 3), (5, 1), (5,), (4,), (5, 4, 1)])
@pytest.mark.parametrize("cls", [*TWO_SETS, InceptionScore])
def test_rows_of_another_length(cls, shape):
    metric = cls(4)
    with pytest.raises(SettingError) as caught:
        metric.update(torch.zeros(shape), **({} if cls is InceptionScore else {"real": True}))
    assert caught.value.allowed == "(N, 4)"
    assert all(len(metric.rows(state)) == 0 for state in metric.states)


@pytest.mark.parametrize("cls", TWO_SETS)
def test_reset_empties_both_sets(cls):
    metric = cls(4)
    for real in (True, False):
        metric.update(torch.ones(9, 4), real=real)
    assert [len(metric.rows(state)) for state in metric.states] == [9, 9]
    metric.reset()
    assert [metric.rows(state).shape for state in metric.states] == [(0, 4), (0, 4)]


def test_reset_empties_the_logits():
    metric = InceptionScore(4, splits=1)
    metric.update(torch.eye(4) * 100)
    metric.reset()
    metric.update(torch.zeros(3, 4))
    assert metric.compute()[0] == pytest.approx(1, abs=1e-12)


def test_rows_come_in_the_order_of_their_updates():
    metric = KernelDistance(2)
    rows = torch.randn(9, 2)
    for piece in rows.split([2, 0, 7]):
        metric.update(piece, real=False)
    assert metric.rows("fake_features").equal(rows)
    assert len(metric.rows("real_features")) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: KernelDistance(4, num_subsets=3, subset_size=9, **options),
        lambda **options: MongeDistance(4, num_directions=5, **options),
        lambda **options: InceptionScore(4, splits=3, **options),
        lambda **options: PrecisionRecall(4, **options),
    ],
)
def test_a_value_does_not_depend_on_the_order_of_the_rows(make):
    real, fake = torch.randn(30, 4), torch.randn(40, 4)
    fake[7] = fake[3]

    def value(order, **options):
        metric = make(**options)
        if not isinstance(metric, InceptionScore):
            metric.update(real, real=True)
        for part in fake[order].split(13):
            metric.update(part, **({} if isinstance(metric, InceptionScore) else {"real": False}))
        return torch.as_tensor(metric.compute()).tolist()

    as_given, other = torch.arange(40), torch.randperm(40)
    assert value(as_given) == value(other)
    if not isinstance(make(), PrecisionRecall):  # nothing is drawn
        assert value(as_given, keep_order=True) != value(other, keep_order=True)
