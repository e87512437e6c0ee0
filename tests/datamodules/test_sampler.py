import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_gans.datamodules.sampler import InOrderBatchSampler, ShardedBatchSampler
from lightning_gans.errors import SettingError


def epoch_of(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return list(sampler.fetches())


def test_an_epoch_has_each_row_at_most_once_and_leaves_out_the_rest():
    rows = torch.cat(list(ShardedBatchSampler(103, 10)))
    assert len(rows) == 100
    assert len(rows.unique()) == 100


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return torch.cat([fetch.rows for fetch in epoch_of(ShardedBatchSampler(64, 8, seed=lambda: seed), epoch)])

    torch.manual_seed(1)
    first = order(0, 0)
    torch.manual_seed(2)
    torch.testing.assert_close(order(0, 0), first)
    assert not order(0, 1).equal(first)
    assert not order(1, 0).equal(first)
    assert order(2**32, 0).sort().values.equal(torch.arange(64))


def test_seed_is_that_of_seed_everything_asked_late(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    sampler = ShardedBatchSampler(64, 8)
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    expected = ShardedBatchSampler(64, 8, seed=lambda: 6)
    for found, wanted in zip(sampler, expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("world", [2, 4])
def test_processes_see_part_for_part_what_one_sees(parts, world):
    one = ShardedBatchSampler(200, 8, parts=parts, flips=True, seed=lambda: 3, num_replicas=1, rank=0)
    shards = [
        ShardedBatchSampler(200, 8 // world, parts=parts, flips=True, seed=lambda: 3, num_replicas=world, rank=rank)
        for rank in range(world)
    ]
    whole = epoch_of(one, 2)
    split = [epoch_of(shard, 2) for shard in shards]
    assert {len(fetches) for fetches in split} == {len(whole)} == {200 // (8 * parts)}
    for fetch, *ranks in zip(whole, *split, strict=True):
        for field in ("rows", "flips"):
            wanted = getattr(fetch, field).view(parts, 8)
            found = torch.cat([getattr(rank, field).view(parts, -1) for rank in ranks], dim=1)
            assert found.equal(wanted)


def test_flips_are_fair_and_differ_between_fetches_and_epochs():
    sampler = ShardedBatchSampler(4000, 100, flips=True)
    first, second = (torch.stack([fetch.flips for fetch in epoch_of(sampler, epoch)]) for epoch in (0, 1))
    assert 0.45 < first.float().mean() < 0.55
    assert not first.equal(second)
    assert not first[0].equal(first[1])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (
            {"num_replicas": 1, "rank": 0},
            "takes 64 pictures (batch_size 64), .* has 40: batch_size may be at most 40",
        ),
        (
            {"parts": 2, "num_replicas": 3, "rank": 0},
            "takes 384 pictures (batch_size 64 x 3 processes x 2 batches a step), .* at most 6",
        ),
        ({"parts": 50}, "use fewer of these, or more pictures"),
    ],
)
def test_too_few_rows_for_one_fetch(options, wanted):
    sampler = ShardedBatchSampler(40, 64, **options)
    with pytest.raises(SettingError, match=wanted.replace("(", r"\(").replace(")", r"\)")):
        len(sampler)
    with pytest.raises(SettingError):
        next(iter(sampler))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("num_rows", [1, 4, 23, 24, 25, 60])
def test_evaluation_sees_every_row_exactly_once(num_rows, world):
    samplers = [InOrderBatchSampler(num_rows, 4, num_replicas=world, rank=rank) for rank in range(world)]
    batches = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(found) for found in batches]
    assert sorted(torch.cat([batch for found in batches for batch in found]).tolist()) == list(range(num_rows))
    lengths = [len(found) for found in batches]
    assert max(lengths) - min(lengths) <= 1
    last = [len(found[-1]) if len(found) == max(lengths) else 0 for found in batches]
    assert max(last) - min(last) <= 1
    assert all(len(batch) == 4 for found in batches for batch in found[: min(lengths) - 1])


def test_state_resumes_in_the_middle_of_its_epoch_only():
    sampler = ShardedBatchSampler(80, 8, flips=True, seed=lambda: 7)
    whole = epoch_of(sampler, 3)
    sampler.set_epoch(3)
    running = iter(sampler.fetches())
    for _ in range(4):
        next(running)
    state = sampler.state_dict()
    assert (state["epoch"], state["fetches"]) == (3, 4)

    # Another seed, as of a process that calls seed_everything anew.
    resumed = ShardedBatchSampler(80, 8, flips=True, seed=lambda: 8)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.set_epoch(3)
    next(resumed.fetches())  # someone peeks
    rest = list(resumed.fetches())
    assert len(rest) == 6
    for found, wanted in zip(rest, whole[4:], strict=True):
        assert found.rows.equal(wanted.rows)
        assert found.flips.equal(wanted.flips)
    assert len(epoch_of(resumed, 4)) == 10
    assert len(epoch_of(resumed, 3)) == 10


def test_state_at_an_epochs_end_leaves_nothing_of_it_until_the_next_begins():
    sampler = ShardedBatchSampler(80, 8)
    for _ in sampler:
        pass
    state = sampler.state_dict()
    assert (state["epoch"], state["fetches"]) == (0, 10)
    resumed = ShardedBatchSampler(80, 8)
    resumed.load_state_dict(state)
    assert list(resumed) == []
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert len(list(resumed)) == 10


def test_a_fetch_whose_step_has_not_ended_is_not_counted():
    sampler = ShardedBatchSampler(80, 8, in_flight=lambda: 1)
    running = iter(sampler)
    next(running), next(running)
    assert sampler.state_dict()["fetches"] == 1


def test_resume_within_an_epoch_with_another_batch_size():
    state = {"epoch": 2, "fetches": 3, "rows": 80, "per_fetch": 8, "seed": 0}
    sampler = ShardedBatchSampler(80, 4)
    sampler.load_state_dict(state)
    assert len(epoch_of(ShardedBatchSampler(80, 4), 3)) == 20  # another epoch has a whole order
    sampler.set_epoch(2)
    with pytest.raises(SettingError, match="80 pictures, 8 a step; now they are 80 and 4"):
        next(sampler.fetches())


def test_in_a_plain_dataloader():
    sampler = ShardedBatchSampler(40, 8)
    loader = DataLoader(TensorDataset(torch.arange(40)), sampler=sampler, batch_size=None)
    expected = torch.stack(list(sampler))
    assert torch.stack([rows for (rows,) in loader]).equal(expected)
