"""Lightning under both of its names: ``import lightning as L`` and ``import pytorch_lightning as pl``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[1])
FAMILIES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}

SCRIPT = """
import {family} as L
import torch
import lightning_gans
from lightning_gans import Checkpoint, DCGAN, GenerativeModule, GracefulStop, RunLogger, SampleGrid
from tests.toys import LATENT_DIM, SHAPE, Toys

assert issubclass(GenerativeModule, L.LightningModule)

def train(epochs, checkpoint=None, **options):
    torch.manual_seed(0)
    model = DCGAN(SHAPE, LATENT_DIM, width=4)
    model.run_seed = 5
    callbacks = [SampleGrid(num_samples=4), GracefulStop(), Checkpoint()]
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=RunLogger("runs", "x"), callbacks=callbacks,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options
    )
    trainer.fit(model, Toys(), ckpt_path=checkpoint)
    return [weight.detach().clone() for weight in model.parameters()]
"""

RESUME = """
whole = train(2)
train(1)
resumed = train(2, "runs/x/version_1/checkpoints/last.ckpt")
assert all(a.equal(b) for a, b in zip(whole, resumed, strict=True))
import sys
assert "{other}" not in sys.modules
"""

DDP = """
if __name__ == "__main__":
    train(1, strategy="ddp", devices=2)
"""


def run(folder, code, **environment):
    path = folder / "script.py"
    path.write_text(code)
    environment = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1", **environment}
    environment.pop("LIGHTNING_GANS_NAMESPACE", None) if "LIGHTNING_GANS_NAMESPACE" not in environment else None
    return subprocess.run([sys.executable, str(path)], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_and_a_resume_under_either_name(tmp_path, family):
    other = next(module for name, module in FAMILIES.items() if name != family)
    # tests/toys.py imports pytorch_lightning, so the package is told which one is meant
    script = SCRIPT.replace("from tests.toys import LATENT_DIM, SHAPE, Toys", TOYS)
    done = run(tmp_path, (script + RESUME).format(family=family, other=other))
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_under_either_name(tmp_path, family):
    script = SCRIPT.replace("from tests.toys import LATENT_DIM, SHAPE, Toys", TOYS)
    done = run(tmp_path, (script + DDP).format(family=family))
    assert done.returncode == 0, done.stderr[-3000:]


TOYS = """
from lightning_gans import ImageDataModule
SHAPE, LATENT_DIM = (1, 8, 8), 4

class Toys(ImageDataModule):
    image_shape = SHAPE

    def __init__(self):
        super().__init__(4, 8)

    def load_images(self, split):
        source = torch.Generator().manual_seed(0)
        images = torch.randint(256, (40, *SHAPE), generator=source, dtype=torch.uint8)
        return (images, torch.zeros(40, dtype=torch.long)) if split == "train" else None
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_environment_decides(tmp_path, family):
    code = "from lightning_gans import GAN; print(GAN.__mro__[3].__module__)"
    done = run(tmp_path, code, LIGHTNING_GANS_NAMESPACE=family)
    assert done.stdout.startswith(FAMILIES[family]), done.stderr[-3000:]


@pytest.mark.slow
def test_a_name_that_is_neither_is_refused(tmp_path):
    done = run(tmp_path, "from lightning_gans import GAN", LIGHTNING_GANS_NAMESPACE="ignite")
    assert "LIGHTNING_GANS_NAMESPACE is 'ignite': choose from lightning, pytorch_lightning" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GAN", "DigitsDataModule"])
def test_a_class_beside_the_other_family_says_which_trainer_to_take(tmp_path, name):
    code = f"import pytorch_lightning, lightning\nfrom lightning_gans import {name}\n{name}()"
    done = run(tmp_path, code)
    assert "Use the Trainer of `pytorch_lightning`" in done.stderr


@pytest.mark.slow
def test_the_command_line_under_the_other_name(tmp_path):
    words = "fit -c quickstart --trainer.max_epochs 1 --trainer.limit_train_batches 2 --model.width 4"
    code = f"from lightning_gans.cli.main import main\nmain({words.split()!r})\nimport sys\n"
    done = run(tmp_path, code + "assert 'pytorch_lightning' not in sys.modules", LIGHTNING_GANS_NAMESPACE="lightning")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "runs/quickstart/version_0/checkpoints/last.ckpt").is_file()
