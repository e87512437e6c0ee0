"""Train short versions of recipes and make the pictures of README.md and of the documentation from them.

python docs/make_pictures.py FOLDER [RECIPE ...]

Runs go to FOLDER/runs and are not repeated; data go to FOLDER/data. FOLDER must have what recipes/data makes.
The pictures go to docs/images.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont

from lightning_gans import grid, load

IMAGES = Path(__file__).resolve().parent / "images"
EPOCHS = {  # of each recipe; about 75 minutes of one idle thread in all
    "quickstart": 40,
    "cgan_relativistic_mnist": 2,
    "continuous_mnist": 2,
    "recurrent_gan_sines": 24,
    "vqvae_mnist": 6,
    "infogan_mnist": 6,
    "pix2pix_mnist_inpaint": 1,
    "pix2pix_emoji_outline": 24,
    "pix2pix_emoji_style": 24,
    "cyclegan_mnist_inverted": 2,
    "cyclegan_digits_mnist": 6,
    "cyclegan_emoji_style": 3,
    "srgan_emoji": 15,
    "ada_emoji": 124,
    "fastgan_emoji": 220,
}
FRONT = ("quickstart", "cgan_relativistic_mnist", "recurrent_gan_sines")  # side by side in README.md


def train(recipe: str) -> None:
    """Train a recipe for its number of epochs, without scores."""
    settings = "--metrics.enabled false --checkpoint.monitor null --watchdog.enabled false"
    run(f"fit -c {recipe} --trainer.max_epochs {EPOCHS[recipe]} {settings}")


def run(command: str) -> None:
    """Run a command of lightning-gans on one thread."""
    words = [sys.executable, "-m", "lightning_gans", *command.split()]
    subprocess.run(words, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def checkpoint_of(recipe: str) -> Path:
    """Return the last checkpoint of a recipe's run."""
    return Path("runs", recipe, "version_0", "checkpoints", "last.ckpt")


def picture(recipe: str) -> Image.Image:
    """Return samples of a recipe: a column for each class, a row for each value of an attribute, or in a square.

    Of a translator, they are the pairs of its run's last picture.
    """
    model = load(checkpoint_of(recipe))
    if hasattr(model, "translate"):
        pairs = Image.open(max(Path("runs", recipe, "version_0", "samples").glob("*.png")))
        return pairs.crop((0, 20, pairs.width, pairs.height))
    if len(model.image_shape) == 2:
        return curves(model.sample(30, seed=0))
    if model.attributes is not None:
        rows = model.attributes.examples(10)
        samples = [model.sample(labels=labels, seed=0) for labels in rows.values()]
        return grid(torch.cat(samples), columns=10, row_labels=[*rows])
    labels = torch.arange(80) % 10 if model.num_classes == 10 else None
    return grid(model.sample(80, labels=labels, seed=0), columns=10)


def curves(sequences: torch.Tensor) -> Image.Image:
    """Return sequences as curves."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(5, 6, figsize=(6.6, 5.3), sharex=True, sharey=True)
    for axis, sequence in zip(axes.flat, sequences, strict=True):
        axis.plot(sequence[0], linewidth=1.2)
        axis.set_axis_off()
    figure.tight_layout(pad=0.2)
    figure.canvas.draw()
    return Image.frombytes("RGBA", figure.canvas.get_width_height(), figure.canvas.buffer_rgba()).convert("RGB")


def side_by_side(pictures: dict[str, Image.Image], width: int = 440) -> Image.Image:
    """Return pictures of one width in a row, each under its name."""
    font = ImageFont.load_default(size=15)
    scaled = {
        name: image.resize((width, image.height * width // image.width), Image.Resampling.LANCZOS)
        for name, image in pictures.items()
    }
    height = max(image.height for image in scaled.values())
    sheet = Image.new("RGB", (len(scaled) * (width + 16) - 16, height + 26), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (name, image) in enumerate(scaled.items()):
        pen.text((place * (width + 16) + 2, 3), name, fill=(40, 40, 40), font=font)
        sheet.paste(image, (place * (width + 16), 26))
    return sheet


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("recipes", nargs="*", default=list(EPOCHS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.folder)
    for recipe in arguments.recipes:
        if not Path("runs", recipe).exists():
            train(recipe)
        picture(recipe).quantize(64).save(IMAGES / f"{recipe}.png", optimize=True)
    if all(Path("runs", recipe).exists() for recipe in FRONT):
        front = side_by_side({recipe: picture(recipe) for recipe in FRONT})
        front.quantize(64).save(IMAGES / "samples.png", optimize=True)
        run(f"interpolate {checkpoint_of('cgan_relativistic_mnist')} --seeds 1,2 --output {IMAGES}/interpolation.png")


if __name__ == "__main__":
    main()
