"""``lightning-gans compare``: scores of two evaluations side by side, if one protocol made both."""

from __future__ import annotations

import argparse

from lightning_gans.metrics.protocol import compare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("first", metavar="FIRST.json", help="a metrics/step=….json of a run")
    parser.add_argument("second", metavar="SECOND.json", help="another")


def run(args: argparse.Namespace) -> None:
    """Print the scores that both have."""
    scores = compare(args.first, args.second)
    width = max([len("score"), *map(len, scores)])
    print(f"{'score':{width}}  {'first':>12}  {'second':>12}  {'difference':>12}")
    for name, (first, second) in scores.items():
        print(f"{name:{width}}  {first:12.4f}  {second:12.4f}  {second - first:+12.4f}")
