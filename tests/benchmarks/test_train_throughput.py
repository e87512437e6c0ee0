import hashlib
import inspect
import itertools
import json
import sys
from pathlib import Path

import pytest
import torch

from lightning_gans import DCGAN, GAN, VAE
from tests.toys import SHAPE, tiny, weights

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import train_throughput

LOOPS = [
    (GAN, train_throughput.usual_gan),
    (DCGAN, train_throughput.lean_gan),
    (VAE, train_throughput.usual_vae),
    (VAE, train_throughput.lean_vae),
]
IMAGES = torch.randint(256, (20, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(("cls", "loop"), LOOPS)
@pytest.mark.parametrize("flip", [False, True])
def test_an_update_of_a_reference_loop_changes_every_weight(cls, loop, flip):
    model = tiny(cls)
    networks = [getattr(model, name) for name in model.trained_networks]
    before = [weights(network) for network in networks]
    updates = loop(model, IMAGES, torch.zeros(20).long(), 8, flip, "cpu")
    for _ in range(3):  # into the second epoch
        next(updates)
    for network, old in zip(networks, before, strict=True):
        assert all(not new.equal(was) for new, was in zip(network.parameters(), old, strict=True))


def test_both_kinds_of_batches_hold_the_same_images_in_an_epoch():
    usual = itertools.islice(train_throughput.usual_batches(IMAGES, torch.zeros(20).long(), 4, False, 0), 5)
    lean = itertools.islice(train_throughput.lean_batches(IMAGES, 4, False, "cpu"), 5)
    one, other = torch.cat([images for images, _ in usual]), torch.cat(list(lean))
    assert one.shape == other.shape and -1 <= other.min() < -0.9 and 0.9 < other.max() <= 1
    for images in (one, other):
        images.copy_(images[images.flatten(1).double().mean(1).argsort()])
    torch.testing.assert_close(one, other)


def test_the_average_of_the_lean_loop_is_that_of_the_model():
    model = tiny(DCGAN, ema_half_life=64, ema_ramp=0.5)
    average = train_throughput.Average([model.generator], 64, 0.5)
    for _ in range(3):
        with torch.no_grad():
            for weight in model.generator.parameters():
                weight += 1
        model.images_seen += 8
        model.update_ema(8)
        average.update(8)
    for ours, theirs in zip(model.generator_ema.parameters(), average.weights, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_reference_loops_are_those_that_the_published_numbers_were_measured_with():
    source = "".join(inspect.getsource(part) for part in train_throughput.REFERENCE)
    published = (Path(train_throughput.__file__).parent / "README.md").read_text()
    assert hashlib.sha256(source.encode()).hexdigest()[:16] in published


@pytest.mark.slow
def test_it_prints_the_ratios_of_all_variants(monkeypatch, capsys, tmp_path):
    numbers = {"rounds": 2, "repeats": 1, "updates": 2, "warm_up": 1, "batch": 8, "output": tmp_path / "out.json"}
    words = ["--recipes", "dcgan_mnist", "--device", "cpu", *(f"--{name}={value}" for name, value in numbers.items())]
    monkeypatch.setattr(sys, "argv", ["train_throughput.py", *words, "--checkpoint.enabled=false"])
    train_throughput.main()
    found = json.loads((tmp_path / "out.json").read_text())
    printed = capsys.readouterr().out
    assert printed.endswith(json.dumps(found, indent=2) + "\n") and "of all updates" in printed
    result = found["recipes"]["dcgan_mnist"]
    assert result["updates"] == 4 and set(result["images_per_second"]) == set(train_throughput.VARIANTS)
    for name, ratio in result["ratios"].items():
        assert ratio["median"] > 0 and ratio["of_all_updates"] > 0, name
    assert set(result["ratios"]) == {"ours/usual", "ours/lean", "fast/usual", "fast/lean", "fast/ours"}
