"""``lightning-gans compare``: scores of two evaluations side by side, if one protocol made both."""

from __future__ import annotations

from lightning_gans.metrics.protocol import compare


def run(first: str, second: str) -> None:
    """Print the scores that both files have."""
    scores = compare(first, second)
    width = max([len("score"), *map(len, scores)])
    print(f"{'score':{width}}  {'first':>12}  {'second':>12}  {'difference':>12}")
    for name, (one, other) in scores.items():
        print(f"{name:{width}}  {one:12.4f}  {other:12.4f}  {other - one:+12.4f}")
