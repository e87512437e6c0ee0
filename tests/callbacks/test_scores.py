import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torchmetrics import MeanMetric, Metric

from lightning_gans import (
    GAN,
    VAE,
    VQVAE,
    Checkpoint,
    ConditionalGAN,
    DataError,
    DigitsDataModule,
    GenerativeMetrics,
    ImageDataModule,
    NearestNeighbors,
    SettingError,
)
from lightning_gans.datamodules.resident import ResidentImages
from lightning_gans.io.pictures import to_uint8
from lightning_gans.metrics import (
    DensityCoverage,
    DigitsExtractor,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    MNISTExtractor,
    MutualInformationGap,
    PrecisionRecall,
    compare,
)
from lightning_gans.metrics import evaluate as extraction
from lightning_gans.metrics.extractors import inception
from lightning_gans.metrics.processes import everywhere, shard
from tests.models.test_vqvae import SMALL
from tests.toys import NUM_CLASSES, SHAPE, Toys, loader, make_batches, tiny

SCORES = {"fid", "kid", "kid_std", "inception_score", "precision", "recall", "density", "coverage"}


class Images(ImageDataModule):
    """Random pictures, of which the test split is brighter."""

    def __init__(self, num_train=301, num_test=120, classes=3, batch_size=32):
        super().__init__(batch_size=batch_size, val_size=60)
        self.sizes = {"train": num_train, "test": num_test}
        self.classes = classes
        self.image_shape = SHAPE
        self.asked = []

    @property
    def class_names(self):
        return tuple("abcdefgh"[: self.classes])

    def load_images(self, split):
        if split == "val":
            return None
        num = self.sizes[split]
        source = torch.Generator().manual_seed(len(split))
        images = torch.randint(0, 200 if split == "train" else 256, (num, *SHAPE), generator=source, dtype=torch.uint8)
        return images, torch.arange(num) % max(1, self.classes)


class Extractor(nn.Module):
    """Six features and three logits of a picture, and a count of the pictures it was shown."""

    def __init__(self, logits=True):
        super().__init__()
        weight = torch.randn(9, 64, generator=torch.Generator().manual_seed(1)) / 4
        self.register_buffer("weight", weight)
        self.logits, self.shown, self.calls = logits, 0, 0

    def forward(self, images):
        assert images.dtype == torch.float32 and images.min() >= -1 and images.max() <= 1
        self.shown += len(images)
        self.calls += 1
        seen = images.flatten(1) @ self.weight.T
        return (seen[:, :6], seen[:, 6:]) if self.logits else seen[:, :6]


@pytest.fixture
def evaluate(make_trainer, tmp_path):
    def evaluate(model, data=None, stage="validate", **options):
        callback = GenerativeMetrics(**{"num_samples": 260, "extractor": Extractor(), **options})
        trainer = make_trainer(callbacks=[callback])
        getattr(trainer, stage)(model, data or Images(), verbose=False)
        record = json.loads(callback.last_path.read_text()) if callback.last_path else None
        return {key: value.item() for key, value in trainer.callback_metrics.items()}, record

    return evaluate


# --- what is measured -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "key", "split"), [("validate", "val", "train"), ("test", "test", "test")])
def test_the_scores_are_those_of_the_metrics_on_samples_and_real_images(evaluate, stage, key, split):
    model, data = tiny(GAN), Images()
    found, _ = evaluate(model, data, stage)
    extractor = Extractor()
    images, _ = data.images(split)
    samples = to_uint8(model.sample(260, seed=0)).permute(0, 3, 1, 2)
    (real, _), (fake, logits) = (extractor(some.float() / 127.5 - 1) for some in (images, samples))

    def measured(metric):
        metric.update(real, real=True)
        metric.update(fake, real=False)
        return metric.compute()

    score = InceptionScore(3, keep_order=True)
    score.update(logits)
    precision, recall = measured(PrecisionRecall(6, k=3))
    density, coverage = measured(DensityCoverage(6, k=5))
    kid, kid_std = measured(KernelDistance(6, subset_size=min(len(real), len(fake)), keep_order=True))
    wanted = {
        "fid": measured(FrechetDistance(6)),
        "inception_score": score.compute()[0],
        **{"precision": precision, "recall": recall, "density": density, "coverage": coverage},
        **{"kid": kid, "kid_std": kid_std},
    }
    assert set(found) == {f"{key}/{name}" for name in SCORES}
    for name, value in wanted.items():
        assert found[f"{key}/{name}"] == pytest.approx(value.item(), rel=1e-5, abs=1e-12), name


def test_only_what_is_asked_for_is_measured(evaluate):
    found, _ = evaluate(tiny(GAN), metrics=["fid", "recall"])
    assert set(found) == {"val/fid", "val/recall"}
    found, _ = evaluate(tiny(GAN), extractor=Extractor(logits=False))
    assert set(found) == {f"val/{name}" for name in SCORES - {"inception_score"}}


def test_conditional_models_are_measured_by_class(evaluate):
    model, data = tiny(ConditionalGAN), Images(classes=NUM_CLASSES)
    found, _ = evaluate(model, data, metrics=["fid_class", "label_accuracy"])
    assert set(found) == {f"val/fid_class/{label}" for label in range(NUM_CLASSES)}
    images, labels = data.images("train")
    samples = to_uint8(model.sample(260, seed=0)).permute(0, 3, 1, 2)
    for label in range(NUM_CLASSES):
        metric = FrechetDistance(6)
        metric.update(Extractor()(images[labels == label].float() / 127.5 - 1)[0], real=True)
        metric.update(Extractor()(samples[label::NUM_CLASSES].float() / 127.5 - 1)[0], real=False)
        assert found[f"val/fid_class/{label}"] == pytest.approx(metric.compute().item(), rel=1e-5)


