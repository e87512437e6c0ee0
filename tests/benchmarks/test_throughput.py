import json
import sys

import evaluation_throughput
import pytest
import torch
import train_throughput

from lightning_gans import DCGAN, GAN, VAE
from tests.toys import SHAPE, tiny, weights

LOOPS = [(GAN, "usual_gan"), (DCGAN, "lean_gan"), (VAE, "usual_vae"), (VAE, "lean_vae")]
IMAGES = torch.randint(256, (20, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(("cls", "loop"), LOOPS)
def test_an_update_of_a_reference_loop_changes_every_weight(cls, loop):
    model = tiny(cls)
    networks = [getattr(model, name) for name in model.trained_networks]
    before = [weights(network) for network in networks]
    updates = getattr(train_throughput, loop)(model, IMAGES, torch.zeros(20).long(), 8, True, "cpu")
    for _ in range(3):  # into the second epoch
        next(updates)
    for network, old in zip(networks, before, strict=True):
        assert all(not new.equal(was) for new, was in zip(network.parameters(), old, strict=True))


@pytest.mark.slow
def test_processes_take_turns_and_give_ratios(monkeypatch, tmp_path, capsys):
    numbers = {"rounds": 2, "repeats": 1, "updates": 2, "warm_up": 1, "batch": 8, "baseline": train_throughput.ROOT}
    words = ["--recipes", "dcgan_mnist", "--device=cpu", *(f"--{name}={value}" for name, value in numbers.items())]
    words += ["--variants", "lean", "ours", f"--json={tmp_path / 'out.json'}", "--checkpoint.enabled=false"]
    monkeypatch.setattr(sys, "argv", ["train_throughput.py", *words])
    train_throughput.main()
    result = json.loads((tmp_path / "out.json").read_text())["recipes"]["dcgan_mnist"]
    assert result["updates"] == 4 and set(result["images_per_second"]) == {"lean", "ours", "baseline"}
    assert set(result["ratios"]) == {"ours/lean", "ours/baseline"}
    assert all(ratio["min"] > 0 and ratio["of_all"] > 0 for ratio in result["ratios"].values())


@pytest.mark.parametrize("options", [["--composed", "--rate_images=25"], pytest.param([], marks=pytest.mark.slow)])
def test_evaluation_totals_are_the_sums_of_the_parts(tmp_path, options):
    path = tmp_path / "out.json"
    evaluation_throughput.main(["--num", "40", "--batch_size=10", "--device=cpu", f"--json={path}", *options])
    found = json.loads(path.read_text())
    (result,) = found["results"]
    for side, parts in result["seconds"].items():
        assert result["totals"][side] == pytest.approx(sum(parts.values()), rel=1e-2)
        if rates := found["seconds_per_image"]:
            rate = rates["torch_fidelity" if side == "torch_fidelity" else "ours"]
            assert parts["extraction_of_fakes"] == pytest.approx(40 * rate, rel=1e-2)
    assert "extraction_of_reals" not in result["seconds"]["ours_cached"]
