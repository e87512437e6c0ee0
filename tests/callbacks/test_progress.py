from pytorch_lightning import Callback

from lightning_gans import GAN, ProgressBar
from lightning_gans.callbacks import progress
from tests.toys import loader, make_batches, tiny


class Shown(Callback):
    """Notes what the bar shows at the end of each step."""

    def __init__(self, bar):
        self.bar, self.seen = bar, []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.seen.append(dict(self.bar.get_metrics(trainer, pl_module)))


def fit(make_trainer, steps):
    bar = ProgressBar()
    shown = Shown(bar)
    trainer = make_trainer(enable_progress_bar=True, callbacks=[bar, shown], log_every_n_steps=1)
    trainer.fit(tiny(GAN), loader(make_batches(steps)))
    return shown.seen


def test_the_bar_shows_the_losses_and_the_images_per_second(make_trainer, monkeypatch):
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    seen = fit(make_trainer, 3)
    assert {"d_loss", "g_loss", "d_real", "d_fake", "images/s"} <= set(seen[-1])
    assert "v_num" not in seen[-1]
    assert int(seen[-1]["images/s"].replace(",", "")) > 0
    assert seen[0]["d_loss"] != seen[1]["d_loss"]


def test_what_is_shown_is_not_read_at_every_step(make_trainer, monkeypatch):
    monkeypatch.setattr(progress, "_INTERVAL", 1e9)
    seen = fit(make_trainer, 3)
    assert seen[0] == seen[1] == seen[2]
