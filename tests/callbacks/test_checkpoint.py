import pytest
import torch

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


def test_a_dry_run_saves_nothing(fit, tmp_path):
    folder = fit(tiny(GAN), Checkpoint(dirpath=str(tmp_path / "checkpoints")), fast_dev_run=True)
    assert not folder.exists() or names(folder) == []


@pytest.mark.parametrize(("setting", "value"), [("mode", "least"), ("every_n_epochs", 0)])
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(SettingError, match=f"checkpoint.{setting}"):
        Checkpoint(**{setting: value})
