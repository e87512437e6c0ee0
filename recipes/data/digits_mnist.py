"""Write scikit-learn's digits and MNIST's as two folders of gray pictures, 28 x 28, with a folder for each class.

python recipes/data/digits_mnist.py --data_dir data --output digits_mnist
"""

import argparse
from pathlib import Path

from PIL import Image

from lightning_gans import DigitsDataModule, MNISTDataModule


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="the folder of MNIST")
    parser.add_argument("--output", type=Path, default=Path("digits_mnist"))
    parser.add_argument("--num", type=int, default=5000, help="training pictures of MNIST")
    options = parser.parse_args()
    sets = {"digits": DigitsDataModule(val_size=500), "mnist": MNISTDataModule(options.data_dir, limit=options.num)}
    for kind, data in sets.items():
        for split in ("train", "test"):
            for number, (image, label) in enumerate(zip(*data.images(split), strict=True)):
                path = options.output / kind / split / str(int(label)) / f"{number:05}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[0].numpy()).save(path)


if __name__ == "__main__":
    main()
