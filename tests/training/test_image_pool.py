import torch

from lightning_gans.training.image_pool import ImagePool
from tests.toys import lone_step


def numbered(first, num):
    return torch.arange(first, first + num, dtype=torch.float32).view(num, 1, 1, 1)


def plain(pool, numbers, uniforms):
    """Exchange numbers one by one, by the words of the paper's appendix; the pool is a list that fills up."""
    shown = []
    for number, (chance, which) in zip(numbers, uniforms, strict=True):
        if len(pool) < 3:
            pool.append(number)
            shown.append(number)
        elif chance >= 0.5:
            shown.append(number)
        else:
            shown.append(pool[int(which * 3)])
            pool[int(which * 3)] = number
    return shown


def test_half_of_the_images_are_exchanged_for_earlier_ones():
    uniforms = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    pool, by_hand, seen = ImagePool(3, (1, 1, 1)), [], 0
    for size in (2, 4, 1, 5, 88, 100):
        rows = slice(seen, seen + size)
        shown = pool.exchange(numbered(seen, size), uniforms[rows], seen).flatten().tolist()
        assert shown == plain(by_hand, range(seen, seen + size), uniforms[rows].tolist())
        seen += size
    assert pool.images.flatten().tolist() == by_hand
    assert min(by_hand) > 150


def test_a_pool_of_no_images_shows_the_newest():
    images = numbered(0, 4)
    shown = ImagePool(0, (1, 1, 1)).exchange(images, torch.zeros(4, 2), 100)
    assert shown.equal(images) and shown is not images


def test_what_is_shown_does_not_change_with_the_pool():
    pool = ImagePool(1, (1, 1, 1))
    first = pool.exchange(numbered(5, 1), torch.zeros(1, 2), 0)
    second = pool.exchange(numbered(6, 1), torch.zeros(1, 2), 1)
    pool.exchange(numbered(7, 1), torch.zeros(1, 2), 2)
    assert (first.item(), second.item(), pool.images.item()) == (5, 5, 7)


def test_the_updates_of_a_step_pass_through_it_like_the_batches_of_an_update():
    """Two updates with a batch each, and one update with two batches."""
    shown, batches = [], numbered(0, 8).split(4)
    for place in ("update_index", "micro_batch_index"):
        pool, step = ImagePool(3, (1, 1, 1)), lone_step(accumulate=1 if place == "update_index" else 2)
        step.module.images_seen = 0
        for number, images in enumerate(batches):
            setattr(step, place, number)
            shown.append(pool.exchanged(images, step, 0))
    assert all(one.equal(other) for one, other in zip(shown[:2], shown[2:], strict=True))
    assert not shown[1].equal(batches[1])  # some were exchanged
