"""The commands, and the options of our own commands, without importing the code that runs them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from lightning_gans.errors import SettingError, nearest

PROGRAM = "lightning-gans"
COMMANDS = {
    "fit": "train a model from a recipe",
    "resume": "resume a stopped run in its folder",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "reconstruct the test split (VAE), translate it (Pix2Pix, …), or sample its labels (conditional models)",
    "sample": "write samples from a checkpoint",
    "interpolate": "write pictures that interpolate between seeds, labels or pictures",
    "walk": "write an animation that moves from seed to seed",
    "traverse": "write pictures that change along one latent or direction at a time",
    "reconstruct": "write a VAE's reconstructions of pictures",
    "invert": "find latents of pictures, and write the images that they give",
    "translate": "write translations of pictures (Pix2Pix, SRGAN, CycleGAN)",
    "export": "export a model as ONNX, .pt2 or safetensors",
    "push": "write a model as a folder to load and share, or to the Hugging Face Hub",
    "demo": "show a model's samples on a page in the browser",
    "score": "score a folder, a file or a model's samples against real images",
    "augment-trial": "train classifiers with and without a model's samples",
    "report": "write a run as one HTML page",
    "compare": "show the scores of two evaluations side by side",
    "recipes": "list the recipes, or print one",
}
LIGHTNING = ("fit", "validate", "test", "predict")
"""The commands that Lightning parses."""


class CommandParser(argparse.ArgumentParser):
    """Parser that raises :class:`SettingError` for an invalid command line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        unknown = re.search(r"unrecognized arguments: (--\w+)", message)
        hint = nearest(unknown[1], re.findall(r"--\w+", self.format_help())) if unknown else ""
        raise SettingError(f"{message}.{hint}\nSee {self.prog} --help.", setting=unknown[1] if unknown else "")


def is_given(option: str, words: Sequence[str]) -> bool:
    """Return whether a command line has an option, as ``--option value`` or ``--option=value``."""
    return any(word.partition("=")[0] == option for word in words)


