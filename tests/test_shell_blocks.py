"""Every command that the documentation shows runs: in its order, on fakes of the data, and made short.

Installing, clusters and what needs downloads are left out. What is shortened is how long a command trains, and how much
it measures.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_gans.cli.main import main

from .fake_sets import write_mnist, write_pictures
from .inception_weights import write_inception_weights
from .pages import PAGES, README, ROOT, blocks, commands, name_of

ELSEWHERE = (
    *("pip", "pytest", "torchrun", "srun", "#", "lightning-gans push CKPT --to hf:", "lightning-gans demo"),
    # The folders of these recipes are made of downloads; test_recipes.py and test_recipe_data.py run both.
    *("npm", "python recipes/data/", "python benchmarks/translation_score.py"),
    *(f"lightning-gans fit -c {name}" for name in ("cyclegan_", "pix2pix_emoji_", "srgan_emoji", "fastgan_emoji")),
    *(f"lightning-gans {command} -c ada_emoji" for command in ("fit", "test")),
)
BENCHMARKS = {
    "angle_score": ["--updates", "2"],
    "digits_score": [],
    "evaluation_throughput": ["--num", "20"],
    "infogan_codes": [],
    "kill_resume": ["--kills", "1", "--epochs", "2"],
    "mnist_score": ["--reference_seeds"],
    "sines_score": [],
    "train_throughput": ["--rounds", "1", "--repeats", "1", "--warm_up", "1", "--updates", "2"],
    "vqvae_quality": [],
}
RUNS = {"a": "dcgan_mnist", "b": "gan_mnist"}  # what stands for a run of any kind
REJECTED = 3  # how a score ends that is worse than its limit, as those of networks that have seen nothing are


def runnable(page):
    """Return the commands of the page that are run here."""
    return [command for command in commands(page) if not command.startswith(ELSEWHERE)]


class Shell:
    """Runs commands, each as short as it can be without being another one."""

    def __init__(self):
        self.epochs = 1

    def run(self, command):
        words = shlex.split(command, comments=True)
        recipe = words[words.index("-c") + 1] if "-c" in words else "quickstart"
        recipe = "vae_mnist" if words[1] == "reconstruct" else "dcgan_mnist" if "benchmarks" in words[1] else recipe
        words = [f"runs/{recipe}/version_0/checkpoints/last.ckpt" if word == "CKPT" else word for word in words]
        self.make_what_is_named(words)
        if words[0] == "python":
            self.run_benchmark(words)
        elif {">", "wandb", "efficientnet"} & set(words) or any("mine." in word for word in words):
            self.run_program(["-m", "lightning_gans", *self.shortened(words[1:])])
        else:
            assert words[0] == "lightning-gans", command
            main(self.shortened(words[1:]))

    def make_what_is_named(self, words):
        for word in words:
            found = re.match(r"runs/(\w+)/version_0/", word)
            if not found:
                continue
            recipe = RUNS.get(found[1], found[1])
            run = Path("runs", recipe, "version_0")
            if not run.exists():
                main(self.shortened(["fit", "-c", recipe]))
            if found[1] in RUNS:
                (scores,) = (run / "metrics").glob("step=*.json")
                Path(word).parent.mkdir(parents=True)
                Path(word).write_bytes(scores.read_bytes())

    def shortened(self, words):
        command, *rest = words
        if command in ("fit", "validate", "test", "predict") and "-c" in rest:
            place = len(rest) - rest[::-1].index("-c") + 1
            rest = [*rest[:place], "-c", "fast", *rest[place:], "--trainer.enable_progress_bar", "false"]
            rest += ["--metrics.num_samples", "100"]
            if "--metrics.iw_samples" in rest:
                rest += ["--metrics.iw_samples", "5"]
            if "inception" in rest:
                images = torch.from_numpy(np.random.default_rng(0).integers(256, size=(20, 3, 64, 64), dtype=np.uint8))
                rest += ["--metrics.weights_path", str(write_inception_weights(Path("inception.pth"), images))]
        if command == "fit" and "-c" not in rest and "--metrics.enabled" not in rest:
            rest += ["--metrics.num_samples", "100"]
        if "--trainer.max_steps" in rest:
            rest += ["--trainer.max_steps", "2"]
        if command == "resume" or (command == "fit" and "--ckpt_path" in rest):
            self.epochs += 1
            rest += ["--trainer.max_epochs", str(self.epochs)]
        elif command == "fit" and "-c" in rest:
            rest += ["--trainer.max_epochs", "1"]
        if command == "augment-trial":
            rest += ["--num_samples", "100", "--updates", "2"]
        if command == "invert":
            rest += ["--steps", "2"]
        if command == "sample":
            few = "--num_samples" in rest and "recurrent" not in rest[0]  # the test of sequences needs all
            rest += ["--num_samples", "200"] if few else []
        return [command, *rest]

    def run_benchmark(self, words):
        name = Path(words[1]).stem
        done = self.run_program([str(ROOT / words[1]), *words[2:], *BENCHMARKS[name]], allowed=(0, REJECTED))
        assert done.returncode == 0 or name in ("digits_score", "sines_score")

    def run_program(self, words, allowed=(0,)):
        words = words[: words.index(">")] if ">" in words else words
        paths = {"PYTHONPATH": str(ROOT), "LIGHTNING_GANS_CACHE": "cache", "HOME": os.getcwd(), "WANDB_MODE": "offline"}
        done = subprocess.run([sys.executable, *words], env=os.environ | paths, capture_output=True, text=True)
        assert done.returncode in allowed, done.stdout[-2000:] + done.stderr[-3000:]
        return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with fakes of the data, in which all pages run: what one has trained serves the next."""
    folder = tmp_path_factory.mktemp("shell")
    write_mnist(folder / "data", num_train=5600, num_test=400, digits=True)
    for name in ("pictures", "animals/cats", "animals/dogs"):
        write_pictures(folder / name)
    return folder


@pytest.fixture(scope="module")
def shell():
    return Shell()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name_of)
def test_the_shell_blocks_run_in_their_order(page, folder, shell, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LIGHTNING_GANS_CACHE", str(folder / "cache"))
    Path("mine.py").write_text("\n".join(blocks(page, "python\n# mine.py")))
    for command in runnable(page):
        print(">", command, flush=True)
        shell.run(command)
    for block in blocks(page, 'python title="without the package"'):  # on what was exported
        assert "lightning_gans" not in block
        shell.run_program(["-c", block])


def test_commands_are_found():
    assert runnable(README)[0] == "lightning-gans fit -c quickstart"
    found = [command for page in PAGES for command in runnable(page)]
    assert len(found) > 60
    assert not any("\\" in command or "install" in command for command in found)
