import itertools
import shutil
import warnings
from datetime import timedelta

import pytest
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import DummyLogger

from lightning_gans import GAN, VAE, Checkpoint, SampleGrid, SettingError
from lightning_gans.callbacks import checkpoint as checkpoint_module
from lightning_gans.errors import DivergedError
from tests.toys import loader, make_batches, tiny


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def fit(make_trainer, tmp_path):
    def fit(model, checkpoint, **options):
        trainer = make_trainer(callbacks=[checkpoint], enable_checkpointing=True, **options)
        trainer.fit(model, loader(make_batches(3)), loader(make_batches(1)))
        return tmp_path / "checkpoints"

    return fit


class Scored(VAE):
    """Logs scores that are given."""

    def on_validation_epoch_end(self):
        self.log("val/score", [3.0, 1.0, 2.0][self.current_epoch])


@pytest.mark.parametrize("options", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 8}])
def test_the_last_checkpoint_is_always_that_of_the_end(fit, tmp_path, options):
    folder = fit(tiny(GAN), Checkpoint(dirpath=str(tmp_path / "checkpoints")), **options)
    assert names(folder) == ["last.ckpt"]
    assert step_of(folder / "last.ckpt") == options.get("max_steps", 9)


@pytest.mark.parametrize(("mode", "best"), [("min", 6), ("max", 3)])
def test_the_best_checkpoint_follows_the_score(fit, tmp_path, mode, best):
    checkpoint = Checkpoint(monitor="val/score", mode=mode, dirpath=str(tmp_path / "checkpoints"))
    folder = fit(tiny(Scored), checkpoint, max_epochs=3)
    assert names(folder) == ["best.ckpt", "last.ckpt"]
    assert step_of(folder / "best.ckpt") == best
    assert step_of(folder / "last.ckpt") == 9


def test_checkpoints_keep_a_rhythm(fit, tmp_path):
    last, saved_before = tmp_path / "checkpoints" / "last.ckpt", []

    class Rhythm(GAN):
        def on_train_epoch_start(self):
            saved_before.append(step_of(last) if last.exists() else 0)

    checkpoint = Checkpoint(every_n_epochs=2, dirpath=str(tmp_path / "checkpoints"))
    folder = fit(tiny(Rhythm), checkpoint, max_epochs=5)
    assert step_of(folder / "last.ckpt") == 15
    assert saved_before == [0, 0, 6, 6, 12]


def test_the_last_checkpoint_does_not_wait_for_validation(fit, tmp_path):
    checkpoint = Checkpoint(monitor="val/elbo", mode="max", dirpath=str(tmp_path / "checkpoints"))
    folder = fit(tiny(VAE), checkpoint, max_epochs=3, check_val_every_n_epoch=2)
    assert step_of(folder / "best.ckpt") == 6
    assert step_of(folder / "last.ckpt") == 9
    assert checkpoint.last_model_path == str(folder / "last.ckpt")


def test_a_run_goes_on_from_its_last_checkpoint(make_trainer, fit, tmp_path):
    checkpoint = Checkpoint(monitor="val/score", dirpath=str(tmp_path / "checkpoints"))
    folder = fit(tiny(Scored), checkpoint, max_epochs=3)
    again = Checkpoint(monitor="val/elbo", dirpath=str(folder))
    trainer = make_trainer(callbacks=[again], enable_checkpointing=True, max_epochs=5)
    trainer.fit(tiny(VAE), loader(make_batches(3)), loader(make_batches(1)), ckpt_path=folder / "last.ckpt")
    assert trainer.global_step == 15
    assert step_of(folder / "last.ckpt") == 15


@pytest.mark.parametrize(("every", "saved"), [(2, [0, 2, 2, 4, 4, 6]), (3, [0, 0, 3, 3, 3, 6]), (0, [0] * 6)])
def test_the_last_checkpoint_is_saved_within_an_epoch(make_trainer, tmp_path, every, saved):
    last, found = tmp_path / "checkpoints" / "last.ckpt", []

    class Look(Callback):
        def on_train_batch_end(self, *_):
            found.append(step_of(last) if last.exists() else 0)

    checkpoint = Checkpoint(every_n_steps=every, dirpath=str(last.parent))
    trainer = make_trainer(callbacks=[Look(), checkpoint], enable_checkpointing=True)
    trainer.fit(tiny(GAN), loader(make_batches(7)))
    assert found == [0, *saved]
    assert step_of(last) == 7


def resumed(make_trainer, folder, **options):
    """Go on for an epoch with the scores 3, 1 (and 2); return the callback."""
    again = Checkpoint(**{"monitor": "val/score", "dirpath": str(folder), **options})
    trainer = make_trainer(callbacks=[again], enable_checkpointing=True, max_epochs=3)
    trainer.fit(
        tiny(Scored), loader(make_batches(3)), loader(make_batches(1)), ckpt_path=folder.parent / "checkpoints.ckpt"
    )
    return again


