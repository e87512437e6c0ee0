import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from sklearn.metrics import roc_auc_score
from torch import nn

from lightning_gans import (
    DCGAN,
    GAN,
    VAE,
    Checkpoint,
    CollapseWatchdog,
    ConditionalGAN,
    DataError,
    DigitsDataModule,
    GenerativeMetrics,
    SettingError,
)
from lightning_gans.callbacks import watchdog as module
from lightning_gans.callbacks.collapse_signals import MEANINGS, d_accuracy, nearness
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.io.csv_logger import RunLogger
from lightning_gans.metrics.extractors.base import Extractor
from tests.toys import SHAPE, Toys, loader, make_batches, same, tiny, weights


class Draws(nn.Module):
    """A generator whose samples are as random as the toys, or all the same but for the last few of every ten."""

    def __init__(self, kinds="many"):
        super().__init__()
        self.kinds, self.level = kinds, nn.Parameter(torch.zeros(1))

    def forward(self, noise):
        uniform = 2 * torch.special.ndtr(noise) - 1
        if self.kinds == "one":
            uniform = uniform * 0
        if self.kinds == "two":
            uniform = uniform.sign()[:, :1].expand_as(uniform)
        return (uniform + self.level * 1e-9).unflatten(1, SHAPE)


def drawing(kinds, **options):
    return tiny(GAN, latent_dim=64, generator=Draws(kinds), generator_lr=1e-9, discriminator_lr=1e-6, **options)


@pytest.fixture
def fit(make_trainer, tmp_path):
    """Train on the toys with a watchdog, and return the trainer."""

    def fit(model, watchdog, *others, data=None, run=None, checkpoint=None, **options):
        options = {"max_epochs": 3, "log_every_n_steps": 1, **options}
        if run is not None:
            options |= {"logger": RunLogger(tmp_path, "runs", run), "plugins": [AtomicCheckpointIO()]}
            options["enable_checkpointing"] = any(isinstance(other, Checkpoint) for other in others)
        model.run_seed = 11
        trainer = make_trainer(callbacks=[*([watchdog] if watchdog else []), *others], **options)
        trainer.fit(model, data or Toys(batch_size=8), ckpt_path=checkpoint)  # 4 updates an epoch
        return trainer

    return fit


def watching(**options):
    return CollapseWatchdog(**{"every_n_steps": 2, "num_samples": 16, "patience": 2, **options})


class Scores(Callback):
    """Logs what it was given, one number in each validation, as a FID and as a score of the user's own."""

    def __init__(self, *values):
        self.values = values

    def on_validation_epoch_end(self, trainer, model):
        epoch = min(trainer.current_epoch, len(self.values) - 1)
        for key in ("val/fid", "val/own"):
            model.log(key, torch.tensor(float(self.values[epoch])))


@pytest.fixture
def told(monkeypatch):
    """Collect the warnings as the first process gives them."""
    told = []
    monkeypatch.setattr(module, "rank_zero_warn", told.append)
    return told


class Patches(nn.Module):
    """A discriminator with a logit for each pixel, or one that fails outside of training."""

    def __init__(self, fails):
        super().__init__()
        self.layer, self.fails = nn.Conv2d(1, 1, 1), fails

    def forward(self, images):
        if self.fails and not self.training:
            raise torch.OutOfMemoryError("no memory left")
        return self.layer(images).repeat(1, 1, 40, 40)


@pytest.mark.parametrize("fails", [False, True])
def test_the_watchdog_never_ends_a_run(fit, told, fails):
    watchdog = watching(every_n_steps=1)
    trainer = fit(drawing("many", discriminator=Patches(fails)), watchdog)  # 3e9 pairs of logits
    assert trainer.global_step == 12
    assert {"spread", "duplicates"} <= watchdog.values.keys()
    assert ("d_accuracy" in watchdog.values) != fails
    cannot = [message for message in told if "cannot measure" in message]
    assert len(cannot) == fails and all("d_accuracy" in message and "no memory" in message for message in cannot)


