"""Measure the codes and the reconstructions of VQ-VAEs on MNIST's 10,000 test digits.

    lightning-gans fit -c vqvae_mnist --seed_everything 0
    PYTHONPATH=benchmarks lightning-gans fit -c vqvae_mnist --seed_everything 0 --model unquantized.Unquantized
    python benchmarks/vqvae_quality.py runs/vqvae_mnist/version_*/checkpoints/last.ckpt

``code_usage`` is the fraction of the codebook that the digits use, ``perplexity`` the effective number of codes, and
``mse`` the mean squared error of the reconstructions on the scale [-1, 1]. An ``Unquantized`` model, which is the same
autoencoder without a codebook, has only the last one. Prints JSON.
"""

import argparse
from pathlib import Path

import torch
from common import load_mnist, run
from unquantized import Unquantized

from lightning_gans import load
from lightning_gans.io.pictures import from_bytes


@torch.no_grad()
def quality(model, images, block=500):
    """Return the scores of a model on images ``(N, C, H, W)`` in [-1, 1]."""
    blocks = images.split(block)
    errors = torch.cat([(model.reconstruct(part) - part).square().flatten(1).mean(1) for part in blocks])
    scores = {"mse": float(errors.double().mean())}
    if isinstance(model, Unquantized):
        return scores
    with model.evaluating():
        codes = torch.cat([model.codes_of(part) for part in blocks])
    shares = codes.flatten().bincount(minlength=len(model.quantizer.codebook)).double() / codes.numel()
    usage, perplexity = (shares > 0).double().mean(), torch.special.entr(shares).sum().exp()
    return scores | {"code_usage": float(usage), "perplexity": float(perplexity)}


def make_report(options):
    images = from_bytes(load_mnist(options.mnist_dir, train=False)[0])
    return {"scores": {str(path): quality(load(path), images) for path in options.files}}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="CKPT")
    parser.add_argument("--mnist_dir", type=Path, default=Path("data"), help="the folder of MNIST")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    run(make_report, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
