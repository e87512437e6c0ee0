"""Every command and every option that the program advises works as it is printed."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from lightning_gans.cli.commands import recipes
from lightning_gans.cli.main import main
from lightning_gans.cli.training import TrainingCLI
from lightning_gans.training import allowed_classes

pytestmark = pytest.mark.slow

TINY = ["-c", "fast", "--model.width", "4", "--samples.enabled", "false", "--metrics.enabled", "false"]
TINY += ["--trainer.enable_progress_bar", "false"]
FIT = ["fit", "-c", "quickstart", *TINY]
RUN = Path("runs") / "quickstart" / "version_0"
OWN = "from lightning_gans import DCGAN\nclass Own(DCGAN):\n    pass\n"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    folder = tmp_path / "it's here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def hints(capsys):
    """Return a function that returns the commands and the options in what was printed."""

    def hints():
        captured = capsys.readouterr()
        text = captured.out + captured.err
        commands = re.findall(r"lightning-gans ([a-z]+ [^`\n]+?)(?=`|\n|\.$|   )", text)
        options = re.findall(r"(?:add|set|as in) `?(--[\w.]+[ =](?:'[^']*'|[\w.]*\w))", text)
        return [shlex.split(found) for found in commands], [shlex.split(found) for found in options]

    return hints


def fails(words):
    with pytest.raises(SystemExit):
        main(words)


@pytest.fixture
def steps(monkeypatch):
    """The updates at which each fit ended."""
    seen = []
    end = TrainingCLI._end

    def noted(self, *args, **kwargs):
        seen.append(self.trainer.global_step)
        end(self, *args, **kwargs)

    monkeypatch.setattr(TrainingCLI, "_end", noted)
    return seen


@pytest.mark.parametrize(
    ("limits", "more"),
    [
        (["--trainer.max_epochs", "1"], [8]),
        (["--trainer.max_epochs", "-1", "--trainer.max_steps", "3"], [6]),
        (["--trainer.max_epochs", "1", "--trainer.max_steps", "4"], [8]),
        (["--trainer.max_epochs", "2", "--trainer.max_steps", "4"], [8]),
    ],
)
def test_a_finished_run_is_sampled_and_resumed(limits, more, hints, steps):
    Path("my recipe.yaml").write_text((recipes.folder() / "quickstart.yaml").read_text())
    main(["fit", "-c", "my recipe.yaml", *TINY, *limits])
    (sample, resume, _), _ = hints()
    main(sample)
    main(resume)
    assert Path("samples.png").is_file() and steps[1:] == more


def test_a_run_that_a_clock_ended_is_resumed(hints, steps):
    clock = ["--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:00:01"]
    main([*FIT, "--model.lr_schedule", "constant", *clock])
    (_, resume, _), _ = hints()
    assert resume[-2] == "--trainer.max_time"
    main(resume)
    assert steps[1] > steps[0]


def test_a_run_of_a_custom_class_is_sampled_and_resumed(hints, steps, workplace, monkeypatch):
    (workplace / "own_model.py").write_text(OWN)
    monkeypatch.syspath_prepend(workplace)
    main(["fit", "-c", "quickstart", "--model", "own_model.Own", *TINY])
    (sample, resume, _), _ = hints()
    assert sample[-1] == resume[-1] == "--import=own_model"
    main(sample)
    main(resume)
    assert steps == [4, 8]
    monkeypatch.setattr(allowed_classes, "_trusted", set())
    hints()
    fails(resume[:-1])
    _, (option,) = hints()
    main([*resume[:-1], *option, "--trainer.max_epochs", "3"])
    assert steps == [4, 8, 12]


def test_samples_need_no_import_of_a_custom_regularizer(hints, steps, workplace, monkeypatch):
    (workplace / "own_term.py").write_text(
        "from lightning_gans.training.regularizers import R1\n\nclass Own(R1): pass\n"
    )
    monkeypatch.syspath_prepend(workplace)
    main([*FIT, "--model.regularizers+=own_term.Own", "--model.regularizers.weight=0"])
    (sample, resume, _), _ = hints()
    assert resume[-1] == "--import=own_term" and "--import" not in " ".join(sample)
    main(sample)
    main(resume)
    assert len(steps) == 2


def test_what_to_do_without_the_last_checkpoint(hints, steps):
    main(FIT)
    checkpoints = RUN / "checkpoints"
    (checkpoints / "last.ckpt").rename(checkpoints / "kept one.ckpt")
    hints()
    fails(["resume", str(RUN)])
    (resume,), _ = hints()
    main([*resume, "--trainer.max_epochs", "2"])
    assert steps == [4, 8]
    shutil.rmtree(checkpoints)
    hints()
    fails(["resume", str(RUN)])
    (fit,), _ = hints()
    main(fit)
    assert steps == [4, 8, 8] and (RUN.parent / "version_1" / "run.json").is_file()


@pytest.mark.parametrize("words", [["--help"], ["recipes"], ["fit"], ["resume"]])
def test_examples_are_commands(words, hints, monkeypatch):
    main(FIT)
    monkeypatch.setattr(TrainingCLI, "fit", lambda self, **kwargs: None)
    hints()
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code == 2
    found, _ = hints()
    for command in found:
        main(command)
    assert found


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "quickstart", "--model.image_shape", "[1,32,32]"],
        ["-c", "quickstart", "--model.num_classes", "3"],
        ["-c", "quickstart", "--trainer.gradient_clip_val", "1"],
        ["-c", "quickstart", "--trainer.accumulate_grad_batches", "2"],
    ],
)
def test_an_option_that_is_advised_is_accepted(words, hints, monkeypatch):
    monkeypatch.setattr(TrainingCLI, "fit", lambda self, **kwargs: None)
    fails(["fit", *words])
    _, (option,) = hints()
    if option[0] != words[-2]:  # an option to use instead
        words = words[:-2]
    main(["fit", *words, *option])