def test_samples_or_batches_of_an_unknown_kind_do_not_end_a_run(fit, told):
    class Strange(GAN):
        def sample(self, num):
            return {"images": torch.zeros(num, *SHAPE)}

    assert fit(tiny(Strange), watching(every_n_steps=1)).global_step == 12
    assert [message for message in told if "cannot measure samples" in message] == told
    watchdog = watching()
    watchdog._reset()
    watchdog._try("the real images", lambda: watchdog._keep(tiny(GAN), {"images": torch.zeros(4)}, 0))
    assert len(told) == 2


# --- what is measured -------------------------------------------------------------------------------------


def test_nearness_is_that_of_all_distances_between_pixels():
    images = torch.randint(256, (20, 3, 5, 5)) / 127.5 - 1
    images[7] = images[3]
    distances = torch.cdist(*[images.double().flatten(1).mul(127.5)] * 2, compute_mode="donot_use_mm_for_euclid_dist")
    found = nearness(images)
    assert found.spread == pytest.approx(distances.sum().item() / (20 * 19))
    assert found.nearest[[3, 7]].tolist() == [0, 0]
    torch.testing.assert_close(found.nearest, distances.fill_diagonal_(9e9).amin(1), atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_d_accuracy_is_the_area_under_the_discriminators_curve(auxiliary):
    class Judge(nn.Module):
        def forward(self, images, labels):
            logits = (images.flatten(1).mean(1, keepdim=True) * 20).round() + labels[:, None]
            return (logits, torch.zeros(len(images), 3)) if auxiliary else logits

    model = tiny(ConditionalGAN, discriminator=Judge())
    (real, real_labels), (fake, labels) = make_batches(2, size=30)
    logits = [(x.flatten(1).mean(1) * 20).round() + y for x, y in ((real, real_labels), (fake, labels))]
    wanted = roc_auc_score([1] * 30 + [0] * 30, torch.cat(logits))
    assert 0.2 < wanted < 0.8
    assert d_accuracy(model, (real, real_labels), (fake, labels)) == pytest.approx(wanted)


def test_measuring_leaves_the_discriminator_as_it_is():
    shape = (1, 16, 16)  # at which DCGAN has BatchNorm
    model = tiny(DCGAN, image_shape=shape).train()
    before = {name: value.clone() for name, value in model.discriminator.state_dict().items()}
    (real, _), (fake, _) = make_batches(2, shape=shape)
    d_accuracy(model, (real, None), (fake, None))
    assert model.discriminator.training and all(part.training for part in model.discriminator.modules())
    assert all(value.equal(before[name]) for name, value in model.discriminator.state_dict().items())


@pytest.mark.parametrize(
    ("kinds", "firing"), [("many", set()), ("one", {"spread", "duplicates"}), ("two", {"duplicates"})]
)
def test_a_generator_that_makes_one_picture_or_two_is_noticed_and_a_healthy_one_is_not(fit, told, kinds, firing):
    watchdog = watching()
    fit(drawing(kinds), watchdog)
    assert set(watchdog.warned) == firing
    assert len(told) == len(firing)
    assert set(watchdog.values) == {"d_accuracy", "spread", "duplicates"}
    wanted = {"many": (1.0, 0.0), "one": (0.0, 1.0), "two": (None, 1.0)}[kinds]
    for name, value in zip(("spread", "duplicates"), wanted, strict=True):
        assert value is None or watchdog.values[name] == pytest.approx(value, abs=0.1)


@pytest.mark.parametrize("loss", ["nonsaturating", "wasserstein"])
def test_a_discriminator_that_is_always_right_is_noticed_and_a_critic_may_be(fit, told, loss):
    class Perfect(nn.Module):  # the toys have 256 levels, and the samples here lie between them
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images):
            levels = (images + 1) * 127.5
            return -(levels - levels.round()).abs().flatten(1).mean(1) * self.scale

    model = drawing("many", discriminator=Perfect(), loss=loss)
    watchdog = watching()
    fit(model, watchdog)
    if loss == "wasserstein":
        assert not watchdog.warned and "d_accuracy" not in watchdog.values
        return
    assert watchdog.warned == ["d_accuracy"] and watchdog.values["d_accuracy"] == 1
    assert "d_accuracy is 1, above 0.999" in told[0] and "discriminator_lr" in told[0]


