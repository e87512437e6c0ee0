"""Training throughput: our models under Lightning's Trainer beside hand-written loops, in one process, in turn.

    python benchmarks/train_throughput.py
    python benchmarks/train_throughput.py --recipes gan_mnist dcgan_mnist --device cuda --batch 1024

For each recipe four variants take turns, each from fresh weights, with the recipe's networks and batch size:

    usual    the loop that people write: PIL pictures through a DataLoader, two passes through the generator for each
             update, gradients of both networks, torch.optim.Adam as it comes, both losses read on the host each step
    lean     a bare loop that does the same work as ours, with nothing in the way
    ours     `lightning-gans fit -c RECIPE`, with its loggers, progress bar and checkpoints
    fast     the same with every option for speed that serves on the device (FAST)

A turn is a second or less; those of the two loops come between those of a fit. Prints images a second and their ratios
(medians and quartiles of the turns; a ratio is that of two turns one after the other), then the same as JSON. "Of all
updates" is the ratio of the sums, which counts the checkpoints that a fit saves every 500 updates. The pictures are
scikit-learn's digits, enlarged and repeated: no download.
"""

import argparse
import contextlib
import copy
import functools
import hashlib
import inspect
import io
import itertools
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import lightning_gans
from lightning_gans.cli.commands.recipes import find
from lightning_gans.cli.main import main as lightning_gans_command

UPDATES = {
    "cpu": {"gan_mnist": 25, "dcgan_mnist": 25, "dcgan_cifar10": 2, "vae_mnist": 25},
    "cuda": dict.fromkeys(["gan_mnist", "dcgan_mnist", "dcgan_cifar10", "vae_mnist"], 50),
}
"""Updates a turn: few, so that what else the machine does meets all variants."""

FAST = {"cpu": ["-c", "speed_cpu"], "cuda": ["-c", "speed_cuda"]}
"""The options of the fast variant: the overlay for the device."""

VARIANTS = ["usual", "lean", "ours", "fast"]


# --- the reference loops ----------------------------------------------------------------------------------------------
# They take a model of ours for its networks and settings only, and yield after each update. They are frozen: a change
# makes what was measured before incomparable, and shows in the hash that is printed.
class PILPictures(Dataset):
    """Pictures one at a time through PIL, as torchvision's MNIST and CIFAR10 give them."""

    def __init__(self, images, labels, flip):
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels
        gray = (0.5,) * images.shape[1]
        steps = [transforms.RandomHorizontalFlip()] if flip else []
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(gray, gray)])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        picture = self.images[index]
        picture = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        return self.transform(picture), int(self.labels[index])


def usual_batches(images, labels, batch_size, flip, workers):
    """Yield batches from a DataLoader without end."""
    loader = DataLoader(
        PILPictures(images, labels, flip), batch_size, shuffle=True, drop_last=True, num_workers=workers
    )
    while True:
        yield from loader


def usual_gan(model, images, labels, batch_size, flip, device, workers=0):
    """Train a GAN as tutorials do: a DataLoader, two passes through the generator, and both losses read each step."""
    generator, discriminator = model.generator.to(device), model.discriminator.to(device)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=model.generator_lr, betas=model.betas)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=model.discriminator_lr, betas=model.betas)
    criterion = torch.nn.BCEWithLogitsLoss()
    g_losses, d_losses = [], []
    for real, _ in usual_batches(images, labels, batch_size, flip, workers):
        real = real.to(device)
        ones = torch.ones(len(real), 1, device=device)
        zeros = torch.zeros(len(real), 1, device=device)

        d_optimizer.zero_grad()
        fake = generator(torch.randn(len(real), model.latent_dim, device=device))
        d_loss = criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)
        d_loss.backward()
        d_optimizer.step()
        d_losses.append(d_loss.item())

        g_optimizer.zero_grad()
        fake = generator(torch.randn(len(real), model.latent_dim, device=device))
        g_loss = criterion(discriminator(fake), ones)
        g_loss.backward()
        g_optimizer.step()
        g_losses.append(g_loss.item())
        yield