def test_labels_count_where_the_extractor_knows_the_classes(evaluate):
    """Its ten digits are those of data whose classes have their names, and of no other ten classes."""

    class Digits(Images):
        class_names = tuple("0123456789")

    model = tiny(ConditionalGAN, num_classes=10)
    found, _ = evaluate(model, Digits(), extractor="mnist", metrics=["label_accuracy"])
    samples = to_uint8(model.sample(260, seed=0)).permute(0, 3, 1, 2)
    _, logits = MNISTExtractor().extract(samples)
    assert found["val/label_accuracy"] == pytest.approx((logits.argmax(1) == torch.arange(260) % 10).float().mean())
    others = Images()
    type(others).class_names = property(lambda self: tuple("abcdefghij"))
    found, _ = evaluate(model, others, extractor="mnist", metrics=["label_accuracy", "fid"])
    assert set(found) == {"val/fid"}


def test_auto_is_the_extractor_that_the_data_prefers(evaluate):
    model, data = tiny(ConditionalGAN, image_shape=(1, 28, 28), num_classes=10), DigitsDataModule()
    found, record = evaluate(model, data, extractor="auto", metrics=["label_accuracy"])
    assert record["protocol"]["extractor"] == "digits"
    assert set(found) == {"val/label_accuracy"}
    images, labels = data.images("test")
    logits = DigitsExtractor().extract(images)[1]
    assert record["floor"]["scores"] == {"label_accuracy": pytest.approx((logits.argmax(1) == labels).float().mean())}


def test_repeats_give_the_mean_and_an_error_bar(evaluate):
    model = tiny(GAN)
    each = [evaluate(model, metrics=["fid"], seed=seed)[0]["val/fid"] for seed in (7, 8, 9)]
    found, record = evaluate(model, metrics=["fid"], seed=7, num_repeats=3)
    assert len(set(each)) == 3
    assert found["val/fid"] == pytest.approx(sum(each) / 3, rel=1e-6)
    assert record["standard_deviations"]["fid"] == pytest.approx(torch.tensor(each).std().item(), rel=1e-3)


def test_real_images_in_the_place_of_samples_give_the_floor(evaluate):
    data, model = Images(), tiny(GAN)
    _, record = evaluate(model, data)
    floor = record["floor"]
    assert floor["split"] == "test" and floor["num_images"] == 120
    real, fake = (Extractor()(data.images(split)[0].float() / 127.5 - 1)[0] for split in ("train", "test"))
    metric = FrechetDistance(6)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert floor["scores"]["fid"] == pytest.approx(metric.compute().item(), rel=1e-6)
    few, _ = evaluate(model, data, num_samples=120)  # as many samples as real images
    assert floor["samples"] == {name.removeprefix("val/"): pytest.approx(value) for name, value in few.items()}
    assert "samples" not in evaluate(tiny(GAN), data, num_samples=110)[1]["floor"]
    assert evaluate(tiny(GAN), data, floor=False)[1]["floor"] is None


@pytest.mark.parametrize("options", [{"batch_size": 7}, {"batch_size": 500}])
def test_the_batch_size_and_limits_of_validation_do_not_matter(make_trainer, options):
    def fid(data, **limits):
        trainer = make_trainer(callbacks=[GenerativeMetrics(metrics=["fid"], extractor=Extractor())], **limits)
        trainer.validate(model, data, verbose=False)
        return trainer.callback_metrics["val/fid"]

    model = tiny(GAN)
    assert fid(Images()).equal(fid(Images(**options), limit_val_batches=1))


class Resampled(GAN):
    """Samples are new images of the same kind as the real ones: a perfect model."""

    def sample(self, num, *, seed=0, start=0, **_):
        source = torch.Generator().manual_seed(1000 + seed + start)
        return torch.randint(0, 200, (num, *SHAPE), generator=source).float() / 127.5 - 1


def test_real_images_are_not_worse_than_samples_of_a_perfect_model(evaluate):
    class Alike(Images):
        def load_images(self, split):
            images, labels = super().load_images("train")
            part = slice(301) if split == "train" else slice(301, None)
            return None if split == "val" else (images[part], labels[part])

    data = Alike(num_train=401)
    floors = [evaluate(tiny(Resampled), data, num_samples=1000, seed=5000 * seed)[1]["floor"] for seed in range(4)]
    for name, real in floors[0]["scores"].items():
        of_few = [floor["samples"][name] for floor in floors]
        spread = max(of_few) - min(of_few)
        assert min(of_few) - 2 * spread <= real <= max(of_few) + 2 * spread, name


def test_real_images_come_from_the_loader_where_there_is_no_data_module(make_trainer):
    model, batches = tiny(GAN), [*make_batches(9, 32), *make_batches(1, 5, seed=1)]
    trainer = make_trainer(callbacks=[GenerativeMetrics(metrics=["fid"], extractor=Extractor(), num_samples=100)])
    trainer.validate(model, loader(batches), verbose=False)
    extractor, metric = Extractor(), FrechetDistance(6)
    for images, real in [(torch.cat([images for images, _ in batches]), True), (model.sample(100, seed=0), False)]:
        metric.update(extractor(to_uint8(images).permute(0, 3, 1, 2) / 127.5 - 1)[0], real=real)
    assert trainer.callback_metrics["val/fid"].item() == pytest.approx(metric.compute().item(), rel=1e-5)


class MeanDistance(Metric):
    """How far the mean feature of the samples is from that of the real images."""

    def __init__(self, norm: int = 2, **options):
        super().__init__(**options)
        self.norm = norm
        for name in ("real", "fake"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, features, real):
        setattr(self, "real" if real else "fake", features.mean(0))

    def compute(self):
        return (self.real - self.fake).norm(self.norm)


