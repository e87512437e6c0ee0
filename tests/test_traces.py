"""Every model trains to the numbers that it trained to before: its losses in each update, and what comes out.

The traces in ``traces/`` are rewritten, each test then being skipped, by

    LIGHTNING_GANS_WRITE_TRACES=1 python -m pytest -n0 tests/test_traces.py

Only what a user calls is used here, so that the package may be taken apart behind it.
"""

import json
import math
import os
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from torch.utils.data import DataLoader, TensorDataset

from lightning_gans import (
    DCGAN,
    GAN,
    R3GAN,
    SRGAN,
    VAE,
    VAEGAN,
    VQVAE,
    ConditionalGAN,
    CycleGAN,
    FastGAN,
    InfoGAN,
    Pix2Pix,
    RecurrentGAN,
    ResNetGAN,
)
from lightning_gans.networks import MLPGenerator, ResNetDiscriminator

from .plain_loader import NUM_CLASSES, batches_of_a_step, held_out, images_and_labels, loader
from .toys import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*")  # the averages

FOLDER = Path(__file__).parent / "traces"
WRITE = "LIGHTNING_GANS_WRITE_TRACES" in os.environ
BATCH_SIZE = 4
NUM_EPOCHS = 2  # of three generator updates each

GREY, GREY_28, COLOUR = (1, 8, 8), (1, 28, 28), (3, 16, 16)
GREY_WIDE = (1, 8, 16)
LABELS = {"num_classes": NUM_CLASSES}
RATES = {"generator_lr": 2e-3, "discriminator_lr": 3e-3}
SCHEDULES = {"lr_schedule": "cosine", "lr_end": 0.1, "ema_half_life": 30, "ema_ramp": 10, "ema_start": 0.2}
ALL_CHANGES = {"augment": ["color", "translation", "cutout"]}
ATTENTION = {"attention": [8], "generator_width": 8, "discriminator_width": 8}
PLAIN_CRITIC = {"batch_norm": False}

SIZES = {
    GAN: {"image_shape": GREY, "generator_dims": (6, 5), "discriminator_dims": (7, 5), **RATES},
    DCGAN: {"image_shape": GREY, "width": 3, **RATES},
    ConditionalGAN: {
        "image_shape": GREY,
        "generator_dims": (6, 5),
        "discriminator_dims": (7, 5),
        "width": 3,
        **LABELS,
        **RATES,
    },
    InfoGAN: {
        "image_shape": GREY,
        "width": 3,
        "dense_dims": (6,),
        "recognition_dims": (5,),
        "continuous_dim": 1,
        **LABELS,
        **RATES,
    },
    ResNetGAN: {
        "image_shape": COLOUR,
        "generator_width": 3,
        "discriminator_width": 4,
        "loss": "hinge",
        # Small, as the generator's biases before BatchNorm have gradients of rounding errors, which Adam makes large.
        "adversarial_weight": 0.01,
        "generator_lr": 2e-4,
        "discriminator_lr": 3e-3,
    },
    R3GAN: {"image_shape": COLOUR, "widths": (4, 4, 2), "blocks": 1, "group_width": 2, "label_dim": 2, **RATES},
    RecurrentGAN: {"image_shape": (1, 8), "hidden_dim": 4, **RATES},
    FastGAN: {"image_shape": (1, 32, 32), "width": 1, "discriminator_width": 2},
    VAE: {"image_shape": GREY, "encoder_dims": (6, 5), "decoder_dims": (5, 6), "width": 3},
    Pix2Pix: {"image_shape": GREY_WIDE, "width": 2, "num_layers": 1, **RATES},
    CycleGAN: {"image_shape": GREY_WIDE, "width": 2, "num_blocks": 1, "num_layers": 1, "pool_size": 5, **RATES},
    SRGAN: {"image_shape": GREY_WIDE, "source_shape": GREY_WIDE, "width": 2, "num_blocks": 1, **RATES},
    VQVAE: {
        "image_shape": GREY,
        "num_codes": 6,
        "code_dim": 3,
        "width": 3,
        "decay": 0.7,
        "prior_width": 4,
        "prior_layers": 1,
        "prior_heads": 2,
    },
    VAEGAN: {"image_shape": GREY, "width": 3, "encoder_lr": 2e-3, "decoder_lr": 2e-3, "discriminator_lr": 3e-3},
}

