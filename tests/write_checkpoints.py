"""Writes small checkpoints of every model, as this version of the package does, for later versions to read.

    python -m tests.write_checkpoints

makes ``tests/fixtures/checkpoints_<version>/``. A folder that is there stays as it is: what wrote it is no more.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch

import lightning_gans
from lightning_gans import (
    DCGAN,
    GAN,
    R3GAN,
    VAE,
    VAEGAN,
    VQVAE,
    AtomicCheckpointIO,
    Checkpoint,
    CollapseWatchdog,
    ConditionalGAN,
    RecurrentGAN,
    ResNetGAN,
    RunLogger,
)
from lightning_gans.networks import MLPGenerator

from .plain_loader import NUM_CLASSES, batches_of_a_step, held_out, loader
from .toys import quiet_trainer

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = "expected.json"
SHAPE = (1, 8, 8)
BATCH_SIZE = 4
NUM_UPDATES = 2

LABELS = {"num_classes": NUM_CLASSES}
# Large steps and slow averages, so that samples of the averages are others than those of the weights.
AVERAGES = {"ema_half_life": 20.0, "ema_ramp": 10.0}
RATES = {"generator_lr": 0.05, "discriminator_lr": 0.02}
ENCODER_RATES = {"encoder_lr": 0.02, "decoder_lr": 0.05}
MLP = {"generator_dims": [4], "discriminator_dims": [4]}
MODELS = {
    "gan": (GAN, {**MLP, "dropout": 0.25}),
    "gan_d_steps": (GAN, {**MLP, "d_steps": 2, "ema_half_life": 0.0}),
    "gan_noted_generator": (GAN, {**MLP}),
    "dcgan": (DCGAN, {"width": 2, "penalties": {"r1": 0.5}, "augment": ["color", "cutout"], "lr_schedule": "cosine"}),
    "dcgan_end_of_epoch": (DCGAN, {"width": 1, "batch_norm": False, "accumulate_batches": 2}),
    "conditional_gan_mlp": (ConditionalGAN, {**MLP, **LABELS, "mismatch_weight": 0.5}),
    "conditional_gan_conv": (ConditionalGAN, {"architecture": "conv", "width": 2, **LABELS}),
    "resnet_gan": (ResNetGAN, {"generator_width": 2, "discriminator_width": 2, "loss": "hinge"}),
    "resnet_gan_auxiliary": (
        ResNetGAN,
        {"generator_width": 2, "discriminator_width": 2, **LABELS, "conditioning": "auxiliary"},
    ),
    "r3gan": (R3GAN, {"widths": [2, 2], "blocks": 1, "group_width": 2, "label_dim": 2, **LABELS}),
    "recurrent_gan": (RecurrentGAN, {"hidden_dim": 2, "image_shape": [1, 8]}),
    "vae_mlp": (VAE, {"encoder_dims": [4], "decoder_dims": [4], "likelihood": "gaussian"}),
    "vae_conv": (VAE, {"architecture": "conv", "width": 2, "encoder_steps": 2}),
    "vae_vamp": (VAE, {"encoder_dims": [4], "decoder_dims": [4], "prior": "vamp", "prior_components": 3}),
    "vae_mixture": (VAE, {"encoder_dims": [4], "decoder_dims": [4], "prior": "mixture", "prior_components": 2}),
    "vqvae": (VQVAE, {"width": 2, "code_dim": 2, "num_codes": 4, "prior_width": 4, "prior_layers": 1, **LABELS}),
    "vae_gan": (VAEGAN, {"width": 2, "gamma": 0.1}),
}
NOTED = {"image_shape": list(SHAPE), "latent_dim": 2, "hidden_dims": [3]}
CLI = [
    *("fit", "--model", "ConditionalGAN", "--model.image_shape", "[1, 8, 8]", "--model.latent_dim", "2"),
    *("--model.architecture", "mlp", "--model.discriminator_dims", "[3]"),
    *("--model.generator", "lightning_gans.networks.DCGANGenerator"),
    *("--model.generator.image_shape", "[1, 8, 8]", "--model.generator.latent_dim", "2"),
    *("--model.generator.width", "1", "--model.generator.num_classes", "10"),
    *(word for name, value in (AVERAGES | RATES).items() for word in (f"--model.{name}", str(value))),
    *("--data", "DigitsDataModule", "--data.image_size", "8", "--data.batch_size", str(BATCH_SIZE)),
    *("--trainer.max_steps", str(NUM_UPDATES), "--trainer.max_epochs", "-1", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"),
    *("--metrics.enabled", "false", "--samples.enabled", "false"),
]


def sums(images):
    """Return two numbers that change with any of so many."""
    images = images.double()
    return [float(images.sum()), float(images.square().sum())]


def samples(model):
    """Return what a checkpoint's samples come to, with the averages of the weights and without."""
    return {"ema": sums(model.sample(4, seed=0)), "weights": sums(model.sample(4, seed=0, ema=False))}