def test_metrics_of_ones_own_get_the_same_features(evaluate):
    model, extractor = tiny(GAN), Extractor()
    found, record = evaluate(model, metrics=["fid"], own={"distance": MeanDistance()}, num_repeats=2)
    assert set(record["scores"]) == {"fid", "distance"} and record["standard_deviations"]["distance"] > 0
    real = extractor(Images().images("train")[0].float() / 127.5 - 1)[0]
    distances = []
    for seed in (0, 1):
        samples = to_uint8(model.sample(260, seed=seed)).permute(0, 3, 1, 2)
        distances.append((real.mean(0) - extractor(samples.float() / 127.5 - 1)[0].mean(0)).norm().item())
    assert found["val/distance"] == pytest.approx(sum(distances) / 2, rel=1e-5)
    alone, _ = evaluate(model, metrics=[], own={"distance": MeanDistance()}, num_repeats=2)
    assert alone == {"val/distance": found["val/distance"]}


def test_a_metric_of_ones_own_chooses_the_best_checkpoint(make_trainer, tmp_path):
    metrics = GenerativeMetrics(num_samples=20, metrics=[], own={"distance": MeanDistance()}, extractor=Extractor())
    checkpoint = Checkpoint(monitor="val/distance", dirpath=str(tmp_path / "kept"))
    trainer = make_trainer(callbacks=[metrics, checkpoint], max_epochs=1, enable_checkpointing=True)
    trainer.fit(tiny(GAN), Images())
    assert (tmp_path / "kept" / "best.ckpt").exists()


def test_an_own_metric_of_parts_stays_on_its_process_and_is_described(evaluate, tmp_path):
    distance = MeanDistance()
    distance.inner = MeanMetric()
    _, record = evaluate(tiny(GAN), metrics=["fid"], own={"distance": distance})
    assert not distance.sync_on_compute and not distance.inner.sync_on_compute
    assert record["protocol"]["own.distance"] == f"{__name__}.MeanDistance({{'norm': 2}})"
    files = []
    for norm, own in ((2, True), (3, True), (3, False)):
        metrics = {"distance": MeanDistance(norm)} if own else {}
        files.append(tmp_path / f"{norm}{own}.json")
        files[-1].write_text(json.dumps(evaluate(tiny(GAN), metrics=["fid"], own=metrics)[1]))
    with pytest.raises(DataError) as caught:
        compare(*files[:2])
    assert len(caught.value.value) == 1 and caught.value.value[0].startswith("own.distance: ")
    assert set(compare(*files[1:])) == {"fid"}


def test_without_an_extractor_an_own_metric_chooses_no_checkpoint(make_trainer, tmp_path, monkeypatch):
    def without(*args):
        raise DataError("no weights")

    monkeypatch.setattr(extraction, "make_extractor", without)
    metrics = GenerativeMetrics(num_samples=20, own={"distance": MeanDistance()})
    checkpoint = Checkpoint(monitor="val/distance", dirpath=str(tmp_path / "kept"))
    trainer = make_trainer(callbacks=[metrics, checkpoint], max_epochs=1, enable_checkpointing=True)
    with pytest.warns(UserWarning, match="will not be scored: no weights"):
        trainer.fit(tiny(GAN), Images())
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["last.ckpt"]


def test_own_metrics_that_do_not_fit_are_refused(evaluate):
    for name in ("fid", "my metric", "kid_std", "elbo"):
        with pytest.raises(SettingError) as caught:
            GenerativeMetrics(own={name: MeanDistance()})
        assert (caught.value.setting, caught.value.value) == ("metrics.own", name)
    several = MeanDistance()
    several.compute = lambda: torch.zeros(3)
    with pytest.raises(SettingError) as caught:
        evaluate(tiny(GAN), own={"several": several})
    assert (caught.value.setting, caught.value.value) == ("metrics.own.several", [3])


# --- one pass ---------------------------------------------------------------------------------------------


def test_each_image_is_shown_once_and_real_ones_not_again(make_trainer):
    """Whole blocks of 250: 300 samples are two, as are 241 training images and 120 of the floor three."""
    shown = []
    for _ in range(2):
        extractor = Extractor()
        trainer = make_trainer(callbacks=[GenerativeMetrics(num_samples=300, extractor=extractor)])
        trainer.validate(tiny(GAN), Images(), verbose=False)
        shown.append(extractor.shown)
    assert shown == [2 + 500 + 250 + 250, 2 + 500]  # two when the extractor is checked


def test_real_images_are_read_in_blocks(make_trainer, tmp_path, monkeypatch):
    """As there may be more of them than the memory holds."""
    read, images_at = [], ResidentImages.images_at
    monkeypatch.setattr(ResidentImages, "images_at", lambda *args: read.append(images_at(*args)) or read[-1])
    data = Toys(num_images=3000, val_size=400)
    look = NearestNeighbors(num_samples=50, extractor=nn.Flatten())
    trainer = make_trainer(callbacks=[GenerativeMetrics(num_samples=300, extractor=Extractor()), look])
    trainer.validate(tiny(GAN), data, verbose=False)
    assert max(map(len, read)) == 1000 and sum(map(len, read)) > 2 * 2600


def test_real_images_are_extracted_once_in_a_fit(make_trainer):
    extractor = Extractor()
    callback = GenerativeMetrics(metrics=["fid"], num_samples=250, extractor=extractor, floor=False)
    make_trainer(max_epochs=3, callbacks=[callback]).fit(tiny(GAN), Images())
    assert extractor.calls == 3 + 1 + 1  # the last one checks the extractor


def test_a_damaged_file_of_features_is_made_again(evaluate, tmp_path):
    options = {"metrics": ["fid"], "cache_dir": str(tmp_path / "kept")}
    first, _ = evaluate(tiny(GAN), **options)
    for path in (tmp_path / "kept").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        second, _ = evaluate(tiny(GAN), **options)
    assert first.keys() == second.keys()


