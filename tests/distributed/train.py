"""What the processes of a test do: ``python -m tests.distributed.train FOLDER JOB...``.

Each process leaves ``FOLDER/JOB-RANK.pt``. Lightning starts the second process by running the same words again.
"""

import os
import shutil
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch.profiler import ProfilerActivity, profile

from lightning_gans import GAN, GracefulStop
from lightning_gans import Checkpoint as SaveLast
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.io.csv_logger import RunLogger
from tests.distributed import cases
from tests.test_resume import SaveEverywhere, Score
from tests.toys import Toys, tiny, toys_for, weights

STEPS, SEED = 50, 11
RESUMED_FROM = ("batch_end-0-3", "batch_end-0-5", "validation_end-1-10", "epoch_end-1-10")


def rank():
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def fit(model, batch_size, *, processes=1, checkpoint=None, data=None, **options):
    """Train a model; the processes start with different seeds, of which the first one's has to reach all."""
    model.run_seed = SEED + rank()
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "devices": processes,
            "strategy": "ddp" if processes > 1 else "auto",
            "max_epochs": -1,
            "limit_val_batches": 0,
            "logger": False,
            "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in options.get("callbacks", ())),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )
    trainer.fit(
        model, data or Toys(num_images=200, batch_size=batch_size, shape=model.image_shape), ckpt_path=checkpoint
    )
    return trainer


def end_of(trainer):
    """Return what training ends with."""
    model = trainer.lightning_module
    return {
        "weights": dict(model.state_dict()),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "counts": {"step": trainer.global_step, "images": model.images_seen, "seed": model.run_seed},
    }


def equal(name, processes, *, shrink=1, **options):
    """Train in double precision, with as large a batch for each process as makes the same global batch.

    A process's batch is odd, so that what goes by a row's place in the global batch is at odds with its place here.
    """
    torch.manual_seed(rank())  # the networks are to become the first process's
    divided = max(processes, options.get("num_nodes", 1))
    if name in cases.ACCUMULATED:
        model, size = cases.ACCUMULATED[name](divided), 12 // divided**2
    else:
        model, size = cases.EQUAL[name](), 14 // divided // shrink
    # Which rows are mirrored depends on how many are loaded at once.
    data = toys_for(model, num_images=200, batch_size=size, flip=name not in cases.ACCUMULATED)
    options |= {"precision": "64-true", "max_steps": STEPS, "data": data}
    return end_of(fit(model, size, processes=processes, **options))


class Watch(Callback):
    """Records BatchNorm's statistics after each step, and the images and the noise of the steps."""

    def __init__(self):
        self.buffers, self.images, self.noise, self.step = [], [], [], 0

    def on_train_start(self, trainer, model):
        if hasattr(model, "generator"):
            model.generator.register_forward_pre_hook(lambda module, inputs: self.noise.append(inputs[0].clone()))

    def on_train_batch_end(self, trainer, model, outputs, batch, *_):
        self.images.append(batch[0].clone())
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.buffers.append({name: b.clone() for name, b in model.named_buffers() if b.is_floating_point()})


def alike(name, processes, steps=6, **options):
    """Train with layers that differ from process to process."""
    torch.manual_seed(rank())
    watch = Watch()
    trainer = fit(cases.ALIKE[name](), 4, processes=processes, max_steps=steps, callbacks=[watch], **options)
    return {**end_of(trainer), "buffers": watch.buffers}


def epoch(processes):
    """Train for one epoch and record every row."""
    watch, data = Watch(), Toys(num_images=58, batch_size=4, val_size=10, flip=False)
    fit(tiny(GAN), 4, processes=processes, data=data, max_epochs=1, callbacks=[watch])
    return {"images": torch.cat(watch.images), "noise": watch.noise}


class Messages(Callback):
    """Lists all that gloo sends while the loop runs, including DDP's reducer in C++."""

    def on_train_start(self, *_):
        self.profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
        self.profile.start()

    def on_train_end(self, *_):
        self.profile.stop()
        self.sent = [
            (event.name.removeprefix("gloo:"), sum(torch.Size(shape).numel() for shape in event.input_shapes))
            for event in sorted(self.profile.events(), key=lambda event: event.time_range.start)
            if event.name.startswith("gloo:")
        ]


