"""Pairs that are made from single images, against the same by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_gans.datamodules import SequenceDataModule, tasks
from lightning_gans.datamodules.draws import Draws, jittered
from lightning_gans.errors import SettingError
from lightning_gans.io.pictures import from_bytes
from tests.toys import Toys

SMOOTH = F.interpolate(torch.rand(3, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1, (16, 24))
ROWS = torch.tensor([5, 0, 9])


def sources_of(task, images=SMOOTH, seed=1, rows=ROWS, epoch=0):
    return tasks.find_task(task)(images, Draws(rows, seed, 1, epoch))


def fed(data, split="train", epoch=0):
    """Return the batches of a data module as a trainer gets them."""
    data.setup("fit")
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    loader.sampler.set_epoch(epoch)
    return [tuple(batch) for batch in loader]


@pytest.mark.parametrize("task", tasks.TASKS)
def test_a_source_is_a_function_of_the_seed_the_image_and_the_epoch(task):
    images = SMOOTH
    whole, target = sources_of(task)
    assert target is images
    assert whole.isfinite().all() and whole.abs().max() <= 1
    for k in range(3):  # whatever else is in the batch
        alone, _ = sources_of(task, images[k : k + 1], rows=ROWS[k : k + 1])
        torch.testing.assert_close(alone, whole[k : k + 1])
    same = [sources_of(task, **key)[0].equal(whole) for key in ({"seed": 2}, {"epoch": 1}, {"rows": ROWS + 1})]
    random = task in ("inpaint_random", "inpaint_strokes", "denoise")
    assert same == [not random] * 3
    assert sources_of(task)[0].equal(whole)


@pytest.mark.parametrize("holes", ["inpaint", "inpaint_random", "inpaint_strokes"])
def test_a_hole_is_zero_and_marked_and_all_else_is_bit_equal(holes):
    source, _ = sources_of(holes)
    inside = source[:, -1:] == 1
    assert (source[:, -1:][~inside] == -1).all()
    assert inside.any((1, 2, 3)).all() and (~inside).any((1, 2, 3)).all()
    assert source[:, :3].equal(SMOOTH.masked_fill(inside, 0))


def test_the_hole_in_the_center():
    source, _ = sources_of(tasks.Inpaint(size=0.25))
    inside = torch.zeros(3, 16, 24, dtype=torch.bool)
    inside[:, 6:10, 9:15] = True
    assert source[:, 3].eq(1).equal(inside)


def test_random_rectangles_are_of_every_number_and_place():
    images = torch.zeros(200, 1, 20, 20)
    inside = sources_of(tasks.Inpaint("random", 0.2), images, rows=torch.arange(200))[0][:, 1] == 1
    assert inside.any(1).any(0).all() and inside.any(2).any(0).all()
    sizes = inside.sum((1, 2))
    assert sizes.min() >= 1 and 16 < sizes.max() <= 4 * 16  # the largest rectangle has 4 x 4 pixels


def test_a_stroke_is_what_is_near_its_path():
    start, end = torch.tensor([[2.0, 3.0]]), torch.tensor([[2.0, 9.0]])
    pixels = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(12), indexing="ij"), -1)
    found = tasks._distance(pixels, start, end)[0]
    for row in range(5):
        for column in range(12):
            wanted = math.hypot(row - 2, max(3 - column, 0, column - 9))
            assert found[row, column].item() == pytest.approx(wanted, abs=1e-5)
    assert tasks._distance(pixels, start, start)[0, 0, 0].item() == pytest.approx(math.hypot(2, 3))


def test_gray_blur_noise_edges_and_size():
    red, green, blue = SMOOTH.unbind(1)
    luma = (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]
    torch.testing.assert_close(sources_of("colorize")[0], luma)
    assert sources_of("invert")[0].equal(-SMOOTH)
    noise = sources_of(tasks.Denoise(0.1), torch.zeros(3, 1, 50, 50))[0]
    assert noise.std().item() == pytest.approx(0.1, rel=0.05) and abs(noise.mean().item()) < 0.01
    point = torch.full((1, 1, 15, 15), 0.0)
    point[..., 7, 7] = 1
    bell = torch.exp(-0.5 * (torch.arange(-3.0, 4) / 1.0) ** 2)
    bell = F.pad(bell / bell.sum(), (4, 4))
    blurred = sources_of(tasks.Deblur(1.0), point, rows=ROWS[:1])[0][0, 0]
    torch.testing.assert_close(blurred, bell[:, None] * bell, rtol=1e-5, atol=1e-6)
    step = torch.full((1, 1, 4, 6), -1.0)
    step[..., 3:] = 1
    edges = sources_of("edges", step, rows=ROWS[:1])[0][0, 0]
    assert edges.eq(torch.tensor([-1.0, -1, 1, 1, -1, -1])).all()
    assert sources_of("super_resolution_x4")[0].shape == (3, 3, 4, 6)
    means = sources_of("super_resolution_x2")[0].mean((2, 3))
    torch.testing.assert_close(means, SMOOTH.mean((2, 3)), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("task", "setting"),
    [
        (lambda: tasks.find_task("repair"), "task"),
        (lambda: tasks.Inpaint("corner"), "holes"),
        (lambda: tasks.Inpaint(size=1.5), "size"),
        (lambda: tasks.Denoise(0), "sigma"),
        (lambda: sources_of(tasks.SuperResolution(5)), "scale"),
        (lambda: sources_of("colorize", SMOOTH[:, :1]), "task"),
        (lambda: Toys(jitter=-1), "jitter"),
        (lambda: SequenceDataModule(sequences=torch.zeros(20, 1, 8), task="invert").setup("fit"), "task"),
    ],
)
def test_what_a_task_cannot_do_is_named(task, setting):
    with pytest.raises(SettingError) as error:
        task()
    assert error.value.setting == setting


def test_jitter_crops_both_sides_alike_at_every_place():
    ramp = (torch.arange(12.0)[:, None] + 12 * torch.arange(12)).expand(200, 2, 12, 12) / 72 - 1
    uniforms = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    crops = jittered(ramp, uniforms, 3)
    assert crops.shape == ramp.shape
    assert crops[:, 0].equal(crops[:, 1])
    large = F.interpolate(ramp[:1, :1], (15, 15), mode="bicubic").clamp(-1, 1)
    windows = large.unfold(2, 12, 1).unfold(3, 12, 1).reshape(16, 12, 12)
    found = {next(k for k in range(16) if windows[k].equal(crop)) for crop in crops[:, 0]}
    assert found == set(range(16))


def test_a_data_module_gives_pairs_that_change_with_the_epoch_in_training_only():
    data = Toys(flip=False, task="denoise", val_size=8)
    first, again, later = (fed(data, epoch=epoch) for epoch in (0, 0, 1))
    assert all(a.equal(b) for one, other in zip(first, again, strict=True) for a, b in zip(one, other, strict=True))
    images = {tuple(image.flatten().tolist()): k for k, image in enumerate(from_bytes(data.images("train")[0]))}
    seen = [
        {
            images[tuple(target.flatten().tolist())]: source
            for pair in batches
            for source, target in zip(*pair, strict=True)
        }
        for batches in (first, later)
    ]
    assert len(seen[0]) == len(seen[1]) == 32
    assert not any(seen[0][k].equal(seen[1][k]) for k in seen[0])
    for one, other in zip(fed(data, "val", 0), fed(data, "val", 1), strict=True):
        assert one[0].equal(other[0]) and one[1].equal(other[1])


def test_jitter_is_for_training_only():
    plain, data = Toys(flip=False), Toys(flip=False, jitter=2, task="invert")
    for source, target in fed(data):
        assert source.equal(-target)
    assert not any(a[0].equal(b[1]) for a, b in zip(fed(plain), fed(data), strict=True))
    assert all(a[0].equal(b[1]) for a, b in zip(fed(plain, "val"), fed(data, "val"), strict=True))


@pytest.mark.parametrize("split", ["train", "val"])
def test_two_processes_see_the_pairs_of_one(split):
    def pairs(processes, rank, batch_size):
        data = Toys(batch_size=batch_size, task="denoise", jitter=2, val_size=8)
        place = (processes, rank)
        data._place, data._order_seed = (lambda: place), 3
        data.trainer = None
        batches = fed(data, split)
        return [torch.cat(side) for side in zip(*batches, strict=True)]

    alone = pairs(1, 0, 8)
    together = [pairs(2, rank, 4) for rank in range(2)]
    for side, parts in zip(alone, zip(*together, strict=True), strict=True):
        rows = torch.cat([part.view(-1, 4, 1, 8, 8) for part in parts], 1).flatten(0, 1)
        assert rows.equal(side)


def test_a_task_of_a_class_path_is_built_by_the_command_line(monkeypatch):
    from jsonargparse import ArgumentParser

    from lightning_gans import MNISTDataModule

    parser = ArgumentParser()
    parser.add_class_arguments(MNISTDataModule, "data")
    path = "lightning_gans.datamodules.tasks.Denoise"
    given = parser.parse_object({"data": {"task": {"class_path": path, "init_args": {"sigma": 0.25}}}})
    assert parser.instantiate(given).data.task.sigma == 0.25
    named = parser.instantiate(parser.parse_args(["--data.task=edges", "--data.download=false"]))
    assert isinstance(named.data.task, tasks.Edges)
