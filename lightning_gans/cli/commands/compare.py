"""``lightning-gans compare``: scores of two evaluations with the same protocol, side by side."""

from __future__ import annotations

from lightning_gans.errors import printable
from lightning_gans.io.score_files import compare


def run(first: str, second: str) -> None:
    """Print the scores that both files have."""
    print(printable(f"first:   {first}\nsecond:  {second}\n"))
    scores = {printable(name): values for name, values in compare(first, second).items()}
    width = max([len("score"), *map(len, scores)])
    print(f"{'score':{width}}  {'first':>12}  {'second':>12}  {'difference':>12}")
    for name, (one, other) in scores.items():
        print(f"{name:{width}}  {one:12.4f}  {other:12.4f}  {other - one:+12.4f}")
