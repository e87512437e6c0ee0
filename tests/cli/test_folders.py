"""Which folder a run takes, who may use it, and what a command that fails leaves behind."""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lightning_gans
from lightning_gans import DigitsDataModule
from lightning_gans.cli.main import main
from lightning_gans.cli.run_folder import RunFolder
from lightning_gans.errors import DataError, SettingError
from lightning_gans.io.csv_logger import RunLogger

pytestmark = pytest.mark.slow

BRIEF = [
    *("fit", "-c", "quickstart", "-c", "fast", "--model", "VAE", "--model.lr_schedule", "constant"),
    *("--metrics.enabled", "false", "--samples.enabled", "false", "--reconstructions.enabled", "false"),
    *("--trainer.enable_progress_bar", "false"),
]
RUNS = Path("runs") / "quickstart"
HOLD = """
import fcntl, sys
with open(sys.argv[1], "a+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    file.write("process 7 on mars")
    file.flush()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fails(capsys):
    """Return a function that runs a command that must fail, and returns its error."""

    def fails(args):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        assert "Traceback" not in capsys.readouterr().err
        return stopped.value.__context__

    return fails


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(BRIEF)
    return folder / "runs"


@pytest.fixture
def last(trained, workplace):
    """The checkpoint of a run in the working folder."""
    shutil.copytree(trained, "runs")
    return str(RUNS / "version_0" / "checkpoints" / "last.ckpt")


def files(folder="."):
    return {str(path) for path in Path(folder).rglob("*")}


@pytest.fixture
def hold():
    """Return a function that holds a lock in another process."""
    held = []

    def hold(path):
        process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        held.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in held:
        process.kill()
        process.communicate()


def test_two_loggers_never_choose_one_number(tmp_path):
    first, second = RunLogger(tmp_path, "x"), RunLogger(tmp_path, "x")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "version_1").write_text("a file")
    assert (first.version, second.version, first.version) == (0, 2, 0)
    assert RunLogger(tmp_path, "x", "named").version == "named"
    assert sorted(os.listdir(tmp_path / "x")) == ["version_0", "version_1", "version_2"]


def test_a_run_that_starts_while_another_prepares_its_data_takes_another_folder(monkeypatch):
    prepare = DigitsDataModule.prepare_data

    def slow(self):
        others.append(RunLogger("runs", "quickstart").version)
        prepare(self)

    others = []
    monkeypatch.setattr(DigitsDataModule, "prepare_data", slow)
    main(BRIEF)
    assert others[0] == 1 and (RUNS / "version_0" / "checkpoints" / "last.ckpt").is_file()


def test_a_run_is_locked_while_it_trains_and_free_afterwards(monkeypatch):
    said = []
    step = lightning_gans.VAE.training_step

    def look(self, *args):
        said.append(RUNS.joinpath("version_0", ".lock").read_text())
        return step(self, *args)

    monkeypatch.setattr(lightning_gans.VAE, "training_step", look)
    main(BRIEF)
    assert said[0] == f"process {os.getpid()} on {socket.gethostname()}"
    assert not list(Path().rglob(".lock"))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_that_another_process_trains_is_not_resumed(elsewhere, hold, fails, last):
    words = ["resume", str(RUNS / "version_0"), "--trainer.max_epochs", "2"]
    if elsewhere:
        Path(last).parent.rename("kept")
        words += ["--checkpoint.dirpath", "kept", "--ckpt_path", "kept/last.ckpt"]
    before = {name: Path(name).read_bytes() for name in files() if Path(name).is_file()}
    folder = Path("kept") if elsewhere else RUNS / "version_0"
    other = hold(folder / ".lock")
    error = fails(words)
    assert isinstance(error, DataError) and (error.setting, error.value) == (str(folder), "process 7 on mars")
    assert {name: Path(name).read_bytes() for name in files() if name in before} == before
    other.kill()  # what it held is free
    other.wait()
    main(words)
    assert not list(Path().rglob(".lock"))


def test_a_lock_is_no_obstacle_where_the_system_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_gans.cli.run_folder.fcntl", None)
    with RunFolder(tmp_path).locked():
        assert (tmp_path / ".lock").is_file()


def test_a_run_of_another_runs_configuration_has_its_name(last):
    again = str(RUNS / "version_0" / "config.yaml")
    main(["fit", "-c", again, "--trainer.max_steps", "0"])
    assert os.listdir("runs") == ["quickstart"] and (RUNS / "version_1" / "config.yaml").is_file()
    Path("config.yaml").write_text(Path(again).read_text())
    main(["fit", "-c", "config.yaml", "--trainer.max_steps", "0"])
    assert sorted(os.listdir("runs")) == ["config", "quickstart"]


@pytest.mark.parametrize(
    "words",
    [
        ["--data.batch_size", "0"],
        ["--data.batch_size", "5000"],
        ["--model.image_shape", "[1,32,32]"],
        ["--init_from", "nowhere.ckpt"],
        ["--trainer.callbacks", "BackboneFinetuning"],
        ["--trainer.callbacks", "LearningRateMonitor", "--trainer.logger", "false"],
        ["--trainer.val_check_interval", "1000"],
        ["--model.encoder_optimizer", "torch.optim.LBFGS", "--samples.enabled", "true"],
        ["--checkpoint.dirpath", "kept", "--trainer.limit_train_batches", "0.0001"],
    ],
)
def test_a_fit_that_is_refused_leaves_nothing(words, fails):
    fails([*BRIEF, *words])
    assert not files()


def test_a_refused_run_leaves_what_was_there(fails):
    mine = ["--trainer.logger", "{class_path: CSVLogger, init_args: {save_dir: ., name: mine, version: a}}"]
    Path("mine/a/checkpoints").mkdir(parents=True)
    Path("mine/a/notes").write_text("")
    before = files()
    fails([*BRIEF, *mine, "--data.batch_size", "5000"])
    assert files() == before


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_evaluation_that_is_refused_leaves_nothing(command, fails, last):
    before = files()
    fails([command, *BRIEF[1:], "--ckpt_path", last, "--data.batch_size", "0"])
    fails([command, *BRIEF[1:], "--ckpt_path", last, "--trainer.callbacks", "BackboneFinetuning"])
    assert files() == before


def test_weights_beside_a_resumed_checkpoint_are_an_error(fails, last):
    before = files()
    for words in ([*BRIEF, "--ckpt_path", last], ["resume", str(RUNS / "version_0")], ["resume", last]):
        error = fails([*words, "--init_from", last])
        assert isinstance(error, SettingError) and (error.setting, error.value) == ("init_from", last)
    assert files() == before


@pytest.mark.slow
def test_a_run_with_initial_weights_is_resumed(last):
    main([*BRIEF, "--init_from", last])
    main(["resume", str(RUNS / "version_1"), "--trainer.max_epochs", "2"])
    assert yaml.safe_load((RUNS / "version_1" / "config.yaml").read_text())["init_from"] == last


def test_resume_takes_the_checkpoint_that_is_named(last, fails, monkeypatch):
    steps = []
    step = lightning_gans.VAE.training_step

    def look(self, *args):
        steps.append(self.trainer.global_step)
        return step(self, *args)

    folder = RUNS / "version_0" / "checkpoints"
    best = folder / "best.ckpt"
    shutil.copy(last, best)
    Path(last).write_text("damaged")
    monkeypatch.setattr(lightning_gans.VAE, "training_step", look)
    main(["resume", str(best), "--trainer.max_epochs", "2"])
    assert steps == [4, 5, 6, 7]
    error = fails(["resume", str(folder / "lost.ckpt")])
    assert isinstance(error, DataError) and error.value == str(folder / "lost.ckpt")
    error = fails(["resume", str(best), "--ckpt_path", str(last)])
    assert isinstance(error, SettingError) and error.setting == "ckpt_path"


@pytest.mark.parametrize("made_again", [True, False])
def test_a_lock_whose_file_its_holder_has_just_removed_is_not_taken(monkeypatch, made_again):
    def released(file, flags):
        Path("run/.lock").unlink()
        if made_again:
            Path("run/.lock").touch()

    monkeypatch.setattr(fcntl, "lockf", released)
    with pytest.raises(DataError, match="is in use by another process"), RunFolder("run").locked():
        pass
