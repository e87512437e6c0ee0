from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger

from lightning_gans import (
    GAN,
    VAE,
    ArrayDataModule,
    CollapseWatchdog,
    ConditionalGAN,
    GenerativeMetrics,
    ImageDataModule,
    NearestNeighbors,
    Reconstructions,
    SampleGrid,
    SettingError,
)
from lightning_gans.callbacks import grids as samples
from lightning_gans.callbacks.base import log_evaluation
from lightning_gans.io.pictures import to_uint8
from tests.toys import NUM_CLASSES, Toys, loader, make_batches, tiny


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def fit(trainer, model, batches, validation=None):
    trainer.fit(model, loader(batches), None if validation is None else loader(validation))
    return trainer


@pytest.fixture
def sheets(monkeypatch):
    """Note what each picture is laid out from."""
    calls = []

    def noted(images, **options):
        calls.append((images, options))
        return Image.new("RGB", (4, 4))

    monkeypatch.setattr(samples, "grid", noted)
    return calls


class FakeLogger(Logger):
    """A logger with as much of an interface as it is given."""

    name, version = "fake", 0

    def __init__(self, **methods):
        super().__init__()
        self.__dict__.update(methods)

    def log_hyperparams(self, *args, **kwargs):
        return None

    def log_metrics(self, metrics, step):
        return None


class Calls(list):
    """Notes its calls."""

    def __call__(self, *args, **kwargs):
        self.append((args, kwargs))


# --- samples ----------------------------------------------------------------------------------------------


def test_a_grid_at_the_start_after_each_epoch_and_at_the_end(make_trainer, tmp_path):
    grids = SampleGrid(num_samples=4)
    fit(make_trainer(max_epochs=3, callbacks=[grids]), tiny(GAN), make_batches(2))
    wanted = [f"step={step:07d}.png" for step in (0, 2, 4, 6)]
    assert names(tmp_path / "samples") == wanted
    assert grids.last_path == tmp_path / "samples" / wanted[-1]
    for name in wanted:
        with Image.open(tmp_path / "samples" / name) as image:
            assert image.mode == "RGB"


def test_the_last_grid_is_made_between_two_rhythms_too(make_trainer, tmp_path):
    grids = SampleGrid(num_samples=4, every_n_epochs=2)
    fit(make_trainer(max_epochs=3, callbacks=[grids]), tiny(GAN), make_batches(2))
    assert names(tmp_path / "samples") == [f"step={step:07d}.png" for step in (0, 4, 6)]


def test_grids_stand_in_the_loggers_folder(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path, "runs", version=4)
    fit(make_trainer(logger=logger, callbacks=[SampleGrid(num_samples=1)]), tiny(GAN), make_batches(1))
    assert len(names(tmp_path / "runs/version_4/samples")) == 2


