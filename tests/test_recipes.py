"""Every recipe runs through the real command line, on small fakes of its data."""

import csv

import numpy as np
import pytest
import yaml

from lightning_gans.cli.commands import recipes
from lightning_gans.cli.main import main
from lightning_gans.models import load

from .fake_sets import write_cifar, write_mnist, write_pictures

OVERLAYS = {"fast", "inception", "multi_node", "speed_cpu", "speed_cuda", "tensorboard", "wandb"}
SMALL = {
    "DCGAN": ["--model.width", "4"],
    "ConditionalGAN": ["--model.width", "4"],
    "VAE": ["--model.width", "4"],
    "RecurrentGAN": ["--model.hidden_dim", "4"],
    "ResNetGAN": ["--model.generator_width", "4", "--model.discriminator_width", "4"],
    "VAEGAN": ["--model.width", "4"],
}
ALIKE = {"beta_vae_mnist", "r3gan_cifar10", "r3gan_stacked_mnist", "sngan_cifar10", "vae_cifar10", "wgan_gp_cifar10"}
LIKELIHOODS = {"vae_binary_mnist", "conv_vae_binary_mnist"}


def content(name):
    return yaml.safe_load((recipes.folder() / f"{name}.yaml").read_text())


def small(name):
    """Arguments that make a recipe small without changing what it is."""
    model, data = content(name)["model"], content(name)["data"]["class_path"]
    args = SMALL.get(model["class_path"], [])
    if model["class_path"] == "R3GAN":
        args = []  # other networks are in the recipe
        if "widths" in model["init_args"]:
            args = ["--model.widths", str([4] * len(model["init_args"]["widths"]))]
    options = model["init_args"]
    batches = options.get("d_steps", 1) * options.get("accumulate_batches", 1)
    if batches > 1:  # the overlay's four batches are fewer than four updates
        args = [*args, "--trainer.limit_train_batches", str(4 * batches)]
    if data == "SinesDataModule":
        return [*args, "--data.num_sequences", "100", "--data.batch_size", "8"]
    if data != "DigitsDataModule":
        batch = "8" if batches < 5 else "2"  # four updates have to fit into the fakes
        args = [*args, "--data.data_dir", "data", "--data.val_size", "16", "--data.batch_size", batch]
    if data == "ImageFolderDataModule":
        args[args.index("data")] = "pictures"
    if data == "StackedMNISTDataModule":
        args += ["--data.num_images", "128", "--data.num_test_images", "50"]
    return args


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "data")
    write_cifar(tmp_path / "data", monkeypatch, per_file=40)
    write_pictures(tmp_path / "pictures")
    return tmp_path


def validated(run):
    """Return the names of what validation has logged in a run."""
    path = run / "metrics.csv"
    if not path.exists():
        return []  # nothing was logged
    with open(path) as file:
        return sorted(name for name in csv.DictReader(file).fieldnames if name.startswith("val/"))


