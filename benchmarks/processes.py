"""Throughput of several processes against one, at the same global batch.

    python benchmarks/processes.py --model dcgan --batch 128 --processes 2

Starts training runs in turn, each in processes of its own: one process with the whole batch, and N with an Nth
of it each; on a CPU the cores are divided among them. Times the updates after a warm-up and prints JSON with the
medians in images a second, their ratio, and the bytes that one update moves.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

MODELS = {
    "gan": {"class": "GAN"},
    "dcgan": {"class": "DCGAN", "width": 48, "latent_dim": 64},
    "vae": {"class": "VAE"},
}


def train(args):
    """Be one process of a training run, and on the first one write down how fast it was."""
    import pytorch_lightning as pl

    import lightning_gans

    class Clock(pl.Callback):
        def on_train_batch_start(self, trainer, model, batch, index):
            if trainer.global_step == args.warm_up:
                self.began = self.now()

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == args.warm_up + args.steps:
                self.seconds = self.now() - self.began
                trainer.should_stop = True

        def now(self):
            if args.accelerator == "gpu":
                torch.cuda.synchronize()
            return time.perf_counter()

    pl.seed_everything(0)
    options = dict(MODELS[args.model])
    model = getattr(lightning_gans, options.pop("class"))(image_shape=(1, 28, 28), **options)
    clock, world = Clock(), args.world
    trainer = pl.Trainer(
        accelerator=args.accelerator,
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_steps=args.warm_up + args.steps,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(model, lightning_gans.DigitsDataModule(batch_size=args.batch // world))
    if trainer.is_global_zero:
        size = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        args.result.write_text(json.dumps({"images": args.steps * args.batch / clock.seconds, "bytes": size}))


def measure(args, world):
    """Run so many processes and return images a second, and the bytes of all gradients."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        cores = os.cpu_count() or 1
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // world)), "MASTER_PORT": str(port)}
        words = [f"--{name}={getattr(args, name)}" for name in ("model", "batch", "steps", "warm_up", "accelerator")]
        command = [sys.executable, __file__, *words, f"--world={world}", f"--result={result}"]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
        return json.loads(result.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="dcgan")
    parser.add_argument("--batch", type=int, default=128, help="images an update, of all processes together")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50, help="updates that are timed")
    parser.add_argument("--warm_up", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--world", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.world:
        train(args)
        return
    speeds = {1: [], args.processes: []}
    for _ in range(args.repeats):  # in turn, so that what else the machine does meets both
        for world, found in speeds.items():
            measured = measure(args, world)
            found.append(measured["images"])
    one, several = (statistics.median(found) for found in speeds.values())
    print(
        json.dumps(
            {
                "model": args.model,
                "global_batch": args.batch,
                "images_per_second": {str(world): [round(x) for x in found] for world, found in speeds.items()},
                f"ratio_of_{args.processes}_processes_to_1": round(several / one, 3),
                "gradient_bytes_per_update_pair": measured["bytes"],
                "accelerator": args.accelerator,
                "cores": os.cpu_count(),
                "torch": torch.__version__,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