def usual_vae(model, images, labels, batch_size, flip, device, workers=0):
    """Train a VAE as tutorials do: a DataLoader, one optimizer, and the loss read each step."""
    encoder, decoder = model.encoder.to(device), model.decoder.to(device)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=model.encoder_lr, betas=model.betas)
    losses = []
    for real, _ in usual_batches(images, labels, batch_size, flip, workers):
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
    """Yield batches of images without end that are gathered on the device, in an order that the epoch gives."""
    images, source = images.to(device), torch.Generator()
    for epoch in itertools.count():
        order = torch.randperm(len(images), generator=source.manual_seed(epoch))
        for start in range(0, len(images) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size].to(device, non_blocking=True)
            batch = images.index_select(0, rows)
            if flip:
                mirrored = torch.randint(2, (batch_size, 1, 1, 1), generator=source.manual_seed(start)).bool()
                batch = torch.where(mirrored.to(device, non_blocking=True), batch.flip(-1), batch)
            yield batch.float().div_(127.5).sub_(1)


class Average:
    """The moving average of networks' weights: one call for all parameters, one for all buffers."""

    def __init__(self, networks, half_life, ramp):
        self.half_life, self.ramp, self.seen = half_life, ramp, 0
        averages = [copy.deepcopy(network).requires_grad_(False) for network in networks]
        self.weights, self.targets = ([p for net in nets for p in net.parameters()] for nets in (averages, networks))
        self.buffers, self.sources = ([b for net in nets for b in net.buffers()] for nets in (averages, networks))

    @torch.no_grad()
    def update(self, batch_size):
        """Move the averages towards the weights."""
        self.seen += batch_size
        kept = 0.5 ** (batch_size / min(self.half_life, self.ramp * self.seen))
        torch._foreach_lerp_(self.weights, self.targets, 1 - kept)
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.sources)


def lean_gan(model, images, labels, batch_size, flip, device, workers=0):
    """Train a GAN with nothing in the way: one pass through the generator, gradients of the active network only.

    It does what our model does: noise that is a function of the step, the same optimizers, the moving average.
    """
    generator, discriminator = model.generator.to(device), model.discriminator.to(device)
    g_parameters, d_parameters = list(generator.parameters()), list(discriminator.parameters())
    g_optimizer = torch.optim.Adam(g_parameters, lr=model.generator_lr, betas=model.betas, fused=True)
    d_optimizer = torch.optim.Adam(d_parameters, lr=model.discriminator_lr, betas=model.betas, fused=True)
    average = Average([generator], model.ema_half_life, model.ema_ramp)
    source = torch.Generator(device)
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

        average.update(batch_size)
        yield


def lean_vae(model, images, labels, batch_size, flip, device, workers=0):
    """Train a VAE with nothing in the way, doing what our model does."""
    encoder, decoder = model.encoder.to(device), model.decoder.to(device)
    e_parameters, d_parameters = list(encoder.parameters()), list(decoder.parameters())
    e_optimizer = torch.optim.Adam(e_parameters, lr=model.encoder_lr, betas=model.betas, fused=True)
    d_optimizer = torch.optim.Adam(d_parameters, lr=model.decoder_lr, betas=model.betas, fused=True)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 10_000) for o in (e_optimizer, d_optimizer)]
    average = Average([encoder, decoder], model.ema_half_life, model.ema_ramp)
    source = torch.Generator(device)
    for step, real in enumerate(lean_batches(images, batch_size, flip, device)):
        noise = torch.randn(batch_size, model.latent_dim, device=device, generator=source.manual_seed(step))
        mean, log_variance = encoder(real)
        logits = decoder(mean + noise * torch.exp(0.5 * log_variance))
        reconstruction = F.binary_cross_entropy_with_logits(logits, (real + 1) / 2, reduction="sum")
        divergence = 0.5 * torch.sum(mean.square() + log_variance.exp() - 1 - log_variance)
        loss = (reconstruction + divergence) / batch_size
        e_optimizer.zero_grad()
        d_optimizer.zero_grad()
        loss.backward(inputs=[*e_parameters, *d_parameters])
        e_optimizer.step()
        d_optimizer.step()
        for schedule in schedules:
            schedule.step()
        average.update(batch_size)
        yield


LOOPS = {"gan": (usual_gan, lean_gan), "vae": (usual_vae, lean_vae)}
REFERENCE = (PILPictures, usual_batches, usual_gan, usual_vae, lean_batches, Average, lean_gan, lean_vae)

# --- the measurement --------------------------------------------------------------------------------------------------


class Pictures(lightning_gans.ImageDataModule):
    """Scikit-learn's digits, enlarged and repeated, in the place of a data set that would have to be downloaded."""

    class_names = tuple("0123456789")

    def __init__(self, image_shape: list[int], horizontal_flip: bool = False, num_images: int = 60_000, **options):
        super().__init__(**options)
        self.image_shape, self.horizontal_flip, self.num_images = tuple(image_shape), horizontal_flip, num_images

    def load_images(self, split):
        """Return the pictures; there are none but for training."""
        return pictures(self.image_shape, self.num_images) if split == "train" else None


