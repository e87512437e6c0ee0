"""Several processes. Lightning starts them by running the script again, so each test runs one of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = """
import sys

import pytorch_lightning as pl
import torch
from lightning_gans import DCGAN, GAN, VAE
from tests.toys import loader, make_batches, tiny

name, devices, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
make = {
    "gan": lambda: tiny(GAN, generator=linear(), d_steps=2),
    "dcgan": lambda: tiny(DCGAN),
    "vae": lambda: tiny(VAE, encoder_steps=2),
}[name]


def linear():
    return torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh(), torch.nn.Unflatten(1, (1, 8, 8)))


class Shards(torch.utils.data.IterableDataset):
    # Each process's half of every part of a fetch.
    def __iter__(self):
        rank = torch.distributed.get_rank() if devices > 1 else 0
        for images, labels in make_batches(3, 16):
            rows = torch.arange(16).view(2, devices, -1)[:, rank].flatten()
            yield images[rows].double(), labels[rows]


torch.manual_seed(0)
model = make().double()
model.run_seed = 11 + model.global_rank
trainer = pl.Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=1, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
)
trainer.fit(model, torch.utils.data.DataLoader(Shards(), batch_size=None))
counts = {"seed": model.run_seed, "images": model.images_seen, "step": trainer.global_step}
torch.save(counts | {"weights": model.state_dict()}, f"{folder}/{name}-{devices}-{trainer.global_rank}.pt")
"""


@pytest.fixture
def trained(tmp_path):
    """Train in so many processes and return what each one ends with."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def trained(name, devices):
        environment = {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, str(script), name, str(devices), str(tmp_path)],
            env=os.environ | environment,
            check=True,
            timeout=150,
            capture_output=True,
        )
        return [torch.load(tmp_path / f"{name}-{devices}-{rank}.pt") for rank in range(devices)]

    return trained


@pytest.mark.parametrize("name", ["gan", "dcgan", "vae"])
def test_plain_ddp_keeps_the_processes_alike(trained, name):
    first, second = trained(name, 2)
    assert first["weights"].keys() == second["weights"].keys()
    for key, value in first["weights"].items():
        assert value.equal(second["weights"][key]), key
    for key in ("seed", "images", "step"):
        assert first[key] == second[key]
    assert (first["seed"], first["images"], first["step"]) == (11, 48, 3)


@pytest.mark.parametrize("name", ["gan", "vae"])
def test_two_processes_equal_one_with_twice_the_batch(trained, name):
    (one,), (two, _) = trained(name, 1), trained(name, 2)
    for key, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][key], value, rtol=0, atol=1e-10, msg=key)