class Sorter(Extractor):
    """Sees in the first pixels of a picture which of six classes it is of."""

    class_names, name, num_features, resize, weights_sha256 = tuple("abcdef"), "sorter", 6, "none", ""

    def forward(self, images):
        return images.flatten(1)[:, :6].float(), images.flatten(1)[:, :6].float()


@pytest.mark.parametrize("kinds", ["many", "one"])
def test_the_classes_that_an_extractor_finds_are_counted(fit, kinds):
    watchdog = watching(every_n_steps=4, num_samples=32)
    fit(drawing(kinds), watchdog, GenerativeMetrics(extractor=Sorter()), limit_val_batches=0)
    assert watchdog.values["classes"] == pytest.approx({"many": 1, "one": 1 / 5.5}[kinds], abs=0.25)
    assert ("classes" in watchdog.warned) == (kinds == "one")


def test_a_vae_has_the_signals_that_need_no_discriminator(fit):
    watchdog = watching()
    fit(tiny(VAE), watchdog)
    assert set(watchdog.values) == {"spread", "duplicates"}


def test_a_threshold_of_none_leaves_its_signal_out(fit):
    watchdog = watching(min_spread=None, max_d_accuracy=None)
    fit(drawing("one"), watchdog)
    assert set(watchdog.values) == {"duplicates"} == set(watchdog.warned)


def test_the_users_own_loader_and_a_batch_of_images_alone_will_do(fit):
    watchdog = watching()
    fit(drawing("one"), watchdog, data=loader([images for images, _ in make_batches(4)]), limit_val_batches=0)
    assert {"spread", "duplicates"} <= set(watchdog.warned)


@pytest.mark.parametrize(
    "beside",
    [
        lambda num: (),
        lambda num: (torch.zeros(num), torch.arange(num)),
        lambda num: ({"name": "a"},),
        lambda num: (["a.png"] * num,),
    ],
)
def test_what_stands_beside_the_images_of_an_unconditional_model_does_not_matter(fit, tmp_path, beside):
    batches = [(images, *beside(len(images))) for images, _ in make_batches(4)]
    watchdog = watching(every_n_steps=3)
    trainer = fit(drawing("many"), watchdog, data=loader(batches), limit_val_batches=0, max_epochs=1)
    assert "spread" in watchdog.values
    trainer.save_checkpoint(tmp_path / "at_update_4.ckpt")  # with what is kept for the next check


def test_checks_that_see_few_images_wait_until_there_are_enough(fit):
    watchdog, found = watching(every_n_steps=1), []
    measure = watchdog._measure

    def measuring(trainer, model):
        found.append((trainer.global_step, sum(len(images) for images, _ in watchdog._real)))
        return measure(trainer, model)

    watchdog._measure = measuring
    fit(drawing("one"), watchdog, max_epochs=1)  # 4 updates on 8 images each
    assert found == [(1, 8), (2, 16), (3, 8), (4, 16)]
    assert {"spread", "duplicates"} <= set(watchdog.warned)


# --- when it speaks ---------------------------------------------------------------------------------------