def marked(names, quick):
    """Mark the tests that are not quick as slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in sorted(names)]


@pytest.mark.parametrize("name", marked(set(recipes.names()) - OVERLAYS, quick=set(recipes.names()) - ALIKE))
def test_every_recipe_trains_validates_and_samples(name, workplace, capsys):
    main(["fit", "-c", name, "-c", "fast", *small(name)])
    run = workplace / "runs" / name / "version_0"
    assert (run / "config.yaml").is_file()
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    key = "train/elbo" if content(name)["model"]["class_path"] == "VAE" else "train/d_loss"
    assert [int(row["step"]) for row in rows if row[key]] == [1, 2, 3, 4]
    checkpoint = run / "checkpoints" / "last.ckpt"
    model = load(checkpoint)
    pictures = len(model.image_shape) == 3
    found = {path.name for path in (run / "samples").glob("*")}
    assert found == ({"step=0000000.png", "step=0000004.png"} if pictures else set())
    summary = capsys.readouterr().out
    for path in (checkpoint, run / "metrics.csv", *([run / "samples" / "step=0000004.png"] if pictures else [])):
        assert str(path.relative_to(workplace)) in summary

    assert set(model.ema) & {"generator", "decoder"}
    main(["sample", str(checkpoint), "--num_samples", "3", "--seed", "5", "--output", "s.npz"])
    archive = np.load("s.npz")
    assert ("labels" in archive) == (model.num_classes > 0)
    if not pictures:
        assert archive["sequences"].shape == (3, *model.image_shape) and archive["sequences"].dtype == np.float32
        return
    channels, height, width = model.image_shape
    assert archive["images"].shape == (3, height, width, channels) and archive["images"].dtype == np.uint8
    scored = {"val/fid", "val/recall"} <= set(validated(run))
    assert scored == (channels == 1 and name not in LIKELIHOODS)  # color needs Inception's weights
    assert bool(validated(run)) == (run / "metrics" / "step=0000004.json").is_file()


@pytest.mark.parametrize("name", marked(set(recipes.names()) - OVERLAYS, quick={"cgan_cifar10", "vae_mnist"}))
def test_a_checkpoint_is_validated_as_its_run_was(name, workplace, capsys):
    main(["fit", "-c", name, "-c", "fast", *small(name), "--samples.enabled", "false"])
    runs = workplace / "runs" / name
    checkpoint = runs / "version_0" / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    main(["validate", "-c", name, "-c", "fast", *small(name), "--ckpt_path", str(checkpoint)])
    first, second = (validated(runs / f"version_{version}") for version in (0, 1))
    assert first == second
    if first:
        assert (runs / "version_1" / "metrics" / "step=0000004.json").is_file()
    if "val/fid" in first:
        assert "100 samples (EMA weights of step 4" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(recipes.names()))
def test_every_recipe_has_its_header(name):
    fields = recipes.header(recipes.folder() / f"{name}.yaml")
    if name in OVERLAYS:
        assert fields["title"].startswith("Overlay: ") and f"-c {name}" in fields["overlay"]
    else:
        assert f"fit -c {name}" in fields["run"] and f"fit -c {name} --" in fields["override"]
        minutes, memory, score = (part.strip() for part in fields["measured"].split(";", 2))
        assert minutes.endswith(" min") and memory.endswith(" GB") and len(score) > 10


@pytest.mark.parametrize("name", sorted(set(recipes.names()) - OVERLAYS))
def test_the_override_in_the_header_is_accepted(name, workplace):
    override = recipes.header(recipes.folder() / f"{name}.yaml")["override"].split()
    assert override[:2] == ["lightning-gans", "fit"]
    with pytest.raises(SystemExit) as stopped:
        main([*override[1:], "--print_config"])
    assert not stopped.value.code


def test_an_overlay_overrides_what_comes_before_it_and_nothing_else(workplace, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "-c", "gan_mnist", "-c", "fast", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["limit_train_batches"] == 4
    assert config["model"]["init_args"]["latent_dim"] == content("gan_mnist")["model"]["init_args"]["latent_dim"]


@pytest.mark.parametrize("overlays", [["tensorboard"], pytest.param(["tensorboard", "wandb"], marks=pytest.mark.slow)])
def test_loggers_of_overlays_come_after_the_csv_logger_and_get_the_pictures(workplace, monkeypatch, overlays):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = [word for name in ["quickstart", "fast", *overlays] for word in ("-c", name)]
    main(["fit", *words, *small("quickstart"), "--metrics.enabled", "false"])
    assert (workplace / "runs" / "quickstart" / "version_0" / "metrics.csv").is_file()
    (event_file,) = (workplace / "runs" / "tensorboard").rglob("events*")
    events = EventAccumulator(str(event_file))
    events.Reload()
    assert [event.step for event in events.Images("samples")] == [0, 4]
    assert [event.step for event in events.Scalars("train/g_loss")] == [1, 2, 3, 4]
    if "wandb" in overlays:
        (run,) = (workplace / "runs" / "wandb").glob("offline-run-*")
        assert len(list(run.rglob("media/images/samples_*.png"))) == 2


def test_recipes_lists_every_recipe_and_prints_one(capsys):
    main(["recipes"])
    table = capsys.readouterr().out
    assert all(name in table for name in recipes.names())
    main(["recipes", "gan_mnist"])
    assert capsys.readouterr().out == (recipes.folder() / "gan_mnist.yaml").read_text()


def test_a_custom_recipe_is_found_by_its_path(workplace):
    text = (recipes.folder() / "quickstart.yaml").read_text()
    (workplace / "mine.yaml").write_text(text)
    off = [f"--{name}.enabled=false" for name in ("metrics", "samples")]
    main(["fit", "-c", "mine.yaml", "-c", "fast", *small("quickstart"), *off])
    assert (workplace / "runs" / "mine" / "version_0" / "checkpoints" / "last.ckpt").is_file()
