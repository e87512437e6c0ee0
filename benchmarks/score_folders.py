"""Measure ``lightning-gans score`` on two folders of pictures: its time against torch-fidelity's, and its memory.

    python benchmarks/score_folders.py --num 10000
    python benchmarks/score_folders.py --num 200 --extractor inception
    python benchmarks/score_folders.py --num 5000 50000 --images random --sides pooled --form folder npz

The sides run in turn, each in its own process, from the start of Python to the scores:

- ``ours``: the command with its default metrics and its floor; ``no_floor``: without the floor.
- ``torch_fidelity``: FID, KID and Inception Score by ``calculate_metrics``, with the same network.
- ``pooled``: ours with a network that costs nothing, so that time and memory are those of everything else.

``mnist`` pictures are MNIST's; ``random`` ones have 32x32 pixels in color, and PNG cannot compress them. Prints JSON:
wall, user and system seconds and the peak memory in MB of each process, and median ratios to torch-fidelity's.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from common import load_mnist, run
from PIL import Image
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
CALL = "import sys, score_folders; getattr(score_folders, sys.argv[1])(*sys.argv[2:])"


def fidelity(fake, real, extractor, weights_path):
    """Be the process of torch-fidelity."""
    import torch_fidelity
    from evaluation_throughput import LAYERS, THEIRS

    features, logits = LAYERS[extractor]
    found = torch_fidelity.calculate_metrics(
        input1=fake,
        input2=real,
        fid=True,
        kid=True,
        isc=True,
        feature_extractor=THEIRS[extractor],
        feature_layer_fid=features,
        feature_layer_kid=features,
        feature_layer_isc=logits,
        feature_extractor_weights_path=weights_path or None,
        kid_subset_size=min(1000, len(os.listdir(fake))),
        cuda=False,
        cache=False,
        verbose=False,
    )
    print(found)


def pooled(fake, real, *_):
    """Be a process of ours that extracts almost nothing."""
    from lightning_gans.scoring import score

    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    print(score(fake, real, extractor=network, floor=False)["scores"])


def command(side, fake, real, args):
    if side in ("torch_fidelity", "pooled"):
        name = "fidelity" if side == "torch_fidelity" else side
        return [sys.executable, "-c", CALL, name, fake, real, args.extractor, args.weights_path or ""]
    words = [sys.executable, "-m", "lightning_gans", "score", fake, "--real", real, "--extractor", args.extractor]
    words += ["--device", "cpu", *(["--no_floor"] if side == "no_floor" else [])]
    return [*words, "--weights_path", args.weights_path] if args.weights_path else words


def measured(words):
    """Run a process; return its seconds, and its peak memory or that of the largest process that it started."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": paths}, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(output.read().decode())
    seconds = {"wall": time.monotonic() - started, "user": usage.ru_utime, "system": usage.ru_stime}
    return {**{name: round(value, 2) for name, value in seconds.items()}, "peak_mb": round(usage.ru_maxrss / 1024)}


def write(folder, images, form):
    """Write images, uint8 ``(N, H, W, C)``, and return the path of the set."""
    if form == "npz":
        np.savez(f"{folder}.npz", images=images)
        return f"{folder}.npz"
    folder.mkdir()

    def save(place):
        Image.fromarray(images[place].squeeze()).save(folder / f"{place:06}.png", compress_level=1)

    with ThreadPoolExecutor() as pool:
        list(pool.map(save, range(len(images))))
    return str(folder)


def make_images(args, num):
    """Return twice ``num`` images."""
    if args.images == "random":
        return np.random.default_rng(0).integers(256, size=(2 * num, 32, 32, 3), dtype=np.uint8)
    images = torch.cat([load_mnist(args.data_dir, train)[0] for train in (True, False)])
    return images[: 2 * num].permute(0, 2, 3, 1).numpy()


def make_report(args):
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        if args.extractor == "inception" and not args.weights_path:
            sys.path.insert(0, str(ROOT))
            from tests.inception_weights import write_inception_weights

            images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
            args.weights_path = str(write_inception_weights(Path(temporary, "random.pth"), images))
        for num in args.num:
            images = make_images(args, num)
            for form in args.form:
                where = Path(temporary, f"{num}-{form}")
                where.mkdir()
                sets = [write(where / name, part, form) for name, part in zip("ab", np.split(images, 2), strict=True)]
                turns = [
                    {side: measured(command(side, *sets, args)) for side in args.sides} for _ in range(args.repeats)
                ]
                result = {"num": num, "form": form, "turns": turns}
                if "torch_fidelity" in args.sides:
                    result["ratios"] = {
                        side: {
                            what: round(statistics.median(t[side][what] / t["torch_fidelity"][what] for t in turns), 2)
                            for what in ("wall", "user", "peak_mb")
                        }
                        for side in args.sides
                    }
                results.append(result)
    return {"extractor": args.extractor, "images": args.images, "results": results}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, nargs="+", default=[10_000], help="pictures of each folder")
    parser.add_argument("--images", choices=["mnist", "random"], default="mnist")
    parser.add_argument("--form", nargs="+", choices=["folder", "npz"], default=["folder"])
    parser.add_argument("--extractor", choices=["mnist", "inception"], default="mnist")
    parser.add_argument("--weights_path", help="Inception's file; random weights without it")
    parser.add_argument("--sides", nargs="+", default=["ours", "no_floor", "torch_fidelity"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--data_dir", type=Path, default="data", help="folder of MNIST")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    run(make_report, parser.parse_args(argv))


if __name__ == "__main__":
    main()