def checked(monkeypatch, watchdog, values):
    """Let checks find these values in turn; return the trainer."""
    found = iter(values)
    monkeypatch.setattr(watchdog, "_measure", lambda *_: (next(found), None))
    strategy = SimpleNamespace(is_global_zero=True, broadcast=lambda value: value)
    trainer = SimpleNamespace(
        **{"global_step": 0, "is_global_zero": True, "loggers": [], "strategy": strategy, "checkpoint_callbacks": []}
    )
    for _ in values:
        trainer.global_step += 250
        watchdog._check(trainer, None)
    return trainer


def test_a_warning_comes_after_so_many_checks_in_a_row_once_and_again_after_a_recovery(monkeypatch, told):
    spreads = [0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.8, 0.1, 0.1, 0.1]
    checked(monkeypatch, CollapseWatchdog(patience=3), [{"spread": value} for value in spreads])
    assert [text.split(":")[0] for text in told] == ["Watchdog, update 1,250", "Watchdog, update 2,500"]
    assert "spread is 0.1, below 0.3" in told[0] and MEANINGS["spread"][1] in told[0]


def test_each_signal_speaks_for_itself(monkeypatch, told):
    checked(monkeypatch, CollapseWatchdog(patience=1), [{"spread": 0.1, "duplicates": 0.0}, {"duplicates": 0.5}])
    assert ["spread" in told[0], "duplicates" in told[1], len(told)] == [True, True, 2]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((10, 9, 12, 19), "fid is 2.11, above 2"),
        ((10, 11, 12, 13, 14), "fid is 1.4 after 4 rises in a row"),
        ((10, 10.1, 10.2, 10.3, 10.4), None),
        ((10, 11, 12, 11, 12, 13), None),
    ],
)
def test_a_score_that_leaves_its_best_is_noticed(fit, told, scores, said):
    fit(drawing("many"), watching(max_d_accuracy=None), Scores(*scores, scores[-1]), max_epochs=len(scores) + 1)
    assert [said] if said else not told
    assert len(told) == (said is not None) and (said is None or said in told[0])


def test_a_validation_that_measures_no_score_does_not_count_the_last_one_again(fit):
    class Scorer(GenerativeMetrics):
        def on_train_start(self, *_):
            self.last_scored_step = 4

        def measures(self, key):
            return key == "val/fid"

    watchdog = watching()
    fit(drawing("many"), watchdog, Scores(10, 11, 12), Scorer(metrics=[]))
    assert watchdog.state_dict()["fid"] == {"last": 10, "best": 10, "rises": 0}


def test_the_values_are_logged_by_the_update(fit, tmp_path):
    fit(drawing("one"), watching(every_n_steps=4), run="logged")
    with open(tmp_path / "runs" / "logged" / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["watchdog/spread"]]
    assert [(row["step"], float(row["watchdog/spread"])) for row in rows] == [("4", 0), ("8", 0), ("12", 0)]


# --- it leaves the training alone -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny(GAN, dropout=0.5, d_steps=2),
        lambda: tiny(DCGAN),
        lambda: tiny(ConditionalGAN, dropout=0.3),
        lambda: tiny(VAE),
    ],
)
def test_a_run_that_is_watched_trains_to_the_same_bits(fit, make):
    ends, states = [], []
    for watchdog in (None, watching()):
        torch.manual_seed(0)
        model = make()
        fit(model, watchdog, data=Toys(batch_size=8))
        ends.append([value.clone() for value in model.state_dict().values()])
        states.append(torch.get_rng_state())
    assert watchdog.values
    assert same(*ends)
    assert states[0].equal(states[1])


# --- what follows -----------------------------------------------------------------------------------------


def test_a_run_is_stopped_where_the_signal_fires(fit, told):
    trainer = fit(drawing("one"), watching(action="stop"), max_epochs=10)
    assert trainer.global_step == 4
    assert "The run stops here." in told[-1]


def trained(**options):
    """A model whose generator does learn, and collapses at once by what the watchdog is told."""
    return tiny(GAN, generator_lr=0.01, discriminator_lr=0.02, **options)