def test_an_evaluation_leaves_training_as_it_is(make_trainer):
    def trained(callbacks):
        model = tiny(GAN, dropout=0.5)
        model.run_seed = 3
        make_trainer(max_epochs=2, callbacks=callbacks).fit(model, Images())
        return model.state_dict()

    torch.manual_seed(1)
    without = trained([])
    torch.manual_seed(1)
    scored = trained([GenerativeMetrics(num_samples=50, extractor=Extractor())])
    assert all(value.equal(scored[name]) for name, value in without.items())


def test_nothing_of_the_extractor_enters_a_checkpoint(make_trainer, tmp_path):
    def keys(callbacks):
        trainer = make_trainer(callbacks=callbacks)
        trainer.fit(tiny(VAE), Images())
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
        return set(checkpoint["state_dict"]), set(checkpoint["callbacks"]), (tmp_path / "model.ckpt").stat().st_size

    wanted, found = keys([]), keys([GenerativeMetrics(num_samples=50, extractor="mnist", iw_samples=2)])
    assert found[:2] == wanted[:2] and abs(found[2] - wanted[2]) < 2000


# --- what is written down ---------------------------------------------------------------------------------


def test_the_scores_stand_with_their_protocol(make_trainer, tmp_path):
    callback = GenerativeMetrics(num_samples=260, extractor=Extractor(), ema=False, seed=4, precision_recall_k=2)
    trainer = make_trainer(callbacks=[callback], logger=CSVLogger(tmp_path, "logs"))
    model = tiny(ConditionalGAN)
    trainer.fit(model, Images())
    step = trainer.global_step
    assert callback.last_path == tmp_path / "logs" / "version_0" / "metrics" / f"step={step:07d}.json"
    record = json.loads(callback.last_path.read_text())
    about = {key: record[key] for key in ("stage", "step", "model", "seed", "num_repeats")}
    assert about == {"stage": "val", "step": step, "model": "ConditionalGAN", "seed": 4, "num_repeats": 1}
    assert record["run_seed"] == model.run_seed
    protocol = record["protocol"]
    assert (protocol["data"], protocol["split"], protocol["num_real"]) == ("Images", "train", 241)
    assert (protocol["num_samples"], protocol["ema"], protocol["precision_recall_k"]) == (260, False, 2)
    assert protocol["num_features"] == 6 and len(protocol["weights_sha256"]) == 64 and protocol["resize"] == "none"
    assert protocol["kid_subset_size"] == 241
    assert {"torch", "torchmetrics", "lightning_gans"} <= set(record["versions"])
    with open(tmp_path / "logs" / "version_0" / "metrics.csv") as file:
        (row,) = [row for row in csv.DictReader(file) if row["val/fid"]]
    assert int(row["step"]) == step
    for name, value in record["scores"].items():
        assert float(row[f"val/{name}"]) == pytest.approx(value, rel=1e-5), name


def test_unlike_protocols_are_not_compared(evaluate, tmp_path):
    def written(name, **options):
        _, record = evaluate(tiny(GAN), metrics=["fid"], **options)
        path = tmp_path / name
        path.write_text(json.dumps(record))
        return path

    first, again, fewer = written("a.json"), written("b.json", seed=1), written("c.json", num_samples=259)
    assert set(compare(first, again)) == {"fid"}
    with pytest.raises(DataError) as caught:
        compare(first, fewer)
    assert "num_samples: 260 / 259" in caught.value.value


def test_test_does_not_replace_the_scores_of_validation(make_trainer, tmp_path):
    callback = GenerativeMetrics(metrics=["fid"], num_samples=50, extractor=Extractor())
    trainer = make_trainer(callbacks=[callback])
    model = tiny(GAN)
    trainer.fit(model, Images())
    trainer.test(model, Images(), verbose=False)
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "metrics").iterdir())]
    assert sorted(record["stage"] for record in records) == ["test", "val"]