def test_the_noise_is_the_same_each_time(make_trainer, tmp_path):
    model = tiny(GAN)
    files = []
    for seed in (0, 0, 1):
        folder = tmp_path / str(len(files))
        trainer = make_trainer(max_steps=0, default_root_dir=folder, callbacks=[SampleGrid(num_samples=4, seed=seed)])
        trainer.test(model, loader(make_batches(1)), verbose=False)
        files.append((folder / "samples/step=0000000.png").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_grid_shows_the_samples_of_its_seed(make_trainer, sheets):
    model = tiny(GAN)
    make_trainer(callbacks=[SampleGrid(num_samples=9, seed=5)]).validate(model, loader(make_batches(1)), verbose=False)
    (images, options), *more = sheets
    assert not more
    assert images.equal(model.sample(9, seed=5))
    assert options == {"columns": 3, "title": "GAN, step 0, seed 5"}


def test_a_conditional_model_gets_a_row_for_each_class(make_trainer, sheets):
    model = tiny(ConditionalGAN)
    make_trainer(callbacks=[SampleGrid(seed=5)]).validate(model, loader(make_batches(1)), verbose=False)
    images, options = sheets[0]
    assert images.shape[0] == 10 * NUM_CLASSES
    assert options["columns"] == 10
    assert options["row_labels"] == ["0", "1", "2"]
    for label in range(NUM_CLASSES):
        assert images[10 * label :][:10].equal(model.sample(labels=[label] * 10, seed=5))


def test_rows_have_the_names_of_the_data(make_trainer, sheets):
    class Named(pl.LightningDataModule):
        class_names = ("cat", "dog", "owl")

        def val_dataloader(self):
            return loader(make_batches(1))

    make_trainer(callbacks=[SampleGrid()]).validate(tiny(ConditionalGAN), datamodule=Named(), verbose=False)
    assert sheets[0][1]["row_labels"] == ["cat", "dog", "owl"]


def test_a_model_without_labels_does_not_ask_for_the_names_of_classes(make_trainer, tmp_path):
    class Nameless(Toys):
        class_names = ImageDataModule.class_names  # not set

    trainer = make_trainer(callbacks=[SampleGrid(num_samples=4)], limit_train_batches=1)
    trainer.fit(tiny(GAN), Nameless())
    assert list(tmp_path.rglob("samples/*.png"))


def test_pictures_go_to_the_loggers_at_the_step_of_the_scalars(make_trainer):
    image_calls, tensorboard_calls = Calls(), Calls()
    experiment = type("Experiment", (), {"add_image": staticmethod(tensorboard_calls)})()
    loggers = [FakeLogger(log_image=image_calls), FakeLogger(experiment=experiment), FakeLogger()]
    fit(make_trainer(logger=loggers, callbacks=[SampleGrid(num_samples=4)]), tiny(GAN), make_batches(3))
    assert [options["step"] for _, options in image_calls] == [0, 3]
    for (_, options), step in zip(image_calls, (0, 3), strict=True):
        assert options["key"] == "samples"
        assert options["caption"] == [f"step {step}"]
        assert [type(image) for image in options["images"]] == [Image.Image]
    for (arguments, options), step in zip(tensorboard_calls, (0, 3), strict=True):
        name, array, at = arguments
        assert (name, at, options) == ("samples", step, {"dataformats": "HWC"})
        assert array.dtype == np.uint8
        assert array.shape[2] == 3


class Experiment:
    """What a logger's package offers, with the signatures that it has."""

    def __init__(self, *methods):
        self.calls = []
        for method in methods:
            setattr(self, method, getattr(self, f"_{method}"))

    def _log_artifact(self, run_id, local_path, artifact_path=None):  # MLflow
        self.calls.append((run_id, Path(local_path).name, artifact_path))

    def _log_image(self, image_data, name=None, overwrite=False, image_format="png", step=None):  # Comet
        self.calls.append((image_data.size, name, step))


def test_every_logger_gets_pictures_by_what_it_offers(make_trainer, tmp_path):
    mlflow, comet = Experiment("log_artifact"), Experiment("log_image")
    loggers = [FakeLogger(experiment=mlflow, run_id="r1"), FakeLogger(experiment=comet)]
    fit(make_trainer(logger=loggers, callbacks=[SampleGrid(num_samples=4)]), tiny(GAN), make_batches(3))
    with Image.open(next(tmp_path.glob("**/samples/step=0000003.png"))) as image:
        size = image.size
    assert mlflow.calls == [("r1", f"step={step:07d}.png", "samples") for step in (0, 3)]
    assert comet.calls == [(size, "samples", step) for step in (0, 3)]


def test_a_logger_that_fails_at_pictures_does_not_end_the_run(make_trainer, tmp_path):
    failing = FakeLogger(log_image=lambda name, image: None, log_table=lambda: None)
    trainer = make_trainer(logger=failing, callbacks=[SampleGrid(num_samples=4)])
    with pytest.warns(UserWarning, match="FakeLogger cannot log pictures"):
        fit(trainer, tiny(GAN), make_batches(3))
    assert trainer.global_step == 3
    assert len(list(tmp_path.glob("**/samples/*.png"))) == 2
    with pytest.warns(UserWarning, match="FakeLogger cannot log tables"):
        log_evaluation(trainer, {"stage": "val", "scores": {"fid": 1.0}}, 3)


def test_other_processes_and_dry_runs_are_silent(make_trainer, tmp_path):
    model = tiny(GAN)
    fit(make_trainer(fast_dev_run=True, callbacks=[SampleGrid()]), model, make_batches(1))
    grids = SampleGrid()
    trainer = make_trainer()
    grids.setup(trainer, model, "fit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer.strategy), "is_global_zero", False)
        grids.draw(trainer, model)
    assert names(tmp_path / "samples") == []
    grids.draw(trainer, model)
    assert len(names(tmp_path / "samples")) == 1


def test_pictures_do_not_change_the_training(make_trainer):
    def trained(callbacks):
        torch.manual_seed(0)
        model = tiny(GAN, dropout=0.5)
        model.run_seed = 1
        fit(make_trainer(max_epochs=2, callbacks=callbacks), model, make_batches(2))
        return model.state_dict()

    plain, shown = trained([]), trained([SampleGrid(num_samples=4)])
    assert all(value.equal(shown[name]) for name, value in plain.items())


def test_a_model_of_another_kind_is_refused(make_trainer):
    class Other(pl.LightningModule):
        """Makes no images."""

    with pytest.raises(SettingError) as caught:
        SampleGrid().setup(make_trainer(), Other(), "fit")
    assert caught.value.setting == "Other.sample"


@pytest.mark.parametrize(
    ("cls", "setting"),
    [(SampleGrid, "num_samples"), (SampleGrid, "every_n_epochs"), (Reconstructions, "num_images")],
)
def test_settings_out_of_range_are_refused(cls, setting):
    with pytest.raises(SettingError) as caught:
        cls(**{setting: 0})
    assert caught.value.setting == setting


# --- reconstructions --------------------------------------------------------------------------------------


def test_reconstructions_after_each_validation_of_training_alone(make_trainer, tmp_path):
    pictures = Reconstructions(every_n_epochs=2)
    trainer = make_trainer(max_epochs=4, callbacks=[pictures], num_sanity_val_steps=2)
    fit(trainer, tiny(VAE), make_batches(2), make_batches(2))
    assert names(tmp_path / "reconstructions") == [f"step={step:07d}.png" for step in (4, 8)]


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(5, [(0, 5)]), (16, [(0, 16)]), (20, [(0, 16), (16, 20)]), (40, [(0, 16), (16, 32)])],
)
def test_the_first_images_stand_above_what_the_model_makes_of_them(make_trainer, sheets, size, wanted):
    model, validation = tiny(VAE, num_classes=NUM_CLASSES), make_batches(2, size)
    make_trainer(callbacks=[Reconstructions()]).validate(model, loader(validation), verbose=False)
    images, labels = validation[0]
    made = model.reconstruct(images[:32], labels[:32])
    shown, options = sheets[0]
    columns = options["columns"]
    assert columns == min(16, size)
    assert options["row_labels"] == ["image", "model"] * len(wanted)
    for row, (start, stop) in enumerate(wanted):
        pair = shown[2 * row * columns :]
        assert pair[: stop - start].equal(images[start:stop])
        torch.testing.assert_close(pair[columns:][: stop - start], made[start:stop])