class Notes(Callback):
    """Notes the state after each update, after the watchdog had its say."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_end(self, trainer, model, *_):
        self.seen[trainer.global_step] = {
            "weights": {name: value.clone() for name, value in model.state_dict().items()},
            "moments": [
                value.clone()
                for optimizer in trainer.optimizers
                for moments in optimizer.state_dict()["state"].values()
                for value in moments.values()
            ],
            "lr": [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers],
            "images": model.images_seen,
        }


def rolling(monkeypatch, at, **options):
    """A watchdog to which the samples look collapsed at these updates."""
    watchdog = watching(action="rollback", every_n_steps=1, patience=1, **options)
    monkeypatch.setattr(
        watchdog, "_measure", lambda trainer, model: ({"spread": 0.1 if trainer.global_step in at else 1.0}, None)
    )
    return watchdog


def test_a_rollback_brings_the_best_state_back_and_counts_on(monkeypatch, fit, told):
    notes = Notes()
    watchdog = rolling(monkeypatch, at=[10])
    trainer = fit(trained(), watchdog, notes, Scores(5, 9), Checkpoint(monitor="val/own"), run="rolled")
    best, before, after = (notes.seen[step] for step in (4, 9, 10))
    assert same(*(list(state["weights"].values()) for state in (best, after)))
    assert same(best["moments"], after["moments"])
    assert not same(best["moments"], before["moments"])
    assert after["lr"] == [lr / 2 for lr in before["lr"]] == notes.seen[12]["lr"]
    assert [trainer.global_step, after["images"], notes.seen[12]["images"]] == [12, 80, 96]
    assert "weights of update 4 " in told[-1] and "rollback 1 of 2" in told[-1]


def test_what_follows_a_rollback_is_not_what_followed_before(monkeypatch, fit):
    notes = Notes()
    fit(
        trained(),
        rolling(monkeypatch, at=[8], rollback_lr_factor=1.0),
        *(notes, Scores(5, 9), Checkpoint(monitor="val/own")),
        run="again",
    )
    first, second = (notes.seen[step]["weights"]["generator.output.weight"] for step in (5, 9))
    assert notes.seen[4]["weights"]["generator.output.weight"].equal(
        notes.seen[8]["weights"]["generator.output.weight"]
    )
    assert not first.equal(second)


def test_a_schedule_goes_on_from_the_lower_rate(monkeypatch, fit):
    rates = []
    for at in ([], [10]):
        notes = Notes()
        model = trained(lr_schedule="linear", lr_end=0.1)
        fit(model, rolling(monkeypatch, at=at), notes, Scores(5, 9), Checkpoint(monitor="val/own"), run=f"at{at}")
        rates.append({step: seen["lr"][0] for step, seen in notes.seen.items()})
    assert {step: rates[1][step] / rates[0][step] for step in (9, 10, 11, 12)} == pytest.approx(
        {9: 1, 10: 0.5, 11: 0.5, 12: 0.5}
    )


def test_the_signal_after_the_last_rollback_stops_the_run(monkeypatch, fit, told):
    watchdog = rolling(monkeypatch, at=range(6, 99), max_rollbacks=2)
    trainer = fit(trained(), watchdog, Scores(5, 9), Checkpoint(monitor="val/own"), run="thrice", max_epochs=9)
    assert trainer.global_step == 8 and watchdog.rollbacks == 2
    assert "The run stops here after 2 rollbacks. Its best checkpoint is " in told[-1]


def test_without_a_best_checkpoint_yet_the_run_stops(monkeypatch, fit, told):
    watchdog = rolling(monkeypatch, at=[2])
    trainer = fit(trained(), watchdog, Scores(5), Checkpoint(monitor="val/own"), run="early")
    assert trainer.global_step == 2
    assert "there is no best checkpoint yet" in told[-1]


def test_a_best_checkpoint_that_is_damaged_is_an_error(monkeypatch, fit, tmp_path):
    class Damage(Callback):
        def on_train_epoch_start(self, trainer, model):
            if trainer.current_epoch == 1:
                Path(trainer.checkpoint_callbacks[0].best_model_path).write_bytes(b"nothing")

    with pytest.raises(DataError) as caught:
        callbacks = (Damage(), Scores(5), Checkpoint(monitor="val/own"))
        fit(trained(), rolling(monkeypatch, at=[6]), *callbacks, run="damaged")
    assert "best.ckpt" in str(caught.value)


@pytest.mark.parametrize("others", [(), (Checkpoint(),), (Checkpoint(monitor="val/precision"),)])
def test_a_rollback_needs_a_score_by_which_a_checkpoint_is_the_best(fit, others):
    with pytest.raises(SettingError) as caught:
        fit(trained(), watching(action="rollback"), *others, run="none")
    assert caught.value.setting == "watchdog.action"


# --- resuming ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped_at", [3, 7])
def test_a_resumed_run_ends_as_one_that_never_stopped(monkeypatch, fit, told, tmp_path, stopped_at):
    class Save(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == stopped_at:
                trainer.save_checkpoint(tmp_path / "runs" / "whole" / "checkpoints" / "then.ckpt", weights_only=False)

    ends = []
    for checkpoint in (None, tmp_path / "runs" / "whole" / "checkpoints" / "then.ckpt"):
        watchdog = rolling(monkeypatch, at=[6, 7, 8])
        watchdog.patience = 2
        model = trained()
        callbacks = [Scores(5, 9), Checkpoint(monitor="val/own"), *([Save()] if checkpoint is None else [])]
        fit(model, watchdog, *callbacks, run="whole", checkpoint=checkpoint)
        rows = (tmp_path / "runs" / "whole" / "metrics.csv").read_text()
        ends.append((weights(model), watchdog.state_dict(), rows))
        assert watchdog.rollbacks == 1
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]


@pytest.mark.parametrize("stopped_at", [5, 6, 7])
def test_a_run_resumed_before_a_check_measures_the_same(fit, tmp_path, stopped_at):
    path = tmp_path / "runs" / "whole" / "checkpoints" / "then.ckpt"

    class Save(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == stopped_at:
                trainer.save_checkpoint(path, weights_only=False)

    rows = []
    for checkpoint in (None, path):
        callbacks = [Checkpoint(), *([Save()] if checkpoint is None else [])]
        fit(trained(), watching(every_n_steps=4, num_samples=20), *callbacks, run="whole", checkpoint=checkpoint)
        rows.append((tmp_path / "runs" / "whole" / "metrics.csv").read_text())
    assert rows[0] == rows[1]
    assert "watchdog/spread" in rows[0]


def test_what_was_said_is_not_said_again_after_a_resume(fit, told, tmp_path):
    callbacks = lambda: (Checkpoint(),)  # noqa: E731
    fit(drawing("one"), watching(), *callbacks(), run="first")
    assert len(told) == 2
    last = tmp_path / "runs" / "first" / "checkpoints" / "last.ckpt"
    fit(drawing("one"), watching(), *callbacks(), run="first", checkpoint=last, max_epochs=5)
    assert len(told) == 2


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"action": "halt"},
        {"every_n_steps": 0},
        {"num_samples": 4},
        {"num_samples": "100"},
        {"every_n_steps": 2.5},
        {"min_spread": "a"},
        {"max_fid_ratio": "a"},
        {"patience": 0},
        {"min_spread": 2.0},
        {"max_fid_ratio": 1.0},
        {"rollback_lr_factor": 1.5},
        {"max_rollbacks": 0},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(SettingError) as caught:
        CollapseWatchdog(**options)
    assert caught.value.setting == f"watchdog.{next(iter(options))}"


# --- runs that do collapse --------------------------------------------------------------------------------


def digits_gan(**options):
    dims = {"generator_dims": [64, 128], "discriminator_dims": [128, 64]}
    return GAN((1, 8, 8), 16, **dims, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "firing"),
    [
        ({}, set()),
        ({"generator_lr": 0.01}, {"duplicates"}),
        ({"loss": "minimax", "d_steps": 5, "discriminator_lr": 4e-3, "dropout": 0.0}, {"d_accuracy"}),
    ],
)
def test_runs_on_digits_that_collapse_are_noticed_and_a_healthy_one_is_not(fit, told, options, firing):
    torch.manual_seed(42)
    watchdog = CollapseWatchdog(every_n_steps=100)
    data = DigitsDataModule(8, batch_size=64)
    fit(digits_gan(**options), watchdog, data=data, max_epochs=-1, max_steps=700, limit_val_batches=0)
    assert {text.split(": ")[1].split(" ")[0] for text in told} == firing


PROCESSES = """
import sys, torch, pytorch_lightning as pl
from lightning_gans import Checkpoint
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.io.csv_logger import RunLogger
from tests.callbacks.test_watchdog import Scores, trained, watching
from tests.toys import Toys

