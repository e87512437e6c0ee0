"""Measure training throughput: our models under Lightning's Trainer against hand-written loops, in turns.

    python benchmarks/train_throughput.py
    python benchmarks/train_throughput.py --recipes gan_mnist dcgan_mnist --device cuda --batch 1024
    python benchmarks/train_throughput.py --variants lean ours --baseline ../lightning_gans-0.1.0

For each recipe, each variant trains in its own process with the recipe's networks and batch size:

    usual     the loop that people write: PIL images through a DataLoader, two generator passes per update,
              gradients of both networks, default torch.optim.Adam, both losses read on the host in each step
    lean      a bare loop that does the same work as ours and nothing else
    trainer   the same loop as the training step of a module under a Trainer without callbacks and loggers: what
              Lightning itself costs
    ours      `lightning-gans fit -c RECIPE` with its loggers, progress bar and checkpoints
    fast      the same with the overlay for speed on the device
    baseline  the same as ours with the package of another checkout of this repository (--baseline)

The processes take turns of a second or less; only one of them runs at a time. Prints images per second and the ratios
of turns in the same round, then the same as JSON. `of_all` is the ratio of the sums, which includes the checkpoints
that a fit saves every 500 updates. The data are scikit-learn's digits, enlarged and repeated, so nothing is downloaded.
"""

import argparse
import copy
import io
import itertools
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import lightning_gans

ROOT = Path(__file__).resolve().parents[1]
UPDATES = {"gan_mnist": 25, "dcgan_mnist": 25, "dcgan_cifar10": 2, "vae_mnist": 25}
"""Updates per turn on a CPU: few, so that other load on the machine affects all variants alike."""
VARIANTS = ["usual", "lean", "trainer", "ours", "fast", "baseline"]
RATIOS = [("ours", "usual"), ("ours", "lean"), ("trainer", "lean"), ("fast", "ours"), ("fast", "usual")]
RATIOS += [("ours", "baseline")]


# --- the reference loops: they use a model of ours only for its networks, and yield after each update -----------------
class PILImages(Dataset):
    """Images one at a time through PIL, as torchvision's MNIST and CIFAR10 return them."""

    def __init__(self, images, labels, flip):
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels
        gray = (0.5,) * images.shape[1]
        steps = [transforms.RandomHorizontalFlip()] if flip else []
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(gray, gray)])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        return self.transform(image), int(self.labels[index])


def usual_batches(images, labels, batch_size, flip):
    """Yield batches from a DataLoader, epoch after epoch."""
    loader = DataLoader(PILImages(images, labels, flip), batch_size, shuffle=True, drop_last=True)
    while True:
        yield from loader


def adam(network, **options):
    """Return an optimizer; the learning rate has no effect on speed."""
    return torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), **options)


def usual_gan(model, images, labels, batch_size, flip, device):
    """Train a GAN as tutorials do."""
    generator, discriminator = model.generator.to(device), model.discriminator.to(device)
    g_optimizer, d_optimizer = adam(generator), adam(discriminator)
    criterion, losses = torch.nn.BCEWithLogitsLoss(), []
    for real, _ in usual_batches(images, labels, batch_size, flip):
        real = real.to(device)
        ones, zeros = torch.ones(len(real), 1, device=device), torch.zeros(len(real), 1, device=device)

        d_optimizer.zero_grad()
        fake = generator(torch.randn(len(real), model.latent_dim, device=device))
        d_loss = criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)
        d_loss.backward()
        d_optimizer.step()

        g_optimizer.zero_grad()
        fake = generator(torch.randn(len(real), model.latent_dim, device=device))
        g_loss = criterion(discriminator(fake), ones)
        g_loss.backward()
        g_optimizer.step()
        losses.append((d_loss.item(), g_loss.item()))
        yield


def usual_vae(model, images, labels, batch_size, flip, device):
    """Train a VAE as tutorials do."""
    encoder, decoder = model.encoder.to(device), model.decoder.to(device)
    optimizer, losses = adam(torch.nn.ModuleList([encoder, decoder])), []
    for real, _ in usual_batches(images, labels, batch_size, flip):
        real = real.to(device)
        optimizer.zero_grad()
        mean, log_variance = encoder(real)
        logits = decoder(mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance))
        reconstruction = F.binary_cross_entropy_with_logits(logits, (real + 1) / 2, reduction="sum")
        divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        loss = (reconstruction + divergence) / len(real)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        yield


