"""What the callback ExactResume adds to a checkpoint; ``test_resume.py`` has the runs that it serves."""

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import DummyLogger

import lightning_gans
from lightning_gans import GAN, VAE, DataError
from lightning_gans._lightning import validation_is_pending
from lightning_gans.io.csv_logger import RunLogger
from lightning_gans.training.exact_resume import ExactResume, logger_states, restore_loggers
from tests.toys import Toys, loader, make_batches, same, tiny


class Own(GAN):
    """Overrides Lightning's hooks and calls no ``super()``."""

    def setup(self, stage):
        pass

    def on_fit_start(self):
        pass

    def on_train_start(self):
        pass

    def on_train_batch_start(self, batch, batch_idx):
        pass

    def on_validation_end(self):
        pass

    def on_save_checkpoint(self, checkpoint):
        pass

    def on_load_checkpoint(self, checkpoint):
        pass


def fit(make_trainer, model, checkpoint=None, **options):
    trainer = make_trainer(**options)
    trainer.fit(model, Toys(), ckpt_path=checkpoint)
    return trainer


@pytest.mark.parametrize("cls", [GAN, VAE, Own])
def test_a_resumed_run_takes_the_seed_and_the_counters(make_trainer, tmp_path, cls):
    whole = tiny(cls)
    fit(make_trainer, whole, max_epochs=2)
    first, again = tiny(cls), tiny(cls)
    first.load_state_dict(tiny(cls).state_dict())
    fit(make_trainer, first).save_checkpoint(tmp_path / "first.ckpt")
    trainer = fit(make_trainer, again, tmp_path / "first.ckpt", max_epochs=2)
    assert (again.run_seed, again.images_seen, again.weights_step) == (first.run_seed, whole.images_seen, 16)
    assert trainer.global_step == 16


def test_a_users_hooks_need_no_super(make_trainer, tmp_path):
    def run(epochs, checkpoint=None):
        torch.manual_seed(3)
        model = tiny(Own)
        model.run_seed = 5
        fit(make_trainer, model, checkpoint, max_epochs=epochs).save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model

    whole = run(2)
    run(1)
    assert same(run(2, tmp_path / "1.ckpt"), whole)


def test_networks_that_were_loaded_for_evaluation_are_trained(make_trainer):
    model = tiny(GAN).eval()
    fit(make_trainer, model)
    assert model.generator.training and model.discriminator.training and not model.ema["generator"].training


def test_a_validation_that_was_under_way_is_repeated(make_trainer, tmp_path):
    pending = {}

    class Save(Callback):
        def save(self, trainer, name):
            trainer.save_checkpoint(tmp_path / name)
            pending[name] = validation_is_pending(torch.load(tmp_path / name, weights_only=True))

        def on_train_batch_end(self, trainer, *_):
            self.save(trainer, f"batch {trainer.global_step}")

        def on_validation_end(self, trainer, *_):
            self.save(trainer, f"validation {trainer.global_step}")

    options = {"val_check_interval": 3, "limit_train_batches": 4}
    fit(make_trainer, tiny(GAN), callbacks=[Save()], **options)
    expected = {"batch 1": False, "batch 2": False, "batch 3": True, "validation 3": True, "batch 4": False}
    assert pending == expected


def test_weights_alone_cannot_be_resumed(make_trainer, tmp_path):
    fit(make_trainer, tiny(GAN)).save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    with pytest.raises(DataError):
        fit(make_trainer, tiny(GAN), tmp_path / "weights.ckpt", max_epochs=2)


def test_the_loggers_get_the_models_arguments(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path, version=0)
    trainer = make_trainer(logger=logger)
    model = tiny(GAN)
    trainer.fit(model, loader(make_batches(1)))
    assert model.hparams["latent_dim"] == model.latent_dim
    assert (tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text().count("generator_lr") == 1


class Kept(DummyLogger):
    """Keeps a state."""

    def __init__(self, rows=0):
        super().__init__()
        self.rows = rows

    def state_dict(self):
        return {"rows": self.rows}

    def load_state_dict(self, state):
        self.rows = state


class Trainer:
    def __init__(self, *loggers):
        self.loggers = loggers


def test_each_logger_gets_the_state_of_its_kind(tmp_path):
    states = logger_states(Trainer(CSVLogger(tmp_path, version=7), Kept(3)))
    assert states == [{"class": "CSVLogger", "version": 7}, {"class": "Kept", "state": {"rows": 3}}]
    known, new = Trainer(Kept()), Trainer(Kept())
    restore_loggers(known, states, step=12)
    restore_loggers(new, states[:1], step=12)
    assert (known.loggers[0].rows, new.loggers[0].rows) == ({"rows": 3}, {"step": 12})


def test_models_bring_the_callback_once():
    model = tiny(GAN)
    assert [type(c) for c in model.configure_callbacks()].count(ExactResume) == 1


@pytest.mark.parametrize("automatic", [True, False])
def test_any_other_module_resumes_at_its_place_and_keeps_its_rows(make_trainer, tmp_path, automatic):
    class Foreign(BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = automatic
            self.seen = []

        def training_step(self, batch, batch_idx):
            self.seen.append(batch_idx)
            self.log("loss", float(self.global_step))
            loss = self.step(batch)
            if not automatic:
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
            return loss

    def train(folder, checkpoint=None, **options):
        torch.manual_seed(0)
        module, logger = Foreign(), RunLogger(tmp_path, folder, version=0)
        options = {"log_every_n_steps": 1, "logger": logger, "callbacks": [ExactResume()], **options}
        trainer = make_trainer(limit_train_batches=6, limit_val_batches=1, **options)
        trainer.fit(module, ckpt_path=checkpoint)
        return trainer, module, (tmp_path / folder / "version_0" / "metrics.csv").read_text()

    _, whole, rows = train("whole", max_epochs=2)
    trainer, _, _ = train("part", max_epochs=2, max_steps=6)
    trainer.save_checkpoint(tmp_path / "part.ckpt", weights_only=False)
    _, again, again_rows = train("part", tmp_path / "part.ckpt", max_epochs=2)
    assert again.seen == [*range(6)]
    assert same(whole, again)
    assert len(again_rows.splitlines()) == len(rows.splitlines())
    with pytest.raises(DataError, match="not written by a model"):
        lightning_gans.models.load(tmp_path / "part.ckpt")