def test_a_model_without_reconstructions_is_left_alone(make_trainer, tmp_path):
    fit(make_trainer(callbacks=[Reconstructions()]), tiny(GAN), make_batches(1), make_batches(1))
    assert names(tmp_path / "reconstructions") == []


def test_reconstructions_are_written_as_pictures(make_trainer, tmp_path):
    model, validation = tiny(VAE), make_batches(1, 4)
    make_trainer(callbacks=[Reconstructions()]).validate(model, loader(validation), verbose=False)
    (name,) = names(tmp_path / "reconstructions")
    with Image.open(tmp_path / "reconstructions" / name) as image:
        sheet = np.asarray(image)
    corner = to_uint8(validation[0][0])[0, 0, 0, 0].item()
    top, left = sheet.shape[0] - 2 * 66, sheet.shape[1] - 4 * 66
    assert (sheet[top : top + 8, left : left + 8] == corner).all()


@pytest.mark.parametrize("channels", [2, 5])
def test_images_of_other_channels_are_shown_by_some_of_them_and_have_no_scores(make_trainer, tmp_path, channels):
    random = np.random.default_rng(0)
    data = ArrayDataModule(images=random.integers(0, 65536, (40, 8, 8, channels), np.uint16), batch_size=8, val_size=16)
    callbacks = [SampleGrid(), Reconstructions(), NearestNeighbors(num_samples=10), GenerativeMetrics()]
    model = tiny(VAE, image_shape=(channels, 8, 8), likelihood="gaussian")
    trainer = make_trainer(callbacks=[*callbacks, CollapseWatchdog(every_n_steps=1)], max_epochs=1)
    with pytest.warns(UserWarning) as found:
        trainer.fit(model, data)
    told = [str(warning.message) for warning in found if "will not be scored" in str(warning.message)]
    assert len(told) == 1 and f"images have {channels} channels" in told[0]
    assert "val/memorization_pixels" in trainer.callback_metrics and "val/fid" not in trainer.callback_metrics
    assert names(tmp_path / "samples") and names(tmp_path / "neighbors")
    with Image.open(tmp_path / "reconstructions" / names(tmp_path / "reconstructions")[-1]) as image:
        sheet = np.asarray(image)
    shown = data.split_images("val")[:][0, :, 0, 0].tolist()
    top, left = sheet.shape[0] - 2 * 66, sheet.shape[1] - 8 * 66
    assert sheet[top, left].tolist() == (shown[:3] if channels > 2 else shown[:1] * 3)