@functools.cache
def pictures(image_shape, num_images):
    """Make the pictures, once for all variants."""
    channels, size, _ = image_shape
    images, labels = lightning_gans.DigitsDataModule(size).load_images("train")
    rows = torch.arange(num_images) % len(images)
    return images[rows].repeat(1, channels, 1, 1), labels[rows]


class Terminal(io.StringIO):
    """Takes what a fit prints, and has the progress bar drawn."""

    def isatty(self):
        """Claim to be a terminal."""
        return True


class Turns(pl.Callback):
    """Lets a fit and the reference loops take turns of so many updates, and ends the fit after so many rounds.

    What is to be done, and what came of it, is the class's own: the command line makes the instance.
    """

    def __init__(self):
        self.left = Turns.warm_up

    @classmethod
    def prepare(cls, loops, args, updates, rounds):
        """Say what the next fit is to do; ``seconds`` will hold those an update took, one number for each turn."""
        cls.loops, cls.device, cls.rounds, cls.updates, cls.warm_up = loops, args.device, rounds, updates, args.warm_up
        cls.seconds = {name: [] for name in ("ours", *loops)}
        cls.precision = torch.get_float32_matmul_precision()

    def on_train_batch_end(self, trainer, model, outputs, batch, index):
        """Count; at the end of a turn let the others have theirs."""
        self.left -= 1
        if self.left:
            return
        if trainer.global_step > Turns.warm_up:
            self.seconds["ours"].append((now(self.device) - self.began) / self.updates)
        within = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.precision)  # the fast variant's own is the whole process's
        for name, loop in self.loops.items():
            if trainer.global_step == Turns.warm_up:
                advance(loop, Turns.warm_up)
            began = now(self.device)
            advance(loop, self.updates)
            self.seconds[name].append((now(self.device) - began) / self.updates)
        torch.set_float32_matmul_precision(within)
        trainer.should_stop = len(self.seconds["ours"]) == self.rounds
        self.left, self.began = self.updates, now(self.device)


def advance(loop, updates):
    """Make so many updates."""
    for _ in range(updates):
        next(loop)


def start(loop, settings, batch_size, num_images, args):
    """Return a reference loop with fresh weights."""
    pl.seed_everything(0, verbose=False)
    model = getattr(lightning_gans, settings["model"]["class_path"])(**settings["model"]["init_args"])
    flip = settings["data"]["init_args"].get("horizontal_flip", False)
    images, labels = pictures(model.image_shape, num_images)
    return loop(model, images, labels, batch_size, flip, args.device, args.workers)


def fit_command(recipe, settings, batch_size, num_images, device, options):
    """Return the words that train the recipe on our pictures, without validation, which is no part of an update."""
    return [
        *("fit", "-c", recipe, "--data", f"{__name__}.Pictures"),
        f"--data.image_shape={settings['model']['init_args']['image_shape']}",
        *(f"--data.batch_size={batch_size}", f"--data.num_images={num_images}"),
        *("--trainer.limit_val_batches=0", "--seed_everything=0"),
        *(f"--trainer.accelerator={'gpu' if device == 'cuda' else device}", "--trainer.devices=1"),
        *(f"--trainer.callbacks+={__name__}.Turns", "--data.val_size=1"),
        *options,
    ]


