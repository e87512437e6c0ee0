"""A folder of many pictures: how soon the first batch is there, before and after they have been decoded.

    python benchmarks/folder_startup.py

Writes JPEG files of noise, then makes the first training batch of them in processes of their own: the first decodes the
pictures, the others read what it has left. Prints JSON: the seconds of importing torch, Lightning and the package, and
those from there to the first batch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CODE = """
import sys, time
began = time.perf_counter()
import torch, pytorch_lightning, torchvision, lightning_gans
imported = time.perf_counter()
data = lightning_gans.ImageFolderDataModule(sys.argv[1], image_size=int(sys.argv[2]), batch_size=64)
data.prepare_data()
data.setup("fit")
images, _ = next(iter(data.train_dataloader()))
assert images.shape[0] == 64
print(imported - began, time.perf_counter() - imported)
"""


def write_pictures(folder, num, size):
    """Write JPEG files, 1,000 to a class folder."""
    random = np.random.default_rng(0)
    for number in range(num):
        path = folder / f"{number // 1000:04}" / f"{number:07}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size)).save(path, quality=80)


def first_batch(folder, size):
    """Return the seconds of the imports, and those from there to the first batch."""
    words = [sys.executable, "-c", CODE, str(folder), str(size)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return tuple(map(float, done.stdout.split()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, args.num_images, args.size)
        _, decoding = first_batch(folder, args.size)
        found = [first_batch(folder, args.size) for _ in range(args.rounds)]
    imports, batch = (statistics.median(values) for values in zip(*found, strict=True))
    report = {
        "num_images": args.num_images,
        "size": args.size,
        "imports_s": round(imports, 2),
        "first_batch_s": round(batch, 2),
        "first_batch_with_decoding_s": round(decoding, 1),
        "cores": os.cpu_count(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
