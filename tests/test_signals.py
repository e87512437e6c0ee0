"""Runs that receive a signal: exit codes, messages, and what they leave behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

FIT = ["fit", "-c", "quickstart", "--model", "ConditionalGAN", "--model.width", "4"]
QUIET = ["--metrics.enabled", "false", "--samples.enabled", "false", "--trainer.enable_progress_bar", "false"]
ENDLESS = ["--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "5", "--trainer.max_epochs", "1000"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
ONE = ["--trainer.devices", "1", "--trainer.strategy", "auto"]
RUN = Path("runs") / "quickstart" / "version_0"
PATIENCE = 60  # seconds; a few are enough on an idle machine


class Run:
    """A command in its own session and folder."""

    def __init__(self, folder, words):
        self.folder, self.said = folder, folder / "said"
        ours = {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
        with open(self.said, "w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lightning_gans", *words],
                cwd=folder,
                env=os.environ | ours,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, happened, seconds=PATIENCE):
        """Wait until a condition holds."""
        until = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < until, self.said.read_text()
            time.sleep(0.05)

    def has_rows(self):
        assert self.process.poll() is None, self.said.read_text()
        rows = self.folder / RUN / "metrics.csv"
        return rows.is_file() and len(rows.read_text().splitlines()) > 2

    def members(self):
        """Return the ids of the session's living processes, the main one last."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            except OSError:  # gone in the meantime
                continue
            if int(group) == self.process.pid and state != "Z":
                found.append(int(stat.parent.name))
        return sorted(found, reverse=True)

    def kill(self, whom, number):
        if whom == "group":
            os.killpg(self.process.pid, number)
        elif whom == "main":
            os.kill(self.process.pid, number)
        else:
            child, main = self.members()
            assert main == self.process.pid
            os.kill(child, number)

    def is_gone(self):
        """Return whether all processes of the session have ended."""
        return not self.members()


@pytest.fixture
def start(tmp_path):
    """Return a function that starts commands; processes left at the end are killed."""
    runs = []

    def start(*words):
        runs.append(Run(tmp_path, words))
        return runs[-1]

    yield start
    for run in runs:
        for pid in run.members():
            os.kill(pid, signal.SIGKILL)
        run.process.wait()


def step_of(checkpoint):
    return torch.load(checkpoint, weights_only=True)["global_step"]


CASES = [
    (1, "main", signal.SIGINT),
    (1, "main", signal.SIGTERM),
    (2, "group", signal.SIGINT),
    (2, "group", signal.SIGTERM),
    (2, "main", signal.SIGINT),
    (2, "main", signal.SIGTERM),
    (2, "child", signal.SIGINT),
    (2, "child", signal.SIGTERM),
]


@pytest.mark.parametrize(("processes", "whom", "number"), CASES, ids=lambda value: getattr(value, "name", str(value)))
def test_a_signal_ends_the_run_cleanly_and_the_run_resumes(start, tmp_path, processes, whom, number):
    run = start(*FIT, *QUIET, *ENDLESS, *(TWO if processes == 2 else ONE))
    run.wait_until(run.has_rows)
    run.kill(whom, number)
    sent = time.monotonic()
    code = run.process.wait(PATIENCE)
    run.wait_until(run.is_gone)
    assert time.monotonic() - sent < 15
    said, last = run.said.read_text(), tmp_path / RUN / "checkpoints" / "last.ckpt"
    assert code == 128 + number, said
    step = step_of(last)
    lines = said.splitlines()
    (first,) = [index for index, line in enumerate(lines) if line.startswith("Stopped")]
    assert lines[first].startswith(f"Stopped by {signal.Signals(number).name} after update {step:,}.")
    assert f"  lightning-gans resume {RUN}" in lines[first:]
    assert "Traceback" not in said
    rows = (tmp_path / RUN / "metrics.csv").read_text().splitlines()

    again = start("resume", str(RUN), "--trainer.max_epochs", "-1", "--trainer.max_steps", str(step + 5))
    assert again.process.wait(PATIENCE) == 0, again.said.read_text()
    assert (tmp_path / RUN / "metrics.csv").read_text().splitlines()[: len(rows)] == rows
    assert step_of(last) == step + 5


SLOW = """
import time
from pathlib import Path
from lightning_gans import ConditionalGAN

class Slow(ConditionalGAN):
    def generator_loss(self, real, fake, labels):
        if self.trainer.global_step == 3:
            Path("in_a_step").touch()
            time.sleep(120)
        return super().generator_loss(real, fake, labels)
"""


def test_a_second_ctrl_c_does_not_wait_for_the_step(start, tmp_path):
    (tmp_path / "slow_models.py").write_text(SLOW)
    words = ["-c", "quickstart", "--model", "slow_models.Slow", "--model.num_classes", "10", "--model.width", "4"]
    run = start("fit", *words, *QUIET, *ENDLESS, *ONE)
    run.wait_until((tmp_path / "in_a_step").exists)
    run.kill("main", signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(2)
    run.kill("main", signal.SIGINT)
    assert run.process.wait(5) == 130
    run.wait_until(run.is_gone)
    assert not list(tmp_path.rglob("*.ckpt"))