CASES = {
    GAN: {
        "plain": {},
        "minimax": {"loss": "minimax", "dropout": 0.0},
        "least_squares": {"loss": "least_squares", "betas": (0.9, 0.99), "weight_decay": 0.1},
        "wasserstein": {"loss": "wasserstein", "penalties": {"wgan_gp": 10.0}, "d_steps": 2},
        "d_steps": {"d_steps": 2},
        "accumulate_batches": {"accumulate_batches": 2},
        "d_steps_accumulate_batches": {"d_steps": 2, "accumulate_batches": 2, "feature_matching": 0.5},
        "gradient_clip_val": {"gradient_clip_val": 0.05},
        "linear": {"lr_schedule": "linear", "lr_end": 0.5, "schedule_images": 16},
        "no_ema": {"ema_half_life": 0},
        "own_generator": {"generator": partial(MLPGenerator, GREY, 3, (4,))},
    },
    DCGAN: {
        "plain": {},
        "28_pixels": {"image_shape": GREY_28, "width": 2},
        "colour": {"image_shape": COLOUR, "width": 2, "discriminator_width": 3, "dense_dims": (5,)},
        "r1": {"penalties": {"r1": 0.5}, **PLAIN_CRITIC},
        "r2": {"penalties": {"r2": 0.5}, **PLAIN_CRITIC},
        "wgan_gp": {"loss": "wasserstein", "penalties": {"wgan_gp": 10.0}, **PLAIN_CRITIC},
        "dragan": {"penalties": {"dragan": 10.0}, **PLAIN_CRITIC},
        "all_penalties": {"penalties": {"r1": 0.1, "r2": 0.2, "wgan_gp": 0.3, "dragan": 0.4}, "d_steps": 2},
        "penalty_interval": {"penalties": {"r1": 0.5, "wgan_gp": 1.0}, "penalty_interval": 2, **PLAIN_CRITIC},
        "penalty_interval_d_steps": {"penalties": {"r1": 0.5}, "penalty_interval": 3, "d_steps": 2, **PLAIN_CRITIC},
        "penalty_end": {"loss": "relativistic", "penalties": {"r1": 0.5, "r2": 0.5}, "penalty_end": 0.1},
        "accumulate_batches": {"accumulate_batches": 2, "penalties": {"r1": 0.5, "dragan": 1.0}, **PLAIN_CRITIC},
        "relativistic_d_steps": {"loss": "relativistic", "d_steps": 2},
        "feature_matching_l1": {"feature_matching": 0.5, "feature_matching_norm": "l1"},
        "feature_matching_l2": {"feature_matching": 0.5, "feature_matching_norm": "l2"},
        "feature_matching_alone": {"feature_matching": 1.0, "adversarial_weight": 0.0, "feature_layer": "layers.0"},
        "color": {"augment": ["color"]},
        "translation": {"augment": ["translation"]},
        "cutout": {"augment": ["cutout"]},
        "augment": {"image_shape": COLOUR, "width": 2, **ALL_CHANGES},
        "augment_d_steps": {**ALL_CHANGES, "d_steps": 2, "feature_matching": 0.1, "penalties": {"r1": 0.5, "r2": 0.5}},
        "augment_accumulate_batches": {**ALL_CHANGES, "accumulate_batches": 2, **PLAIN_CRITIC},
        "schedules": {**SCHEDULES, "beta2_end": 0.9},
        "schedule_images": {**SCHEDULES, "beta2_end": 0.9, "schedule_images": 20, "d_steps": 2},
        "gradient_clip_val": {"gradient_clip_val": 0.05, "accumulate_batches": 2},
    },
    ConditionalGAN: {
        "mlp": {},
        "mlp_mismatch_weight": {"mismatch_weight": 0.5},
        "mlp_mismatch_accumulate_batches": {"mismatch_weight": 0.4, "accumulate_batches": 2, "loss": "hinge"},
        "conv": {"architecture": "conv"},
        "conv_batch_norm": {"architecture": "conv", "generator_conditioning": "batch_norm", "dense_dims": (5,)},
        "conv_mismatch_d_steps": {"architecture": "conv", "mismatch_weight": 0.5, "d_steps": 2},
        "conv_regularized": {
            "architecture": "conv",
            "mismatch_weight": 0.5,
            "penalties": {"r1": 0.5, "wgan_gp": 0.5},
            "feature_matching": 0.5,
            **PLAIN_CRITIC,
            **ALL_CHANGES,
        },
    },
    InfoGAN: {
        "plain": {},
        "continuous": {"num_classes": 0, "continuous_dim": 2, "d_steps": 2},
        "regularized": {
            "categorical_weight": 0.5,
            "continuous_weight": 0.3,
            "loss": "relativistic",
            "penalties": {"r1": 0.5, "r2": 0.5},
            "accumulate_batches": 2,
            **PLAIN_CRITIC,
            **ALL_CHANGES,
        },
    },
    ResNetGAN: {
        "hinge": {"d_steps": 2},
        "projection": {**LABELS},
        "auxiliary": {**LABELS, "conditioning": "auxiliary", "auxiliary_weight": 0.07},
        "auxiliary_regularized": {
            **LABELS,
            "conditioning": "auxiliary",
            "auxiliary_weight": 0.03,
            "feature_matching": 0.01,
            "accumulate_batches": 2,
            "penalties": {"r1": 0.5, "r2": 0.5},
            **ALL_CHANGES,
        },
        "auxiliary_paired": {**LABELS, "conditioning": "auxiliary", "auxiliary_weight": 0.05, "loss": "relativistic"},
        "wgan_gp": {"loss": "wasserstein", "penalties": {"wgan_gp": 10.0}, "spectral_norm": False, "d_steps": 2},
        "sagan": {**ATTENTION, "generator_spectral_norm": True, "penalties": {"r1": 0.5}},
        "biggan": {**ATTENTION, **LABELS, "architecture": "biggan", "latent_dim": 6, "generator_spectral_norm": True},
    },
    R3GAN: {
        "plain": {},
        "conditional": {**LABELS, "accumulate_batches": 2, "penalty_interval": 2},
        "schedules": {
            **SCHEDULES,
            "penalty_end": 0.1,
            "beta2_end": 0.9,
            "betas": (0.0, 0.99),
            "patch_size": 2,
            "widths": (4, 2),
        },
    },
    RecurrentGAN: {
        "sequences": {},
        "step_noise": {"latent_dim": 10, "step_noise": 1, "num_layers": 2, "cell": "gru", "bidirectional": False},
        "rows": {"image_shape": GREY, **LABELS, "loss": "hinge", "penalties": {"r1": 0.5}, "mismatch_weight": 0.5},
    },
    FastGAN: {
        "plain": {},
        "accumulated": {"accumulate_batches": 2, "reconstruction_weight": 0.3, **ALL_CHANGES, **SCHEDULES},
        "without_reconstruction": {"reconstruction_weight": 0.0, "d_steps": 2, "loss": "nonsaturating"},
    },
    VAE: {
        "mlp": {},
        "mlp_batch_norm": {"batch_norm": True, "beta": 0.5, **LABELS, "gradient_clip_val": 5.0},
        "conv": {"architecture": "conv"},
        "conv_conditional": {"architecture": "conv", **LABELS, "dense_dims": (5,), **SCHEDULES},
        "importance_samples": {"importance_samples": 3},
        "encoder_steps": {"encoder_steps": 2},
        "weighted_kl": {"kl_warmup_images": 20, "free_bits": 0.02, "tc_weight": 2.0},
        "vamp": {"prior": "vamp", "prior_components": 5, "architecture": "conv", **LABELS},
        "mixture": {"prior": "mixture", "prior_components": 2, "importance_samples": 2},
        "gaussian": {"likelihood": "gaussian"},
        "gaussian_sigma": {"likelihood": "gaussian", "sigma": 0.5, "architecture": "conv"},
        "accumulate_batches": {"accumulate_batches": 2, "likelihood": "gaussian"},
        "many_batches": {"accumulate_batches": 2, "encoder_steps": 2, "importance_samples": 2, "ema_half_life": 0},
    },
    Pix2Pix: {
        "plain": {},
        "regularized": {"loss": "hinge", "norm": "instance", "penalties": {"r1": 0.5, "wgan_gp": 1.0}, **ALL_CHANGES},
        "accumulated": {"accumulate_batches": 2, "norm": "none", "dropout": 0.0, **SCHEDULES},
    },
    CycleGAN: {
        "plain": {},
        "accumulated": {"accumulate_batches": 2, "identity_weight": 0.0, "pool_size": 0, "penalties": {"r1": 0.5}},
    },
    SRGAN: {
        "plain": {},
        "regularized": {
            "loss": "hinge",
            "norm": "none",
            "adversarial_weight": 0.1,
            "penalties": {"r1": 0.5},
            **ALL_CHANGES,
        },
        "pretrained": {"pretrain_steps": 2, "accumulate_batches": 2, "norm": "none", **SCHEDULES},
    },
    VQVAE: {
        "plain": {},
        "conditional": {**LABELS, "commitment": 1.0, "accumulate_batches": 2, **SCHEDULES},
    },
    VAEGAN: {
        "plain": {},
        "conditional": {**LABELS, "gamma": 0.1, "kl_weight": 0.5},
        "minimax": {"loss": "minimax", "accumulate_batches": 2, **SCHEDULES},
        "relativistic": {"loss": "relativistic", "penalties": {"r1": 0.5, "r2": 0.5}, "penalty_interval": 2},
        "regularized": {
            "loss": "hinge",
            "penalties": {"wgan_gp": 1.0, "dragan": 1.0},
            "penalty_end": 0.1,
            "feature_matching": 0.5,
            "gradient_clip_val": 0.5,
            **ALL_CHANGES,
        },
        "auxiliary": {**LABELS, "discriminator": partial(ResNetDiscriminator, GREY, 4, NUM_CLASSES, True, "auxiliary")},
    },
}
NAMES = [(cls, name) for cls, cases in CASES.items() for name in cases]


