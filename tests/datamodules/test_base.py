import json
import os
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightning_gans.datamodules import (
    DigitsDataModule,
    ImageDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    SinesDataModule,
    StackedMNISTDataModule,
)
from lightning_gans.errors import DataError, SettingError

from .fakes import Numbered, Trainee, lines_of


def sources(data, how):
    if how == "datamodule":
        return {"datamodule": data}
    return {"train_dataloaders": data.train_dataloader(), "val_dataloaders": data.val_dataloader()}


class SaveAndStop(Callback):
    """Save a checkpoint the n-th time a hook is called, and leave."""

    def __init__(self, path, hook, nth):
        self.path, self.hook, self.left = path, hook, nth

    def _called(self, trainer, hook):
        if hook == self.hook:
            self.left -= 1
            if self.left == 0:
                trainer.save_checkpoint(self.path)
                raise SystemExit(0)

    def on_train_batch_end(self, trainer, *args):
        self._called(trainer, "batch end")

    def on_validation_end(self, trainer, *args):
        self._called(trainer, "validation end")

    def on_train_epoch_end(self, trainer, *args):
        self._called(trainer, "epoch end")


def test_split_is_disjoint_whole_and_fixed():
    data = Numbered(40)
    train, val = data.images("train")[1], data.images("val")[1]
    assert (len(train), len(val)) == (32, 8)
    assert sorted(torch.cat([train, val]).tolist()) == list(range(40))
    # Written out, so that a change of machine, of torch or of ours is noticed.
    assert val.tolist() == VAL_OF_40


VAL_OF_40 = [8, 13, 15, 18, 25, 26, 27, 33]


def test_split_depends_on_neither_the_seed_nor_the_global_stream():
    pl.seed_everything(1, verbose=False)
    first = Numbered(40).images("val")[1]
    pl.seed_everything(2, verbose=False)
    torch.rand(3)
    assert Numbered(40).images("val")[1].equal(first)
    assert not Numbered(40, split_seed=1).images("val")[1].equal(first)


def test_making_and_reading_data_leaves_the_global_stream_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    data = Numbered(40, flip=True)
    data.setup("fit")
    for batch in data.train_dataloader():
        batch.to("cpu")
    assert torch.rand(1).equal(expected)


def test_test_split_is_its_own_or_else_the_validation_split():
    assert len(Numbered(40, num_test=5).images("test")[1]) == 5
    assert Numbered(40).images("test")[1].equal(Numbered(40).images("val")[1])


def test_val_size():
    assert len(Numbered(40, val_size=0.25).images("val")[1]) == 10
    assert len(Numbered(40, val_size=0.001).images("val")[1]) == 1
    everything = Numbered(40, num_test=5, val_size=0)
    assert len(everything.images("train")[1]) == 40
    assert everything.images("val")[1].equal(everything.images("test")[1])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_size", 0),
        *(("val_size", value) for value in (-1, 1.0, float("nan"), "x", None, 40, 0)),
        *(("limit", value) for value in (-1, 0, 1.5, float("nan"), "x", 33)),
        ("split_seed", "x"),
        ("device_resident", "gpu"),
    ],
)
def test_settings_out_of_range(setting, value):
    with pytest.raises(SettingError) as error:
        Numbered(40, **{setting: value}).setup()
    assert error.value.setting == setting
    assert error.value.value is value
    lines_of(error)


IMAGES, LABELS = torch.zeros(6, 1, 2, 3, dtype=torch.uint8), torch.zeros(6, dtype=torch.long)


@pytest.mark.parametrize(
    "loaded",
    [
        IMAGES,
        (IMAGES,),
        (IMAGES, None),
        (IMAGES.numpy(), LABELS.numpy()),
        (IMAGES, LABELS[:5]),
        (IMAGES, LABELS[:, None]),
        (IMAGES.long(), LABELS),
        (IMAGES[:, 0], LABELS),
        (IMAGES[:0], LABELS[:0]),
        (IMAGES.mT, LABELS),
        None,
    ],
)
def test_what_is_loaded_must_be_bytes_with_labels(loaded):
    class Loads(Numbered):
        def load_images(self, split):
            return loaded if split == "train" else None

    with pytest.raises(DataError) as error:
        Loads(6).setup("fit")
    assert error.value.setting == "Loads.load_images('train')"
    lines_of(error)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_are_those_of_classes(label):
    class Labeled(Numbered):
        class_names = ("a", "b", "c")

        def load_images(self, split):
            return (IMAGES, torch.tensor([0, 1, 2, 0, 1, label])) if split == "train" else None

    with pytest.raises(DataError) as error:
        Labeled(6).setup("fit")
    assert error.value.setting == "Labeled.load_images('train')"


