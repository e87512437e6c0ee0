"""The files that docs/contributing.md names are those to touch: its blocks, applied to a copy of the package, work."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .pages import DOCS, ROOT

BLOCK = re.compile(r'```(python|diff) title="([^"]+)"\n(.*?)```', flags=re.DOTALL)
SETTINGS = """
model:
  class_path: SmallGAN
  init_args:
    loss: smoothed
    regularizers: [{class_path: lightning_gans.training.regularizers.LogitDrift, init_args: {weight: 0.001}}]
data: {class_path: StripesDataModule, init_args: {batch_size: 50}}
trainer: {max_epochs: 1, log_every_n_steps: 1, enable_progress_bar: false}
metrics: {metrics: [mean_distance], num_samples: 100}
"""


def apply(kind, path, content):
    """Write a new file, or replace what the context and the removed lines of a diff find by context and added lines."""
    if kind == "python":
        assert not path.exists()
        path.write_text(content)
        return
    lines = content.splitlines()
    old, new = ("\n".join(line[1:] for line in lines if not line.startswith(sign)) for sign in "+-")
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


@pytest.fixture
def copy(tmp_path):
    """A copy of the package with all blocks applied."""
    shutil.copytree(ROOT / "lightning_gans", tmp_path / "lightning_gans", ignore=shutil.ignore_patterns("__pycache__"))
    found = BLOCK.findall((DOCS / "contributing.md").read_text())
    assert len(found) >= 14
    for kind, name, content in found:
        apply(kind, tmp_path / name, content)
    return tmp_path


def test_every_block_applies(copy):
    for path in copy.rglob("*.py"):
        compile(path.read_text(), path, "exec")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_new_parts_train_and_are_measured_together(copy, tmp_path):
    (tmp_path / "new.yaml").write_text(SETTINGS)
    environment = os.environ | {"PYTHONPATH": str(copy)}
    sample = "sample runs/new/version_0/checkpoints/last.ckpt --output s.png"
    for words in ("fit -c new.yaml", sample):
        command = [sys.executable, "-m", "lightning_gans", *words.split()]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    run = Path(tmp_path, "runs", "new", "version_0")
    (scores,) = (run / "metrics").glob("*.json")
    assert json.loads(scores.read_text())["scores"]["mean_distance"] > 0
    assert "train/logitdrift" in (run / "metrics.csv").read_text().splitlines()[0]
    assert "smoothed" in (run / "config.yaml").read_text() and (tmp_path / "s.png").exists()
