"""What the callbacks do for translators: grids of pairs, and scores of translations."""

import json

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from lightning_gans import (
    CollapseWatchdog,
    CycleGAN,
    GenerativeMetrics,
    NearestNeighbors,
    Pix2Pix,
    SampleGrid,
    SettingError,
)
from lightning_gans.callbacks import grids
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics import FrechetDistance, Translations
from tests.callbacks.test_scores import Extractor
from tests.models.test_translation import pairs
from tests.toys import SHAPE, Toys, loader

MODELS = {
    Pix2Pix: {"width": 2, "norm": "none", "num_layers": 1},
    CycleGAN: {"width": 2, "num_blocks": 1, "num_layers": 1, "pool_size": 2},
}


def tiny(cls=Pix2Pix, **options):
    """Make a translator whose average differs from its network."""
    torch.manual_seed(0)
    model = cls(**{"image_shape": SHAPE, **MODELS[cls], **options})
    for network in model.networks(model.averaged_networks).values():
        for weight in network.parameters():
            weight.data += 0.2 * torch.randn_like(weight)
    return model


def noisy(**options):
    return Toys(**{"num_images": 400, "val_size": 280, "task": "denoise", "flip": False, **options})


def validation_pairs(data):
    """Return all pairs by the loader."""
    return [torch.cat(side) for side in zip(*map(tuple, data.val_dataloader()), strict=True)]


def scored(make_trainer, model, data, stage="validate", **options):
    callback = GenerativeMetrics(extractor=Extractor(), **options)
    trainer = make_trainer(callbacks=[callback])
    getattr(trainer, stage)(model, data, verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}, callback


class Foreign(pl.LightningModule):
    """A module of its own making, of images in [0, 1], that brightens what it gets."""

    value_range = (0, 1)

    def translate(self, images):
        assert not self.training
        return (images + 0.25).clamp(0, 1)

    def validation_step(self, batch, batch_idx):
        pass


@pytest.mark.parametrize("ema", [True, False])
def test_translations_are_scored_against_their_targets_and_against_all(make_trainer, ema):
    model, data = tiny(), noisy()
    found, callback = scored(make_trainer, model, data, ema=ema)
    source, target = validation_pairs(data)
    outputs = to_bytes(model.translate(source, ema=ema))
    of_pairs, extractor, distance = Translations(["psnr", "ssim", "l1"]), Extractor(), FrechetDistance(6)
    of_pairs.update(outputs, to_bytes(target))
    for images, real in ((data.images("train")[0], True), (outputs, False)):
        distance.update(extractor(images / 127.5 - 1)[0], real=real)
    wanted = {"fid": distance.compute(), **of_pairs.compute()}
    for name, value in wanted.items():
        assert found[f"val/{name}"] == pytest.approx(value.item(), rel=1e-5), name
        assert callback.measures(f"val/{name}")
    assert wanted["l1"].item() == pytest.approx(
        (model.translate(source, ema=ema) - target).abs().mean().item(), rel=0.01
    )
    protocol = json.loads(callback.last_path.read_text())["protocol"]
    assert (protocol["num_samples"], protocol["num_real"], protocol["sources"]) == (280, 120, "val")
    other, _ = scored(make_trainer, model, noisy(batch_size=7), ema=ema, num_repeats=2)
    assert other == found
    fewer, _ = scored(make_trainer, model, data, "test", ema=ema, num_samples=20, metrics=["l1"])
    assert fewer.keys() == {"test/l1"}


def test_without_pairs_only_the_distance_of_the_sets_is_measured(make_trainer):
    data = noisy()
    data.paired = False
    found, callback = scored(make_trainer, tiny(CycleGAN), data)
    assert "val/fid" in found and not callback.measures("val/psnr")
    assert not {"val/psnr", "val/ssim", "val/l1"} & found.keys()


def test_equal_translations_have_no_psnr(make_trainer):
    data = noisy(task="invert")
    model = tiny()
    model.translate = lambda images, ema=True: -images
    with pytest.warns(UserWarning, match="No psnr: it is infinite"):
        found, _ = scored(make_trainer, model, data)
    assert found["val/l1"] == 0 and found["val/ssim"] == 1 and "val/psnr" not in found


def test_any_module_that_translates_is_scored_and_shown(make_trainer, sheets):
    data, grid = noisy(task="invert"), SampleGrid()
    source, target = validation_pairs(data)  # in [0, 1] here: what is below 0 would be outside
    data.make_batch = lambda images, *_: ((1 - images) / 2, (images + 1) / 2)
    callback = GenerativeMetrics(extractor=Extractor(), metrics=["l1"])
    trainer = make_trainer(callbacks=[callback, grid])
    trainer.validate(Foreign(), data, verbose=False)
    outputs = (source + 0.5).clamp(-1, 1)
    wanted = (to_bytes(outputs).float() - to_bytes(target).float()).abs().mean() / 127.5
    assert trainer.callback_metrics["val/l1"].item() == pytest.approx(wanted.item(), rel=1e-6)
    ((images, _),) = sheets
    for row, shown in zip(images.split(16), (source, outputs, target), strict=True):
        torch.testing.assert_close(row[:, :1], spread(shown, 16), atol=1e-6, rtol=0)


