"""Measure the angle of generated digits, and compare it with the angle that was asked for.

    lightning-gans fit -c continuous_mnist --seed_everything 0
    lightning-gans sample runs/NAME/version_0/checkpoints/last.ckpt --num_samples 2000 --seed 1 --output s.npz
    python benchmarks/angle_score.py s.npz

The angle is estimated by a small network, trained on MNIST's training digits at random angles. ``estimator`` is its own
error on the 10,000 test digits, each at a random angle: handwriting is slanted, so it is not 0. Errors are absolute
differences in degrees, by ``median`` and ``percentile_90``. ``chance`` is the median error if the samples are compared
with the angles of others. Prints JSON.
"""

import argparse
from pathlib import Path

import torch
from common import load_mnist, log, read_npz, run, small_classifier
from torch import nn
from torch.nn import functional as F

from lightning_gans import DataError
from lightning_gans.datamodules.rotated_mnist import rotated

MAX_ANGLE = 45.0


def random_angles(num, generator):
    """Return angles, ``(num,)``, uniform from -45 to 45 degrees."""
    return (2 * torch.rand(num, generator=generator) - 1) * MAX_ANGLE


def train_estimator(images, seed=0, updates=1200, batch_size=100):
    """Return a network that estimates the angle of digits, uint8 ``(N, 1, 28, 28)``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(*small_classifier()[:-1], nn.Linear(128, 1))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, updates)
    for update in range(updates):
        chosen = images[torch.randint(len(images), (batch_size,), generator=generator)]
        angles = random_angles(batch_size, generator)
        loss = F.smooth_l1_loss(network(rotated(chosen, angles).float() / 255)[:, 0], angles / MAX_ANGLE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (update + 1) % 300 == 0:
            log(f"estimator, update {update + 1}/{updates}: loss {loss.item():.4f}")
    return network.eval()


@torch.no_grad()
def estimate(network, images):
    """Return the angles of digits, uint8 ``(N, 1, 28, 28)``, in degrees."""
    return torch.cat([network(part.float() / 255)[:, 0] * MAX_ANGLE for part in images.split(1000)])


def errors(found, angles):
    """Return how far angles are from those that they should be."""
    distances = (found - angles).abs()
    return {"median": float(distances.quantile(0.5)), "percentile_90": float(distances.quantile(0.9))}


def read_samples(path):
    """Return digits, uint8 ``(N, 1, 28, 28)``, and their angles ``(N,)``."""
    images, labels = read_npz(path, "images")
    if labels is None or labels.shape != (len(images), 1) or images.shape[1:] != (28, 28, 1):
        raise DataError(f"{path} is not a file of digits with one angle each.", setting=str(path))
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)[:, 0].float()


def make_report(options):
    samples = {str(path): read_samples(path) for path in options.files}
    network = train_estimator(load_mnist(options.data_dir, train=True)[0], updates=options.updates)
    test = load_mnist(options.data_dir, train=False)[0]
    angles = random_angles(len(test), torch.Generator().manual_seed(1))
    rows = {}
    for path, (images, asked) in samples.items():
        found = estimate(network, images)
        chance = errors(found, asked[torch.randperm(len(asked), generator=torch.Generator().manual_seed(0))])
        rows[path] = {"num_samples": len(images), **errors(found, asked), "chance": chance["median"]}
    return {"estimator": errors(estimate(network, rotated(test, angles)), angles), "files": rows}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="the folder of MNIST")
    parser.add_argument("--updates", type=int, default=1200, metavar="N", help="updates of the estimator")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    run(make_report, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
