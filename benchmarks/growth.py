"""How the cost of training grows: with the images of an update, their size, the networks' width, and the processes.

    python benchmarks/growth.py
    python benchmarks/growth.py --paper

The first trains a DCGAN under Lightning's Trainer in several sizes, in turn, and prints JSON: seconds an update (the
smallest of the rounds' medians), multiplications and additions (counted by torch), parameters, and what an update would
have to send. It fits ``seconds = fixed + images x each`` to the sizes of the batch. The second puts the counted work
and bytes of the recipes into a model of data-parallel training and prints how efficient it would be on up to 64 GPUs;
its two rates are arguments, not measurements.
"""

import argparse
import json
import math
import os
import statistics
import time

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from train_throughput import Pictures

import lightning_gans
from lightning_gans.cli.commands.recipes import find

BASE = {"image_size": 32, "width": 32, "batch_size": 64}
SIZES = {
    "images": [BASE | {"batch_size": batch_size} for batch_size in (16, 32, 64, 128, 256)],
    "resolution": [BASE | {"image_size": size} for size in (16, 32, 64)],
    "parameters": [BASE | {"width": width} for width in (16, 32, 64)],
}
RECIPES = ("gan_mnist", "dcgan_mnist", "dcgan_cifar10", "vae_mnist")
LINKS = {"NVLink, 450 GB/s": (450e9, 8), "InfiniBand, 50 GB/s": (50e9, 64), "Ethernet, 12.5 GB/s": (12.5e9, 64)}
"""Bytes a second that each GPU can send, and the most GPUs that are joined this way."""


class Clock(pl.Callback):
    """Notes when updates end."""

    def __init__(self):
        self.times = []

    def on_train_batch_end(self, *args):
        """Read the clock."""
        self.times.append(time.perf_counter())


def trainer_for(updates, *callbacks):
    return pl.Trainer(
        accelerator="cpu",
        max_steps=updates,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )


def pictures(model, batch_size, updates):
    return Pictures(list(model.image_shape), num_images=batch_size * (updates + 1), val_size=1, batch_size=batch_size)


def seconds_an_update(size, updates, warm_up):
    """Train a DCGAN of this size for a while and return the median."""
    pl.seed_everything(0, verbose=False)
    model, clock = dcgan(size), Clock()
    updates += warm_up
    trainer_for(updates, clock).fit(model, pictures(model, size["batch_size"], updates))
    return statistics.median(b - a for a, b in zip(clock.times[warm_up:], clock.times[warm_up + 1 :], strict=False))


def dcgan(size):
    shape = (1, size["image_size"], size["image_size"])
    return lightning_gans.DCGAN(image_shape=shape, latent_dim=64, width=size["width"])


def work(model, batch_size):
    """Count what an update takes: floating-point operations, parameters, bytes of all gradients."""
    data = pictures(model, batch_size, 1)
    with FlopCounterMode(display=False) as counter:
        trainer_for(1).fit(model, data)
    trained = [p for p in model.parameters() if p.requires_grad]
    return {
        "gflop": round(counter.get_total_flops() / 1e9, 3),
        "parameters": sum(p.numel() for p in trained),
        "gradient_bytes": sum(p.numel() * p.element_size() for p in trained),
    }


def growth(args):
    """Measure all sizes, in turn."""
    sizes = {json.dumps(size): size for group in SIZES.values() for size in group}
    seconds = {key: [] for key in sizes}
    for _ in range(args.rounds):
        for key, size in sizes.items():
            seconds[key].append(seconds_an_update(size, args.updates, args.warm_up))
    counted = {key: work(dcgan(size), size["batch_size"]) for key, size in sizes.items()}
    rows = {
        name: [
            size
            | counted[json.dumps(size)]
            | {
                "seconds": round(min(seconds[json.dumps(size)]), 4),
                "gflop_a_second": round(counted[json.dumps(size)]["gflop"] / min(seconds[json.dumps(size)]), 1),
            }
            for size in group
        ]
        for name, group in SIZES.items()
    }
    batches = [(row["batch_size"], row["seconds"]) for row in rows["images"]]
    each, fixed = np.polyfit(*zip(*batches, strict=True), 1)
    return rows | {"fit": {"fixed_seconds": round(float(fixed), 4), "seconds_an_image": round(float(each), 6)}}


def efficiency(compute, gradient_bytes, messages, bandwidth, latency, processes):
    """Return the share of an update that is arithmetic, when each of n processes keeps its batch.

    An all-reduce of b bytes takes at least 2 (n - 1) / n x b / bandwidth, and over a tree 2 log2(n) times the latency.
    Nothing overlaps: gradients are sent when the backward pass of their network is over.
    """
    sending = 2 * (processes - 1) / processes * gradient_bytes / bandwidth
    sending += messages * 2 * math.log2(processes) * latency
    return compute / (compute + sending)


def paper(args):
    """Return for each recipe how efficient up to 64 GPUs would be."""
    found = {}
    for recipe in RECIPES:
        settings = yaml.safe_load(find(recipe).read_text())
        cls = getattr(lightning_gans, settings["model"]["class_path"])
        batch_size = args.batch or settings["data"]["init_args"]["batch_size"]
        counted = work(cls(**settings["model"]["init_args"]), batch_size)
        compute = counted["gflop"] / (args.tflops * 1e3)
        messages = 1 if cls is lightning_gans.VAE else 2
        found[recipe] = counted | {
            "batch_size": batch_size,
            "compute_us": round(compute * 1e6, 1),
            "efficiency": {
                link: {
                    n: round(efficiency(compute, counted["gradient_bytes"], messages, bandwidth, args.latency, n), 3)
                    for n in (2, 4, 8, 16, 32, 64)
                    if n <= most
                }
                for link, (bandwidth, most) in LINKS.items()
            },
        }
    return {"assumed": {"tflop_a_second": args.tflops, "latency_us": args.latency * 1e6}, "recipes": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--warm_up", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, help="images of an update on a GPU; the recipe's by default")
    parser.add_argument("--tflops", type=float, default=20.0, help="10^12 operations a second that a GPU sustains")
    parser.add_argument("--latency", type=float, default=5e-6, help="seconds from one GPU to the next")
    args = parser.parse_args()
    about = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps((paper(args) if args.paper else growth(args)) | about, indent=2))


if __name__ == "__main__":
    main()
