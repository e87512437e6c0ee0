"""Train the classifier of scikit-learn's digits that comes with the package, and write its weights and their hash.

    python benchmarks/train_digits_extractor.py --output digits.safetensors

Trains 120 epochs of AdamW on the 1,600 training digits of ``DigitsDataModule``, 28x28 as it enlarges them, each
distorted at random, and keeps a moving average of the weights. The 197 validation digits only give the accuracy at the
end. It takes a minute or two on two CPU cores.
"""

import argparse
from pathlib import Path

import torch
from common import accuracy, distort, train_classifier
from train_mnist_extractor import standardize, write

from lightning_gans import DigitsDataModule
from lightning_gans.metrics.extractors.mnist import DigitNetwork, DigitsExtractor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("digits.safetensors"))
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = DigitsDataModule()
    images, labels = data.images("train")
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    settings = {"epochs": args.epochs, "lr": 4e-3, "weight_decay": 0.02, "average": 0.995}
    *_, network = train_classifier(
        DigitNetwork(DigitsExtractor.widths, DigitsExtractor.num_features),
        *(images, labels, lambda batch: distort(batch.float() / 255, generator), generator),
        **settings,
    )
    standardize(network, images)
    share = accuracy(lambda part: network(part / 255)[1], *data.images("val"))
    write(network, args.output, f"{share:.2%} of the validation digits")


if __name__ == "__main__":
    main()