class Notes(Logger):
    """Keeps what is logged by ``trainer.global_step``, however many batches make one update of the generator."""

    name, version = "notes", 0

    def __init__(self):
        super().__init__()
        self.values = {}

    def log_hyperparams(self, *_):
        pass

    def log_metrics(self, metrics, step=None):
        for key, value in metrics.items():
            if key.startswith(("train/", "val/")):
                self.values.setdefault(key, {})[self.trainer.global_step] = float(value)


def sums(values):
    """Return two numbers that change with any of so many."""
    values = values.double()
    return [float(values.sum()), float(values.square().sum())]


def outcome(model):
    """Return what a trained model makes: samples, reconstructions, bounds; with the averages and without."""
    images, labels = images_and_labels(4, model.image_shape)
    labelled = {"labels": labels} if model.num_classes else {}
    made = {"images_seen": [model.images_seen]}
    for ema in (True, False):
        kind = "ema" if ema else "weights"
        if model.latent_dim:
            made[f"samples/{kind}"] = sums(model.sample(8, seed=0, ema=ema))
        else:
            made[f"translations/{kind}"] = sums(model.translate(images, ema=ema))
        if hasattr(model, "reconstruct"):
            made[f"reconstructions/{kind}"] = sums(model.reconstruct(images, ema=ema, **labelled))
        if hasattr(model, "bound"):
            made[f"bound/{kind}"] = sums(model.bound(images, 3, seed=0, ema=ema, **labelled))
    return made


