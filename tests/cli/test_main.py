"""The command line: commands, short errors, resume, warm start, and custom classes."""

import csv
import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lightning_gans
from lightning_gans.cli import training
from lightning_gans.cli.arguments import COMMANDS, LIGHTNING
from lightning_gans.cli.commands import recipes
from lightning_gans.cli.known_errors import known_error
from lightning_gans.cli.main import main
from lightning_gans.cli.training import TrainingCLI
from lightning_gans.models import load
from tests.fake_sets import write_mnist

QUICK = ["fit", "-c", "quickstart", "-c", "fast", "--model", "DCGAN", "--model.width", "4"]
WITHOUT_PICTURES = ["--metrics.enabled", "false", "--samples.enabled", "false"]
BRIEF = [
    *("fit", "-c", "quickstart", "-c", "fast", "--model", "VAE", "--model.lr_schedule", "constant"),
    *("--metrics.enabled", "false", "--samples.enabled", "false", "--reconstructions.enabled", "false"),
    *("--checkpoint.monitor", "val/elbo", "--trainer.enable_progress_bar", "false"),
]
RUN = Path("runs") / "quickstart" / "version_0"
LAST = RUN / "checkpoints" / "last.ckpt"
HEAVY = {"torch", "torchmetrics", "pytorch_lightning", "lightning", "matplotlib", "numpy", "sklearn"}
NETWORK = """
import torch
class Flat(torch.nn.Module):
    def __init__(self, latent_dim=16, gain=1.0):
        super().__init__()
        self.gain = gain
        self.linear = torch.nn.Linear(latent_dim, 784)
    def forward(self, noise):
        return (self.gain * self.linear(noise)).tanh().view(-1, 1, 28, 28)
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of an unconditional and of a conditional model."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(QUICK)
        main([*QUICK[:5], "--model.width", "4"])
    runs = folder / "runs" / "quickstart"
    return {
        "gan": str(runs / "version_0" / "checkpoints" / "last.ckpt"),
        "conditional": str(runs / "version_1" / "checkpoints" / "last.ckpt"),
    }


@pytest.fixture
def fails(capsys):
    """Return a function that runs a command that must fail, and returns its error."""

    def fails(args, code):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        printed = capsys.readouterr().err
        message = printed[printed.index("lightning-gans: ") :].removeprefix("lightning-gans: ").strip()
        assert stopped.value.code == code, printed
        assert len(message.splitlines()) <= 3 and "Traceback" not in printed and "usage:" not in printed, printed
        error = stopped.value.__context__
        known = error if isinstance(error, lightning_gans.LightningGansError) else known_error(error)
        assert message.splitlines()[0] == str(known).splitlines()[0]
        return known

    return fails


UNKNOWN = [
    (["--model.latent_dimm", "3"], "latent_dimm", "latent_dim"),
    (["--trainer.max_epoch", "3"], "trainer.max_epoch", "max_epochs"),
    (["--samples.num_sample", "3"], "samples.num_sample", "num_samples"),
    (["--trainr.max_epochs", "3"], "trainr.max_epochs", "trainer"),
    (["--model", "tests.cli.test_main.Custom", "--model.custom_settin", "3"], "custom_settin", "custom_setting"),
]


class Custom(lightning_gans.ConditionalGAN):
    def __init__(self, custom_setting: int = 0, **options):
        super().__init__(**options)


@pytest.mark.parametrize(("args", "setting", "meant"), UNKNOWN)
def test_an_unknown_setting_is_named_with_the_nearest_one(args, setting, meant, fails):
    error = fails(["fit", "-c", "quickstart", *args], 2)
    assert error.setting == setting and f"Did you mean {meant!r}?" in str(error)


def test_a_setting_of_another_class_asks_for_the_class(fails):
    error = fails(["fit", "-c", "quickstart", "--data.cache_dir", "x"], 2)
    assert error.setting == "cache_dir" and "--data CLASS" in str(error)


INVALID = [  # the option, its value, the setting in the error, and parts of the message
    ("model.width", "wide", "width", ["int"]),
    ("trainer.max_epochs", "many", "trainer.max_epochs", ["int or null"]),
    ("model.penalties", "{r1: x}", "penalties", ["float"]),
    ("model.loss", "wgan", "loss", ["nonsaturating, minimax"]),
    ("trainer.precision", "17", "trainer.precision", ["32,", "16-mixed", "bf16-mixed"]),
    ("checkpoint.mode", "mid", "checkpoint.mode", ["min, max", "Did you mean 'min'?"]),
    ("metrics.enabled", "maybe", "metrics.enabled", ["bool"]),
    ("model", "DGAN", "model", ["Did you mean 'DCGAN'?"]),
    ("model", "", "model", ["''"]),
    ("data", "MNIST", "data", ["MNISTDataModule"]),
    ("model", "torch.nn.Linear", "model", ["subclass of GenerativeModule"]),
    ("model.regularizers", "R1", "regularizers", ["expected a list."]),
    ("model.regularizers", "[R4]", "regularizers", ["'R4': expected the import path of a class."]),
    ("model.image_shape", "[1,32,32]", "model.image_shape", ["[1, 32, 32]", "[1, 28, 28]"]),
    ("checkpoint.every_n_epochs", "0", "checkpoint.every_n_epochs", ["0"]),
    ("seed_everything", "-3", "seed_everything", ["-3", "0 to 4294967295"]),
    ("trainer.check_val_every_n_epoch", "0", "trainer.check_val_every_n_epoch", ["0"]),
    ("trainer.val_check_interval", "0", "trainer.val_check_interval", ["0"]),
]


@pytest.mark.parametrize(("option", "value", "setting", "parts"), INVALID)
def test_an_invalid_value_is_named_with_what_is_allowed(option, value, setting, parts, fails):
    error = fails(["fit", "-c", "quickstart", f"--{option}", value], 2)
    assert error.setting == setting and error.value is not None
    assert all(part in str(error) for part in parts), error


OF_OTHERS = [  # what a model, data or Lightning itself rejects
    (["--model.latent_dim", "0"], ["latent_dim is 0"]),
    (["--model.image_shape", "[1,27,27]"], ["image_shape", "27, 27"]),
    (["--data.batch_size", "0"], ["batch_size is 0"]),
    (["--data.batch_size", "5000"], ["batch_size", "5000"]),
    (
        ["--model.augment", "{class_path: lightning_gans.ADA, init_args: {target: 5}}"],
        ["ConditionalGAN: target is 5.0: it must be between -1 and 1."],
    ),
    (["--model.regularizers", "[{class_path: torch.nn.ReLU}]"], ["regularizers: ", "torch.nn.ReLU", "Regularizer."]),
    (["--model.regularizers", "[1]"], ["regularizers: Not a valid subclass of Regularizer. Got value: 1."]),
    (["--trainer.accelerator", "tpu"], ["torch_xla"]),
    (["--trainer.accelerator", "cpuu"], ["accelerator='cpuu'", "cpu", "cuda"]),
    (["--trainer.strategy", "dpp"], ["strategy='dpp'", "auto, ddp"]),
    (["--trainer.devices", "0"], ["devices='0'", "not a valid input"]),
    (["--trainer.max_epochs", "-5"], ["`max_epochs` must be a non-negative integer or -1", "-5"]),
    (["--trainer.max_time", "x"], ["duration='x'", "DD:HH:MM:SS"]),
    (["--trainer.val_check_interval", "1000"], ["`val_check_interval` (1000)", "training batches"]),
    pytest.param(["--trainer.limit_train_batches", "0.0001"], ["limit_train_batches=0.04"], marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("args", "parts"), OF_OTHERS)
def test_what_a_constructor_rejects_is_one_sentence(args, parts, fails):
    error = fails(["fit", "-c", "quickstart", *args], 2)
    assert all(part in str(error) for part in parts), error


@pytest.mark.parametrize(
    ("change", "setting", "part"),
    [
        (("latent_dim:", "latent_dimm:"), "latent_dimm", "Did you mean 'latent_dim'?"),
        (("trainer:", "trainr:"), "trainr.max_epochs", "Did you mean 'trainer'?"),
        (("model:", "modle:"), "modle.init_args.image_shape", "Did you mean 'model'?"),
        (("max_epochs:", "max_epoch:"), "trainer.max_epoch", "Did you mean 'max_epochs'?"),
        (("class_path: ConditionalGAN", "class_path: ConditionalGN"), "model", "Did you mean 'ConditionalGAN'?"),
        (("latent_dim: ", "latent_dim: [3, "), "", "typo.yaml"),
    ],
)
def test_a_typo_in_a_recipe_is_named(change, setting, part, workplace, fails):
    text = (recipes.folder() / "quickstart.yaml").read_text()
    assert change[0] in text
    (workplace / "typo.yaml").write_text(text.replace(*change))
    error = fails(["fit", "-c", "typo.yaml"], 2)
    assert error.setting == setting and part in str(error)


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("def f(:", "invalid syntax (users.py, line 1)"),
        ("raise RuntimeError('boom')", "boom"),
        ("import no_such_library", "No module named 'no_such_library'"),
        ("class Owm: pass", "module 'users' has no attribute 'Own'"),
        ("class Own: pass", "does not correspond to a subclass of"),
    ],
)
def test_a_mistake_in_a_custom_module_is_quoted(module, part, workplace, monkeypatch, fails):
    (workplace / "users.py").write_text(module)
    monkeypatch.syspath_prepend(workplace)
    for option in ("--model", "--model.generator.class_path", "--metrics.extractor.class_path"):
        monkeypatch.delitem(sys.modules, "users", raising=False)
        error = fails(["fit", "-c", "quickstart", option, "users.Own"], 2)
        assert error.value == "users.Own" and part in str(error)
    monkeypatch.delitem(sys.modules, "users", raising=False)
    error = fails(["fit", "-c", "quickstart", "--model.regularizers+=users.Own"], 2)
    assert error.setting.endswith("regularizers") and part in str(error)
    model = "{class_path: GAN, init_args: {image_shape: [1, 28, 28], regularizers: [{class_path: users.Own}]}}"
    (workplace / "users.yaml").write_text(f"model: {model}\ndata: DigitsDataModule\n")
    monkeypatch.delitem(sys.modules, "users", raising=False)
    assert part in str(fails(["fit", "-c", "users.yaml"], 2))
    monkeypatch.delitem(sys.modules, "users", raising=False)
    if not module.startswith("class"):
        assert part in str(fails(["sample", "x.ckpt", "--import", "users", "--output", "a.png"], 2))


@pytest.mark.parametrize("name", ["", ".users"])
def test_an_import_without_a_module_name_is_an_error(name, fails):
    assert f"--import is {name!r}" in str(fails(["sample", "x.ckpt", "--import", name, "--output", "a.png"], 2))


@pytest.mark.parametrize("args", [["fit", "-c", "dcgan_mnst"], ["recipes", "dcgan_mnst"]])
def test_an_unknown_recipe_gets_the_list(args, fails):
    error = fails(args, 2)
    assert "Did you mean 'dcgan_mnist'?" in str(error)
    assert (error.value, error.allowed) == ("dcgan_mnst", recipes.names())


@pytest.mark.parametrize("words", [["--version"], ["recipes"], ["recipes", "gan_mnist"]])
def test_a_closed_output_is_not_an_error(words, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as output:  # which flushes once more when it is closed
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as stop:
            main(words)
    assert stop.value.code == 141


@pytest.mark.slow
def test_a_process_whose_output_is_closed_prints_nothing():
    program = [sys.executable, "-m", "lightning_gans", "recipes"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


def test_another_broken_pipe_is_an_error(monkeypatch):
    def broken(words):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr("lightning_gans.cli.main._run", broken)
    with pytest.raises(BrokenPipeError):
        main(["recipes"])


def test_an_unknown_command_gets_the_list(fails):
    error = fails(["smaple"], 2)
    assert (error.value, error.allowed) == ("smaple", list(COMMANDS)) and "Did you mean 'sample'?" in str(error)


@pytest.mark.parametrize(
    ("args", "setting", "part"),
    [
        ([], "data", "fit -c quickstart"),
        (["--model", "DCGAN"], "data", "fit -c quickstart"),
        (["-c", "dcgan_folder"], "data_dir", "--data.data_dir"),
        (["-c", "quickstart", "--model.generator.class_path", "torch.nn.Linear"], "in_features", "out_features"),
        (
            ["--data", "SinesDataModule", "--model", "RecurrentGAN", "--model.num_classes", "3"],
            "model.num_classes",
            "set --model.num_classes '0'",
        ),
    ],
)
def test_missing_and_mismatched_settings_are_named(args, setting, part, fails):
    error = fails(["fit", *args], 2)
    assert error.setting == setting and part in str(error)


def test_a_missing_data_folder_offline_is_an_error_about_data(monkeypatch, workplace, fails):
    import urllib.error
    import urllib.request

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert "nowhere" in str(fails(["fit", "-c", "gan_mnist", "--data.data_dir", "nowhere"], 1))


def test_a_truncated_file_is_named(workplace, fails):
    write_mnist(workplace / "data")
    file = workplace / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    assert str(file) in str(fails(["fit", "-c", "gan_mnist", "--data.data_dir", "data"], 1))


def test_invalid_labels_and_outputs_are_errors(trained, workplace, fails):
    sample = ["sample", trained["gan"], "--num_samples", "2"]
    assert "unconditional" in str(fails([*sample, "--labels", "1", "--output", "a.png"], 2))
    conditional = ["sample", trained["conditional"]]
    assert "0 to 9" in str(fails([*conditional, "--labels", "3,10", "--output", "a.png"], 2))
    for wrong in ("3,x", "3,99999999999999999999"):
        assert fails([*conditional, "--labels", wrong, "--output", "a.png"], 2).value == wrong
    for device in ("meta", "cpu:7", "privateuseone"):
        assert fails([*sample, "--device", device, "--output", "a.png"], 2).setting == "--device"
    assert fails([*sample, "--output", "a.jpg"], 2).value == "a.jpg"
    assert fails(["sample", trained["gan"], "--num_samples", "0", "--output", "a.png"], 2).setting == "num_samples"
    assert "--output" in str(fails([*sample, "--output", "a.png", "--ouput", "b.png"], 2))
    (workplace / "file").write_text("")
    assert "file" in str(fails(["sample", "nosuch.ckpt", "--output", "file/deep/a.png"], 1))
    assert sorted(path.name for path in workplace.iterdir()) == ["file"]


def test_a_folder_for_runs_that_cannot_be_made_is_named(workplace, fails):
    (workplace / "runs").write_text("")
    assert "runs is a file, not a folder" in str(fails(BRIEF, 1))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken", None])
def test_a_file_that_is_not_a_checkpoint_is_an_error(content, workplace, fails):
    if content is not None:
        (workplace / "junk.ckpt").write_bytes(content)
    assert "junk.ckpt" in str(fails(["sample", "junk.ckpt", "--output", "a.png"], 1))
    assert not (workplace / "a.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_random_weights_are_not_evaluated(command, trained, workplace, fails):
    for more in ([], ["--init_from", trained["gan"]]):
        assert "--ckpt_path" in str(fails([command, *QUICK[1:], *more], 2))
    assert not list(workplace.iterdir())


def test_predict_needs_something_to_predict(trained, fails):
    args = ["predict", *QUICK[1:], "--ckpt_path", trained["gan"]]
    assert "lightning-gans sample" in str(fails(args, 2))


def test_traceback_shows_where_an_error_comes_from():
    with pytest.raises(lightning_gans.SettingError):
        main(["sample", "x.ckpt", "--output", "a.jpg", "--traceback"])


@pytest.mark.slow
def test_errors_of_other_code_keep_their_traceback(monkeypatch):
    def broken(self, *args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(lightning_gans.DCGAN, "training_step", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(QUICK)


@pytest.mark.slow
def test_a_run_that_failed_in_its_first_update_can_be_resumed(monkeypatch, brief, capsys):
    step = lightning_gans.VAE.training_step

    def broken(self, *args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(lightning_gans.VAE, "training_step", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(BRIEF)
    monkeypatch.setattr(lightning_gans.VAE, "training_step", step)
    Path(RUN, "samples").mkdir(exist_ok=True)
    Path(RUN, "samples", "step=0000000.png").touch()  # the grid at the start
    main(["resume", str(RUN)])
    assert "has no checkpoint yet: starting from the beginning" in capsys.readouterr().out
    assert same_state(LAST, brief[1] / "checkpoints" / "last.ckpt")


@pytest.mark.slow
def test_what_lightning_rejects_in_custom_code_keeps_its_traceback(monkeypatch):
    def logs(self, *args):
        self.log("loss", "high")

    monkeypatch.setattr(lightning_gans.DCGAN, "training_step", logs)
    with pytest.raises(ValueError, match="cannot be logged"):
        main([*QUICK, *WITHOUT_PICTURES])


def test_samples_are_written_as_grid_archive_and_folder(trained, workplace):
    main(
        [
            "sample",
            trained["conditional"],
            "--labels",
            "3,1",
            "--num_samples",
            "5",
            "--seed",
            "1",
            "--output",
            "new/s.npz",
        ]
    )
    archive = np.load("new/s.npz")
    assert archive["labels"].tolist() == [3, 1, 3, 1, 3]
    main(
        ["sample", trained["conditional"], "--labels", "3,1", "--num_samples", "5", "--seed", "1", "--output", "folder"]
    )
    files = sorted((workplace / "folder").iterdir())
    assert [file.name for file in files] == [f"00000{k}_{label}.png" for k, label in enumerate([3, 1, 3, 1, 3])]
    for file, image in zip(files, archive["images"], strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), image[:, :, 0])
    main(["sample", trained["gan"], "--num_samples", "9", "--output", "s.png"])
    assert Image.open("s.png").size == (3 * 58 + 2, 3 * 58 + 2)


def test_a_seed_gives_the_same_samples_and_no_ema_gives_others(trained):
    def sample(*more):
        main(["sample", trained["gan"], "--num_samples", "4", "--output", "s.npz", *more])
        return np.load("s.npz")["images"]

    first = sample("--seed", "3")
    assert np.array_equal(first, sample("--seed", "3"))
    assert not np.array_equal(first, sample("--seed", "4"))
    assert not np.array_equal(first, sample("--seed", "3", "--no_ema"))


# --- resuming ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """A VAE's run of one epoch, and the same of two that was never stopped."""
    folder = tmp_path_factory.mktemp("brief")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(BRIEF)
        main([*BRIEF, "--trainer.max_epochs", "2"])
    return {epochs: folder / "runs" / "quickstart" / f"version_{epochs - 1}" for epochs in (1, 2)}


