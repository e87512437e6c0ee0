import itertools

import pytest
import torch

from lightning_gans import randomness
from lightning_gans.randomness import Stream, mix


def test_mixing_has_no_collisions_on_a_grid():
    keys = list(itertools.product(range(6), range(10), range(500)))
    assert len({mix(*key) for key in keys}) == len(keys)


@pytest.mark.parametrize("key", [(), (0,), (-1,), (2**31,), (2**32,), (-(2**40),), (7 * 2**100, 3), (1, 2, 3, 4)])
def test_mixing_ends_in_32_bits(key):
    assert 0 <= mix(*key) < 2**32
    assert mix(*key) == mix(*key)


def test_integers_count_whole_and_with_their_sign():
    values = [0, 1, -1, 5, -5, 5 + 2**32, 5 + 7 * 2**40, 2**32, -(2**32), 2**32 - 1, 2**31, -(2**31), 2**64]
    assert len({mix(value) for value in values}) == len(values)


def test_order_and_number_of_integers_count():
    assert len({mix(), mix(0), mix(0, 0), mix(0, 0, 0), mix(0, 1), mix(1, 0), mix(1)}) == 7


def test_streams_are_integers_of_their_own():
    assert len({int(stream) for stream in Stream}) == len(Stream)
    assert mix(3, Stream.NOISE) == mix(3, 1)


def test_mixed_seeds_are_spread_evenly():
    bits = torch.tensor([[mix(0, step) >> bit & 1 for bit in range(32)] for step in range(2000)])
    assert (bits.float().mean(0) - 0.5).abs().max() < 0.06


def test_numbers_are_a_function_of_the_key():
    first = randomness.randn((3, 5), 1, 2)
    torch.randn(7)
    assert randomness.randn((3, 5), 1, 2).equal(first)
    assert not (randomness.randn((3, 5), 1, 3) == first).any()
    assert randomness.randn((2,), 1, dtype=torch.float64).dtype == torch.float64


def test_numbers_are_standard_normal():
    numbers = randomness.randn_rows(0, 2000, 7, 1)
    assert abs(numbers.mean()) < 0.03
    assert abs(numbers.std() - 1) < 0.03
    assert numbers.T.corrcoef().fill_diagonal_(0).abs().max() < 0.1


@pytest.mark.parametrize("size", [1, 5, 16, 33])
def test_a_row_is_the_same_whatever_else_is_drawn(size):
    table = randomness.randn_rows(0, 40, size, 9, Stream.SAMPLE)
    for start, num in ((0, 1), (3, 5), (39, 1), (17, 23), (12, 0)):
        assert randomness.randn_rows(start, num, size, 9, Stream.SAMPLE).equal(table[start : start + num])
    assert len(table.unique(dim=0)) == 40
    converted = randomness.randn_rows(0, 40, size, 9, Stream.SAMPLE, dtype=torch.float64)
    assert converted.equal(table.double())


def test_the_default_generator_is_seeded_inside_and_put_back():
    device, state = torch.device("cpu"), torch.get_rng_state()
    with randomness.default_generator_seeded(device, 1, 2):
        first = torch.rand(5)
    assert torch.get_rng_state().equal(state)
    torch.rand(3)
    with randomness.default_generator_seeded(device, 1, 2):
        assert torch.rand(5).equal(first)
    with randomness.default_generator_seeded(device, 1, 3):
        assert not torch.rand(5).equal(first)


def test_the_default_generator_is_put_back_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(KeyError), randomness.default_generator_seeded(torch.device("cpu"), 1):
        torch.rand(5)
        raise KeyError
    assert torch.get_rng_state().equal(state)


def test_the_global_seed_is_that_of_seed_everything(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert randomness.global_seed() is None
    monkeypatch.setenv("PL_GLOBAL_SEED", "12")
    assert randomness.global_seed() == 12


def test_numbers_for_an_item_follow_it_into_any_batch():
    items = torch.rand(6, 3, 4)
    rows = randomness.randn_for(items, 5, 1, 2)
    order = torch.tensor([4, 0, 5])
    assert randomness.randn_for(items[order], 5, 1, 2).equal(rows[order])
    assert not randomness.randn_for(items, 5, 1, 3).equal(rows)
    assert len(rows.unique(dim=0)) == 6
    many = randomness.randn_for(torch.rand(2000, 2), 8, 0)
    assert abs(many.mean()) < 0.03 and abs(many.std() - 1) < 0.03


def test_rows_of_uniform_numbers_are_found_by_their_place():
    table = randomness.rand_at(torch.arange(9), 5, 1, 2)
    assert randomness.rand_at(torch.tensor([7, 2]), 5, 1, 2).equal(table[[7, 2]])
    assert table.min() >= 0 and table.max() < 1 and len(table.unique()) == 45