def trace(cls, name, folder, seed=0, **changes):
    """Train a model in double precision; return what it logged in each of its updates, and what comes out."""
    options = {**SIZES[cls], **CASES[cls][name], **changes}
    if cls.batch_kind != "pairs" and cls is not VQVAE:
        options = {"latent_dim": 3, **options}
    shape, notes = options["image_shape"], Notes()
    trainer = quiet_trainer(
        folder,
        precision="64-true",
        devices=1,
        max_epochs=NUM_EPOCHS,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=notes,
    )
    notes.trainer = trainer
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # what seed_everything leaves behind
            patch.setenv(variable, "0")
        pl.seed_everything(seed, verbose=False)
        with trainer.init_module():  # weights drawn as float64: rounded to float32 they differ between processors
            networks = {name: value() for name, value in options.items() if isinstance(value, partial)}
            model = cls(**{**options, **networks})
        loaders = loader(BATCH_SIZE, batches_of_a_step(options), shape), held_out(shape)
        trainer.fit(model, *(map(in_pairs, loaders) if cls.batch_kind == "pairs" else loaders))
    steps = range(1, trainer.global_step + 1)
    found = {key: [values.get(step) for step in steps] for key, values in sorted(notes.values.items())}
    return {"made_with": made_with(), **found, **outcome(model)}


def in_pairs(images_and_labels):
    """Give the images of a loader with their mirrored negatives as targets."""
    images = images_and_labels.dataset.tensors[0]
    return DataLoader(TensorDataset(images, -images.flip(-1)), images_and_labels.batch_size)