@pytest.mark.parametrize("callback", [SampleGrid(), Reconstructions(), NearestNeighbors(extractor=torch.nn.Flatten())])
def test_what_is_not_a_picture_raises_before_the_first_step(make_trainer, callback):
    model = tiny(VAE)
    model.image_shape = shape = (2, 16)
    trainer = make_trainer(callbacks=[callback])
    with pytest.raises(SettingError) as caught:
        trainer.fit(model, Toys())
    assert (caught.value.setting, caught.value.value) == (f"{callback.folder_name}.enabled", list(shape))
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    ("callback", "setting"),
    [
        (SampleGrid(num_samples=200_000), "samples.num_samples"),
        (Reconstructions(num_images=200_000), "reconstructions.num_images"),
        (NearestNeighbors(num_shown=200_000, extractor=torch.nn.Flatten()), "neighbors.num_shown"),
    ],
)
def test_a_picture_that_is_too_large_raises_before_the_first_step(make_trainer, callback, setting):
    trainer = make_trainer(callbacks=[callback])
    with pytest.raises(SettingError) as caught:
        trainer.fit(tiny(VAE), Toys())
    assert (caught.value.setting, caught.value.value) == (setting, 200_000)
    assert trainer.global_step == 0


@pytest.mark.parametrize("callback", [SampleGrid, Reconstructions])
def test_each_evaluation_has_its_picture(make_trainer, tmp_path, callback):
    model, data = tiny(VAE), Toys()
    trainer = make_trainer(callbacks=[callback()], logger=CSVLogger(tmp_path))
    trainer.validate(model, data, verbose=False)
    first = list(Path(trainer.log_dir).rglob("*.png"))
    for path in first:
        path.unlink()
    trainer.validate(model, data, verbose=False)
    assert first and list(Path(trainer.log_dir).rglob("*.png")) == first
