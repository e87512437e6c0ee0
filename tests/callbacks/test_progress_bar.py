import io
import re
from types import SimpleNamespace

import pytest
from pytorch_lightning.callbacks import LambdaCallback, RichProgressBar, Timer
from rich.console import Console

from lightning_gans import GAN, ProgressBar
from lightning_gans.callbacks import progress_bar as progress
from tests.toys import loader, make_batches, tiny


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setattr(progress, "get_console", lambda: SimpleNamespace(is_terminal=True, is_jupyter=False))


def fit(make_trainer, monkeypatch, steps, per_second, **options):
    """Fit, and return for each time that the bar was drawn within the epoch how far it was and what it showed."""
    drawn = []

    def draw(self, trainer, pl_module, outputs, batch, batch_idx):
        drawn.append((batch_idx + 1, dict(self.get_metrics(trainer, pl_module))))

    bar = ProgressBar()
    bar.seconds = 1 / per_second
    monkeypatch.setattr(RichProgressBar, "on_train_batch_end", draw)
    trainer = make_trainer(enable_progress_bar=True, callbacks=[bar], log_every_n_steps=1, **options)
    trainer.fit(tiny(GAN), loader(make_batches(steps)))
    return drawn


def test_the_bar_shows_the_losses_and_the_images_per_second(make_trainer, monkeypatch):
    drawn = fit(make_trainer, monkeypatch, 3, per_second=1e9)
    assert [updates for updates, _ in drawn] == [1, 2, 3]
    (_, first), (_, second), (_, last) = drawn
    assert {"d_loss", "g_loss", "d_real", "d_fake", "images/s"} <= set(last)
    assert "v_num" not in last
    assert int(last["images/s"].replace(",", "")) > 0
    assert first["d_loss"] != second["d_loss"]


def test_it_is_not_drawn_at_every_update_but_at_the_first_and_the_last(make_trainer, monkeypatch):
    drawn = fit(make_trainer, monkeypatch, 5, per_second=1e-9)
    assert [updates for updates, _ in drawn] == [1, 5]


def test_where_an_epoch_ends_in_its_midst_is_shown(make_trainer, monkeypatch):
    drawn = fit(make_trainer, monkeypatch, 5, per_second=1e-9, max_steps=3)
    assert [updates for updates, _ in drawn] == [1, 3]


def test_a_limit_of_steps_does_not_change_the_batches_of_an_epoch(make_trainer):
    bar = ProgressBar()
    trainer = make_trainer(enable_progress_bar=True, callbacks=[bar], max_epochs=-1, max_steps=1)
    trainer.fit(tiny(GAN, d_steps=2), loader(make_batches(4)))
    assert bar.total_train_batches == 4


def shown(bar, width):
    """Return the lines of the bar in a terminal of some width."""
    console = Console(file=io.StringIO(), width=width)
    console.print(bar.progress.make_tasks_table([bar.train_progress_bar]))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_it_is_one_line_that_begins_with_what_matters(make_trainer):
    bar = ProgressBar()
    trainer = make_trainer(enable_progress_bar=True, callbacks=[bar], log_every_n_steps=1, max_epochs=12)
    trainer.fit(tiny(GAN), loader(make_batches(3)))
    (line,) = shown(bar, 200)
    assert re.fullmatch(
        r"Epoch 12/12 ━{8} 3/3 00:00 left [\d,]+ img/s d_loss -?\d+\.\d{3} g_loss \S+ d_real \S+ d_fake \S+", line
    )
    (cut,) = shown(bar, 80)
    assert len(cut) <= 80 and cut.endswith("…") and line.startswith(cut.removesuffix("…")) and "g_loss" in cut


def test_a_run_without_a_last_epoch_has_none(make_trainer):
    bar = ProgressBar()
    trainer = make_trainer(enable_progress_bar=True, callbacks=[bar], log_every_n_steps=1, max_epochs=-1, max_steps=5)
    trainer.fit(tiny(GAN), loader(make_batches(3)))
    (line,) = shown(bar, 200)
    assert re.match(r"Epoch 2 \S+ +2/3 00:00 left ", line)


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"max_epochs": 2}, [5, 4, 3, 2, 1, 0]),
        ({"max_epochs": 2, "max_steps": 4}, [3, 2, 1, 0]),
        ({"max_epochs": -1, "max_steps": 4, "max_time": {"hours": 1}}, [2, 2, 1, 0]),
    ],
)
def test_the_time_left_is_that_until_the_first_limit(make_trainer, monkeypatch, limits, left):
    now, seen = [100.0], []

    def tick(*_):
        now[0] += 1

    bar = ProgressBar()
    note = LambdaCallback(on_train_batch_end=lambda *_: seen.append(bar.train_progress_bar.fields["values"][:10]))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Timer, "time_remaining", lambda timer: 2.0)
    callbacks = [LambdaCallback(on_train_batch_start=tick), bar, note]
    make_trainer(enable_progress_bar=True, callbacks=callbacks, **limits).fit(tiny(GAN), loader(make_batches(3)))
    assert seen == [f"00:{seconds:02} left" for seconds in left]


def test_the_thread_that_draws_it_leaves_the_training_alone():
    assert ProgressBar().refresh_rate <= 10


@pytest.mark.parametrize("widgets", [None, "ipywidgets"])
def test_a_notebook_without_widgets_gets_lines(make_trainer, monkeypatch, capsys, widgets):
    monkeypatch.setattr(progress, "get_console", lambda: SimpleNamespace(is_jupyter=True, is_terminal=False))
    monkeypatch.setattr(progress, "find_spec", lambda name: widgets)
    fit(make_trainer, monkeypatch, 3, per_second=1e9, max_epochs=2)
    lines = [line for line in capsys.readouterr().out.split("\n") if line.startswith("\rEpoch")]
    if widgets:
        assert not lines
        return
    assert len(lines) == 2  # one for each epoch
    assert lines[1].split("\r")[-1].startswith("Epoch 2/2, batch 3 of 3, ")
    assert "d_loss 1." in lines[1] and "img/s" in lines[1]


@pytest.mark.parametrize(("seconds", "batches"), [(1e9, [1, 3]), (0, [1, 2, 3, 1, 2, 3, 3])])
def test_a_log_gets_a_line_now_and_then_and_one_with_each_validations_scores(
    make_trainer, monkeypatch, capsys, seconds, batches
):
    class Validated(GAN):
        def validation_step(self, batch, batch_idx):
            self.log("val/fid", 2.5)

    monkeypatch.setattr(progress, "get_console", lambda: SimpleNamespace(is_terminal=False, is_jupyter=False))
    monkeypatch.setattr(progress, "_SECONDS_PER_LINE", seconds)
    trainer = make_trainer(enable_progress_bar=True, callbacks=[ProgressBar()], log_every_n_steps=1, max_epochs=2)
    trainer.fit(tiny(Validated), loader(make_batches(3)), loader(make_batches(1)))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch ")]
    trained = [re.match(r"Epoch \d/2, batch (\d) of 3, .*d_loss -?\d+\.\d{3} g_loss ", line) for line in lines]
    assert [int(found[1]) for found in trained if found] == batches
    assert lines[-1].startswith("Epoch 2/2, batch 3 of 3, ")
    assert [line for line, found in zip(lines, trained, strict=True) if not found] == [
        "Epoch 1/2: val/fid 2.5",
        "Epoch 2/2: val/fid 2.5",
    ]