@pytest.fixture
def stopped(brief):
    """The run of one epoch, copied here."""
    shutil.copytree(brief[1], RUN)
    return RUN


@pytest.fixture
def steps(monkeypatch):
    """The updates that are made from here on, each by the number of those before it."""
    steps, training_step = [], lightning_gans.VAE.training_step

    def counted(self, *args):
        steps.append(self.trainer.global_step)
        return training_step(self, *args)

    monkeypatch.setattr(lightning_gans.VAE, "training_step", counted)
    return steps


def rows_of(run):
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def same_state(first, second):
    """Whether two checkpoints hold the same weights, to the bit, after as many updates."""
    first, second = (torch.load(path, weights_only=True) for path in (first, second))
    weights, others = first["state_dict"], second["state_dict"]
    same = weights.keys() == others.keys() and all(weights[name].equal(others[name]) for name in weights)
    return same and first["global_step"] == second["global_step"]


def kept_best(checkpoint):
    """Return the path and the score of the best checkpoint that another one notes."""
    states = torch.load(checkpoint, weights_only=True)["callbacks"]
    (state,) = (state for name, state in states.items() if name.startswith("Checkpoint"))
    return Path(state["best_model_path"]), state["best_model_score"]


def test_fit_resumes_from_a_checkpoint(trained, capsys):
    shutil.copytree(Path(trained["gan"]).parent.parent, RUN)
    main([*QUICK, "--trainer.max_epochs", "2", "--ckpt_path", str(LAST)])
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    assert torch.load(LAST, weights_only=True)["global_step"] == 8
    assert load(LAST).images_seen == 8 * 64
    rows = rows_of(RUN)
    assert [int(row["step"]) for row in rows if row["train/g_loss"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [int(row["step"]) for row in rows if row["val/fid"]] == [4, 8]
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["ckpt_path"] is None
    assert config["trainer"]["max_epochs"] == 2
    assert f"lightning-gans resume {RUN} --trainer.max_epochs 4" in capsys.readouterr().out


@pytest.mark.slow
def test_a_resumed_run_equals_one_that_was_never_stopped(brief, stopped, steps):
    main(["resume", str(stopped), "--trainer.max_epochs", "2"])
    assert steps == [4, 5, 6, 7]
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    assert same_state(LAST, brief[2] / "checkpoints" / "last.ckpt")
    assert (RUN / "metrics.csv").read_bytes() == (brief[2] / "metrics.csv").read_bytes()
    assert (RUN / "config.yaml").read_text() == (brief[2] / "config.yaml").read_text()


@pytest.mark.slow
def test_a_run_is_resumed_from_within_its_folder(brief, stopped, steps, monkeypatch):
    monkeypatch.chdir(stopped)
    before = sorted(path for path in Path().rglob("*"))
    main(["resume", ".", "--trainer.max_epochs", "2"])
    assert steps == [4, 5, 6, 7]
    assert sorted(path for path in Path().rglob("*")) == before
    assert same_state("checkpoints/last.ckpt", brief[2] / "checkpoints" / "last.ckpt")
    assert Path("metrics.csv").read_bytes() == (brief[2] / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_a_run_with_a_custom_network_is_resumed(workplace, capsys):
    (workplace / "own_networks.py").write_text(NETWORK)
    network = ["--model.generator.class_path", "own_networks.Flat", "--model.generator.init_args.gain", "2.0"]
    main([*QUICK, *network, *WITHOUT_PICTURES])
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    more = ["--trainer.max_epochs", "2", "--model.generator.gain=2.0"]
    with pytest.raises(SystemExit) as stop:
        main(["resume", str(RUN), *more])
    assert stop.value.code == 1
    assert "imports only code that you trust: if you do, add `--import own_networks`" in capsys.readouterr().err
    main(["resume", str(RUN), "--import", "own_networks", *more])
    config["trainer"]["max_epochs"] = 2
    assert yaml.safe_load((RUN / "config.yaml").read_text()) == config
    model = load(LAST, imports=["own_networks"])
    assert type(model.generator).__name__ == "Flat" and model.generator.gain == 2.0
    assert model.weights_step == 8


@pytest.mark.slow
def test_a_run_with_penalties_is_resumed_and_tested(workplace):
    penalized = ["--model.batch_norm", "false", "--model.penalties", "{r1: 1}", *WITHOUT_PICTURES]
    main([*QUICK, *penalized])
    main(["resume", str(RUN), "--trainer.max_epochs", "2"])
    main(["test", *QUICK[1:5], "--ckpt_path", str(LAST), *WITHOUT_PICTURES])
    model = load(LAST)
    assert model.arguments["penalties"] == {"r1": 1.0} and model.weights_step == 8


@pytest.mark.slow
def test_a_checkpoint_outside_a_runs_folder_starts_a_new_run(brief, workplace):
    shutil.copy(brief[1] / "checkpoints" / "last.ckpt", "some.ckpt")
    main([*BRIEF, "--trainer.max_epochs", "2", "--ckpt_path", "some.ckpt"])
    assert same_state(LAST, brief[2] / "checkpoints" / "last.ckpt")
    assert [int(row["step"]) for row in rows_of(RUN)] == [5, 6, 7, 8, 8]


@pytest.mark.parametrize("place", [pytest.param(RUN, marks=pytest.mark.slow), Path("elsewhere")])
def test_the_best_checkpoint_is_kept_if_the_score_does_not_improve(brief, stopped, capsys, place):
    stopped.rename(place)
    main(["resume", str(place), "--trainer.max_epochs", "2"])
    path, score = kept_best(place / "checkpoints" / "last.ckpt")
    first, last = (float(row["val/elbo"]) for row in rows_of(place) if row["val/elbo"])
    assert last > first
    assert path.resolve() == (place / "checkpoints" / "best.ckpt").resolve()
    assert float(score) == pytest.approx(first)
    assert same_state(path, brief[1] / "checkpoints" / "last.ckpt")
    assert f"{place}/checkpoints/best.ckpt   val/elbo {first:.4g}" in capsys.readouterr().out


def test_resuming_a_missing_run_is_an_error(workplace, fails):
    assert fails(["resume", "nowhere"], 1).setting == "nowhere"
    (workplace / "empty").mkdir()
    assert fails(["resume", "empty"], 1).setting == "empty"
    assert fails(["resume"], 2).setting == "RUN"
    error = fails([*BRIEF, "--ckpt_path", "nowhere.ckpt"], 1)
    assert str(error) == "ckpt_path is nowhere.ckpt, which does not exist."


def edited(change):
    """Change the run's last checkpoint."""
    checkpoint = torch.load(LAST, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, LAST)


def loading_commands():
    """Each command of Lightning's that loads a checkpoint."""
    return [["resume", str(RUN)], *([word, *BRIEF[1:], "--ckpt_path", str(LAST)] for word in ("fit", "validate"))]


DAMAGES = {
    "truncated": lambda: LAST.write_bytes(LAST.read_bytes()[:2000]),
    "empty": lambda: LAST.write_bytes(b""),
    "text": lambda: LAST.write_bytes(b"hello"),
    "a list": lambda: torch.save([1], LAST),
    "no description": lambda: edited(lambda c: c.pop("lightning_gans")),
    "an odd description": lambda: edited(lambda c: c.update(lightning_gans=3)),
    "no class": lambda: edited(lambda c: c["lightning_gans"].pop("class")),
    "another class": lambda: edited(lambda c: c["lightning_gans"].update({"class": "lightning_gans.io.files.Path"})),
    "an unknown setting": lambda: edited(lambda c: c["lightning_gans"]["arguments"].update(colour="red")),
    "other weights": lambda: edited(lambda c: c["state_dict"].update(log_sigma=torch.zeros(2))),
}


@pytest.mark.parametrize(
    "damage",
    [
        name if name in ("truncated", "an odd description") else pytest.param(name, marks=pytest.mark.slow)
        for name in DAMAGES
    ],
)
def test_a_damaged_checkpoint_is_an_error_in_every_command(stopped, damage, fails):
    DAMAGES[damage]()
    commands = [*loading_commands(), ["sample", str(LAST), "--output", "a.png"]]
    for command in commands if damage == "truncated" else commands[::3]:
        assert "checkpoint" in str(fails(command, 1)) or damage == "other weights"


def test_a_fit_needs_more_than_the_weights(stopped, fails):
    edited(lambda checkpoint: checkpoint.pop("optimizer_states"))
    assert "weights only" in str(fails(["resume", str(RUN), "--trainer.max_epochs", "2"], 1))


class Harmful:
    def __reduce__(self):
        return (exec, ("open('ran', 'w')",))


def test_pickled_code_is_named_and_not_run(stopped, workplace, fails):
    torch.save({"state_dict": {}, "code": Harmful()}, LAST)
    for command in [*loading_commands(), ["sample", str(LAST), "--output", "a.png"]]:
        assert "pickled code" in str(fails(command, 1))
    assert not (workplace / "ran").exists()


@pytest.mark.slow
def test_the_class_that_lightning_would_import_is_not_imported(stopped, workplace):
    (workplace / "not_ours.py").write_text("open('imported', 'w')\n")
    harmful = {"_class_path": "not_ours.Model", "_instantiator": "not_ours.make", "width": 1}
    edited(lambda checkpoint: checkpoint.update(hyper_parameters=harmful))
    main(["resume", str(RUN), "--trainer.max_epochs", "2"])
    main(loading_commands()[2])
    assert not (workplace / "imported").exists()


@pytest.mark.slow
def test_checkpoints_in_another_folder_are_found(workplace, capsys, fails):
    main([*BRIEF, "--checkpoint.dirpath", "kept"])
    said = capsys.readouterr().out
    assert f"lightning-gans resume {RUN} " in said
    rows = (RUN / "metrics.csv").read_text()
    main(["resume", str(RUN), "--trainer.max_epochs", "2"])
    assert (RUN / "metrics.csv").read_text().startswith(rows)
    assert torch.load("kept/last.ckpt", weights_only=True)["global_step"] == 8
    shutil.rmtree("kept")
    assert fails(["resume", str(RUN)], 1).setting == "kept/last.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "last"),
    [(["--checkpoint.dirpath", "kept"], "kept/last.ckpt"), (["--trainer.logger", "false"], "checkpoints/last.ckpt")],
)
def test_a_new_run_does_not_overwrite_the_checkpoint_of_another(words, last, workplace, fails):
    main([*BRIEF, *words])
    before = Path(last).read_bytes()
    assert fails([*BRIEF, *words], 1).setting.endswith(last)
    assert Path(last).read_bytes() == before


@pytest.mark.slow
def test_a_checkpoint_without_a_count_of_rows_keeps_those_up_to_its_step(stopped):
    header = (RUN / "metrics.csv").read_text().splitlines()[0].split(",")
    with open(RUN / "metrics.csv", "a", newline="") as file:
        csv.DictWriter(file, header).writerow({"step": 5, "train/elbo": -1.0})
    edited(lambda checkpoint: checkpoint["lightning_gans"].pop("loggers"))
    main(["resume", str(RUN), "--trainer.max_epochs", "2"])
    assert [int(row["step"]) for row in rows_of(RUN) if row["train/elbo"]] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_failed_resume_leaves_the_run_unchanged(stopped, fails):
    edited(lambda checkpoint: checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"].update(processed=0))
    edited(lambda checkpoint: checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0].update(batches=1))
    config = (RUN / "config.yaml").read_bytes()
    fails(["resume", str(RUN), "--data.batch_size", "32", "--trainer.max_epochs", "2"], 2)
    assert (RUN / "config.yaml").read_bytes() == config


def test_resume_takes_one_run_and_any_of_its_checkpoints(stopped, steps, fails):
    assert fails(["resume", str(RUN), "other"], 2).value == "other"
    shutil.move(LAST, LAST.with_name("kept.ckpt"))
    kept = str(LAST.with_name("kept.ckpt"))
    main(["resume", str(RUN), "--trainer.max_epochs", "2", "--ckpt_path", kept])
    assert steps == [4, 5, 6, 7]


@pytest.mark.slow
def test_a_run_is_not_resumed_with_another_model(stopped, trained, fails):
    before = LAST.read_bytes()
    error = fails(["resume", str(RUN), "--ckpt_path", trained["gan"]], 2)
    assert (error.setting, error.value, error.allowed) == ("model", "VAE", "DCGAN")
    assert LAST.read_bytes() == before


def test_a_run_without_batches_says_that_nothing_was_trained(workplace, capsys):
    main([*QUICK, "--trainer.limit_train_batches", "0"])
    assert "Nothing was trained: trainer.limit_train_batches is 0." in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_has_reached_its_limit_says_that_nothing_was_trained(stopped, capsys):
    main(["resume", str(RUN), "--trainer.max_steps", "1000"])
    assert "Nothing was trained: the run had already reached trainer.max_epochs." in capsys.readouterr().out


@pytest.mark.slow
def test_a_conflicting_setting_of_the_model_is_an_error_with_both_values(stopped, fails):
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    error = fails(["resume", str(RUN), "--model.latent_dim", "17"], 2)
    assert (error.setting, error.value, error.allowed) == ("model.latent_dim", 17, 16)
    error = fails(["resume", str(RUN), "--model=DCGAN"], 2)
    assert (error.setting, error.value, error.allowed) == ("model", "DCGAN", "VAE")
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--checkpoint.dirpath", "kept"]])
def test_a_requeued_slurm_job_resumes(words, brief, steps, monkeypatch):
    values = {"JOB_ID": 7, "JOB_NAME": "x", "NTASKS": 1, "NTASKS_PER_NODE": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    run = RUN.parent / "slurm_7"
    last = Path(words[1]) / "last.ckpt" if words else run / "checkpoints" / "last.ckpt"
    main([*BRIEF, *words])
    assert same_state(last, brief[1] / "checkpoints" / "last.ckpt")
    main([*BRIEF, *words, "--trainer.max_epochs", "2"])
    assert steps == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [path.name for path in RUN.parent.iterdir()] == ["slurm_7"]
    assert same_state(last, brief[2] / "checkpoints" / "last.ckpt")
    assert (run / "metrics.csv").read_bytes() == (brief[2] / "metrics.csv").read_bytes()


@pytest.mark.parametrize("method", ["__init__", "setup"])
def test_an_interrupt_before_the_training_exits_with_130(monkeypatch, capsys, method):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(lightning_gans.VAE, method, interrupt)
    with pytest.raises(SystemExit) as left:
        main(BRIEF)
    assert left.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("given", ["samples: false", "metrics: [fid, kid]", "watchdog: null", "stop: x"])
def test_the_section_of_a_callback_is_a_mapping(workplace, given, fails):
    (workplace / "own.yaml").write_text(given)
    error = fails(["fit", "-c", "quickstart", "-c", "own.yaml"], 2)
    assert error.setting == given.partition(":")[0] and "{enabled: false}" in str(error)
    assert [path.name for path in workplace.iterdir()] == ["own.yaml"]


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("strategy", "deepspeed", "use ddp"),
        ("strategy", "fsdp", "use ddp"),
        ("strategy", "ddp_spawn", "use ddp"),
        ("strategy", "ddp_fork_find_unused_parameters_true", "use ddp"),
        ("strategy", "ddp_fork_find_unused_parameters_true", "use ddp"),
        ("gradient_clip_val", "1", "--model.gradient_clip_val"),
        ("accumulate_grad_batches", "2", "--model.accumulate_batches"),
    ],
)
def test_what_alternating_updates_cannot_do_is_an_error_with_what_to_use(name, value, instead, workplace, fails):
    error = fails([*BRIEF, f"--trainer.{name}", value], 2)
    assert f"trainer.{name}" in str(error) and instead in str(error)
    assert not list(workplace.iterdir())


# --- other starts -----------------------------------------------------------------------------------------


def test_init_from_starts_from_the_weights_alone(trained, workplace):
    main(
        [
            *QUICK,
            "--init_from",
            trained["gan"],
            *WITHOUT_PICTURES,
            "--model.generator_lr",
            "1e-12",
            "--model.discriminator_lr",
            "1e-12",
        ]
    )
    last = workplace / "runs" / "quickstart" / "version_0" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    before, after = load(trained["gan"]), load(last)
    for old, new in zip(before.generator.parameters(), after.generator.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-6, rtol=0)


def test_init_from_takes_the_weights_that_fit_and_names_the_others(trained, workplace, capsys):
    model = load(trained["gan"])
    words = ["--model.latent_dim", str(model.latent_dim + 1), "--model.freeze_layers", "1"]
    main([*QUICK, "--init_from", trained["gan"], *WITHOUT_PICTURES, *words])
    output = capsys.readouterr().out
    assert "weights are taken from the checkpoint" in output
    (kept,) = (line for line in output.splitlines() if "in the checkpoint, " in line)
    assert kept.strip().startswith("generator.")
    last = workplace / "runs" / "quickstart" / "version_0" / "checkpoints" / "last.ckpt"
    first, again = (next(iter(of.discriminator.parameters())) for of in (model, load(last)))
    assert again.equal(first)


@pytest.mark.slow
def test_a_custom_network_by_class_path(workplace, capsys):
    (workplace / "own_networks.py").write_text(NETWORK)
    main([*QUICK, "--model.generator.class_path", "own_networks.Flat", "--model.generator.init_args.gain", "2.0"])
    last = workplace / "runs" / "quickstart" / "version_0" / "checkpoints" / "last.ckpt"
    model = load(last, imports=["own_networks"])
    assert type(model.generator).__name__ == "Flat" and model.generator.gain == 2.0
    # In a process that has not imported the module: refused without it, done with it.
    words = ["sample", str(last), "--num_samples", "2", "--output", "s.png"]
    script = f"""
from lightning_gans.cli.known_errors import known_error
from lightning_gans.cli.main import main
try:
    main({words})
except SystemExit as refused:
    assert refused.code == 1
    main({[*words, "--import", "own_networks"]})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--import own_networks" in done.stderr
    assert (workplace / "s.png").is_file()


@pytest.mark.slow
def test_vae_predicts_reconstructions_and_conditional_models_sample_the_labels(brief, trained, workplace):
    for checkpoint in (brief[1] / "checkpoints" / "last.ckpt", trained["conditional"]):
        main(["predict", "-c", "quickstart", "-c", "fast", "--ckpt_path", str(checkpoint)])
    for version in (0, 1):
        run = workplace / "runs" / "quickstart" / f"version_{version}"
        images = np.load(run / "predictions.npz")["images"]
        assert images.shape == (128, 28, 28, 1) and images.dtype == np.uint8
        assert (run / "predictions.png").is_file()


def test_disabled_callbacks_leave_nothing(workplace, capsys):
    main(
        [
            *QUICK,
            "--checkpoint.enabled",
            "false",
            "--samples.enabled",
            "false",
            "--metrics.enabled",
            "false",
            "--trainer.enable_progress_bar",
            "false",
        ]
    )
    assert {path.name for path in (workplace / "runs" / "quickstart" / "version_0").iterdir()} == {
        "config.yaml", "hparams.yaml", "metrics.csv", "run.json"
    }  # fmt: skip


@pytest.mark.slow
def test_metrics_are_on_the_axis_of_generator_updates(workplace):
    main([*QUICK, "--model.d_steps", "2", "--trainer.limit_train_batches", "8"])
    with open(workplace / "runs" / "quickstart" / "version_0" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    *training, validation = rows
    assert [int(row["step"]) for row in training] == [1, 2, 3, 4]
    assert all(float(row[f"train/{key}"]) for row in training for key in ("d_loss", "g_loss", "d_real", "d_fake"))
    assert int(validation["step"]) == 4 and float(validation["val/fid"]) > 0


def test_help_lists_the_commands_and_version_says_which(capsys):
    main([])
    main(["--help"])
    main(["--version"])
    out = capsys.readouterr().out
    assert all(out.count(f"\n  {name} ") == 2 for name in COMMANDS)
    assert out.endswith(f"lightning_gans {lightning_gans.__version__}\n")


@pytest.mark.slow
def test_configured_callbacks_replace_those_of_the_package(workplace):
    (workplace / "own.yaml").write_text("""
trainer:
  callbacks:
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {filename: mine, save_last: true}
    - class_path: pytorch_lightning.callbacks.TQDMProgressBar
    - class_path: lightning_gans.SampleGrid
      init_args: {num_samples: 4}
stop:
  enabled: false
""")
    cli = TrainingCLI([*BRIEF[:5], "-c", "own.yaml", *BRIEF[5:], "--trainer.enable_progress_bar", "true"])
    names = [type(callback).__name__ for callback in cli.trainer.callbacks]
    for name in ("ModelCheckpoint", "TQDMProgressBar", "SampleGrid"):
        assert names.count(name) == 1
    assert not {"Checkpoint", "ProgressBar", "GracefulStop", "NearestNeighbors"} & set(names)
    assert {path.name for path in (RUN / "checkpoints").iterdir()} == {"mine.ckpt", "last.ckpt"}


def test_british_names_of_earlier_versions_are_accepted_with_a_warning(workplace, capsys):
    (workplace / "old.yaml").write_text("neighbours: {num_shown: 3}\nmetrics: {neighbour_images: 200}\n")
    with pytest.warns(FutureWarning) as caught, pytest.raises(SystemExit):
        main(["fit", "-c", "quickstart", "-c", "old.yaml", "--neighbours.enabled=true", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["neighbors"]["enabled"] and config["neighbors"]["num_shown"] == 3 and "neighbours" not in config
    assert config["metrics"]["neighbour_images"] == 200  # the constructor takes either
    assert {str(warning.message) for warning in caught} == {"neighbours is deprecated: use neighbors."}


def test_messages_go_where_standard_error_goes_at_the_moment(monkeypatch):
    """While Rich shows a bar, that is above the bar."""
    logger = logging.getLogger("pytorch_lightning")
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler()])
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    training.quiet()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logger.info("Time limit reached.")
    assert sys.stderr.getvalue() == "Time limit reached.\n"


def imported_by(*commands):
    """Return which heavy libraries a process has imported that runs commands, all of which succeed."""
    script = f"""
import contextlib, io, sys
from lightning_gans.cli.main import main
for words in {commands}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
print(*{HEAVY} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return set(done.stdout.split())


def test_light_commands_import_nothing_heavy():
    helps = [[name, "--help"] for name in COMMANDS if name not in LIGHTNING]
    assert imported_by([], ["--version"], ["recipes", "--json"], ["recipes", "quickstart"], *helps) == set()


def test_reports_and_comparisons_import_neither_torch_nor_lightning(workplace):
    run = workplace / "runs" / "x" / "version_0"
    (run / "metrics").mkdir(parents=True)
    (run / "metrics.csv").write_text("step,train/loss\n1,2.0\n")
    (run / "config.yaml").write_text("model: {}\n")
    scores = run / "metrics" / "step=0000001.json"
    scores.write_text('{"format": 1, "scores": {"fid": 1.0}, "protocol": {}}')
    assert imported_by(["compare", str(scores), str(scores)]) == set()
    assert imported_by(["report", str(run)]) == set()