def now(device):
    """Return the time at which the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(recipe, args):
    """Let the variants take turns and return what each of them came to."""
    settings = yaml.safe_load(find(recipe).read_text())
    batch_size = args.batch or settings["data"]["init_args"]["batch_size"]
    updates = args.updates or UPDATES[args.device][recipe]
    num_images = (args.warm_up + (args.rounds + 1) * updates + 1) * batch_size  # no epoch ends
    usual, lean = LOOPS["vae" if settings["model"]["class_path"] == "VAE" else "gan"]
    options = {"ours": args.options, "fast": [*args.options, *FAST[args.device]]}
    speeds = {name: [] for name in VARIANTS}
    ratios = {f"{name}/{loop}": [] for name in options for loop in ("usual", "lean")}
    totals, peaks = dict.fromkeys(ratios, (0.0, 0.0)), {}

    def fit(words, loops, rounds=args.rounds):
        Turns.prepare(loops, args, updates, rounds)
        lightning_gans_command(fit_command(recipe, settings, batch_size, num_images, args.device, words))

    def begin(loop):
        return start(loop, settings, batch_size, num_images, args)

    if args.device == "cuda":
        for name, loop in {"usual": usual, "lean": lean}.items():
            peaks[name] = peak_memory(lambda loop=loop: advance(begin(loop), args.warm_up))
        for name, words in options.items():
            peaks[name] = peak_memory(lambda words=words: fit(words, {}, rounds=0))
    for _ in range(args.repeats):
        for name, words in options.items():
            loops = {"usual": begin(usual), "lean": begin(lean)}
            fit(words, loops)
            ours = Turns.seconds["ours"]
            speeds[name] += [batch_size / value for value in ours]
            for loop in loops:
                theirs = Turns.seconds[loop][: len(ours)]
                speeds[loop] += [batch_size / value for value in theirs]
                pair = f"{name}/{loop}"
                ratios[pair] += [b / a for a, b in zip(ours, theirs, strict=True)]
                totals[pair] = (totals[pair][0] + sum(ours), totals[pair][1] + sum(theirs))
    summary = {
        pair: {**quartiles(found), "of_all_updates": round(totals[pair][1] / totals[pair][0], 3)}
        for pair, found in ratios.items()
    }
    beside_lean = [summary[f"{name}/lean"] for name in ("fast", "ours")]
    summary["fast/ours"] = {
        key: round(beside_lean[0][key] / beside_lean[1][key], 3) for key in ("median", "of_all_updates")
    }
    return {
        "batch_size": batch_size,
        "updates": updates * args.rounds * args.repeats,
        "updates_a_turn": updates,
        "warm_up": args.warm_up,
        "workers": args.workers,
        "options": args.options,
        "images_per_second": {name: quartiles(found) for name, found in speeds.items()},
        "ratios": summary,
        "peak_memory_gb": peaks,
    }


def peak_memory(work):
    """Return the most gigabytes of the GPU's memory that tensors took while something was done."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return round((torch.cuda.max_memory_allocated() - before) / 1e9, 3)


def quartiles(values):
    """Return the median and the quartiles, to four digits."""
    low, median, high = statistics.quantiles(values if len(values) > 1 else values * 2, n=4)
    return {name: float(f"{value:.4g}") for name, value in {"median": median, "low": low, "high": high}.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other words, such as --model.width=96, go to `lightning-gans fit`; the loops do not know them.",
        allow_abbrev=False,
    )
    parser.add_argument("--recipes", nargs="+", choices=UPDATES["cpu"], default=list(UPDATES["cpu"]))
    parser.add_argument("--device", choices=FAST, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="images an update; the recipe's by default")
    parser.add_argument("--rounds", type=int, default=20, help="turns of a fit")
    parser.add_argument("--repeats", type=int, default=2, help="fits of each variant")
    parser.add_argument("--updates", type=int, help="updates a turn, at a time")
    parser.add_argument("--warm_up", type=int, default=30, help="updates before the first turn")
    parser.add_argument("--workers", type=int, default=0, help="of the usual loop's DataLoader")
    parser.add_argument("--output", type=Path, help="write the JSON there")
    args, options = parser.parse_known_args()
    args.options = options
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    source = "".join(inspect.getsource(part) for part in REFERENCE)
    found = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pytorch_lightning": pl.__version__,
        "reference_sha256": hashlib.sha256(source.encode()).hexdigest()[:16],
        "fast": FAST[args.device],
        "recipes": {},
    }
    here = Path.cwd()
    for recipe in args.recipes:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(Terminal()):
            os.chdir(folder)
            try:
                found["recipes"][recipe] = measure(recipe, args)
            finally:
                os.chdir(here)
        print(table(recipe, found["recipes"][recipe]), flush=True)
    text = json.dumps(found, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


def table(recipe, result):
    """Return the lines of a recipe's table."""
    lines = [f"{recipe}, batch {result['batch_size']}, {result['updates']} updates each"]
    for name, speed in result["images_per_second"].items():
        memory = f"   {result['peak_memory_gb'][name]} GB" if result["peak_memory_gb"] else ""
        lines.append(
            f"  {name:6}{speed['median']:10,.0f} images/s   ({speed['low']:,.0f} to {speed['high']:,.0f}){memory}"
        )
    for pair, ratio in result["ratios"].items():
        spread = f"   ({ratio['low']:.3f} to {ratio['high']:.3f})" if "low" in ratio else " " * 19
        lines.append(f"  {pair:12}{ratio['median']:6.3f}{spread}   of all updates {ratio['of_all_updates']:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