def parse(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Parse the options of one of our own commands."""
    parser = CommandParser(prog=f"{PROGRAM} {command}", description=COMMANDS[command], allow_abbrev=False)
    _ARGUMENTS[command](parser.add_argument)
    # argparse parses -5,7 as an option, unless it begins with a space.
    return vars(parser.parse_args([f" {word}" if re.match(r"-\d", word) else word for word in words]))


def _model(add: Any) -> None:
    add("checkpoint", metavar="CKPT", help="a model's checkpoint, a folder that `push` wrote, or hf:USER/NAME")
    add("--no_ema", dest="ema", action="store_false", help="use the weights instead of their moving average")
    _imports(add, "a module of yours whose networks the checkpoint may name")


def _imports(add: Any, help: str) -> None:
    add("--import", dest="imports", action="append", default=[], metavar="MODULE", help=help)


def _device(add: Any) -> None:
    add("--device", default="auto", help="cpu, cuda, cuda:1, … (default: cuda if available)")


def _truncation(add: Any) -> None:
    add("--truncation", type=float, metavar="T", help="truncate the noise at ±T: more typical, less diverse samples")


def _condition(add: Any, help: str) -> None:
    add("--condition", dest="conditions", action="append", default=[], metavar="smiling=1,angle=30", help=help)


def _resume(add: Any) -> None:
    add("run", metavar="RUN", help="the folder of a run, runs/<recipe>/version_N")
    _imports(add, "a module of yours whose classes the run's configuration and checkpoint may name")
    add("options", nargs="*", metavar="OPTION", help="options of fit, such as --trainer.max_epochs 20")


_LAYOUT = "arrays in FILE.npz: images and labels (plain), or RGB arr_0 and arr_1, as guided-diffusion reads them (adm)"


def _sample(add: Any) -> None:
    _model(add)
    _device(add)
    add("--num_samples", type=int, metavar="N", help="number of samples (default: 64, or one per label)")
    add(
        "--output",
        required=True,
        help="FILE.png (a grid), FILE.npz (images uint8 NHWC, or sequences float32 NCT; labels), or a folder of PNGs",
    )
    add("--layout", choices=("plain", "adm"), default="plain", help=_LAYOUT)
    add("--labels", metavar="3,1,4", help="labels, repeated in this order (default: all classes)")
    _condition(add, "values of attributes; repeat it for other samples (default: those of training images)")
    add("--seed", type=int, help="seed of the noise (default: random, and printed)")
    _truncation(add)
    what = "take BatchNorm's statistics from N batches of 64 samples, not from training (100 in BigGAN)"
    add("--standing_statistics", type=int, metavar="N", help=what)


def _interpolate(add: Any) -> None:
    _model(add)
    _device(add)
    add("--output", required=True, help="FILE.png: one row, or a row per class")
    add("--seeds", metavar="1,2,3", help="seeds to interpolate between (default: two random ones, printed)")
    add("--labels", metavar="3,8", help="one label for all, or one per stop to interpolate between (default: all)")
    add("--pictures", nargs="+", metavar="FILE", help="pictures to interpolate between (VAE)")
    add("--steps", type=int, default=8, metavar="N", help="pictures from one stop to the next, inclusive (default: 8)")
    _truncation(add)


def _walk(add: Any) -> None:
    _model(add)
    _device(add)
    what = "FILE.gif, FILE.mp4 (pip install 'lightning_gans[video]'), or FILE.png (a row from one seed to the next)"
    add("--output", required=True, help=what)
    add("--seeds", metavar="1,2,3", help="seeds of the key points (default: random ones, printed)")
    add("--num_seeds", type=int, metavar="N", help="number of random seeds (default: 4, or one per label)")
    add("--labels", metavar="3,8", help="one label for all, or one per seed, until the next (default: all in turn)")
    add("--frames", type=int, default=25, metavar="N", help="pictures from one seed to the next (default: 25)")
    add("--fps", type=float, default=25, metavar="N", help="pictures per second (default: 25)")
    add("--loop", action="store_true", help="return from the last seed to the first")
    easings = ("smooth", "linear")
    add("--easing", choices=easings, default="smooth", help="rest at each seed, or move evenly (default: smooth)")
    _truncation(add)


def _traverse(add: Any) -> None:
    _model(add)
    _device(add)
    add("--output", required=True, help="FILE.png: a row per latent (a VAE's by their KL divergence) or direction")
    what = "single latents, or those that the first layer amplifies most, by SeFa (default: latents)"
    add("--directions", choices=("latents", "sefa"), default="latents", help=what)
    add("--num", type=int, default=8, metavar="N", help="number of latents or directions (default: 8)")
    add("--steps", type=int, default=7, metavar="N", help="pictures in each row (default: 7)")
    add("--span", type=float, default=3.0, metavar="S", help="values from -S to S standard deviations (default: 3)")
    add("--seed", type=int, default=0, help="seed of the latents (default: 0)")
    add("--label", type=int, metavar="N", help="class of the pictures (conditional models; default: 0)")


def _reconstruct(add: Any) -> None:
    _model(add)
    _device(add)
    add("pictures", nargs="+", metavar="PICTURES", help="picture files, or folders of them")
    add(
        "--output",
        required=True,
        help="FILE.png (pictures above their reconstructions), FILE.npz (images uint8 NHWC), or a folder of PNGs",
    )
    add("--labels", metavar="3,1,4", help="labels of the pictures, repeated in this order (conditional models)")


def _invert(add: Any) -> None:
    _model(add)
    _device(add)
    add("pictures", nargs="+", metavar="PICTURES", help="picture files, or folders of them")
    add("--output", required=True, help="FILE.png: each picture beside the model's image, with their distance")
    add("--latents", metavar="FILE.npz", help="also write latents, distances and labels to this file")
    add("--labels", metavar="3,1,4", help="labels of the pictures, repeated in this order (conditional models)")
    add("--steps", type=int, default=200, metavar="N", help="steps of the optimization (default: 200)")
    add("--lr", type=float, default=0.1, help="learning rate of the latents (default: 0.1)")
    add("--starts", type=int, default=4, metavar="N", help="starts for each picture; the best is kept (default: 4)")
    add("--seed", type=int, default=0, help="seed of the starts (default: 0)")
    what = "network whose features are compared, besides the pixels: mnist, digits, inception, efficientnet, or none"
    add("--extractor", default="auto", help=f"{what} (default: auto, which is that of the run's scores)")
    add("--weights_path", metavar="FILE", help="weights of the extractor")
    add("--feature_weight", type=float, default=0.1, metavar="W", help="weight of the features (default: 0.1)")


def _translate(add: Any) -> None:
    _model(add)
    _device(add)
    add("pictures", metavar="PICTURES", help="a picture, a folder of them, or an array of images, .npz or .npy")
    add("--output", required=True, help="a folder of files with the same names; FILE.png, .tif or .npy; FILE.npz")
    add("--to", choices=("target", "source"), help="direction of the translation (CycleGAN; default: target)")
    add(
        "--tile", type=int, metavar="N", help="translate in tiles of N x N pixels, blended (default: the whole picture)"
    )
    add("--overlap", type=int, metavar="M", help="pixels that neighboring tiles share (default: a quarter of --tile)")


def _export(add: Any) -> None:
    _model(add)
    add("--output", required=True, help="FILE.onnx, FILE.pt2 or FILE.safetensors; a model card is written next to it")
    add("--encoder", action="store_true", help="export a VAE's encoder instead of its decoder")
    add("--to", choices=("target", "source"), help="direction of the translation (CycleGAN; default: target)")


def _push(add: Any) -> None:
    add("checkpoint", metavar="CKPT", help="a model's checkpoint")
    add("--to", required=True, metavar="PLACE", help="a new folder, or hf:USER/NAME on the Hugging Face Hub")
    _imports(add, "a module of yours whose networks the checkpoint may name")


def _demo(add: Any) -> None:
    _model(add)
    _device(add)
    add("--host", default="127.0.0.1", help="address to serve at (default: 127.0.0.1, this machine only)")
    add("--port", type=int, default=7860, help="port to serve at (default: 7860)")


def _score(add: Any) -> None:
    what = "a folder of pictures, an .npz, .npy or .pt file of images, a checkpoint, or mnist, cifar10, mnist/test, …"
    add("fake", metavar="FAKE", help=f"generated images: {what}")
    add("--real", required=True, metavar="REAL", help="real images: the same")
    add("--pairs", action="store_true", help="compare each image with the real one of the same file name or index")
    add("--num", type=int, metavar="N", help="images per set (default: all; for a model, as many as real images)")
    add("--metrics", metavar="fid,kid", help="metrics (default: those of a run; for pairs: psnr,ssim,ms_ssim,l1)")
    add("--extractor", default="auto", help="mnist, digits, inception, dinov2-vit-l-14, … (default: auto)")
    add("--weights_path", metavar="FILE", help="weights of the extractor")
    add("--batch_size", type=int, metavar="N", help="images per pass of the extractor (default: depends on it)")
    _device(add)
    add("--data_dir", default="data", metavar="DIR", help="folder of torchvision's data sets (default: data)")
    add("--seed", type=int, default=0, help="seed of samples and of random choices (default: 0)")
    add("--convert", action="store_true", help="convert transparent, CMYK and 16-bit pictures")
    add("--no_floor", dest="floor", action="store_false", help="do not score real images against real images")
    add("--no_ema", dest="ema", action="store_false", help="use the weights instead of their moving average")
    add("--json", metavar="FILE", help="write the scores and their protocol to this file")
    _imports(add, "a module of yours whose networks a checkpoint may name")


def _augment_trial(add: Any) -> None:
    _model(add)
    _device(add)
    what = "mnist, cifar10, digits, a folder with a subfolder per class, or an .npz of images and labels"
    add("--data", required=True, metavar="DATA", help=f"real images: {what}")
    add("--test", metavar="DATA", help="real test images, likewise (default: those of --data; an .npz has none)")
    add("--num_real", type=int, metavar="N", help="real training images, chosen as with data.limit (default: all)")
    add("--num_samples", type=int, default=10_000, metavar="N", help="number of samples (default: 10000)")
    add("--seeds", default="0,1,2", metavar="0,1,2", help="one classifier of each kind per seed (default: 0,1,2)")
    add("--updates", type=int, default=1000, metavar="N", help="updates of each classifier (default: 1000)")
    add("--batch_size", type=int, default=64, metavar="N", help="images per update (default: 64)")
    add("--flip", action="store_true", help="also mirror images in classical augmentation, which always shifts them")
    add("--data_dir", default="data", metavar="DIR", help="folder of torchvision's data sets (default: data)")
    add("--json", metavar="FILE", help="write the results and their protocol to this file")


def _report(add: Any) -> None:
    add("run", metavar="RUN", help="the folder of a run, runs/<recipe>/version_N")
    add("--output", metavar="FILE.html", help="the page (default: report.html in the run's folder)")


def _compare(add: Any) -> None:
    add("first", metavar="FIRST.json", help="a metrics/step=….json of a run")
    add("second", metavar="SECOND.json", help="another such file")


def _recipes(add: Any) -> None:
    add("name", nargs="?", metavar="NAME", help="print this recipe")
    add("--search", metavar="WORD", help="list only recipes with WORD in their name, data or title, such as mnist")
    add("--json", action="store_true", help="print the table as JSON")


_ARGUMENTS = {
    "resume": _resume,
    "sample": _sample,
    "interpolate": _interpolate,
    "walk": _walk,
    "traverse": _traverse,
    "reconstruct": _reconstruct,
    "invert": _invert,
    "translate": _translate,
    "export": _export,
    "push": _push,
    "demo": _demo,
    "score": _score,
    "augment-trial": _augment_trial,
    "report": _report,
    "compare": _compare,
    "recipes": _recipes,
}