def lean_batches(images, batch_size, flip, device):
    """Yield batches that are gathered on the device, epoch after epoch, in an order given by the epoch."""
    images, source = images.to(device), torch.Generator()
    for epoch in itertools.count():
        order = torch.randperm(len(images), generator=source.manual_seed(epoch))
        for start in range(0, len(images) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size].to(device, non_blocking=True)
            batch = images.index_select(0, rows)
            if flip:
                flipped = torch.randint(2, (batch_size, 1, 1, 1), generator=source.manual_seed(start)).bool()
                batch = torch.where(flipped.to(device, non_blocking=True), batch.flip(-1), batch)
            yield batch.float().div_(127.5).sub_(1)


class Average:
    """Moving average of networks' weights: one call for all parameters and one for all buffers."""

    def __init__(self, *networks):
        averages = [copy.deepcopy(network).requires_grad_(False) for network in networks]
        self.weights, self.targets = ([p for net in nets for p in net.parameters()] for nets in (averages, networks))
        self.buffers, self.sources = ([b for net in nets for b in net.buffers()] for nets in (averages, networks))

    @torch.no_grad()
    def update(self):
        """Move the averages toward the weights."""
        torch._foreach_lerp_(self.weights, self.targets, 0.005)
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.sources)


def lean_gan(model, images, labels, batch_size, flip, device):
    """Train a GAN with one generator pass and gradients of the active network only, as our models do."""
    generator, discriminator = model.generator.to(device), model.discriminator.to(device)
    g_parameters, d_parameters = list(generator.parameters()), list(discriminator.parameters())
    g_optimizer, d_optimizer = adam(generator, fused=True), adam(discriminator, fused=True)
    average, source = Average(generator), torch.Generator(device)
    for step, real in enumerate(lean_batches(images, batch_size, flip, device)):
        noise = torch.randn(batch_size, model.latent_dim, device=device, generator=source.manual_seed(step))
        fake = generator(noise)

        d_optimizer.zero_grad()
        d_loss = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake.detach())).mean()
        d_loss.backward(inputs=d_parameters)
        d_optimizer.step()

        g_optimizer.zero_grad()
        g_loss = F.softplus(-discriminator(fake)).mean()
        g_loss.backward(inputs=g_parameters)
        g_optimizer.step()
        average.update()
        yield


def lean_vae(model, images, labels, batch_size, flip, device):
    """Train a VAE with two optimizers, schedules and a moving average, as our model does."""
    encoder, decoder = model.encoder.to(device), model.decoder.to(device)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizers = [adam(encoder, fused=True), adam(decoder, fused=True)]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10_000) for optimizer in optimizers]
    average, source = Average(encoder, decoder), torch.Generator(device)
    for step, real in enumerate(lean_batches(images, batch_size, flip, device)):
        noise = torch.randn(batch_size, model.latent_dim, device=device, generator=source.manual_seed(step))
        mean, log_variance = encoder(real)
        logits = decoder(mean + noise * torch.exp(0.5 * log_variance))
        reconstruction = F.binary_cross_entropy_with_logits(logits, (real + 1) / 2, reduction="sum")
        divergence = 0.5 * torch.sum(mean.square() + log_variance.exp() - 1 - log_variance)
        loss = (reconstruction + divergence) / batch_size
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward(inputs=parameters)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        average.update()
        yield


# --- the process of one variant ---------------------------------------------------------------------------------------
class Digits(lightning_gans.ImageDataModule):
    """Scikit-learn's digits, enlarged and repeated, instead of a data set that has to be downloaded."""

    class_names = tuple("0123456789")

    def __init__(self, image_shape: list[int], horizontal_flip: bool = False, num_images: int = 60_000, **options):
        super().__init__(**options)
        self.image_shape, self.horizontal_flip, self.num_images = tuple(image_shape), horizontal_flip, num_images

    def load_images(self, split):
        """Return the training images; there are no others."""
        return enlarged_digits(self.image_shape, self.num_images) if split == "train" else None


def enlarged_digits(image_shape, num_images):
    channels, size, _ = image_shape
    images, labels = lightning_gans.DigitsDataModule(size).load_images("train")
    rows = torch.arange(num_images) % len(images)
    return images[rows].repeat(1, channels, 1, 1), labels[rows]