def test_labels_of_splits_are_of_one_kind():
    class Mixed(Numbered):
        class_names = ("a", "b", "c")

        def load_images(self, split):
            return IMAGES, LABELS if split == "train" else torch.rand(len(IMAGES), 3)

    with pytest.raises(DataError) as error:
        Mixed(6).setup("test")
    assert error.value.setting == "Mixed.load_images"


class Classes(Numbered):
    """60 pictures of class 0, 30 of 1, and 10 of 2, in this order."""

    class_names = ("a", "b", "c")

    def load_images(self, split):
        images, _ = super().load_images("train")
        return (images, torch.tensor(60 * [0] + 30 * [1] + 10 * [2])) if split == "train" else None


def test_limit_is_a_choice_in_the_proportions_of_the_classes():
    def rows(**options):
        return set(Classes(100, **{"val_size": 0.2, **options})._split("train")[1].tolist())

    whole, val = rows(), Classes(100, val_size=0.2).images("val")[1]
    counts = Classes(100, val_size=0.2).images("train")[1].bincount() / 80
    chosen = set()
    for limit in (3, 10, 0.25, 41, 0.9, 1.0):
        data = Classes(100, val_size=0.2, limit=limit)
        labels = data.images("train")[1]
        assert len(labels) == (limit if isinstance(limit, int) else round(80 * limit))
        assert ((labels.bincount(minlength=3) - counts * len(labels)).abs() <= 1).all()
        assert data.images("val")[1].equal(val)
        assert chosen < rows(limit=limit) <= whole
        chosen = rows(limit=limit)
    assert rows(limit=10) == rows(limit=np.int64(10)) != rows(limit=10, split_seed=1)
    assert rows(limit=4, val_size=20) != set(sorted(whole)[:4])  # not the first by class
    # Written out, so that a change of machine, of torch or of ours is noticed.
    assert rows(limit=5) == LIMITED_TO_5


LIMITED_TO_5 = {22, 34, 51, 76, 83}


def test_limit_applies_to_what_is_trained_on_whatever_validates(make_trainer):
    class Validated(Numbered):
        def load_images(self, split):
            return super().load_images("test" if split == "val" else split)

    model = Trainee()
    make_trainer().fit(model, datamodule=Validated(40, num_test=3, limit=12))
    assert sum(map(len, model.seen)) == 12 and model.evaluated == [0, 1, 2]
    assert len(Numbered(40, num_test=3, val_size=0, limit=0.5).images("train")[1]) == 20


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (MNISTDataModule, "image_size"),
        (DigitsDataModule, "image_size"),
        (StackedMNISTDataModule, "image_size"),
        (StackedMNISTDataModule, "num_images"),
        (StackedMNISTDataModule, "num_test_images"),
        (SinesDataModule, "num_sequences"),
        (SinesDataModule, "num_test"),
        (SinesDataModule, "num_steps"),
        (ImageFolderDataModule, "image_size"),
    ],
)
@pytest.mark.parametrize("value", [10**12, 10**400])
def test_sizes_that_no_memory_holds(tmp_path, kind, setting, value):
    with pytest.raises(SettingError) as error:
        kind(**{setting: value, **({"data_dir": tmp_path} if kind is ImageFolderDataModule else {})})
    assert (error.value.setting, error.value.value) == (setting, value)


def test_a_data_module_can_be_printed():
    data = Numbered(40, num_test=7)
    assert str(data) == "Numbered(not loaded)"
    data.setup("fit")
    assert str(data) == "Numbered(train: 32, val: 8)"
    data.setup("test")
    assert str(data) == "Numbered(train: 32, val: 8, test: 7)"