def messages(make, processes, *, blocked=True):
    """Train for three steps and return what was sent, beside the sizes of what has to be."""
    model, heard, name = make(), Messages(), "lightning_gans.training.update.unsynchronized"
    with nullcontext() if blocked else patch(name, lambda _: nullcontext()):
        fit(model, 4, processes=processes, max_steps=3, callbacks=[heard])
    statistics = [name for name, _ in model.named_buffers() if "running_" in name and not name.startswith("ema.")]
    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in model.named_children()}
    return {"sent": heard.sent, **sizes, "statistics": sum(model.get_buffer(name).numel() for name in statistics)}


def resume(folder, processes):
    """Train a run that is saved in several places, and resume it from each."""

    def train(run, **options):
        callbacks = [Score(), *options.pop("callbacks", [])]
        logger, plugins = RunLogger(folder, "runs", run), [AtomicCheckpointIO()]
        options |= {"max_epochs": 3, "limit_val_batches": 1.0, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
        data = Toys(num_images=48, batch_size=4, val_size=8)
        trainer = fit(
            *(cases.resumed(), 4), processes=processes, data=data, callbacks=callbacks, logger=logger, plugins=plugins,
            **options,
        )  # fmt: skip
        trainer.strategy.barrier()
        return {**end_of(trainer), "csv": (folder / "runs" / run / "metrics.csv").read_bytes()}

    ends = {"": train("whole", callbacks=[SaveEverywhere(folder / "saved", RESUMED_FROM)])}
    for name in RESUMED_FROM:
        if rank() == 0:
            shutil.copytree(folder / "runs" / "whole", folder / "runs" / name)
        torch.distributed.barrier()
        torch.manual_seed(99 + rank())
        ends[name] = train(name, checkpoint=folder / "saved" / f"{name}.ckpt")
    return ends


class WriteEnd(Callback):
    """Writes what training ends with, in the process that has trained."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name

    def on_train_end(self, trainer, model):
        torch.save(end_of(trainer), self.folder / f"{self.name}-{trainer.global_rank}.pt")


def smoke(folder, strategy):
    """Train three steps under a strategy that starts the processes itself."""
    torch.manual_seed(0)
    callbacks = [WriteEnd(folder, strategy)]
    fit(cases.ALIKE["dcgan"](), 4, processes=2, strategy=strategy, max_steps=3, callbacks=callbacks)


class Terminate(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 4 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def stopped(folder):
    """Train until one process gets a signal; write what each process ends with in any case."""
    model = tiny(GAN)
    callbacks = [GracefulStop(), SaveLast(dirpath=str(folder / "run" / "checkpoints")), Terminate()]
    try:
        fit(model, 4, processes=2, max_steps=60, callbacks=callbacks)
    finally:
        code = getattr(sys.exc_info()[1], "code", None)
        result = {"step": model.weights_step, "code": code, "generator": weights(model.generator)}
        torch.save(result, folder / f"stopped-{rank()}.pt")


JOBS = {
    "equal": lambda _: {name: equal(name, 2) for name in [*cases.EQUAL, *cases.ACCUMULATED]},
    "nodes": lambda _: equal("d_steps", 1, num_nodes=2, strategy="ddp"),
    "alike": lambda _: {name: alike(name, 2) for name in cases.ALIKE},
    "find_unused": lambda _: alike("dcgan", 2, steps=3, strategy="ddp_find_unused_parameters_true"),
    "epoch": lambda _: epoch(2),
    "messages": lambda _: {name: messages(make, 2) for name, make in cases.COUNTED.items()},
    "unblocked": lambda _: messages(cases.all_at_once, 2, blocked=False),
    "resume": lambda folder: resume(folder, 2),
    "ddp_spawn": lambda folder: smoke(folder, "ddp_spawn"),
    "ddp_notebook": lambda folder: smoke(folder, "ddp_notebook"),
    "stopped": stopped,
}

if __name__ == "__main__":
    for job in sys.argv[2:]:
        result = JOBS[job](Path(sys.argv[1]))
        if result is not None:  # else the processes have written it themselves
            torch.save(result, f"{sys.argv[1]}/{job}-{rank()}.pt")