def spread(images, num):
    """Return images from all over a split."""
    step = len(images) // num
    assert step > 1
    return images[: num * step : step]


def test_scores_of_pairs_alone_need_no_extractor(make_trainer, monkeypatch, tmp_path):
    monkeypatch.setattr("lightning_gans.callbacks.scores.find_extractor", None)
    callback = GenerativeMetrics(metrics=["l1", "psnr"], extractor="inception", cache_dir=str(tmp_path / "cache"))
    trainer = make_trainer(callbacks=[callback])
    trainer.validate(tiny(), noisy(), verbose=False)
    record = json.loads(callback.last_path.read_text())
    assert set(record["scores"]) == {"l1", "psnr"} and record["floor"] is None
    assert "extractor" not in record["protocol"] and callback.network is None
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def sheets(monkeypatch):
    """Note what each picture is laid out from."""
    calls = []
    monkeypatch.setattr(
        grids, "grid", lambda images, **options: calls.append((images, options)) or Image.new("RGB", (4, 4))
    )
    return calls


@pytest.mark.parametrize("cls", MODELS)
def test_a_grid_shows_the_same_pairs_each_time(cls, make_trainer, sheets, tmp_path):
    channels = {Pix2Pix: (2, 8, 8), CycleGAN: None}[cls]
    data, model = noisy(task="inpaint_random" if channels else "denoise"), tiny(cls, source_shape=channels)
    make_trainer(max_epochs=2, limit_train_batches=2, callbacks=[SampleGrid(num_samples=33)]).fit(model, data)
    source, target = (spread(side, 8) for side in validation_pairs(data))
    assert len(list((tmp_path / "samples").iterdir())) == len(sheets) == 3
    names = ["source", "output", "target", *(["reverse"] if cls is CycleGAN else [])]
    for images, options in sheets:
        rows = dict(zip(names, images.split(8), strict=True))
        assert options["row_labels"] == names and options["columns"] == 8
        assert rows["source"].equal(source[:, :1].expand(-1, 3, -1, -1))
        assert rows["target"].equal(target.expand(-1, 3, -1, -1))
    torch.testing.assert_close(rows["output"][:, :1], model.translate(source))
    if cls is CycleGAN:
        torch.testing.assert_close(rows["reverse"][:, :1], model.translate(target, to="source"))


def test_small_sources_and_sources_of_color_are_shown_at_the_size_of_the_targets():
    small = torch.arange(4.0).view(1, 1, 2, 2)
    assert grids._in_color(small, (4, 4))[0, 2].equal(small[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1))
    color = torch.rand(2, 4, 4, 4)
    assert grids._in_color(color, (4, 4)).equal(color[:, :3])


def test_the_watchdog_sees_the_distance_alone_and_neighbors_are_off(make_trainer, recwarn, tmp_path):
    dog, near = CollapseWatchdog(every_n_steps=2, num_samples=16), NearestNeighbors(num_samples=20)
    scores = GenerativeMetrics(extractor=Extractor(), metrics=["fid"])
    trainer = make_trainer(max_epochs=2, callbacks=[scores, dog, near], limit_train_batches=4)
    trainer.fit(tiny(), noisy(batch_size=16))
    assert dog.values == {"fid": 1.0}
    assert not [warning for warning in recwarn if "atchdog" in str(warning.message)]
    assert not (tmp_path / "neighbors").exists() and not any("memo" in name for name in trainer.callback_metrics)


@pytest.mark.parametrize("callback", [GenerativeMetrics(extractor=Extractor()), SampleGrid()])
@pytest.mark.parametrize("data", [noisy(task=None), loader(pairs(2))], ids=["labels", "loader"])
def test_data_without_pairs_are_named_before_the_first_step(make_trainer, callback, data):
    with pytest.raises(SettingError, match="needs pairs") as error:
        make_trainer(callbacks=[callback]).fit(tiny(), data)
    assert error.value.setting == "data"


def test_too_few_pairs_are_named_before_the_first_step(make_trainer):
    model = tiny()
    with pytest.raises(SettingError) as error:
        make_trainer(callbacks=[GenerativeMetrics(extractor=Extractor())]).fit(model, noisy(val_size=4))
    assert error.value.setting == "metrics.density_coverage_k" and model.images_seen == 0
