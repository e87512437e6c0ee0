"""Which errors are one sentence, by where they were raised."""

import io
import os
import sys
from pathlib import Path

import pytest
from jsonargparse import Namespace

from lightning_gans import SettingError
from lightning_gans._lightning import pl
from lightning_gans.cli.commands import export
from lightning_gans.cli.known_errors import known_error
from lightning_gans.cli.main import main
from lightning_gans.cli.parsing import TrainingParser, check_settings
from tests.cli.test_folders import BRIEF

CALLBACK = """
from pytorch_lightning import Callback
class Broken(Callback):
    def setup(self, *args, **kwargs):
        raise RuntimeError("mine")
class Opens(Callback):
    def setup(self, *args, **kwargs):
        open("nowhere")
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def error(capsys):
    """Return a function that runs a command that must fail in one sentence, and returns its error and its message."""

    def error(args):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        said = capsys.readouterr().err
        said = said[said.index("lightning-gans: ") :]
        assert stopped.value.code in (1, 2) and len(said.splitlines()) <= 3 and "Traceback" not in said
        return stopped.value.__context__, said

    return error


def test_a_missing_extra_is_named(error, monkeypatch):
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning_fabric.loggers.tensorboard.{name}", False)
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    for words, extra, setting in (
        (["fit", "-c", "quickstart", "-c", "tensorboard"], "tensorboard", "trainer.logger"),
        (["export", "nosuch.ckpt", "--output", "m.onnx"], "onnx", "--output"),
    ):
        found, said = error(words)
        assert f"pip install 'lightning_gans[{extra}]'" in said and len(said.splitlines()) == 1
        assert known_error(found).setting == setting
    assert not list(Path().iterdir())


CALLBACKS = [
    (["LearningRateFinder"], "LearningRateFinder: When using the learning rate finder"),
    (["BackboneFinetuning"], "BackboneFinetuning: 'VAE' object has no attribute 'backbone'"),
    (["LearningRateMonitor", "--trainer.logger", "false"], "LearningRateMonitor: Cannot use"),
    (["EarlyStopping"], "required settings are missing: monitor"),
    (["Timer", "--trainer.callbacks.duration", "x"], "`Timer(duration='x')` is not a valid duration"),
    (["StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "-1"], "The `swa_lrs` should a positive float"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "part"), CALLBACKS)
def test_what_lightning_refuses_while_it_makes_or_runs_a_callback_is_one_sentence(words, part, error):
    assert part in error([*BRIEF, "--trainer.callbacks", *words])[1]
    assert not list(Path().iterdir())


def test_a_callback_that_a_fit_needs_to_stop_is_one_sentence(error):
    assert (
        "EarlyStopping: Early stopping conditioned on metric `val/nope`"
        in error([*BRIEF, "--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/nope"])[1]
    )


def test_a_callback_with_an_enum_as_its_default_works():
    main([*BRIEF, "--trainer.callbacks", "Timer"])
    assert "interval: step" in Path("runs/quickstart/version_0/config.yaml").read_text()


@pytest.mark.parametrize(("name", "kind"), [("Broken", RuntimeError), ("Opens", FileNotFoundError)])
def test_errors_of_custom_callbacks_keep_their_traceback(name, kind, workplace, monkeypatch):
    (workplace / "users_callbacks.py").write_text(CALLBACK)
    monkeypatch.syspath_prepend(workplace)
    monkeypatch.delitem(sys.modules, "users_callbacks", raising=False)
    with pytest.raises(kind):
        main([*BRIEF, "--trainer.callbacks", f"users_callbacks.{name}"])


@pytest.mark.parametrize(
    "words",
    [
        ["--model.latent_dim", "2147483647"],
        ["--model.width", "999999999"],
    ],
)
def test_sizes_that_no_memory_holds_are_named(words, error):
    assert "a size does not fit into memory" in error([*BRIEF, *words])[1]
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "-c", "x" * 300],
        ["report", "x" * 300],
        ["resume", "x" * 300],
        ["compare", "x" * 300, "y"],
        ["recipes", "x" * 300],
        [*BRIEF, "--ckpt_path", "x" * 300],
        [*BRIEF, "--checkpoint.dirpath", "x" * 300],
        ["sample", "x" * 300, "--output", "a.png"],
    ],
)
def test_names_that_are_too_long_are_named(words, error):
    assert "File name too long" in error(words)[1]
    assert not list(Path().iterdir())


def test_a_module_that_ends_the_program_is_an_error(workplace, monkeypatch, error):
    (workplace / "quits.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(workplace)
    for words in (["sample", "x.ckpt", "--import", "quits", "--output", "a.png"], [*BRIEF, "--model", "quits.Model"]):
        assert "the module quits exits the program" in error(words)[1]


def test_escape_codes_in_names_are_not_printed(error, capsys, workplace):
    assert r"x\x1b[31m is not a folder" in error(["report", "x\x1b[31m"])[1]
    run = workplace / "run\x1b[31m"
    run.mkdir()
    (run / "metrics.csv").write_text("step,train/loss\n1,2.0\n")
    main(["report", str(run)])
    assert capsys.readouterr().out.endswith("run\\x1b[31m/report.html\n")


def test_an_encoding_without_the_characters_of_a_name_is_no_obstacle(monkeypatch, workplace):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    run = workplace / "größe"
    run.mkdir()
    (run / "metrics.csv").write_text("step,train/loss\n1,2.0\n")
    main(["report", str(run)])
    assert output.getvalue() == f"{workplace}/gr\\xf6\\xdfe/report.html\n".encode()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stopped:
            main(["--version"])
    assert stopped.value.code == 1 and "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.latent_dim", "data.batch_size"])
def test_sizes_that_torch_cannot_have_are_named(name, error):
    assert (
        f"{name.split('.')[1]} is {10**24}: it must be 2,147,483,647 or less"
        in error([*BRIEF, f"--{name}", str(10**24)])[1]
    )
    assert not list(Path().iterdir())


def test_a_working_folder_that_was_deleted_is_one_sentence(workplace, monkeypatch, error):
    gone = workplace / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert isinstance(error(BRIEF)[0], OSError)


def test_lightnings_defaults_and_ours_give_way(workplace):
    main([*BRIEF[:-2], "--trainer.barebones", "true"])
    assert not list(Path().rglob("*.ckpt")) and not Path("runs").exists()
    main([*BRIEF, "--trainer.enable_checkpointing", "false"])
    assert not list(Path().rglob("*.ckpt")) and Path("runs/quickstart/version_0/metrics.csv").is_file()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed_everything", True),
        ("seed_everything", 2**32),
        ("trainer.log_every_n_steps", -4),
        ("trainer.min_epochs", -1),
        ("trainer.min_steps", -1),
        ("trainer.num_sanity_val_steps", -2),
        ("trainer.logger.version", "../other"),
        ("trainer.logger.name", "/other"),
    ],
)
def test_a_setting_that_lightning_does_not_check(name, value):
    trainer = Namespace(strategy="auto", logger=None, log_every_n_steps=0, num_sanity_val_steps=-1)
    config = Namespace(seed_everything=0, trainer=trainer)
    check_settings(config)
    if name.startswith("trainer.logger."):
        logger = Namespace(init_args=Namespace({name.rpartition(".")[2]: value}))
        config["trainer.logger"] = [Namespace(init_args=Namespace(name="a/b", version=3)), logger]
    else:
        config[name] = value
    with pytest.raises(SettingError) as error:
        check_settings(config)
    assert (error.value.setting, error.value.value) == (name, value)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("max_steps: 3", "max_steps belongs to trainer: --trainer.max_steps VALUE."),
        ("decoder_dims: [3]", "--model CLASS --model.decoder_dims VALUE."),
        ("image_size: 3", "--data CLASS --data.image_size VALUE."),
    ],
)
def test_a_setting_in_the_wrong_place_names_the_right_one(given, hint, workplace, error):
    Path("own.yaml").write_text(given)
    assert error(["fit", "-c", "quickstart", "-c", "own.yaml"])[1].endswith(f"{hint}\n")


def test_a_setting_without_its_class_is_named():
    parser = TrainingParser()
    parser.add_argument("--logger", type=pl.loggers.Logger | bool | None)
    with pytest.raises(SettingError, match=r"logger\.name is not a setting of the chosen class") as error:
        parser.parse_args(["--logger.name", "x"])
    assert error.value.setting == "logger.name"


def test_an_optimizer_that_fails_is_named(error):
    recipe = ["fit", "-c", "quickstart", "-c", "fast", "--model.width", "4", "--trainer.max_steps", "1"]
    told = error([*recipe, "--model.generator_optimizer", "torch.optim.SparseAdam"])[1]
    assert told.startswith("lightning-gans: the optimizer SparseAdam fails: ")