@pytest.fixture
def two_epochs(fit, tmp_path):
    """The folder of a run with the scores 3 and 1, under another path than that it was made under."""
    folder = fit(tiny(Scored), Checkpoint(monitor="val/score", dirpath=str(tmp_path / "checkpoints")), max_epochs=2)
    shutil.copy(folder / "last.ckpt", tmp_path / "checkpoints.ckpt")
    return folder.rename(tmp_path / "moved")


@pytest.mark.parametrize("options", [{}, {"every_n_epochs": 3}, {"every_n_steps": 1}])
def test_the_best_is_carried_over_where_its_file_is_in_the_folder(make_trainer, two_epochs, options):
    again = resumed(make_trainer, two_epochs, **options)
    assert (again.best_model_path, again.best_model_score) == (str(two_epochs / "best.ckpt"), 1.0)
    assert step_of(two_epochs / "best.ckpt") == 6
    assert step_of(two_epochs / "last.ckpt") == 9


def test_a_run_in_another_folder_looks_for_a_best_of_its_own(make_trainer, two_epochs, tmp_path):
    again = resumed(make_trainer, tmp_path / "other")
    assert (again.best_model_path, again.best_model_score) == (str(tmp_path / "other" / "best.ckpt"), 2.0)
    assert step_of(tmp_path / "other" / "best.ckpt") == 9
    assert step_of(two_epochs / "best.ckpt") == 6


def test_a_best_that_is_gone_is_not_carried_over(make_trainer, two_epochs):
    (two_epochs / "best.ckpt").unlink()
    assert resumed(make_trainer, two_epochs).best_model_score == 2.0
    assert step_of(two_epochs / "best.ckpt") == 9


def test_another_score_or_direction_looks_for_a_best_of_its_own(make_trainer, two_epochs):
    assert resumed(make_trainer, two_epochs, mode="max").best_model_score == 2.0


def test_a_dry_run_saves_nothing(fit, tmp_path):
    folder = fit(tiny(GAN), Checkpoint(dirpath=str(tmp_path / "checkpoints")), fast_dev_run=True)
    assert not folder.exists() or names(folder) == []


class Ended(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        self.metrics = dict(trainer.callback_metrics)


@pytest.mark.parametrize("options", [{}, {"max_epochs": -1, "max_steps": 1}])
def test_callbacks_see_the_last_losses_of_an_epoch_that_is_shorter_than_the_logging_interval(make_trainer, options):
    ended, logger = Ended(), CSVLogger(make_trainer().default_root_dir)
    trainer = make_trainer(callbacks=[ended], logger=logger, **options)
    trainer.fit(tiny(GAN, d_steps=2), loader(make_batches(5)))
    assert {"train/d_loss", "train/g_loss", "train/d_real", "train/d_fake"} <= ended.metrics.keys()
    assert not logger.experiment.metrics  # the logger keeps its own rhythm


def test_a_run_that_diverges_between_two_logged_steps_raises(make_trainer):
    class Diverging(GAN):
        def generator_loss(self, *args):
            return super().generator_loss(*args) * torch.nan

    with pytest.raises(DivergedError):
        make_trainer().fit(tiny(Diverging), loader(make_batches(2)))


@pytest.mark.parametrize("monitor", ["val/elbow", "elbo", "val_elbo"])
def test_a_score_that_nothing_logs_raises_before_the_first_step(make_trainer, tmp_path, monitor):
    trainer = make_trainer(callbacks=[Checkpoint(monitor)], enable_checkpointing=True, num_sanity_val_steps=2)
    with pytest.raises(SettingError) as caught:
        trainer.fit(tiny(VAE), loader(make_batches(3)), loader(make_batches(1)))
    assert (caught.value.setting, caught.value.value) == ("checkpoint.monitor", monitor)
    assert "val/elbo" in caught.value.allowed
    assert trainer.global_step == 0


def test_a_score_that_nothing_logs_says_so_if_there_is_no_other(make_trainer, tmp_path):
    trainer = make_trainer(callbacks=[Checkpoint("val/ssimm")], enable_checkpointing=True, num_sanity_val_steps=2)
    with pytest.raises(SettingError, match="nothing is logged or measured"):
        trainer.fit(tiny(GAN), loader(make_batches(3)), loader(make_batches(1)))


@pytest.mark.parametrize("monitor", ["val/elbow", "train/gloss"])
def test_the_last_checkpoint_is_saved_before_an_unknown_score_ends_the_run(make_trainer, tmp_path, monitor):
    trainer = make_trainer(callbacks=[Checkpoint(monitor)], enable_checkpointing=True)
    with pytest.raises(SettingError) as caught:
        trainer.fit(tiny(VAE), loader(make_batches(3)), loader(make_batches(1)))
    assert (caught.value.setting, caught.value.value) == ("checkpoint.monitor", monitor)
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 3


@pytest.mark.parametrize("score", ["fid", "kid_std", "fid_class/3", "mind", "ssim", "lpips"])
def test_without_a_callback_that_measures_the_score_only_the_last_checkpoint_is_saved(make_trainer, tmp_path, score):
    trainer = make_trainer(callbacks=[Checkpoint(f"val/{score}")], enable_checkpointing=True, num_sanity_val_steps=2)
    trainer.fit(tiny(VAE), loader(make_batches(1)), loader(make_batches(1)))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_the_loss_of_a_short_epoch_chooses_the_best_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer(callbacks=[Checkpoint("train/elbo")], enable_checkpointing=True, num_sanity_val_steps=2)
    trainer.fit(tiny(VAE), loader(make_batches(3)), loader(make_batches(1)))
    assert step_of(tmp_path / "checkpoints" / "best.ckpt") == 3


def test_the_last_checkpoint_is_saved_by_the_clock(make_trainer, tmp_path, monkeypatch):
    minutes, found, last = iter(range(100)), [], tmp_path / "checkpoints" / "last.ckpt"
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: 60.0 * next(minutes))  # a minute for each look

    class Look(Callback):
        def on_train_batch_end(self, *_):
            found.append(step_of(last) if last.exists() else 0)

    checkpoint = Checkpoint(every_n_steps=0, every_n_minutes=3)
    make_trainer(callbacks=[Look(), checkpoint], enable_checkpointing=True).fit(tiny(GAN), loader(make_batches(8)))
    assert [now != before for before, now in itertools.pairwise(found)].count(True) == 2
    assert found[3] in (2, 3)


