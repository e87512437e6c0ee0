"""Train the digit classifier that comes with the package, and write its weights and their hash.

    python benchmarks/train_mnist_extractor.py --data_dir data --output mnist.safetensors

Trains ten epochs of AdamW on the 60,000 training digits, each distorted at random, and keeps a moving average of the
weights. The test digits only give the accuracy at the end.
"""

import argparse
import hashlib
from pathlib import Path

import torch
from common import accuracy, distort, load_mnist, train_classifier
from safetensors.torch import save
from torch import Tensor

from lightning_gans.io.files import replacing
from lightning_gans.metrics.extractors.mnist import DigitNetwork


@torch.no_grad()
def standardize(network: DigitNetwork, images: Tensor) -> None:
    """Scale the features so that their variance on these images is 1 on average; the logits do not change."""
    features = torch.cat([network(part / 255)[0] for part in images.split(1000)]).double()
    scale = features.var(0).mean().sqrt().float()
    network.features.weight.div_(scale)
    network.features.bias.div_(scale)
    network.classifier.weight.mul_(scale)  # the ReLU between them passes a factor through


def write(network: DigitNetwork, path: Path, shares: str) -> None:
    """Write the weights, and print their hash and the accuracies."""
    content = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    with replacing(path) as file:
        file.write(content)
    print(f"{shares}; {path}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data", help="the folder that contains MNIST/raw")
    parser.add_argument("--output", type=Path, default=Path("mnist.safetensors"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    images, labels = load_mnist(args.data_dir, train=True)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    settings = {"epochs": args.epochs, "lr": 4e-3, "weight_decay": 0.02, "average": 0.995}
    *_, network = train_classifier(
        DigitNetwork(),
        *(images, labels, lambda batch: distort(batch.float() / 255, generator), generator),
        **settings,
    )
    standardize(network, images)
    share = accuracy(lambda part: network(part / 255)[1], *load_mnist(args.data_dir, train=False))
    write(network, args.output, f"{share:.2%} of the test digits")


if __name__ == "__main__":
    main()