class Terminal(io.StringIO):
    """Takes what a fit prints and claims to be a terminal, so that the progress bar is drawn."""

    def isatty(self):
        return True


class Turns(pl.Callback):
    """Count updates; at the end of a turn report its seconds and wait until the parent process asks for the next."""

    def __init__(self):
        self.job, self.report = Turns.job, Turns.report  # set by `work`, as the command line creates the instance
        self.left, self.began = self.job["warm_up"], time.perf_counter()

    def update_ended(self):
        """Return whether the measurement is over."""
        self.left -= 1
        if self.left:
            return False
        if on_cuda := self.job["device"] == "cuda":
            torch.cuda.synchronize()
        found = {"seconds": time.perf_counter() - self.began, "package": lightning_gans.__file__}
        found["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9 if on_cuda else None
        print(json.dumps(found), file=self.report, flush=True)
        is_over = not sys.stdin.readline()
        self.left, self.began = self.job["updates"], time.perf_counter()
        return is_over

    def on_train_batch_end(self, trainer, *args):
        """Stop the fit at the end of the measurement."""
        trainer.should_stop = self.update_ended()


class Bare(pl.LightningModule):
    """A loop as a module: Lightning hands it the numbers of the updates, one at a time."""

    def __init__(self, loop):
        super().__init__()
        self.loop, self.automatic_optimization = loop, False

    def train_dataloader(self):
        """Return more numbers than there will be updates."""
        return range(10**9)

    def training_step(self, number, batch_idx):
        """Make one update."""
        next(self.loop)

    def configure_optimizers(self):
        """Return none: the loop has its own."""


def work(job):
    """Be the process of one variant: train until the parent process closes the standard input."""
    Turns.job, Turns.report, sys.stdout = job, sys.stdout, Terminal()
    model, data = job["settings"]["model"], job["settings"]["data"]["init_args"]
    if job["loop"]:
        torch.manual_seed(0)
        module = getattr(lightning_gans, model["class_path"])(**model["init_args"])
        images, labels = enlarged_digits(model["init_args"]["image_shape"], job["num_images"])
        flip, turns = data.get("horizontal_flip", False), Turns()
        loop = globals()[job["loop"]](module, images, labels, job["batch_size"], flip, job["device"])
        if job["name"] == "trainer":
            device = {"accelerator": "gpu" if job["device"] == "cuda" else "cpu", "devices": 1}
            pl.Trainer(barebones=True, max_epochs=1, callbacks=[turns], **device).fit(Bare(loop))
            return
        # Lightning sets it when it is imported; with it, each step of Adam looks for the GPU's driver.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        for _ in loop:
            if turns.update_ended():
                return
    sys.argv = [
        *("lightning-gans", "fit", "-c", job["recipe"], "--data", f"{__name__}.Digits"),
        f"--data.image_shape={model['init_args']['image_shape']}",
        *(f"--data.batch_size={job['batch_size']}", f"--data.num_images={job['num_images']}", "--data.val_size=1"),
        *("--trainer.limit_val_batches=0", "--seed_everything=0"),
        *(f"--trainer.accelerator={'gpu' if job['device'] == 'cuda' else 'cpu'}", "--trainer.devices=1"),
        *(f"--trainer.callbacks+={__name__}.Turns", *job["options"]),
    ]
    runpy.run_module("lightning_gans", run_name="__main__")  # which every version of the package has


# --- the measurement --------------------------------------------------------------------------------------------------
class Variant:
    """The process of one variant, in a folder of its own."""

    def __init__(self, name, recipe, args, folder):
        self.root = args.baseline.resolve() if name == "baseline" else ROOT
        settings = yaml.safe_load((self.root / "recipes" / f"{recipe}.yaml").read_text())
        kind = "vae" if settings["model"]["class_path"] == "VAE" else "gan"
        self.updates = args.updates or (50 if args.device == "cuda" else UPDATES[recipe])
        self.batch_size = args.batch or settings["data"]["init_args"]["batch_size"]
        num_updates = args.warm_up + (args.rounds + 1) * self.updates + 1  # more than there will be: no epoch ends
        job = {
            "name": name,
            "loop": {"usual": f"usual_{kind}", "lean": f"lean_{kind}", "trainer": f"lean_{kind}"}.get(name),
            "recipe": recipe,
            "settings": settings,
            "device": args.device,
            "updates": self.updates,
            "warm_up": args.warm_up,
            "batch_size": self.batch_size,
            "num_images": num_updates * self.batch_size,
            "options": [*args.options, *(["-c", f"speed_{args.device}"] if name == "fast" else [])],
        }
        folder = Path(folder, name)
        folder.mkdir()
        self.log = open(folder / "log.txt", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--job", json.dumps(job)],
            **{"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(self.root)}, "text": True},
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log},
        )

    def read(self):
        """Wait for the end of a turn, or of the warm-up."""
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(f"A process ended early:\n{self.log.read()[-3000:]}")
        found = json.loads(line)
        assert Path(found["package"]).is_relative_to(self.root), found
        return found

    def turn(self):
        """Return the seconds of an update and the peak memory."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found = self.read()
        return found["seconds"] / self.updates, found["peak_memory_gb"]


def measure(recipe, args):
    """Let the variants of a recipe take turns; return images per second and ratios."""
    seconds, peaks = {name: [] for name in args.variants}, {}
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            variants = {name: Variant(name, recipe, args, folder) for name in args.variants}
            for variant in variants.values():
                variant.read()  # they warm up side by side, and wait
            for number in range(args.rounds):
                for name in args.variants[:: -1 if number % 2 else 1]:  # each is first in turn as often as last
                    duration, peaks[name] = variants[name].turn()
                    seconds[name].append(duration)
            for variant in variants.values():
                variant.process.communicate()  # the end of its input is its end
    ratios, batch_size = {}, variant.batch_size
    for name, other in RATIOS:
        if name in seconds and other in seconds:
            values = [b / a for a, b in zip(seconds[name], seconds[other], strict=True)]
            ratios[f"{name}/{other}"] = spread(values) | {"of_all": round(sum(seconds[other]) / sum(seconds[name]), 3)}
    return {
        "batch_size": batch_size,
        "updates": variant.updates * args.rounds * args.repeats,
        "images_per_second": {name: spread([batch_size / value for value in found]) for name, found in seconds.items()},
        "ratios": ratios,
        "peak_memory_gb": peaks if args.device == "cuda" else None,
    }


def spread(values):
    """Return the median, the quartiles and the minimum, to four digits."""
    low, median, high = statistics.quantiles(values if len(values) > 1 else values * 2, n=4)
    found = {"median": median, "low": low, "high": high, "min": min(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def make_report(args):
    recipes = {}
    for recipe in args.recipes:
        recipes[recipe] = result = measure(recipe, args)
        print(f"{recipe}, batch {result['batch_size']}, {result['updates']} updates each; median (quartiles; minimum)")
        for name, speed in result["images_per_second"].items():
            print(f"  {name:14}{{median:8,.0f}}   ({{low:,.0f}} to {{high:,.0f}}; {{min:,.0f}})".format(**speed))
        for name, ratio in result["ratios"].items():
            text = "{median:8.3f}   ({low:.3f} to {high:.3f}; {min:.3f})   of all {of_all:.3f}".format(**ratio)
            print(f"  {name:14}{text}", flush=True)
    return {"warm_up": args.warm_up, "options": args.options, "recipes": recipes}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other words, such as --model.width=96, go to `lightning-gans fit`; the loops ignore them.",
        allow_abbrev=False,
    )
    parser.add_argument("--recipes", nargs="+", choices=UPDATES, default=list(UPDATES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS[:-1], default=VARIANTS[:-1])
    parser.add_argument("--baseline", type=Path, metavar="DIR", help="another checkout, to compare with")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="images per update (default: the recipe's)")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each process")
    parser.add_argument("--repeats", type=int, default=2, help="processes of each variant, one after the other")
    parser.add_argument("--updates", type=int, help="updates per turn")
    parser.add_argument("--warm_up", type=int, default=30, help="updates before the first turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args, args.options = parser.parse_known_args()
    if args.job:
        work(args.job)
        return
    from common import run  # not in the other processes, whose package may be an older one

    args.variants += ["baseline"] if args.baseline else []
    run(make_report, args)


if __name__ == "__main__":
    main()
