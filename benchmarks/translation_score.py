"""Score translators of images on held-out pictures, beside what does not learn.

    lightning-gans fit -c pix2pix_mnist_inpaint --seed_everything 0
    python benchmarks/translation_score.py inpaint runs/*/version_0/checkpoints/last.ckpt
    python benchmarks/translation_score.py inverted CKPT --data_dir mnist_inverted
    python benchmarks/translation_score.py digits CKPT --data_dir digits_mnist
    python benchmarks/translation_score.py pairs CKPT --data_dir emoji/noto --target_dir emoji/twemoji
    python benchmarks/translation_score.py enlarge CKPT --data_dir emoji/noto

- ``inpaint``: MNIST's 10,000 test digits with a hole of 14 x 14 pixels; ``masked`` are the sources.
- ``inverted``: pictures of ``recipes/data/mnist_inverted.py``, both ways; ``constant`` is paper without ink.
- ``digits``: pictures of ``recipes/data/digits_mnist.py``, scikit-learn's digits to MNIST's.
- ``pairs``: two folders with the same names; ``identity`` are the sources.
- ``enlarge``: one folder, made four times smaller; ``bicubic`` enlarges it.

Folders have the splits ``train`` and ``test``; only ``test`` is read. ``distance`` is the Fréchet distance to the
targets, on the features of the scorer of ``mnist_score.py`` (trained if it is missing), or of EfficientNet for color.
``label_accuracy`` is the scorer's, ``error`` the mean absolute error as a share of the range. Prints JSON.
"""

import argparse
from pathlib import Path

import torch
from common import load_mnist, run
from mnist_score import extract, prepare_scorer, scorer_file
from torch.nn import functional as F

from lightning_gans import ImageFolderDataModule, MNISTDataModule, PairedFolderDataModule, load
from lightning_gans.datamodules.tasks import Inpaint
from lightning_gans.io.pictures import from_bytes, to_bytes
from lightning_gans.metrics import FrechetDistance, Translations
from lightning_gans.metrics.extractors import EfficientNetExtractor

HOLE = 14


class Shuffled(Inpaint):
    """Digits with a hole, and other digits as their targets: a control that has to fail."""

    def __call__(self, images, draws):
        return self.source(images, draws), images.roll(1, 0)


# ------------------------------------------------------------------------------------------------ scores


def similarity(outputs, targets):
    """Return the means over pairs of images in [-1, 1]."""
    metric = Translations()
    metric.update(outputs, targets)
    found = {name: float(value) for name, value in metric.compute().items()}
    return found | {"error": found["l1"] / 2}


def distance(real, fake):
    """Return the Fréchet distance of features ``(N, D)``."""
    metric = FrechetDistance(real.shape[1])
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


def of_digits(options):
    """Return a function that scores digits ``(N, 1, 28, 28)`` in [-1, 1], with their labels."""
    test = load_mnist(options.mnist_dir, train=False)
    file = options.scorer or scorer_file(options.scorer_seed)
    places = {"data_dir": options.mnist_dir, "scorer": file, "scorer_seed": options.scorer_seed}
    scorer, *_ = prepare_scorer(argparse.Namespace(**places), test)
    real, _ = extract(scorer, test[0])

    def scores(images, labels):
        features, classes = extract(scorer, to_bytes(images))
        return {"distance": distance(real, features), "label_accuracy": float((classes == labels).double().mean())}

    return scores


def of_colors(targets):
    """Return a function that scores color images in [-1, 1]."""
    network = EfficientNetExtractor()

    @torch.no_grad()
    def features(images):
        return torch.cat([network(to_bytes(block))[0] for block in images.split(25)])

    real = features(targets)

    return lambda images: {"distance": distance(real, features(images))}


# -------------------------------------------------------------------------------------------- what is scored


def inpaint(models, options):
    scores = of_digits(options)
    size = next(iter(models.values())).image_shape[-1]
    data = MNISTDataModule(options.mnist_dir, image_size=size, task=Inpaint(size=HOLE / size))
    source, target = data.split_pairs("test")[:]
    labels = data.images("test")[1]
    outputs = {"masked": source[:, :1]} | {name: model.translate(source) for name, model in models.items()}
    pad = (size - 28) // 2
    shown = (Ellipsis, slice(pad, size - pad), slice(pad, size - pad))
    return {
        name: similarity(made[shown], target[shown]) | scores(made[shown], labels) for name, made in outputs.items()
    }


def inverted(models, options):
    folder = options.data_dir
    data = PairedFolderDataModule(folder / "digits", folder / "inverted", image_size=28)
    digits, colored = data.split_pairs("test")[:]
    rows = {}
    for to, source, target in (("target", digits, colored), ("source", colored, digits)):
        paper = target[:1, :, :1, :1].expand_as(target)
        outputs = {"constant": paper} | {name: model.translate(source, to=to) for name, model in models.items()}
        rows |= {f"{name}, to {to}": similarity(made, target) for name, made in outputs.items()}
    return rows


def digits(models, options):
    scores = of_digits(options)
    images, labels = ImageFolderDataModule(options.data_dir / "digits", image_size=28, channels=1).images("test")
    source = from_bytes(images)
    outputs = {"identity": source} | {name: model.translate(source) for name, model in models.items()}
    return {name: scores(made, labels) for name, made in outputs.items()}


def pairs(models, options):
    data = PairedFolderDataModule(options.data_dir, options.target_dir, image_size=64, convert=True)
    source, target = data.split_pairs("test")[:]
    outputs = {"identity": source} | {name: model.translate(source) for name, model in models.items()}
    scores = of_colors(target)
    return {name: similarity(made, target) | scores(made) for name, made in outputs.items()}


def enlarge(models, options):
    task = "super_resolution_x4"
    data = ImageFolderDataModule(options.data_dir, image_size=64, convert=True, task=task)
    source, target = data.split_pairs("test")[:]
    bicubic = F.interpolate(source, scale_factor=4, mode="bicubic").clamp(-1, 1)
    outputs = {"bicubic": bicubic} | {name: model.translate(source) for name, model in models.items()}
    scores = of_colors(target)
    return {name: similarity(made, target) | scores(made) for name, made in outputs.items()}


SCORES = {function.__name__: function for function in (inpaint, inverted, digits, pairs, enlarge)}


def make_report(options):
    models = {str(path): load(path) for path in options.files}
    return {"task": options.task, "scores": SCORES[options.task](models, options)}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=SCORES)
    parser.add_argument("files", nargs="+", type=Path, metavar="CKPT")
    parser.add_argument("--data_dir", type=Path, help="the folder of pictures, or of sources")
    parser.add_argument("--target_dir", type=Path, help="the folder of targets")
    parser.add_argument("--mnist_dir", type=Path, default=Path("data"), help="the folder of MNIST")
    parser.add_argument("--scorer", type=Path, help="file of the scorer of mnist_score.py")
    parser.add_argument("--scorer_seed", type=int, help="(default: that of the file, 0 for a new scorer)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    run(make_report, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