class SaveAt(pl.Callback):
    """Saves once after so many updates."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == NUM_UPDATES and not self.path.exists():
            trainer.save_checkpoint(self.path, weights_only=False)


def train(name, path, folder):
    """Train a model and save it after so many updates: within an epoch, or at the end of one."""
    cls, options = MODELS[name]
    rates = ENCODER_RATES if "vae" in name else RATES
    latents = {} if cls is VQVAE else {"latent_dim": 2}  # one for each code
    options = {"image_shape": list(SHAPE), **latents, **AVERAGES, **rates, **options}
    shape, at_end = tuple(options["image_shape"]), name.endswith("end_of_epoch")
    pl.seed_everything(7, verbose=False)
    model = cls(**options, **({"generator": MLPGenerator(**NOTED)} if name == "gan_noted_generator" else {}))
    if name == "gan_noted_generator":  # as the command line does for a network that a recipe names
        class_path = f"{MLPGenerator.__module__}.{MLPGenerator.__qualname__}"
        model.note_arguments(generator={"class_path": class_path, "init_args": NOTED})
    trainer = quiet_trainer(
        folder,
        devices=1,
        max_epochs=1 if at_end else 2,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=RunLogger(folder, "runs", name),
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=True,
        callbacks=[CollapseWatchdog(), *([] if at_end else [SaveAt(path)]), Checkpoint(dirpath=folder / name)],
    )
    updates = NUM_UPDATES if at_end else NUM_UPDATES + 1
    trainer.fit(model, loader(BATCH_SIZE, batches_of_a_step(options), shape, updates), held_out(shape))
    if at_end:
        trainer.save_checkpoint(path, weights_only=False)
    return options


def train_by_command(path, folder):
    """Train by the command line, with a network that it names, and take what the run has saved."""
    from lightning_gans.cli import main

    before = Path.cwd()
    os.chdir(folder)
    try:
        main(CLI)
    finally:
        os.chdir(before)
    (last,) = folder.glob("runs/*/version_0/checkpoints/last.ckpt")
    shutil.copy(last, path)
    return {"image_shape": list(SHAPE), "latent_dim": 2, "num_classes": 10, **AVERAGES, **RATES}


def describe(path, options):
    """Return what a checkpoint holds, as this version reads it."""
    model = lightning_gans.load(path)
    found = samples(model)
    assert (found["ema"] != found["weights"]) == (options["ema_half_life"] > 0)
    return {
        "class": type(model).__name__,
        "generator": type(getattr(model, "generator", None)).__name__,
        "arguments": options,
        "images_seen": model.images_seen,
        "global_step": torch.load(path, weights_only=True)["global_step"],
        "samples": found,
    }


def main():
    """Write the folder of this version."""
    target = FIXTURES / f"checkpoints_{lightning_gans.__version__.replace('.', '_')}"
    if target.exists():
        sys.exit(f"{target} is there already, and stays as it is.")
    expected = {}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        made.mkdir()
        for name in MODELS:
            path = made / f"{name}.ckpt"
            expected[name] = describe(path, train(name, path, Path(folder)))
        path = made / "command_line.ckpt"
        expected["command_line"] = describe(path, train_by_command(path, Path(folder)))
        lines = [f" {json.dumps(name)}: {json.dumps(about)}" for name, about in expected.items()]
        (made / EXPECTED).write_text("{\n" + ",\n".join(lines) + "\n}\n")
        shutil.copytree(made, target)


if __name__ == "__main__":
    main()
