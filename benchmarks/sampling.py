"""Sampling from a checkpoint: how soon the first picture is there, and how much memory many of them take.

    python benchmarks/sampling.py CKPT

The seconds are those of ``lightning-gans sample CKPT --num_samples 1``, and what they are more than those of importing
torch and Lightning in a process of its own, as the median of the differences between neighbours. The memory is the peak
of ``--num_samples 50000``, to an npz file and to a folder of PNG files, less that of 250, which are one
batch. Prints JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPORTS = ["-c", "import torch, pytorch_lightning"]


def run(words):
    """Run Python with these words; return the wall time in seconds and the peak of its memory in MB."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: python {' '.join(words)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024  # kilobytes on Linux


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num_samples", type=int, default=50_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        def sample(num, output):
            words = ["-m", "lightning_gans", "sample", args.checkpoint, "--num_samples", str(num)]
            return run([*words, "--output", str(Path(folder, output))])

        sample(1, "warm.png")
        pairs = [(run(IMPORTS)[0], sample(1, f"{turn}.png")[0]) for turn in range(args.rounds)]
        report = {
            "imports_s": round(statistics.median(imports for imports, _ in pairs), 2),
            "first_picture_s": round(statistics.median(first for _, first in pairs), 2),
            "first_picture_over_imports_s": round(statistics.median(first - imports for imports, first in pairs), 2),
        }
        for kind, suffix in (("npz", ".npz"), ("png", "")):
            base = sample(250, f"few{suffix}")[1]
            seconds, peak = sample(args.num_samples, f"many{suffix}")
            report[kind] = {
                "seconds": round(seconds, 1),
                "peak_mb": round(peak),
                "growth_mb": round(peak - base),
            }
    print(json.dumps({**report, "num_samples": args.num_samples, "cores": os.cpu_count()}, indent=2))


if __name__ == "__main__":
    main()