@pytest.mark.parametrize("interval", [None, timedelta(minutes=1)])
def test_lightnings_rhythm_by_time_is_pointed_out(make_trainer, tmp_path, interval):
    callback = ModelCheckpoint(tmp_path, train_time_interval=interval)
    trainer = make_trainer(callbacks=[callback], enable_checkpointing=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(tiny(GAN), loader(make_batches(1)))
    assert any("every_n_minutes" in str(warning.message) for warning in caught) == (interval is not None)


def test_a_second_run_does_not_write_into_the_folder_of_the_first(make_trainer, tmp_path):
    class Named(DummyLogger):
        save_dir, name, version = str(tmp_path), "name", "id"

    class Unnamed(DummyLogger):  # like Lightning's for Weights & Biases without a connection
        save_dir, name, version = None, None, None

    for logger, folder in [
        (Named(), tmp_path / "name" / "id"),
        (Unnamed(), tmp_path / "None" / "version_None"),
        (False, tmp_path),
    ]:
        files = []
        for expected in (folder, folder / "version_0", folder / "version_1"):
            before = [file.read_bytes() for file in files]
            callbacks = [SampleGrid(num_samples=1), Checkpoint()]
            trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True, logger=logger)
            trainer.fit(tiny(GAN), loader(make_batches(1)))
            assert [file.read_bytes() for file in files] == before
            files += [expected / "checkpoints" / "last.ckpt", expected / "samples" / "step=0000001.png"]
            assert all(file.is_file() for file in files)
            trainer.test(tiny(GAN), loader(make_batches(1)), verbose=False)
            assert names(expected / "samples") == ["step=0000000.png", "step=0000001.png"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_resumed_run_keeps_its_folder(make_trainer, tmp_path, number):
    def fit(**options):
        trainer = make_trainer(
            callbacks=[SampleGrid(num_samples=1), Checkpoint()], enable_checkpointing=True, max_epochs=number + 1
        )
        trainer.fit(tiny(GAN), loader(make_batches(1)), **options)

    fit()
    fit()
    folder = [tmp_path, tmp_path / "version_0"][number]
    before = names(folder / "samples")
    make = make_trainer(callbacks=[SampleGrid(num_samples=1), Checkpoint()], enable_checkpointing=True, max_epochs=3)
    make.fit(tiny(GAN), loader(make_batches(1)), ckpt_path=folder / "checkpoints" / "last.ckpt")
    assert len(names(folder / "samples")) == 4 > len(before)


def test_settings_of_the_clock_are_checked():
    with pytest.raises(SettingError) as caught:
        Checkpoint(every_n_minutes=0)
    assert caught.value.setting == "checkpoint.every_n_minutes"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("mode", "least"), ("every_n_epochs", 0), ("every_n_steps", -1), ("monitor", ""), ("dirpath", "")],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(SettingError) as caught:
        Checkpoint(**{setting: value})
    assert caught.value.setting == f"checkpoint.{setting}"
