"""The content of the wheel, which works without the rest of the project."""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_gans.cli.commands import recipes

ROOT = Path(__file__).resolve().parent.parent


def build(kind, source, folder):
    """Build a wheel or an sdist from a folder of sources, and return the file."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (path,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_package_its_types_and_every_recipe(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"lightning_gans/py.typed", "lightning_gans/cli/main.py"} <= names
    assert {f"lightning_gans/recipes/{name}.yaml" for name in recipes.names()} <= names
    assert all(name.startswith(("lightning_gans/", "lightning_gans-")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {
        f"lightning_gans/cli/report_page/{name}" for name in ("page.html", "parts.html", "page.css", "page.js")
    } <= names


def test_the_same_wheel_comes_from_the_sdist_which_has_what_its_tests_need(wheel, tmp_path):
    sdist = build("sdist", ROOT, tmp_path)
    with tarfile.open(sdist) as archive:
        # Python 3.11 has filters from 3.11.4 on.
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (source,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    again = build("wheel", source, tmp_path / "again")
    contents = [{entry.filename: entry.CRC for entry in zipfile.ZipFile(path).infolist()} for path in (wheel, again)]
    assert contents[0] == contents[1]
    needed = ["README.md", "CHANGELOG.md", "Makefile", "RESULTS.md", ".ci/run", "mkdocs.yml"]
    needed += ["docs/index.md", "tests/minimum.txt"]
    assert all((source / name).is_file() for name in needed)
    assert len(list(source.rglob("*"))) < 1000 and not list(source.rglob("runs"))


def test_the_wheel_finds_its_own_recipes(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    package = tmp_path / "lightning_gans"
    spec = importlib.util.spec_from_file_location("recipes_of_the_wheel", package / "cli" / "commands" / "recipes.py")
    packaged = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packaged)
    assert packaged.folder() == package / "recipes"
    assert packaged.names() == recipes.names() and packaged.find("dcgan_mnist").is_relative_to(package)


DIGITS = ["--data", "DigitsDataModule", "--data.image_size", "16", "--model.image_shape", "[1,16,16]"]
SMALL = ["--model.width", "4"]
MODELS = {
    "GAN": [*DIGITS, "--model.generator_dims", "[8]", "--model.discriminator_dims", "[8]"],
    "DCGAN": [*DIGITS, *SMALL],
    "ConditionalGAN": [*DIGITS, *SMALL, "--model.num_classes", "10", "--model.architecture", "conv"],
    "ResNetGAN": [*DIGITS, "--model.num_classes", "10", "--model.generator_width", "8"],
    "R3GAN": [*DIGITS, "--model.widths", "[16, 16, 16]", "--model.blocks", "1"],
    "FastGAN": ["--data", "DigitsDataModule", "--data.image_size", "32", "--model.image_shape", "[1,32,32]", *SMALL],
    "InfoGAN": [*DIGITS, *SMALL, "--model.dense_dims", "[8]"],
    "RecurrentGAN": ["--data", "SinesDataModule", "--model.image_shape", "[1, 32]", "--samples.enabled", "false"],
    "VAE": [*DIGITS, "--model.encoder_dims", "[8]", "--model.decoder_dims", "[8]"],
    "VAEGAN": [*DIGITS, *SMALL],
    "VQVAE": [*DIGITS, *SMALL, "--model.num_codes", "8", "--model.prior_width", "8"],
}
RUN = Path("run")
CHECKPOINT = str(RUN / "checkpoints" / "last.ckpt")


def commands_on(name):
    """Yield commands to run in order: a short training, and every command on its results."""
    short = ["--data.batch_size", "64", "--trainer.limit_val_batches", "2", "--trainer.enable_progress_bar", "false"]
    short += ["--trainer.log_every_n_steps", "1", "--trainer.val_check_interval", "3"]
    metrics = ["--metrics.metrics", "[]"] if name == "RecurrentGAN" else ["--metrics.num_samples", "100"]
    latents = [] if name == "VQVAE" else ["--model.latent_dim", "4"]  # one for each code
    fit = ["fit", "--model", name, *latents, *MODELS[name], *short, *metrics]
    yield [*fit, "--trainer.max_steps", "3"]
    yield ["resume", str(RUN), "--trainer.max_steps", "6"]
    for stage in ("validate", "test"):
        yield [stage, "-c", str(RUN / "config.yaml"), "--ckpt_path", CHECKPOINT]
    sample = ["sample", CHECKPOINT, "--num_samples", "5"]
    yield [*sample, "--output", "samples.npz"]
    for suffix in ("onnx", "pt2", "safetensors"):
        yield ["export", CHECKPOINT, "--output", f"model.{suffix}"]
    yield ["report", str(RUN)]
    if name == "RecurrentGAN":  # its samples are sequences
        return
    yield [*sample, "--output", "samples.png"]
    yield [*sample, "--output", "folder"]
    yield ["interpolate", CHECKPOINT, "--seeds", "1,2", "--output", "way.png"]
    scores = sorted(str(RUN / "metrics" / f"step={step:07d}.json") for step in (3, 6))
    yield ["compare", *scores]
    if "VAE" in name:
        yield ["predict", "-c", str(RUN / "config.yaml"), "--ckpt_path", CHECKPOINT]
        yield ["reconstruct", CHECKPOINT, "folder", "--output", "both.png"]


CODE = """
import json, sys
from pathlib import Path
import lightning_gans
from lightning_gans.cli.main import main
assert lightning_gans.__file__.startswith(sys.argv[1])
for words in json.loads(sys.argv[2]):
    print(">", *words, flush=True)
    main(words)
    if words[0] == "fit":
        (run,) = Path("runs").glob("*/version_0")
        run.rename("run")
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MODELS)
def test_every_command_works_on_every_model_in_an_empty_folder(name, wheel, tmp_path):
    pytest.importorskip("onnxscript")
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    words = [sys.executable, "-P", "-c", CODE, str(site), json.dumps(list(commands_on(name)))]
    environment = {**os.environ, "PYTHONPATH": str(site), "LIGHTNING_GANS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(words, cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    with np.load(empty / "samples.npz") as made:
        assert len(made["sequences" if name == "RecurrentGAN" else "images"]) == 5
    assert (empty / RUN / "report.html").exists()
    if name != "RecurrentGAN":
        assert len(list((empty / "folder").glob("*.png"))) == 5
        assert Image.open(empty / "samples.png").size > (32, 32)
    wrong = subprocess.run(
        [sys.executable, "-P", "-m", "lightning_gans", "sample", CHECKPOINT, "--num_sample", "5"],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
