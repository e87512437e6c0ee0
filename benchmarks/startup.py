"""Start-up: what the package adds to importing PyTorch Lightning and torchvision.

    python benchmarks/startup.py

Runs each command in turn in a process of its own, and prints the medians in seconds as JSON; what the package adds is
the median of the differences between neighbours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "pytorch_lightning, torchvision": ["-c", "import pytorch_lightning, torchvision"],
    "lightning_gans": ["-c", "import pytorch_lightning, torchvision, lightning_gans"],
    "pytorch_lightning.cli, torchvision": ["-c", "import pytorch_lightning.cli, torchvision"],
    "lightning-gans --help": ["-m", "lightning_gans", "--help"],
    "lightning-gans fit --help": ["-m", "lightning_gans", "fit", "--help"],
}


def seconds(words):
    """Run Python with these words and return the wall time."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    for words in COMMANDS.values():
        seconds(words)  # files into the memory
    found = {name: [] for name in COMMANDS}
    for _ in range(args.rounds):
        for name, words in COMMANDS.items():
            found[name].append(seconds(words))
    lightning, ours, cli, usage, fit = found.values()
    print(
        json.dumps(
            {
                "seconds": {name: round(statistics.median(values), 2) for name, values in found.items()},
                "import_adds": round(statistics.median(b - a for a, b in zip(lightning, ours, strict=True)), 3),
                "help_over_imports": round(statistics.median(b / a for a, b in zip(cli, usage, strict=True)), 3),
                "fit_help_over_imports": round(statistics.median(b / a for a, b in zip(cli, fit, strict=True)), 3),
                "rounds": args.rounds,
                "cores": os.cpu_count(),
                "python": sys.version.split()[0],
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
