from pytorch_lightning.callbacks import RichProgressBar

from lightning_gans import GAN, ProgressBar
from lightning_gans.callbacks import progress_bar as progress
from tests.toys import loader, make_batches, tiny


def fit(make_trainer, monkeypatch, steps, per_second, **options):
    """Fit, and return for each time that the bar was drawn within the epoch how far it was and what it showed."""
    drawn = []

    def draw(self, trainer, pl_module, outputs, batch, batch_idx):
        drawn.append((batch_idx + 1, dict(self.get_metrics(trainer, pl_module))))

    bar = ProgressBar()
    monkeypatch.setattr(progress, "_PER_SECOND", per_second)
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


def test_it_is_not_drawn_at_every_update_but_at_the_last(make_trainer, monkeypatch):
    drawn = fit(make_trainer, monkeypatch, 5, per_second=1e-9)
    assert [updates for updates, _ in drawn] == [5]


def test_where_an_epoch_ends_in_its_midst_is_shown(make_trainer, monkeypatch):
    drawn = fit(make_trainer, monkeypatch, 5, per_second=1e-9, max_steps=3)
    assert [updates for updates, _ in drawn] == [3]


def test_the_thread_that_draws_it_leaves_the_training_alone():
    assert ProgressBar().refresh_rate <= 10