def test_a_loaded_checkpoint_is_scored_under_its_own_step(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.fit(tiny(GAN), Images())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    callback = GenerativeMetrics(metrics=["fid"], num_samples=50, extractor=Extractor())
    make_trainer(callbacks=[callback]).validate(tiny(GAN), Images(), ckpt_path=tmp_path / "model.ckpt", verbose=False)
    assert callback.last_path.name == f"step={trainer.global_step:07d}.json"


def test_scores_come_in_their_rhythm_and_at_the_end(make_trainer, tmp_path):
    callback = GenerativeMetrics(metrics=["fid"], num_samples=50, extractor=Extractor(), every_n_epochs=2)
    checkpoint = Checkpoint(monitor="val/fid", dirpath=str(tmp_path / "checkpoints"))
    trainer = make_trainer(max_epochs=5, callbacks=[callback, checkpoint], enable_checkpointing=True)
    trainer.fit(tiny(GAN), Images())
    steps = sorted(int(path.stem.removeprefix("step=")) for path in (tmp_path / "metrics").iterdir())
    assert [step // (trainer.global_step // 5) for step in steps] == [2, 4, 5]
    scores = {step: json.loads((tmp_path / f"metrics/step={step:07d}.json").read_text()) for step in steps}
    best = min(steps, key=lambda step: scores[step]["scores"]["fid"])
    saved = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert saved["global_step"] == best
    assert checkpoint.best_model_score.item() == pytest.approx(scores[best]["scores"]["fid"], rel=1e-6)


# --- likelihoods ------------------------------------------------------------------------------------------


def test_the_bound_is_the_mean_over_images_and_named_with_its_protocol(evaluate, make_trainer):
    model, data = tiny(VAE), Images(batch_size=11)
    found, record = evaluate(model, data, metrics=[], iw_samples=8)
    images, _ = data.images("val")
    bound = model.bound(images.float() / 127.5 - 1, 8, seed=0).mean().item()
    assert found["val/iw_bound"] == pytest.approx(bound, rel=1e-6)
    assert found["val/elbo"] < found["val/iw_bound"]
    assert set(record["scores"]) == {"elbo", "reconstruction", "kl", "iw_bound"}
    assert record["protocol"]["binarization"] == "none" and record["protocol"]["iw_samples"] == 8


def test_what_a_vqvae_measures_is_written_without_any_other_score(evaluate):
    found, record = evaluate(VQVAE(SHAPE, **SMALL), Images(), metrics=[])
    assert set(record["scores"]) == {"mse", "code_nll"}
    assert record["scores"]["mse"] == found["val/mse"]


def test_models_without_a_likelihood_have_no_bound(evaluate):
    found, record = evaluate(tiny(GAN), metrics=["fid"], iw_samples=4)
    assert set(found) == {"val/fid"} and "iw_samples" not in record["protocol"]


class Factors(Images):
    """Pictures with two factors, of which the first is the label."""

    def factors(self, split):
        labels = self.split_images(split).labels
        return torch.stack([labels, torch.arange(len(labels)) % 4], 1)


@pytest.mark.parametrize("classes", [0, 3])
def test_the_gap_of_the_latents_is_logged_on_request(evaluate, classes):
    model, data = tiny(VAE, num_classes=classes), Factors()
    found, record = evaluate(model, data, metrics=["mig"])
    images, labels = data.images("val")
    metric = MutualInformationGap()
    metric.update(model.encode(images.float() / 127.5 - 1, *([labels] if classes else []))[0], data.factors("val"))
    assert found["val/mig"] == pytest.approx(metric.compute().item(), abs=1e-6)
    assert record["scores"]["mig"] == pytest.approx(found["val/mig"])
    assert record["protocol"]["mig_images"] == "val split"
    assert "val/fid" not in found


def test_the_gap_can_choose_the_best_checkpoint(make_trainer, tmp_path):
    metrics = GenerativeMetrics(metrics=["mig"])
    assert metrics.measures("val/mig") and not metrics.measures("mig")
    checkpoint = Checkpoint(monitor="val/mig", mode="max", dirpath=str(tmp_path / "kept"))
    make_trainer(callbacks=[metrics, checkpoint], max_epochs=1, enable_checkpointing=True).fit(tiny(VAE), Factors())
    assert (tmp_path / "kept" / "best.ckpt").exists()


def test_without_scores_there_is_no_best_gap(make_trainer, tmp_path):
    checkpoint = Checkpoint(monitor="val/mig", mode="max", dirpath=str(tmp_path / "kept"))
    make_trainer(callbacks=[checkpoint], max_epochs=1, enable_checkpointing=True).fit(tiny(VAE), Factors())
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(("cls", "data"), [(GAN, Factors), (VAE, Images)])
def test_the_gap_needs_codes_and_factors(evaluate, cls, data):
    with pytest.raises(SettingError, match=r"encode.*factors") as error:
        evaluate(tiny(cls), data(), metrics=["mig"])
    assert error.value.setting == "metrics.metrics"


# --- samples and settings that are out of order -----------------------------------------------------------


class Broken(GAN):
    """Samples of one value."""

    value = 0.5

    def decode(self, latents, labels=None, *, ema=True):
        return torch.full((len(latents), *SHAPE), self.value)


def test_samples_that_are_not_finite_are_an_error(evaluate):
    broken = tiny(Broken)
    broken.value = math.nan
    with pytest.raises(DataError) as caught:
        evaluate(broken)
    assert caught.value.setting == "samples"


def test_likelihoods_that_are_not_finite_are_an_error(evaluate):
    broken = tiny(VAE)
    with torch.no_grad():
        for parameter in broken.ema["encoder"].parameters():
            parameter.fill_(math.nan)
    with pytest.raises(DataError) as caught:
        evaluate(broken, metrics=["fid"])
    assert caught.value.setting == "elbo, reconstruction, kl"


def test_constant_samples_have_scores(evaluate):
    found, _ = evaluate(tiny(Broken))
    assert all(math.isfinite(value) for value in found.values())
    assert found["val/inception_score"] == pytest.approx(1.0) and found["val/recall"] == 0.0


def test_fewer_samples_than_features_have_scores_and_are_pointed_out(evaluate):
    with pytest.warns(UserWarning, match="20 generated and 241 real images are few for the 96 features"):
        found, _ = evaluate(tiny(GAN), extractor="mnist", num_samples=20)
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize(("half_life", "ema", "said"), [(1000, True, True), (1000, False, False), (0, True, False)])
def test_the_protocol_says_whether_weights_were_averaged(evaluate, half_life, ema, said):
    _, record = evaluate(tiny(GAN, ema_half_life=half_life), metrics=["fid"], ema=ema, floor=False)
    assert record["protocol"]["ema"] is said


# --- without validation -----------------------------------------------------------------------------------


class Unvalidated(GAN):
    validation_step = pl.LightningModule.validation_step


@pytest.mark.parametrize("model", [GAN, Unvalidated])
@pytest.mark.parametrize("data", [(loader(make_batches(2)),), (loader(make_batches(2)), loader(make_batches(8)))])
@pytest.mark.filterwarnings("ignore:You ")
def test_a_fit_without_validation_says_why_there_are_no_scores(make_trainer, recwarn, model, data):
    trainer = make_trainer(callbacks=[GenerativeMetrics(metrics=["fid"], num_samples=50, extractor=Extractor())])
    trainer.fit(tiny(model), *data)
    said = [str(warning.message) for warning in recwarn if f"{model.__name__}.validation_step" in str(warning.message)]
    assert ("val/fid" in trainer.callback_metrics) == (model is GAN and len(data) == 2) == (said == [])


def test_a_fit_whose_validation_is_switched_off_says_nothing(make_trainer, recwarn):
    callback = GenerativeMetrics(metrics=["fid"], num_samples=50, extractor=Extractor())
    make_trainer(callbacks=[callback], limit_val_batches=0).fit(tiny(GAN), Images())
    assert not [warning for warning in recwarn if "validation_step" in str(warning.message)]


def test_a_missing_class_is_left_out_with_a_warning(evaluate):
    model, data = tiny(ConditionalGAN, num_classes=4), Images(classes=3)
    with pytest.warns(UserWarning, match="No fid_class for 3"):
        found, _ = evaluate(model, data, metrics=["fid_class", "fid"])
    assert set(found) == {"val/fid", "val/fid_class/0", "val/fid_class/1", "val/fid_class/2"}


def test_missing_weights_are_an_error_before_the_first_step(make_trainer):
    model = tiny(GAN)
    with pytest.raises(DataError) as caught:
        make_trainer(callbacks=[GenerativeMetrics(extractor="inception")]).fit(model, Images())
    assert inception.FILE_NAME in caught.value.setting
    assert "metrics: " in str(caught.value) and "set weights_path" in str(caught.value)
    assert model.images_seen == 0


def test_without_weights_colour_images_train_unscored_by_default(make_trainer, tmp_path):
    model = tiny(GAN, image_shape=(3, 8, 8))
    checkpoint = Checkpoint(monitor="val/fid", dirpath=str(tmp_path / "checkpoints"))
    trainer = make_trainer(callbacks=[GenerativeMetrics(), checkpoint], enable_checkpointing=True)
    with pytest.warns(UserWarning, match="will not be scored"):
        trainer.fit(model, *(loader(make_batches(2, shape=(3, 8, 8))) for _ in range(2)))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    "options",
    [
        {"metrics": ["fidd"]},
        {"num_samples": 1},
        {"num_repeats": 0},
        {"every_n_epochs": 0},
        {"iw_samples": -1},
        {"precision_recall_k": 0},
        {"split": "dev"},
    ],
)
def test_settings_out_of_range_are_named(options):
    with pytest.raises(SettingError) as caught:
        GenerativeMetrics(**options)
    assert caught.value.setting == f"metrics.{next(iter(options))}"


def test_an_unknown_extractor_is_named(make_trainer):
    with pytest.raises(SettingError) as caught:
        make_trainer(callbacks=[GenerativeMetrics(extractor="incption")]).validate(tiny(GAN), Images(), verbose=False)
    assert caught.value.value == "incption"


def test_too_few_real_images_are_an_error(evaluate):
    with pytest.raises(SettingError) as caught:
        evaluate(tiny(GAN), Images(num_train=63), metrics=["precision"], floor=False)
    assert caught.value.setting == "metrics.precision_recall_k"


def test_data_of_an_unknown_size_train(make_trainer):
    class Unknown(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from (image for batch in make_batches(2) for image in zip(*batch, strict=True))

    for data in (torch.utils.data.DataLoader(Unknown(), batch_size=4), loader(make_batches(2))):
        callback = GenerativeMetrics(num_samples=50, extractor=Extractor())
        trainer = make_trainer(callbacks=[callback], limit_val_batches=2)
        trainer.fit(tiny(GAN), loader(make_batches(2)), data)
        assert "val/fid" in trainer.callback_metrics


@pytest.mark.parametrize("ours", [True, False])
def test_too_few_real_images_raise_before_the_first_step(make_trainer, ours):
    trainer = make_trainer(callbacks=[GenerativeMetrics(num_samples=50, extractor=Extractor())])
    few = torch.utils.data.DataLoader([image[0] for image in make_batches(5, size=1)], batch_size=1)
    data = [Images(num_train=64, batch_size=2)] if ours else [loader(make_batches(2)), few]
    with pytest.raises(SettingError) as caught:
        trainer.fit(tiny(GAN), *data)
    assert (caught.value.setting, caught.value.value) == ("metrics.density_coverage_k", 5)
    assert trainer.global_step == 0


def test_a_part_that_is_not_finite_is_an_error_too(evaluate):
    """A mean that leaves such images out would look like a score."""

    class Half(VAE):
        def _log_likelihood(self, *args):
            likelihood = super()._log_likelihood(*args)
            return torch.where(torch.arange(len(likelihood)) % 2 == 0, likelihood, torch.nan)

    with pytest.raises(DataError) as caught:
        evaluate(tiny(Half), metrics=["fid"])
    assert caught.value.setting == "elbo, reconstruction"
    with pytest.raises(DataError) as caught:
        evaluate(tiny(Half), metrics=[], iw_samples=2)
    assert caught.value.setting.startswith("iw_bound, elbo")


def test_real_images_that_are_not_finite_are_an_error(make_trainer):
    batches = make_batches(2)
    batches[1][0][3] = math.nan
    with pytest.raises(DataError) as caught:
        make_trainer(callbacks=[GenerativeMetrics(num_samples=50, extractor=Extractor())]).validate(
            tiny(GAN), loader(batches), verbose=False
        )
    assert caught.value.setting == "loader"


def test_a_loader_without_an_end_is_read_as_far_as_validation_goes(make_trainer):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield from make_batches(1)

    callback = GenerativeMetrics(metrics=["fid"], num_samples=50, extractor=Extractor())
    endless = torch.utils.data.DataLoader(Endless(), batch_size=None)
    make_trainer(callbacks=[callback], limit_val_batches=3).validate(tiny(GAN), endless, verbose=False)
    assert json.loads(callback.last_path.read_text())["protocol"]["num_real"] == 24


def test_a_split_that_is_too_small_gives_no_floor(evaluate):
    with pytest.warns(UserWarning, match="No floor"):
        _, record = evaluate(tiny(GAN), Images(num_test=3))
    assert record["floor"] is None


@pytest.mark.parametrize("options", [{"num_samples": 3}, {"neighbor_images": 5}])
def test_too_few_images_for_k_raise_at_once(options):
    with pytest.raises(SettingError) as caught:
        GenerativeMetrics(**options)
    assert caught.value.setting in ("metrics.precision_recall_k", "metrics.density_coverage_k")
    GenerativeMetrics(metrics=["fid"], **options)


def test_the_british_spelling_is_deprecated():
    with pytest.warns(FutureWarning, match="neighbor_images"):
        callback = GenerativeMetrics(neighbour_images=300)
    assert callback.settings.neighbor_images == 300


def test_one_of_the_neighbor_metrics_does_not_need_the_others_k(evaluate):
    found, _ = evaluate(tiny(GAN), Images(num_train=65), metrics=["precision"], floor=False)
    assert set(found) == {"val/precision"}


# --- what is kept, and what is not ------------------------------------------------------------------------


def test_a_loader_of_ones_own_counts_and_not_the_data_of_an_earlier_run(make_trainer):
    callback = GenerativeMetrics(metrics=["fid"], num_samples=50, extractor=Extractor())
    trainer = make_trainer(callbacks=[callback])
    trainer.fit(tiny(GAN), Images())
    trainer.validate(tiny(GAN), loader(make_batches(2)), verbose=False)
    protocol = json.loads(callback.last_path.read_text())["protocol"]
    assert (protocol["data"], protocol["num_real"]) == ("loader", 16)


def test_nothing_of_a_loader_is_kept_and_its_order_does_not_matter(make_trainer, tmp_path):
    def record(batches):
        kept = tmp_path / "kept"
        callback = GenerativeMetrics(num_samples=50, extractor=Extractor(), cache_dir=str(kept))
        make_trainer(callbacks=[callback]).validate(tiny(GAN), loader(batches), verbose=False)
        assert not kept.exists()
        return json.loads(callback.last_path.read_text())["protocol"]

    batches = make_batches(3)
    assert record(batches) == record(batches[::-1]) != record(make_batches(3, seed=1))


def test_a_callback_makes_its_extractor_anew(make_trainer):
    callback = GenerativeMetrics(metrics=["fid"], num_samples=50)
    trainer = make_trainer(callbacks=[callback])
    trainer.validate(tiny(GAN), loader(make_batches(2)), verbose=False)
    colour = tiny(GAN, image_shape=(3, 8, 8))
    with pytest.warns(UserWarning, match="will not be scored"):
        trainer.validate(colour, loader(make_batches(2, shape=(3, 8, 8))), verbose=False)


def test_training_draws_as_it_would_without_scores(make_trainer):
    """Also from the global stream, which the extractor's first weights and a DataLoader's seed come from."""

    def trained(callbacks):
        torch.manual_seed(1)
        model = tiny(GAN)
        model.run_seed = 3
        images = [image for batch in make_batches(4) for image in zip(*batch, strict=True)]
        loaders = [torch.utils.data.DataLoader(images, batch_size=8, shuffle=shuffle) for shuffle in (True, False)]
        make_trainer(max_epochs=3, callbacks=callbacks).fit(model, *loaders)
        return model.state_dict()

    without, scored = trained([]), trained([GenerativeMetrics(metrics=["fid"], num_samples=50)])
    assert all(value.equal(scored[name]) for name, value in without.items())


def test_classes_that_the_extractor_does_not_name_are_not_counted(make_trainer):
    callback = GenerativeMetrics(metrics=["label_accuracy", "fid"], num_samples=50, extractor=Extractor())
    trainer = make_trainer(callbacks=[callback])
    trainer.validate(tiny(ConditionalGAN), loader(make_batches(2)), verbose=False)
    assert set(trainer.callback_metrics) == {"val/fid"}


@pytest.mark.parametrize(("monitor", "mode"), [("val/fid", "min"), ("val/iw_bound", "max"), ("val/kid_std", "min")])
def test_the_best_checkpoint_is_one_that_was_scored(make_trainer, tmp_path, monitor, mode):
    callback = GenerativeMetrics(
        metrics=["fid", "kid"], num_samples=50, extractor=Extractor(), every_n_epochs=2, iw_samples=2
    )
    checkpoint = Checkpoint(monitor=monitor, mode=mode, every_n_epochs=3, dirpath=str(tmp_path / "checkpoints"))
    trainer = make_trainer(max_epochs=7, callbacks=[callback, checkpoint], enable_checkpointing=True)
    trainer.fit(tiny(VAE), Images())
    scored = {int(path.stem.removeprefix("step=")) for path in (tmp_path / "metrics").iterdir()}
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] in scored


class Constant(Metric):
    """Always 1."""

    def update(self, features, real):
        pass

    def compute(self):
        return torch.tensor(1.0)


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 0.5, "max_epochs": 5}])
def test_early_stopping_counts_only_validations_that_have_a_score(make_trainer, options):
    callback = GenerativeMetrics([], num_samples=50, extractor=Extractor(), every_n_epochs=3, own={"one": Constant()})
    stopping = EarlyStopping("val/one", patience=2)
    trainer = make_trainer(callbacks=[stopping, callback], **{"max_epochs": 20, **options})
    trainer.fit(tiny(GAN), Images(num_train=200))
    assert stopping.wait_count == 2  # the first score is the best one
    assert trainer.current_epoch == (9 if not options else 5)