def made_with():
    """Return what normal numbers, which are drawn as float32, depend on in their last bit."""
    return f"torch {torch.__version__.partition('+')[0]}, {torch.backends.cpu.get_cpu_capability()}"


def closeness(key, exact):
    """Return the tolerances of a value; those of sums allow a few of very many float32 numbers to round otherwise."""
    if not exact:
        return {"rel_tol": 1e-4, "abs_tol": 1e-5}
    if key.startswith(("train/", "val/", "images_seen")):
        return {"rel_tol": 1e-9, "abs_tol": 1e-13}
    return {"rel_tol": 1e-7 if key.startswith("bound/") else 1e-9, "abs_tol": 1e-7}


def differences(wanted, found):
    """Return the values that differ, as text."""
    exact = wanted["made_with"] == found["made_with"]
    wrong = [f"only one has {key}" for key in sorted(wanted.keys() ^ found.keys())]
    for key in sorted(wanted.keys() & found.keys() - {"made_with"}):
        if len(wanted[key]) != len(found[key]):
            wrong.append(f"{key}: {len(wanted[key])} values, now {len(found[key])}")
            continue
        for number, (old, new) in enumerate(zip(wanted[key], found[key], strict=True), 1):
            same = old is new is None if None in (old, new) else math.isclose(old, new, **closeness(key, exact))
            if not same:
                wrong.append(f"{key}, number {number}: {old}, now {new}")
    return wrong


def path_of(cls):
    return FOLDER / f"{cls.__name__}.json"


def read(cls):
    return json.loads(path_of(cls).read_text()) if path_of(cls).is_file() else {}


def write(cls, name, found):
    """Put a trace into its class's file, a line for each key, and drop those of cases that are no more."""
    traces = {**read(cls), name: found}
    blocks = []
    for case in (case for case in CASES[cls] if case in traces):
        lines = [f"  {json.dumps(key)}: {json.dumps(values)}" for key, values in traces[case].items()]
        blocks.append(f" {json.dumps(case)}: {{\n" + ",\n".join(lines) + "\n }")
    path_of(cls).parent.mkdir(exist_ok=True)
    path_of(cls).write_text("{\n" + ",\n".join(blocks) + "\n}\n")


@pytest.mark.parametrize(("cls", "name"), NAMES, ids=[f"{cls.__name__}-{name}" for cls, name in NAMES])
def test_a_model_trains_to_the_numbers_it_trained_to(cls, name, tmp_path):
    found = trace(cls, name, tmp_path)
    if WRITE:
        write(cls, name, found)
        pytest.skip("the trace is written anew")
    wrong = differences(read(cls)[name], found)
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.skipif(WRITE, reason="the traces are being written")
def test_there_is_a_trace_of_every_case_and_no_other():
    assert {path.name for path in FOLDER.iterdir()} == {path_of(cls).name for cls in CASES}
    for cls, cases in CASES.items():
        assert list(read(cls)) == list(cases)
        for stored in read(cls).values():
            assert len(stored[{VAE: "train/kl", VQVAE: "train/mse"}.get(cls, "train/d_loss")]) == 6


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"discriminator_lr": 3e-3 * (1 + 1e-5)}, {"betas": (0.5, 0.99901)}, {"ema_half_life": 0}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_run_has_another_trace(changes, tmp_path):
    assert differences(trace(DCGAN, "r1", tmp_path), trace(DCGAN, "r1", tmp_path, **changes))


def test_a_trace_is_the_same_each_time(tmp_path):
    assert trace(GAN, "plain", tmp_path) == trace(GAN, "plain", tmp_path)


def test_differences_are_found():
    stored = {"made_with": "here", "train/a": [1.0, None], "train/b": [2.0]}
    assert differences(stored, stored) == []
    assert differences(stored, {**stored, "train/a": [1.0 + 1e-8, None]})
    assert differences(stored, {**stored, "train/a": [1.0, 1.0]})
    assert differences(stored, {**stored, "train/a": [1.0]})
    assert differences(stored, {**stored, "train/c": [1.0]})
    assert not differences(stored, {**stored, "made_with": "elsewhere", "train/a": [1.0 + 1e-8, None]})
    assert differences(stored, {**stored, "made_with": "elsewhere", "train/a": [1.001, None]})
