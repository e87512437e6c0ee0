import shutil

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from lightning_gans import GAN, VAE, Checkpoint, SettingError
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


@pytest.mark.parametrize(("setting", "value"), [("mode", "least"), ("every_n_epochs", 0), ("every_n_steps", -1)])
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(SettingError) as caught:
        Checkpoint(**{setting: value})
    assert caught.value.setting == f"checkpoint.{setting}"
