"""The commands and the options of our own commands, without importing what runs them."""

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
    "predict": "reconstruct the test split (VAE), or sample its labels (conditional models)",
    "sample": "write samples from a checkpoint",
    "interpolate": "write pictures that interpolate between seeds, labels or pictures",
    "reconstruct": "write a VAE's reconstructions of pictures",
    "export": "export a model as ONNX, .pt2 or safetensors",
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


def parse(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Parse the options of one of our own commands.

    Raises:
        SettingError: An option is unknown, missing or invalid.
    """
    parser = CommandParser(prog=f"{PROGRAM} {command}", description=COMMANDS[command], allow_abbrev=False)
    _ARGUMENTS[command](parser.add_argument)
    # argparse takes -5,7 for an option, unless it begins with a space.
    return vars(parser.parse_args([f" {word}" if re.match(r"-\d", word) else word for word in words]))


def _model(add: Any) -> None:
    add("checkpoint", metavar="CKPT", help="the checkpoint of a model")
    add("--no_ema", dest="ema", action="store_false", help="use the weights instead of their moving average")
    _imports(add, "a module of yours whose networks the checkpoint may name")


def _imports(add: Any, help: str) -> None:
    add("--import", dest="imports", action="append", default=[], metavar="MODULE", help=help)


def _device(add: Any) -> None:
    add("--device", default="auto", help="cpu, cuda, cuda:1, … (default: cuda if available)")


def _truncation(add: Any) -> None:
    add("--truncation", type=float, metavar="T", help="truncate the noise at ±T: more typical, less diverse samples")


def _resume(add: Any) -> None:
    add("run", metavar="RUN", help="the folder of a run, runs/<recipe>/version_N")
    _imports(add, "a module of yours whose classes the run's configuration and checkpoint may name")
    add("options", nargs="*", metavar="OPTION", help="options of fit, such as --trainer.max_epochs 20")


def _sample(add: Any) -> None:
    _model(add)
    _device(add)
    add("--num_samples", type=int, metavar="N", help="number of samples (default: 64, or one per label)")
    add(
        "--output",
        required=True,
        help="FILE.png (a grid), FILE.npz (images uint8 NHWC, or sequences float32 NCT; labels), or a folder of PNGs",
    )
    add("--labels", metavar="3,1,4", help="labels, repeated in this order (default: all classes)")
    add("--seed", type=int, help="seed of the noise (default: random, and printed)")
    _truncation(add)


def _interpolate(add: Any) -> None:
    _model(add)
    _device(add)
    add("--output", required=True, help="FILE.png: one row, or a row per class")
    add("--seeds", metavar="1,2,3", help="seeds to interpolate between (default: two random ones, printed)")
    add("--labels", metavar="3,8", help="one label for all, or one per stop to interpolate between (default: all)")
    add("--pictures", nargs="+", metavar="FILE", help="pictures to interpolate between, encoded by a VAE")
    add("--steps", type=int, default=8, metavar="N", help="pictures from one stop to the next (default: 8)")
    _truncation(add)


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


def _export(add: Any) -> None:
    _model(add)
    add("--output", required=True, help="FILE.onnx, FILE.pt2 or FILE.safetensors; a model card is written beside it")
    add("--encoder", action="store_true", help="export a VAE's encoder instead of its decoder")


def _report(add: Any) -> None:
    add("run", metavar="RUN", help="the folder of a run, runs/<recipe>/version_N")
    add("--output", metavar="FILE.html", help="default: report.html in the run's folder")


def _compare(add: Any) -> None:
    add("first", metavar="FIRST.json", help="a metrics/step=….json of a run")
    add("second", metavar="SECOND.json", help="another one")


def _recipes(add: Any) -> None:
    add("name", nargs="?", metavar="NAME", help="print this recipe")


_ARGUMENTS = {
    "resume": _resume,
    "sample": _sample,
    "interpolate": _interpolate,
    "reconstruct": _reconstruct,
    "export": _export,
    "report": _report,
    "compare": _compare,
    "recipes": _recipes,
}