torch.manual_seed(0)
# Every sample counts as a duplicate: the first process measures that, from its own images.
watchdog = watching(action="rollback", duplicate_distance=99.0, max_d_accuracy=None, every_n_steps=4)
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=9, enable_progress_bar=False, num_sanity_val_steps=0,
    callbacks=[watchdog, Scores(5, 9), Checkpoint(monitor="val/own")], plugins=[AtomicCheckpointIO()],
    logger=RunLogger(sys.argv[1], "runs", "two"),
)
model = trained()
trainer.fit(model, Toys(num_images=72, batch_size=8))
end = [trainer.global_step, watchdog.state_dict(), [o.param_groups[0]["lr"] for o in trainer.optimizers]]
torch.save([*end, model.state_dict()], f"{sys.argv[1]}/{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_several_processes_do_the_same(tmp_path):
    (tmp_path / "fit.py").write_text(PROCESSES)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*words, str(tmp_path / "fit.py"), str(tmp_path)],
        **{"env": environment, "capture_output": True, "text": True, "timeout": 150},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first[:3] == second[:3]
    assert same(list(first[3].values()), list(second[3].values()))
    assert first[0] == 24 and first[1]["rollbacks"] == 2  # at 8 and at 16
    assert first[2] == [0.0025, 0.005]
    assert done.stderr.count("rollback 2 of 2") == 1


