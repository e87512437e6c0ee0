"""A run that a signal stops: what it saves and prints, and that it resumes as if it had not stopped."""

import csv
import os
import signal
import threading

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch.utils.data import DataLoader

from lightning_gans import GAN, Checkpoint, GracefulStop
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.io.csv_logger import RunLogger
from tests.test_resume import MODELS, Score, batches_of_a_step, differences, end_of
from tests.toys import Toys, loader, make_batches, same, tiny, weights

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Gone(BaseException):
    """Stands for a process that has exited at once."""


class Kill(Callback):
    """Sends this process signals when a hook is called after so many updates."""

    def __init__(self, hook, step, *numbers):
        self.step, self.numbers, self.sent = step, numbers, False
        setattr(self, hook, self.send)

    def send(self, trainer, *_):
        if trainer.global_step == self.step and not self.sent and not trainer.sanity_checking:
            self.sent = True
            for number in self.numbers:
                os.kill(os.getpid(), number)


class KillBetweenUpdates(Kill):
    """Sends them from the discriminator's forward pass after its update and before the generator's."""

    def __init__(self, step, *numbers):
        super().__init__("nowhere", step, *numbers)

    def on_train_batch_start(self, trainer, model, *_):
        if trainer.global_step == self.step:
            self.before = weights(model.generator), weights(model.discriminator)
            self.handle = model.discriminator.register_forward_hook(lambda *_: self.look(trainer, model))

    def look(self, trainer, model):
        if not same(self.before[1], model.discriminator):
            assert same(self.before[0], model.generator)
            self.send(trainer)
            self.handle.remove()


class Events(Callback):
    """Notes the hooks of validations."""

    def __init__(self):
        self.hooks = []

    def note(self, trainer, what):
        if not trainer.sanity_checking:
            self.hooks.append(what)

    def on_validation_start(self, trainer, *_):
        self.note(trainer, "start")

    def on_validation_batch_end(self, trainer, *_):
        self.note(trainer, "batch")

    def on_validation_end(self, trainer, *_):
        self.note(trainer, "end")


