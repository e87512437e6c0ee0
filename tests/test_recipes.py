"""Every recipe runs through the real command line, on small fakes of its data."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml

from lightning_gans.cli.commands import recipes
from lightning_gans.cli.main import main
from lightning_gans.io.pictures import to_uint8
from lightning_gans.models import load

from .fake_sets import write_cifar, write_mnist, write_pictures

OVERLAYS = {"folder_cpu", "fast", "inception", "multi_node", "speed_cpu", "speed_cuda", "tensorboard", "wandb"}
SMALL = {
    "DCGAN": ["--model.width", "4"],
    "ConditionalGAN": ["--model.width", "4"],
    "VAE": ["--model.width", "4"],
    "InfoGAN": ["--model.width", "4", "--model.dense_dims", "[8]"],
    "RecurrentGAN": ["--model.hidden_dim", "4"],
    "ResNetGAN": ["--model.generator_width", "4", "--model.discriminator_width", "4"],
    "VAEGAN": ["--model.width", "4"],
    "Pix2Pix": ["--model.width", "4"],
    "CycleGAN": ["--model.width", "4", "--model.num_blocks", "1"],
    "FastGAN": ["--model.width", "2", "--model.discriminator_width", "2", "--data.limit", "null"],
    "SRGAN": ["--model.width", "4", "--model.num_blocks", "1", "--model.pretrain_steps", "0"],
    "VQVAE": ["--model.width", "4", "--model.prior_width", "8", "--model.prior_layers", "1"],
}
FOLDERS = {"ImageFolderDataModule", "PairedFolderDataModule", "UnpairedFolderDataModule"}
TRANSLATORS = {"Pix2Pix", "CycleGAN", "SRGAN"}
QUICK = {"quickstart", "vae_mnist", "cgan_mnist"}
LIKELIHOODS = {"vae_binary_mnist", "conv_vae_binary_mnist", "vamp_binary_mnist", "beta_tc_dsprites"}


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
    if options.get("content") == "efficientnet":  # tests have no weights
        args = [*args, "--model.content", "pixels"]
    batches = options.get("d_steps", 1) * options.get("accumulate_batches", 1)
    if batches > 1:  # the overlay's four batches are fewer than four updates
        args = [*args, "--trainer.limit_train_batches", str(4 * batches)]
    if data == "SinesDataModule":
        return [*args, "--data.num_sequences", "100", "--data.batch_size", "8"]
    if data == "DSpritesDataModule":
        return [*args, "--model.image_shape", "[1,16,16]", "--data.image_size", "16", "--data.val_size", "16"]
    if data != "DigitsDataModule":
        batch = "8" if batches < 5 else "2"  # four updates have to fit into the fakes
        args = [*args, "--data.data_dir", "data", "--data.val_size", "16", "--data.batch_size", batch]
    if data in FOLDERS:
        args[args.index("data")] = "pictures"
    if "limit" in content(name)["data"]["init_args"]:
        args += ["--data.limit", "null"]
    if data in FOLDERS - {"ImageFolderDataModule"}:
        args += ["--data.target_dir", "pictures"]
    if options["image_shape"] == [3, 256, 256]:
        args += ["--model.image_shape", "[3, 32, 32]", "--data.image_size", "32"]
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


@pytest.mark.parametrize("name", marked(set(recipes.names()) - OVERLAYS, quick=QUICK))
def test_every_recipe_trains_validates_and_samples(name, workplace, capsys):
    main(["fit", "-c", name, "-c", "fast", *small(name)])
    run = workplace / "runs" / name / "version_0"
    assert (run / "config.yaml").is_file()
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    keys = {"VAE": ["train/elbo"], "VQVAE": ["train/mse", "train/code_nll"]}
    keys = keys.get(content(name)["model"]["class_path"], ["train/d_loss"])
    assert [int(row["step"]) for key in keys for row in rows if row[key]] == [1, 2, 3, 4]
    checkpoint = run / "checkpoints" / "last.ckpt"
    model = load(checkpoint)
    pictures = len(model.image_shape) == 3
    found = {path.name for path in (run / "samples").glob("*")}
    assert found == ({"step=0000000.png", "step=0000004.png"} if pictures else set())
    summary = capsys.readouterr().out
    for path in (checkpoint, run / "metrics.csv", *([run / "samples" / "step=0000004.png"] if pictures else [])):
        assert str(path.relative_to(workplace)) in summary
    assert summary.startswith(f"{content(name)['model']['class_path']}: ") and "FLOPs" not in summary

    assert {"generator", "decoder", "to_target"} & set(model.ema)
    if hasattr(model, "translate"):
        channels, height, width = model.source_shape
        np.savez("sources.npz", images=np.zeros((3, height, width, channels), np.uint8))
        if channels == 2:  # an image and its mask, which the command does not take
            np.savez("s.npz", images=to_uint8(model.translate(torch.zeros(3, channels, height, width))).numpy())
        else:
            main(["translate", str(checkpoint), "sources.npz", "--output", "s.npz"])
    else:
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


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 128, 512])
def test_pictures_of_ones_own_may_have_any_size(size, workplace):
    sizes = ["--data.image_size", str(size), "--model.image_shape", f"[3,{size},{size}]"]
    small = ["--model.width", str(4096 // size), "--data.batch_size", "2", "--trainer.max_steps", "1"]
    files = ["--data.data_dir", "pictures", "--samples.enabled", "false"]
    main(["fit", "-c", "dcgan_folder", "-c", "fast", *files, *sizes, *small])
    model = load(workplace / "runs" / "dcgan_folder" / "version_0" / "checkpoints" / "last.ckpt")
    weights = [sum(map(torch.numel, network.parameters())) for network in (model.generator, model.discriminator)]
    assert [round(number / 1e6, 1) for number in weights] == ([3.7, 2.6] if size == 32 else [3.8, 2.8])
    assert model.sample(1, seed=0).isfinite().all()


@pytest.mark.parametrize("name", marked(set(recipes.names()) - OVERLAYS, quick={"cgan_cifar10"}))
def test_a_checkpoint_is_validated_as_its_run_was(name, workplace, capsys):
    main(["fit", "-c", name, "-c", "fast", *small(name), "--samples.enabled", "false"])
    runs = workplace / "runs" / name
    checkpoint = runs / "version_0" / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    main(["validate", "-c", name, "-c", "fast", *small(name), "--ckpt_path", str(checkpoint)])
    printed = capsys.readouterr().out
    assert "DataLoader 0" not in printed  # Lightning's table of the scores
    first, second = (validated(runs / f"version_{version}") for version in (0, 1))
    assert first == second
    if first:
        assert (runs / "version_1" / "metrics" / "step=0000004.json").is_file()
    if "val/fid" in first:
        num = 16 if content(name)["model"]["class_path"] in TRANSLATORS else 100
        assert f"{num} samples (EMA weights of step 4" in printed


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
    events_of = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = [word for name in ["quickstart", "fast", *overlays] for word in ("-c", name)]
    main(["fit", *words, *small("quickstart"), "--metrics.enabled", "false"])
    assert (workplace / "runs" / "quickstart" / "version_0" / "metrics.csv").is_file()
    (event_file,) = (workplace / "runs" / "tensorboard").rglob("events*")
    events = events_of(str(event_file))
    events.Reload()
    assert [event.step for event in events.Images("samples")] == [0, 4]
    assert [event.step for event in events.Scalars("train/g_loss")] == [1, 2, 3, 4]
    if "wandb" in overlays:
        (run,) = (workplace / "runs" / "wandb").glob("offline-run-*")
        assert len(list(run.rglob("media/images/samples_*.png"))) == 2


def test_recipes_prints_one(capsys):
    main(["recipes", "gan_mnist"])
    assert capsys.readouterr().out == (recipes.folder() / "gan_mnist.yaml").read_text()


def test_the_table_has_a_line_of_80_columns_for_each_recipe_by_its_data(capsys):
    main(["recipes"])
    _, *groups, note, _ = capsys.readouterr().out.split("\n\n")
    listed = {}
    for group in groups:
        data, *lines = group.splitlines()
        listed |= {line.split()[0]: (data, line) for line in lines}
        assert all(line[24:26] == "  " and len(line) <= 80 for line in lines)
    assert len(note) <= 80
    assert sorted(listed) == recipes.names()
    for name in set(recipes.names()) - OVERLAYS:
        data, line = listed[name]
        assert f"{data}DataModule" == content(name)["data"]["class_path"]
        minutes = recipes.header(recipes.folder() / f"{name}.yaml")["measured"].split(" min")[0]
        assert line[57:64].split() == [minutes]
    assert {data for name, (data, _) in listed.items() if name in OVERLAYS} == {groups[-1].splitlines()[0]}


def test_the_table_is_json_as_well(capsys):
    main(["recipes", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(rows) == recipes.names() and all(len(row["what"]) <= 40 for row in rows.values())
    assert rows["cgan_mnist"] == {
        **{"name": "cgan_mnist", "what": "Conditional GAN on MNIST", "data": "MNIST"},
        **{"minutes": 8.0, "memory_gb": 0.9, "score": "distance 0.66"},
    }
    assert {name for name, row in rows.items() if row["data"] is None} == OVERLAYS


def test_recipes_are_searched_by_name_data_and_title(capsys):
    found = {}
    for word in ("MNIST", "stacked", "sine waves", "cpu"):
        main(["recipes", "--search", word, "--json"])
        found[word] = {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert found["MNIST"] == {name for name in recipes.names() if "mnist" in name}
    assert found["stacked"] == {"dcgan_stacked_mnist", "r3gan_stacked_mnist"}
    assert (found["sine waves"], found["cpu"]) == ({"recurrent_gan_sines"}, {"folder_cpu", "speed_cpu"})
    for words, setting in ((["--search", "nosuch"], "--search"), (["gan_mnist", "--json"], "NAME")):
        with pytest.raises(SystemExit) as stop:
            main(["recipes", *words])
        assert stop.value.code == 2 and stop.value.__context__.setting == setting


def test_a_custom_recipe_is_found_by_its_path(workplace):
    text = (recipes.folder() / "quickstart.yaml").read_text()
    (workplace / "mine.yaml").write_text(text)
    off = [f"--{name}.enabled=false" for name in ("metrics", "samples")]
    main(["fit", "-c", "mine.yaml", "-c", "fast", *small("quickstart"), *off])
    assert (workplace / "runs" / "mine" / "version_0" / "checkpoints" / "last.ckpt").is_file()