def test_lightnings_checkpoint_and_neighbors_keep_their_rhythm_too(make_trainer, tmp_path):
    callbacks = [
        NearestNeighbors(every_n_epochs=2, num_samples=8, extractor=Extractor()),
        EarlyStopping("val/memorization", patience=1, min_delta=9.0),
        ModelCheckpoint(tmp_path, "{step}", "val/memorization_pixels", save_top_k=-1, every_n_epochs=1),
    ]
    trainer = make_trainer(max_epochs=9, callbacks=callbacks, enable_checkpointing=True)
    trainer.fit(tiny(GAN), Images(num_train=100))
    assert trainer.current_epoch == 4
    steps = [trainer.global_step // 2, trainer.global_step]
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {f"step={step}.ckpt" for step in steps}


# --- many processes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [1, 249, 250, 251, 1001, 10_000])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_the_processes_share_all_indices_in_whole_blocks(num, world_size):
    shares = [shard(num, 250, rank, world_size) for rank in range(world_size)]
    assert [index for share in shares for index in share] == list(range(num))
    assert all(share.start % 250 == 0 for share in shares if len(share))
    assert len(shares[0]) > 0


SCRIPT = """
import json, sys
import pytorch_lightning as pl
import torch
from lightning_gans import VAE, ConditionalGAN, GenerativeMetrics, Pix2Pix
from lightning_gans.datamodules.tasks import Denoise
from lightning_gans.metrics import evaluate as extraction
from tests.callbacks.test_scores import Extractor, Images
from tests.toys import loader, make_batches, tiny

torch.set_num_threads(1)
devices, folder = int(sys.argv[1]), sys.argv[2]
strategy = "ddp" if devices > 1 else "auto"
gathered = []
original = extraction._gathered
extraction._gathered = lambda *args: gathered.append(original(*args)) or gathered[-1]
found = {}
for name, cls, batch_size, num in (("gan", ConditionalGAN, 64, 1001), ("again", ConditionalGAN, 100, 1001),
                                   ("few", ConditionalGAN, 64, 99), ("vae", VAE, 9, 1001)):
    torch.manual_seed(0)
    model = tiny(cls)
    model.run_seed = 5
    cache_dir = f"{folder}/{devices}-{name}"
    callback = GenerativeMetrics(num_samples=num, extractor=Extractor(), iw_samples=3, cache_dir=cache_dir)
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback], default_root_dir=folder,
    )
    gathered.clear()
    trainer.validate(model, Images(batch_size=batch_size), verbose=False)
    features = torch.cat([found.features for found in gathered])
    found[name] = {key: value.item() for key, value in trainer.callback_metrics.items()}
    # the same images from a loader of the user's own, which Lightning deals out with repetitions
    dataset = [image for batch in make_batches(5, 7) for image in zip(*batch)]
    trainer.validate(model, torch.utils.data.DataLoader(dataset, batch_size=4), verbose=False)
    found[name]["of a loader"] = trainer.callback_metrics["val/fid"].item()
    if trainer.is_global_zero:
        torch.save(features, f"{folder}/{devices}-{name}.pt")
torch.manual_seed(0)
data = Images(num_train=900, batch_size=64 // devices)
data.val_size, data.task = 600, Denoise()
callback = GenerativeMetrics(extractor=Extractor(), cache_dir=f"{folder}/{devices}-pairs")
trainer = pl.Trainer(
    accelerator="cpu", devices=devices, strategy=strategy, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, callbacks=[callback], default_root_dir=folder,
)
trainer.validate(Pix2Pix((1, 8, 8), width=2, num_layers=1), data, verbose=False)
found["pairs"] = {key: value.item() for key, value in trainer.callback_metrics.items()}
with open(f"{folder}/{devices}-{trainer.global_rank}.json", "w") as file:
    json.dump(found, file)
"""


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path):
    script = tmp_path / "evaluate.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen([sys.executable, script, str(devices), tmp_path], env=environment, stderr=subprocess.PIPE)
        for devices in (1, 2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=150)
        assert run.returncode == 0, errors.decode()[-3000:]
    one, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert first == second
    for name in one:
        if name != "pairs":
            assert torch.load(tmp_path / f"1-{name}.pt").equal(torch.load(tmp_path / f"2-{name}.pt"))
        for key, value in one[name].items():
            exact = key.split("/")[-1] in ("precision", "recall", "density", "coverage")
            likelihood = key.split("/")[-1] in ("elbo", "reconstruction", "kl", "iw_bound")
            rel = 0 if exact else 1e-5 if likelihood else 1e-9
            assert first[name][key] == pytest.approx(value, rel=rel, abs=0), (name, key)
    assert one["gan"]["val/fid"] == one["again"]["val/fid"]
    assert {"val/psnr", "val/fid"} < one["pairs"].keys() and all(
        first["pairs"][f"val/{n}"] == one["pairs"][f"val/{n}"] for n in ("psnr", "ssim", "l1")
    )
    assert "val/iw_bound" in one["vae"] and "val/fid_class/2" in one["gan"]


def test_an_error_of_one_process_is_an_error_of_all():
    class Two:
        @staticmethod
        def reduce_boolean_decision(decision, all):
            assert decision and all
            return False

    with pytest.raises(DataError, match="another process"):
        everywhere(Two(), lambda: 1)


@pytest.mark.parametrize("fault", [{"batch_size": None}, {"shuffle": True}, {"drop_last": True, "batch_size": 4}])
def test_loaders_whose_repetitions_cannot_be_told_are_refused_on_many_processes(fault):
    dataset = list(range(9))
    options = {"batch_size": 2, **fault}
    if fault.get("batch_size", 2) is not None:
        shuffle = options.pop("shuffle", False)
        options["sampler"] = torch.utils.data.DistributedSampler(dataset, num_replicas=2, rank=0, shuffle=shuffle)
    num_rows = 8 if "drop_last" in fault else 10
    with pytest.raises(DataError) as caught:
        extraction._dataset_order(torch.utils.data.DataLoader(dataset, **options), num_rows, 2)
    assert caught.value.setting == "loader"