@pytest.fixture
def fit(make_trainer, tmp_path):
    """Train in a run's folder: two epochs of eight updates, each with a validation."""

    def fit(make, run, *callbacks, checkpoint="ours", resumed=None, **options):
        torch.manual_seed(0 if resumed is None else 99)
        model = make()
        if resumed is None:
            model.run_seed = 11
        folder = str(tmp_path / "runs" / run / "checkpoints")
        keeper = {"ours": lambda: [Checkpoint(dirpath=folder)], "none": list, "lightning": lambda: [lightning(folder)]}
        trainer = make_trainer(
            logger=RunLogger(tmp_path, "runs", run),
            plugins=[AtomicCheckpointIO(), *options.pop("plugins", [])],
            callbacks=[Score(), *callbacks, GracefulStop(), *keeper[checkpoint]()],
            enable_checkpointing=checkpoint != "none",
            **{"max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 2, **options},
        )
        trainer.fit(model, Toys(batch_size=4 // batches_of_a_step(model)), ckpt_path=resumed)
        return trainer

    return fit


@pytest.fixture(scope="module")
def ends():
    """What the undisturbed runs end with, by the model's name."""
    return {}


@pytest.fixture
def end(fit, ends):
    """Return what the undisturbed run of a model ends with."""

    def end(name):
        if name not in ends:
            ends[name] = end_of(fit(MODELS[name], "whole"))
        return ends[name]

    return end


@pytest.fixture
def stop(fit, tmp_path):
    """Train until the run is stopped; return the code that it leaves with and its last checkpoint."""

    def stop(make, run, *callbacks, **options):
        with pytest.raises(SystemExit) as left:
            fit(make, run, *callbacks, **options)
        return left.value.code, tmp_path / "runs" / run / "checkpoints" / "last.ckpt"

    return stop


def lightning(folder):
    return ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=4)


def gan():
    return tiny(GAN)


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


# --- the state that is saved ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number"), [("gan", signal.SIGINT), ("gan", signal.SIGTERM), ("dcgan", signal.SIGINT)]
)
def test_a_signal_between_the_two_updates_of_a_step_lets_the_step_end(fit, stop, end, name, number):
    code, last = stop(MODELS[name], "stopped", KillBetweenUpdates(5, number))
    assert (code, step_of(last)) == (CODES[number], 6)
    assert not differences(end(name), end_of(fit(MODELS[name], "stopped", resumed=last)))


PLACES = {
    "before_a_step": ("on_train_batch_start", 3, 4),
    "after_a_step": ("on_train_batch_end", 3, 3),
    "before_the_last_step_of_an_epoch": ("on_train_batch_start", 7, 8),
    "at_the_end_of_an_epoch": ("on_train_epoch_end", 8, 9),
    "before_the_very_last_step": ("on_train_batch_start", 15, 16),
    "after_the_very_last_step": ("on_train_batch_end", 16, 16),
    "in_the_last_validation": ("on_validation_batch_end", 16, 16),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_anywhere_else_changes_nothing_of_how_the_run_ends(fit, stop, end, place):
    hook, step, saved = PLACES[place]
    code, last = stop(MODELS["dcgan"], "stopped", Kill(hook, step, signal.SIGTERM))
    assert (code, step_of(last)) == (143, saved)
    assert not differences(end("dcgan"), end_of(fit(MODELS["dcgan"], "stopped", resumed=last)))


@pytest.mark.parametrize(
    ("hook", "seen"),
    [
        ("on_validation_start", ["start"]),
        ("on_validation_batch_end", ["start", "batch"]),
        ("on_validation_end", ["start", "batch", "batch", "end"]),
    ],
)
def test_a_validation_is_left_at_once_and_done_again(fit, stop, end, hook, seen):
    stopped, resumed = Events(), Events()
    code, last = stop(MODELS["dcgan"], "stopped", stopped, Kill(hook, 8, signal.SIGTERM))
    assert (code, step_of(last), stopped.hooks) == (143, 8, seen)
    again = fit(MODELS["dcgan"], "stopped", resumed, resumed=last)
    assert resumed.hooks == ["start", "batch", "batch", "end"] * 2
    assert not differences(end("dcgan"), end_of(again))


class KillMidStep(Kill):
    """Sends them after the first of the batches of a step."""

    def __init__(self, step, *numbers):
        super().__init__("on_train_batch_end", step, *numbers)

    def send(self, trainer, model, *_):
        if model.within_step:
            super().send(trainer)


@pytest.mark.parametrize("name", ["gan", "conditional_vae"])
def test_a_step_of_several_batches_gets_all_of_them_first(fit, stop, end, name):
    code, last = stop(MODELS[name], "stopped", KillMidStep(5, signal.SIGTERM))
    assert (code, step_of(last)) == (143, 6)
    assert not differences(end(name), end_of(fit(MODELS[name], "stopped", resumed=last)))


def test_a_validation_within_a_step_is_not_left(fit, stop):
    options = {"val_check_interval": 3, "check_val_every_n_epoch": None}
    whole, events = end_of(fit(MODELS["gan"], "whole", **options)), Events()
    kill = Kill("on_validation_batch_end", 1, signal.SIGTERM)  # after three batches, two of which were the first step's
    code, last = stop(MODELS["gan"], "stopped", events, kill, **options)
    assert (code, step_of(last), events.hooks) == (143, 2, ["start", *["batch"] * 4, "end"])
    assert not differences(whole, end_of(fit(MODELS["gan"], "stopped", resumed=last, **options)))


@pytest.mark.parametrize(("hook", "step"), [("on_validation_batch_end", 8), ("on_train_batch_start", 15)])
def test_the_scores_of_a_validation_that_was_left_are_those_of_a_whole_one(fit, stop, end, hook, step):
    _, last = stop(MODELS["vae"], "stopped", Kill(hook, step, signal.SIGTERM))
    assert not differences(end("vae"), end_of(fit(MODELS["vae"], "stopped", resumed=last)))


def test_a_run_can_be_stopped_again_and_again(fit, stop, end):
    last = None
    for step in (2, 7, 8, 13):
        code, last = stop(MODELS["dcgan"], "stopped", KillBetweenUpdates(step, signal.SIGINT), resumed=last)
        assert (code, step_of(last)) == (130, step + 1)
    assert not differences(end("dcgan"), end_of(fit(MODELS["dcgan"], "stopped", resumed=last)))


def test_a_signal_after_the_last_epoch_finds_the_run_complete(fit, tmp_path):
    trainer = fit(gan, "run", Kill("on_train_epoch_end", 16, signal.SIGTERM))
    assert trainer.global_step == step_of(tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt") == 16


# --- what is printed, and where it is saved --------------------------------------------------------------


def test_one_line_says_why_it_stopped_and_how_to_resume(stop, capsys, tmp_path):
    _, last = stop(gan, "run", KillBetweenUpdates(5, signal.SIGINT))
    said = [line for line in capsys.readouterr().out.splitlines() if "Stopped" in line]
    assert said == [f"Stopped by SIGINT after update 6. Resume with:  trainer.fit(model, ckpt_path={str(last)!r})"]
    (tmp_path / "runs" / "run" / "config.yaml").touch()
    stop(gan, "run", KillBetweenUpdates(7, signal.SIGTERM))
    folder = tmp_path / "runs" / "run"
    expected = f"Stopped by SIGTERM after update 8. Saved {folder / 'checkpoints' / 'last.ckpt'}."
    assert expected in capsys.readouterr().out.splitlines()


def test_a_run_without_checkpoints_says_that_nothing_was_saved(stop, capsys, tmp_path):
    code, _ = stop(gan, "run", KillBetweenUpdates(5, signal.SIGINT), checkpoint="none")
    assert code == 130
    assert "Stopped by SIGINT after update 6. Nothing was saved" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_dry_run_stops_and_saves_nothing(stop, capsys, tmp_path):
    code, _ = stop(gan, "run", KillBetweenUpdates(1, signal.SIGINT), fast_dev_run=3)
    assert code == 130
    assert "Nothing was saved" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.ckpt"))


def test_lightnings_own_checkpoints_get_the_last_one_beside_them(fit, stop, end):
    code, last = stop(MODELS["gan"], "stopped", KillBetweenUpdates(5, signal.SIGINT), checkpoint="lightning")
    assert (code, step_of(last)) == (130, 6)
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt", "step=4.ckpt"]
    assert not differences(end("gan"), end_of(fit(MODELS["gan"], "stopped", resumed=last)))


# --- signals ----------------------------------------------------------------------------------------------


@pytest.fixture
def exits(monkeypatch):
    """Codes of the processes that would have exited at once."""
    codes = []

    def leave(code):
        codes.append(code)
        raise Gone

    monkeypatch.setattr(os, "_exit", leave)
    return codes


@pytest.mark.parametrize("first", CODES)
def test_a_second_ctrl_c_leaves_at_once_and_saves_nothing(fit, exits, first, tmp_path):
    with pytest.raises(Gone):
        fit(gan, "run", KillBetweenUpdates(5, first, signal.SIGINT))
    assert exits == [130]
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_second_sigterm_changes_nothing(stop, exits):
    code, last = stop(gan, "run", KillBetweenUpdates(5, signal.SIGINT, signal.SIGTERM, signal.SIGTERM))
    assert (code, step_of(last), exits) == (130, 6, [])


def test_a_sigterm_during_setup_stops_the_run_after_the_first_step(stop):
    code, last = stop(gan, "run", Kill("on_train_start", 0, signal.SIGTERM))
    assert (code, step_of(last)) == (143, 1)


class Loading(Toys):
    """Gets a Ctrl-C while its pictures are loaded."""

    def load_images(self, split):
        os.kill(os.getpid(), signal.SIGINT)
        return super().load_images(split)


def test_a_ctrl_c_before_training_saves_nothing(make_trainer, tmp_path):
    keeper = Checkpoint(dirpath=str(tmp_path / "checkpoints"))
    trainer = make_trainer(callbacks=[GracefulStop(), keeper], enable_checkpointing=True)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        trainer.fit(gan(), Loading())
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_ctrl_c_while_the_first_batch_is_loaded_saves_nothing(fit, stop, capsys):
    code, last = stop(gan, "run", Kill("on_train_epoch_start", 0, signal.SIGINT))
    assert code == 130 and not last.exists()
    assert "Stopped by SIGINT after update 0. Nothing was saved" in capsys.readouterr().out


class KillLast(Kill, pl.callbacks.Checkpoint):
    """Comes after all other callbacks, as Lightning puts those that save to the end."""


def test_a_ctrl_c_while_a_resumed_run_loads_keeps_its_checkpoint(fit, stop, end):
    _, last = stop(MODELS["dcgan"], "stopped", Kill("on_train_batch_start", 3, signal.SIGTERM))
    before = last.read_bytes()
    code, _ = stop(MODELS["dcgan"], "stopped", KillLast("on_train_start", 4, signal.SIGINT), resumed=last)
    assert code == 130 and last.read_bytes() == before
    assert not differences(end("dcgan"), end_of(fit(MODELS["dcgan"], "stopped", resumed=last)))


class KillInSanityCheck(Callback):
    """Sends this process a signal before training has begun."""

    def on_validation_start(self, trainer, *_):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("steps", [1, 2])  # Lightning leaves by itself where batches of the check are left
def test_a_sigterm_in_the_sanity_check_leaves_with_its_code(stop, steps):
    code, _ = stop(gan, "run", KillInSanityCheck(), num_sanity_val_steps=steps, limit_val_batches=2)
    assert code == 143


# --- any module -------------------------------------------------------------------------------------------


class Plain(pl.LightningModule):
    """A module that knows nothing of this package."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0].flatten(1)).square().mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("kill", "accumulate", "saved"),
    [
        (Kill("on_train_batch_start", 3, signal.SIGTERM), 1, 4),
        (Kill("on_train_batch_end", 1, signal.SIGTERM), 2, 1),
        (Kill("on_validation_batch_end", 8, signal.SIGTERM), 1, 8),
    ],
)
def test_any_module_is_stopped(make_trainer, tmp_path, kill, accumulate, saved):
    folder = tmp_path / "checkpoints"
    callbacks = [kill, GracefulStop(), lightning(str(folder))]
    trainer = make_trainer(
        callbacks=callbacks, enable_checkpointing=True, accumulate_grad_batches=accumulate, max_epochs=2
    )
    with pytest.raises(SystemExit) as left:
        trainer.fit(Plain(), Toys())
    assert (left.value.code, step_of(folder / "last.ckpt")) == (143, saved)


def test_processes_of_any_module_agree_after_each_step(make_trainer, monkeypatch):
    stop, asked = GracefulStop(), []
    trainer = make_trainer()
    monkeypatch.setattr(type(trainer), "world_size", 2)
    decide = lambda wanted, all: asked.append(wanted) or True  # noqa: E731
    monkeypatch.setattr(trainer.strategy, "reduce_boolean_decision", decide)
    assert stop._is_agreed(trainer, Plain())
    assert asked == [False]


class Served(torch.utils.data.Dataset):
    """Images from a worker, which gets the Ctrl-C of a terminal as well."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == 9:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getppid(), signal.SIGINT)
        return torch.ones(64), 0


def test_a_ctrl_c_in_the_workers_of_a_loader_does_not_stop_them(make_trainer, tmp_path):
    trainer = make_trainer(callbacks=[GracefulStop(), lightning(str(tmp_path))], enable_checkpointing=True)
    with pytest.raises(SystemExit) as left:
        trainer.fit(Plain(), DataLoader(Served(), 2, num_workers=1, multiprocessing_context="fork"))
    assert left.value.code == 130
    assert 1 <= step_of(tmp_path / "last.ckpt") <= 6


def test_a_loader_that_a_signal_breaks_loses_nothing(make_trainer, tmp_path, capsys):
    class Breaks(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                raise RuntimeError("DataLoader worker exited unexpectedly")
            return torch.ones(64), 0

    class Plainest(Logger):  # as most loggers, it has no log_dir
        name, version = "runs", "one"

        def log_metrics(self, *args, **options):
            pass

        log_hyperparams = log_metrics

    trainer = make_trainer(
        callbacks=[GracefulStop(), lightning(str(tmp_path))], enable_checkpointing=True, logger=Plainest()
    )
    with pytest.raises(RuntimeError, match="worker"):
        trainer.fit(Plain(), DataLoader(Breaks()))
    assert step_of(tmp_path / "last.ckpt") >= 1
    assert "Resume with:  trainer.fit" in capsys.readouterr().out


@pytest.mark.parametrize("log_every", [1, 3])
def test_the_rows_of_any_module_stay_when_it_is_resumed(make_trainer, tmp_path, log_every):
    class Logs(Plain):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss.detach())
            return loss

        def test_step(self, batch, batch_idx):
            self.log("tested", 1.0)

    def fit(max_steps, **options):
        logger = RunLogger(str(tmp_path), "runs", "one")
        save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=6, save_top_k=-1)
        trainer = make_trainer(
            logger=logger,
            max_epochs=-1,
            max_steps=max_steps,
            log_every_n_steps=log_every,
            callbacks=[save],
            enable_checkpointing=True,
        )
        torch.manual_seed(0)
        trainer.fit(Logs(), loader(make_batches(20)), **options)
        with open(tmp_path / "runs" / "one" / "metrics.csv") as file:
            return list(csv.DictReader(file))

    whole = fit(12)
    assert len(whole) == 12 // log_every
    before, steps = len(whole) // 2, [row["step"] for row in whole]
    for end in (9, 12):  # the rows after the sixth are written again
        rows = fit(end, ckpt_path=tmp_path / "step=6.ckpt")
        assert [row["step"] for row in rows] == steps[: len(whole) * end // 12]
        assert rows[:before] == whole[:before]
    make_trainer(logger=RunLogger(str(tmp_path), "runs", "one")).test(Logs(), loader(make_batches(1)), verbose=False)
    with open(tmp_path / "runs" / "one" / "metrics.csv") as file:
        found = list(csv.DictReader(file))
    assert [row["loss"] for row in found if row["loss"]] == [row["loss"] for row in rows]
    assert found[-1]["tested"] == "1.0"


@pytest.fixture
def handlers():
    """Custom handlers, by signal."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    own = {number: lambda *_: None for number in HANDLED}
    for number, handler in own.items():
        signal.signal(number, handler)
    yield own
    for number, handler in before.items():
        signal.signal(number, handler)


class Handlers(Callback):
    """Records the handlers during training."""

    def on_train_batch_start(self, *_):
        self.seen = {number: signal.getsignal(number) for number in HANDLED}


def test_the_handlers_of_before_are_back_after_the_fit(fit, stop, handlers, slurm):
    watch = Handlers()
    fit(gan, "whole", watch, plugins=[SLURMEnvironment()])
    assert not {*watch.seen.values()} & {*handlers.values()}
    assert {number: signal.getsignal(number) for number in HANDLED} == handlers
    stop(gan, "stopped", KillBetweenUpdates(5, signal.SIGTERM), plugins=[SLURMEnvironment()])
    assert {number: signal.getsignal(number) for number in HANDLED} == handlers


def test_a_fit_in_another_thread_leaves_the_signals_alone(fit, handlers):
    steps = []
    thread = threading.Thread(target=lambda: steps.append(fit(gan, "run").global_step))
    thread.start()
    thread.join()
    assert steps == [16]
    assert {number: signal.getsignal(number) for number in HANDLED} == handlers


# --- SLURM ------------------------------------------------------------------------------------------------


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A SLURM job whose ``scontrol`` records its arguments and copies the last checkpoint."""
    programs, told, last = tmp_path / "programs", tmp_path / "told", tmp_path / "runs" / "run" / "checkpoints"
    programs.mkdir()
    (programs / "scontrol").write_text(
        f'#!/bin/sh\necho "$@" >> {told}\ncp {last}/last.ckpt {tmp_path}/saved.ckpt\nexit $FAILS\n'
    )
    (programs / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name, value in {"JOB_ID": "17", "NTASKS": "1", "JOB_NAME": "gan"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("FAILS", "0")
    return lambda: told.read_text().splitlines() if told.exists() else []


@pytest.mark.parametrize("number", [None, signal.SIGUSR1, signal.SIGUSR2])
def test_slurms_signal_saves_and_requeues_the_job_once(stop, slurm, tmp_path, number):
    sent = number or signal.SIGUSR1
    environment = SLURMEnvironment(requeue_signal=number)
    code, last = stop(gan, "run", KillBetweenUpdates(5, sent, sent), plugins=[environment])
    assert (code, step_of(last)) == (128 + sent, 6)
    assert slurm() == ["requeue 17"]
    assert step_of(tmp_path / "saved.ckpt") == 6
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def test_a_job_of_an_array_is_requeued_by_its_task(stop, slurm, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    stop(gan, "run", KillBetweenUpdates(5, signal.SIGUSR1), plugins=[SLURMEnvironment()])
    assert slurm() == ["requeue 16_3"]


def test_a_slurm_job_that_is_cancelled_is_not_requeued(stop, slurm):
    code, last = stop(gan, "run", KillBetweenUpdates(5, signal.SIGTERM), plugins=[SLURMEnvironment()])
    assert (code, step_of(last), slurm()) == (143, 6, [])


@pytest.mark.parametrize("missing", [True, False], ids=["missing", "fails"])
def test_a_job_that_cannot_be_requeued_is_saved(stop, slurm, monkeypatch, missing):
    monkeypatch.setenv("FAILS", "1")
    if missing:
        monkeypatch.setenv("PATH", "")
    with pytest.warns(match="scontrol not found" if missing else "scontrol requeue 17 failed"):
        code, last = stop(gan, "run", KillBetweenUpdates(5, signal.SIGUSR1), plugins=[SLURMEnvironment()])
    assert (code, step_of(last)) == (128 + signal.SIGUSR1, 6)