def test_a_data_module_without_class_names():
    class Nameless(ImageDataModule):
        image_shape = (1, 2, 3)

        def load_images(self, split):
            return (IMAGES, LABELS) if split == "train" else None

    with pytest.raises(DataError) as error:
        _ = Nameless().num_classes
    assert error.value.setting == "Nameless.class_names"


def test_unknown_settings_are_errors():
    with pytest.raises(TypeError):
        Numbered(40, batch_sze=3)


def test_batch_size_larger_than_the_training_split(make_trainer):
    with pytest.raises(SettingError) as error:
        make_trainer().fit(Trainee(), datamodule=Numbered(40, batch_size=33))
    assert (error.value.setting, error.value.allowed) == ("batch_size", "at most 32")
    lines_of(error)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
@pytest.mark.parametrize("how", ["datamodule", "loaders"])
def test_fit(make_trainer, precision, how):
    data, model = Numbered(40, flip=True), Trainee()
    trainer = make_trainer(precision=precision, max_epochs=2)
    trainer.fit(model, **sources(data, how))
    dtype = {"32-true": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    assert {images.dtype for images in model.images} == {dtype}
    assert {tuple(images.shape) for images in model.images} == {(4, 1, 2, 3)}
    first, second = model.seen[:8], model.seen[8:]
    assert sorted(chain(*first)) == sorted(chain(*second)) == data.images("train")[1].tolist()
    assert first != second
    assert model.evaluated == 2 * VAL_OF_40


def test_evaluation_and_prediction(make_trainer):
    data, model = Numbered(40, num_test=7), Trainee()
    trainer = make_trainer()
    trainer.test(model, datamodule=data, verbose=False)
    assert model.evaluated == list(range(7))
    assert torch.cat(trainer.predict(model, datamodule=data)).tolist() == list(range(7))
    trainer.validate(model, datamodule=data, verbose=False)
    assert model.evaluated[7:] == VAL_OF_40


def test_models_own_transfer_hook_gets_the_finished_batch(make_trainer):
    class Hooked(Trainee):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            images, labels = batch
            return images, labels + 1000

    for options in ({"datamodule": Numbered(40)}, {"train_dataloaders": Numbered(40).train_dataloader()}):
        model = Hooked()
        make_trainer(max_steps=1).fit(model, **options)
        assert min(model.seen[0]) >= 1000


def test_overfit_batches_repeats_the_first_batches(make_trainer):
    model, data = Trainee(), Numbered(40)
    make_trainer(overfit_batches=2, max_epochs=3).fit(model, datamodule=data)
    assert model.seen == 3 * data.images("train")[1][:8].view(2, 4).tolist()


def test_the_order_follows_the_seed_as_it_is_when_the_fit_begins(make_trainer):
    data = Numbered(40)

    def order(seed, seed_everything=pl.seed_everything):
        seed_everything(seed)
        model = Trainee()
        make_trainer().fit(model, datamodule=data)
        return model.seen

    assert order(1) == order(1) != order(2)
    del os.environ["PL_GLOBAL_SEED"]
    assert order(1, torch.manual_seed) == order(1)


def test_a_seed_of_an_old_checkpoint_can_be_used(make_trainer):
    class Restores(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.datamodule.use_seed(5)

    pl.seed_everything(5)
    expected, model = Trainee(), Trainee()
    make_trainer().fit(expected, datamodule=Numbered(40))
    pl.seed_everything(6)
    make_trainer(callbacks=[Restores()]).fit(model, datamodule=Numbered(40))
    assert model.seen == expected.seen


@pytest.mark.parametrize("how", ["datamodule", "loaders"])
@pytest.mark.parametrize(
    ("hook", "nth"),
    [
        ("batch end", 3),
        ("batch end", 8),
        ("batch end", 11),
        ("validation end", 1),
        ("epoch end", 1),
    ],
)
def test_a_resumed_run_sees_what_the_run_that_never_stopped_sees(make_trainer, tmp_path, hook, nth, how):
    def fit(model, callbacks=(), ckpt_path=None):
        data = Numbered(40, flip=True)
        make_trainer(max_epochs=3, callbacks=list(callbacks)).fit(model, **sources(data, how), ckpt_path=ckpt_path)
        return model

    whole = fit(Trainee())
    checkpoint = tmp_path / "middle.ckpt"
    stopped, resumed = Trainee(), Trainee()
    with pytest.raises(SystemExit):
        fit(stopped, [SaveAndStop(checkpoint, hook, nth)])
    fit(resumed, ckpt_path=checkpoint)
    assert stopped.seen + resumed.seen == whole.seen
    for found, wanted in zip(stopped.images + resumed.images, whole.images, strict=True):
        assert found.equal(wanted)


@pytest.mark.parametrize(
    ("how", "hook"), [("datamodule", "batch end"), ("datamodule", "epoch end"), ("loaders", "batch end")]
)
def test_resume_under_another_global_seed(make_trainer, tmp_path, how, hook):
    checkpoint = tmp_path / "middle.ckpt"

    def fit(seed, callbacks=(), ckpt_path=None):
        pl.seed_everything(seed, verbose=False)
        model, data = Trainee(), Numbered(40)
        make_trainer(max_epochs=2, callbacks=list(callbacks)).fit(model, **sources(data, how), ckpt_path=ckpt_path)
        return model.seen

    whole = fit(1)
    with pytest.raises(SystemExit):
        fit(1, [SaveAndStop(checkpoint, hook, 1)])
    resumed = fit(2, ckpt_path=checkpoint)
    # Lightning restores no loader where an epoch has ended.
    left = {"batch end": 15, "epoch end": 8}[hook]
    if how == "loaders":
        whole, resumed, left = whole[:8], resumed[:7], 7
    assert resumed == whole[-left:]


def test_a_checkpoint_holds_seed_and_place_in_plain_types(make_trainer, tmp_path):
    pl.seed_everything(7)
    trainer = make_trainer(max_steps=3)
    trainer.fit(Trainee(), datamodule=Numbered(40))
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    saved = torch.load(tmp_path / "c.ckpt", weights_only=True)
    (state,) = saved["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert (state["epoch"], state["batches"]) == (0, 3)
    assert saved["Numbered"] == {"seed": 7}
    assert "datamodule_hyper_parameters" not in saved


@pytest.fixture(autouse=True)
def _no_global_seed(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.delenv("PL_SEED_WORKERS", raising=False)
    yield


TWO_PROCESSES = """
import json, sys
import pytorch_lightning as pl
from datamodules.fakes import Numbered, Trainee

pl.seed_everything(3)
model = Trainee()
trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
                     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
data = Numbered(40, val_size=9, num_test=3, batch_size=2)
if sys.argv[1] == "loaders":
    trainer.fit(model, data.train_dataloader(), data.val_dataloader())
else:
    trainer.fit(model, datamodule=data)
    fitted = len(model.evaluated)
    trainer.test(model, datamodule=data, verbose=False)
    assert len(model.evaluated) - fitted == 2 - trainer.global_rank
    del model.evaluated[fitted:]
with open(f"{sys.argv[2]}.{trainer.global_rank}", "w") as file:
    json.dump([model.seen, model.evaluated], file)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["datamodule", "loaders"])
def test_two_processes_see_what_one_sees(make_trainer, tmp_path, how, request):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{request.config.rootpath}:{request.path.parent.parent}",
    }
    subprocess.run([sys.executable, script, how, tmp_path / "seen"], check=True, env=environment, timeout=120)
    (seen0, evaluated0), (seen1, evaluated1) = (json.loads((tmp_path / f"seen.{r}").read_text()) for r in (0, 1))
    pl.seed_everything(3)
    model, data = Trainee(), Numbered(40, val_size=9, num_test=3, batch_size=4)
    make_trainer(max_epochs=2).fit(model, datamodule=data)
    assert [a + b for a, b in zip(seen0, seen1, strict=True)] == model.seen
    # The sanity check saw two batches more of each process.
    val = data.images("val")[1].tolist()
    assert sorted(evaluated0 + evaluated1) == sorted(val[:8] + 2 * val)


def test_every_process_needs_an_image_to_evaluate():
    """Lightning skips the evaluation where a process has none, and the others wait for it forever."""

    class Shared(Numbered):
        def _place(self):
            return (3, 0)

    with pytest.raises(SettingError) as error:
        Shared(val_size=2).val_dataloader()
    assert (error.value.setting, error.value.value) == ("val", 2)
    assert len(Shared(val_size=3).val_dataloader()) == 1