HEALTHY = ("-c", "quickstart", "--metrics.num_samples", "500")
COLLAPSING = (
    *("--model", "GAN", "--model.image_shape", "[1, 8, 8]", "--model.generator_lr", "0.01"),
    *("--model.generator_dims", "[64, 128]", "--model.discriminator_dims", "[128, 64]", "--model.latent_dim", "16"),
    *("--data", "DigitsDataModule", "--data.image_size", "8", "--data.batch_size", "64"),
    *("--trainer.max_steps", "1000", "--metrics.enabled", "false"),
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("words", "stops"), [(HEALTHY, False), (COLLAPSING, True)])
def test_the_command_line_stops_a_run_that_collapses_and_lets_the_quickstart_finish(tmp_path, words, stops):
    words = ["fit", *words, "--watchdog.every_n_steps", "100", "--watchdog.action", "stop"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "lightning_gans", *words, "--trainer.enable_progress_bar", "false"],
        **{"cwd": tmp_path, "env": environment, "capture_output": True, "text": True},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("The run stops here" in done.stderr and "duplicates is " in done.stderr) == stops
    assert ("Watchdog" in done.stderr) == stops
    (path,) = (tmp_path / "runs").rglob("metrics.csv")
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["watchdog/spread"]]
    assert (int(rows[-1]["step"]) < 1000) == stops
    assert ("watchdog/classes" in rows[0]) != stops
