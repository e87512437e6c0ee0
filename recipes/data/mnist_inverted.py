"""Write MNIST digits, and others in inverted colors (blue on yellow), as folders of pictures without pairs.

    python recipes/data/mnist_inverted.py --data_dir data --output mnist_inverted

In ``test``, both folders have the same digits, so the right translation of each picture is known.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import MNIST


def inverted(digits: np.ndarray) -> np.ndarray:
    """Return RGB copies of gray pictures ``(..., H, W)``: the paper is yellow, the ink is blue."""
    return np.stack([255 - digits, 255 - digits, digits], -1)


def write(folder: Path, pictures: np.ndarray) -> None:
    """Write numbered PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:05}.png")


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="the folder of MNIST")
    parser.add_argument("--output", type=Path, default=Path("mnist_inverted"))
    parser.add_argument("--num", type=int, default=5000, help="training pictures of each kind")
    options = parser.parse_args()
    train, test = (MNIST(options.data_dir, part, download=True).data.numpy() for part in (True, False))
    write(options.output / "digits" / "train", train[: options.num])
    write(options.output / "inverted" / "train", inverted(train[options.num : 2 * options.num]))
    write(options.output / "digits" / "test", test[:1000])
    write(options.output / "inverted" / "test", inverted(test[:1000]))


if __name__ == "__main__":
    main()
