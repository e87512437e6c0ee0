"""Speed of evaluation: all our metrics beside torch-fidelity's FID, KID and Inception Score from a single pass.

    python benchmarks/evaluation_throughput.py --extractor mnist
    python benchmarks/evaluation_throughput.py --extractor inception --composed
    python benchmarks/evaluation_throughput.py --extractor inception --num 10000 --device cuda --weights_path FILE

Both sides get the same pictures from memory, as many real as generated ones, the same weights, device and batch size,
and find nothing on disk; making or decoding pictures is no part of it. Ours are FID, KID, Inception Score, precision,
recall, density and coverage. A third account, ``ours_cached``, is ours once the cache holds what it keeps of the reals.

Inception takes a CPU hours for so many pictures. With ``--composed`` it is shown ``--rate_images`` of them, a batch in
turn on each side, and the seconds per picture are multiplied; the metrics, which do not grow in proportion, are timed
on random numbers of the full size, in the place of features. The JSON then says ``"composed": true``.

Prints JSON: seconds by part, and ratios of the totals, ours by torch-fidelity's. ``reals_fid`` and the like are what a
metric takes of the reals alone; ``neighbours`` is precision, recall, density and coverage together, and ``alone`` what
each pair takes by itself. No score is printed: without ``--weights_path`` Inception's weights are random.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch_fidelity
import torchmetrics
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset

import lightning_gans
from lightning_gans.metrics import MNISTExtractor, make_extractor
from lightning_gans.metrics.cache import Cache, fingerprint
from lightning_gans.metrics.evaluate import BLOCK
from lightning_gans.metrics.scores import FeatureSet, Reference, Settings, score

METRICS = {
    "fid": ["fid"],
    "kid": ["kid"],
    "inception_score": ["inception_score"],
    "neighbours": ["precision", "recall", "density", "coverage"],
}
PAIRS = {"precision_recall": ["precision", "recall"], "density_coverage": ["density", "coverage"]}
SHAPES = {"mnist": (1, 28, 28), "inception": (3, 32, 32)}
THEIRS = {"mnist": "lightning-gans-mnist", "inception": "inception-v3-compat"}
LAYERS = {"mnist": ["96", "logits"], "inception": ["2048", "logits_unbiased"]}
WARM_UP = 20  # pictures
WIDTHS = {"mnist": (96, 10), "inception": (2048, 1008)}


class FidelityMNIST(FeatureExtractorBase):
    """Our digit classifier as torch-fidelity takes a network of the user's own."""

    def __init__(self, name, features_list, **options):
        super().__init__(name, features_list)
        self.network = MNISTExtractor()

    @staticmethod
    def get_provided_features_list():
        """Return the names of what it gives."""
        return tuple(LAYERS["mnist"])

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        """Return which of them a metric takes."""
        return "logits" if metric == "isc" else "96"

    @staticmethod
    def can_be_compiled():
        """Return that nobody has tried."""
        return False

    def forward(self, images):
        """Return what was asked for."""
        found = dict(zip(LAYERS["mnist"], self.network(images), strict=True))
        return tuple(found[name] for name in self.features_list)


torch_fidelity.register_feature_extractor(THEIRS["mnist"], FidelityMNIST)


class Pictures(Dataset):
    """Pictures in memory, one by one, as torch-fidelity takes them."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def make_pictures(shape, num, seed):
    """Return scikit-learn's digits, enlarged and repeated under noise that makes each another, uint8."""
    digits = lightning_gans.DigitsDataModule(shape[-1]).load_images("train")[0]
    noise = torch.randint(-30, 31, (num, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.int16)
    return noise.add_(digits[torch.arange(num) % len(digits)]).clamp_(0, 255).byte()


@contextmanager
def clock(seconds, name):
    """Note how long a part took."""
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began


def our_extractor(args):
    """Return our extractor on the device, at the batch size in question."""
    extractor = make_extractor(args.extractor, SHAPES[args.extractor], args.weights_path).to(args.device)
    if args.batch_size:
        extractor.block_size = extractor.accelerator_block_size = args.batch_size
    return extractor


def our_batch_size(args):
    """Return the batch size that our extractor has on the device, unless another was asked for."""
    extractor = our_extractor(args)
    on_accelerator = None if args.device == "cpu" else extractor.accelerator_block_size
    return on_accelerator or extractor.block_size


def our_features(extractor, images, device):
    """Extract features in the blocks of an evaluation."""
    found = [extractor.extract(block.to(device)) for block in torch.split(images, BLOCK)]
    return FeatureSet(torch.cat([features for features, _ in found]), torch.cat([logits for _, logits in found]))


def our_metrics(images, real, fake, device):
    """Time each metric, and before it what it needs of the reals alone.

    Args:
        images: The real pictures, by which the cache goes.
        real: Their features.
        fake: Features of as many others.
        device: Where to compute.

    Returns:
        The seconds by part; those with the cache as this left it, where what is computed of the reals is only read;
        and those of each pair of neighbour metrics by itself, apart from what they need of the reals.
    """
    first, seconds, cached, alone = {}, {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        cache, key = Cache(folder), {"data": fingerprint(images)}
        reference = Reference(real, Settings(), cache, key)
        for name, metrics in METRICS.items():
            for times in (first, seconds):  # the first time with what it needs of the reals
                with clock(times, name):
                    score(fake, reference, metrics, device)
            if name != "inception_score":
                seconds[f"reals_{name}"] = max(0.0, first[name] - seconds[name])
        for name, metrics in PAIRS.items():
            with clock(alone, name):
                score(fake, reference, metrics, device)
        cache.save("features", key, {"features": real.features.numpy()})
        with clock(cached, "cache"):
            key = {"data": fingerprint(images)}
            stored = FeatureSet(torch.from_numpy(cache.load("features", key)["features"]))
        stored = Reference(stored, Settings(), cache, key)
        with clock(first, "all"):
            score(fake, stored, [name for names in METRICS.values() for name in names], device)
        cached["cache"] += max(0.0, first["all"] - sum(seconds[name] for name in METRICS))
    return seconds, cached | {name: seconds[name] for name in METRICS}, alone


def their_metrics(real, fake):
    """Return the seconds of each metric of torch-fidelity, by the functions that its single pass calls."""
    seconds = {}
    with clock(seconds, "fid"):
        found = [fid_features_to_statistics(each.features) for each in (fake, real)]
        fid_statistics_to_metric(*found, verbose=False)
    with clock(seconds, "kid"):
        size = Settings().fitted(len(real), len(fake))["kid_subset_size"]
        kid_features_to_metric(fake.features, real.features, kid_subset_size=size, verbose=False)
    with clock(seconds, "inception_score"):
        isc_features_to_metric(fake.logits)
    return seconds


def measure_whole(num, args):
    """Evaluate on both sides, from pictures to scores."""
    real, fake = (make_pictures(SHAPES[args.extractor], num, seed) for seed in (0, 1))
    ours, theirs = {}, {}
    with clock(ours, "building"):
        extractor = our_extractor(args)
    with clock(ours, "extraction_of_reals"):
        reals = our_features(extractor, real, args.device)
    with clock(ours, "extraction_of_fakes"):
        fakes = our_features(extractor, fake, args.device)
    found, cached, alone = our_metrics(real, reals, fakes, args.device)
    cached = {name: ours[name] for name in ("building", "extraction_of_fakes")} | cached
    with clock(theirs, "total"):
        torch_fidelity.calculate_metrics(
            input1=Pictures(fake),
            input2=Pictures(real),
            cuda=args.device == "cuda",
            batch_size=args.batch_size,
            isc=True,
            fid=True,
            kid=True,
            kid_subset_size=Settings().fitted(num, num)["kid_subset_size"],
            feature_extractor=THEIRS[args.extractor],
            feature_extractor_weights_path=args.weights_path,
            cache=False,
            verbose=False,
        )
    theirs |= their_metrics(reals, fakes)
    theirs["building_and_extraction"] = theirs.pop("total") - sum(
        theirs[name] for name in ("fid", "kid", "inception_score")
    )
    return {"ours": ours | found, "ours_cached": cached, "torch_fidelity": theirs}, alone


def measure_rates(args):
    """Show pictures to both sides, a batch in turn; return the seconds for one of them, and the batches' ratios."""
    extractor = our_extractor(args)
    options = {"feature_extractor_weights_path": args.weights_path, "verbose": False}
    network = create_feature_extractor(
        THEIRS[args.extractor], LAYERS[args.extractor], cuda=args.device == "cuda", **options
    )
    images = make_pictures(SHAPES[args.extractor], args.rate_images, seed=0)
    batches = [batch for batch in torch.split(images, args.batch_size) if len(batch) == args.batch_size]
    turns = []
    for batch in batches[:1] + batches:  # the first one warms up
        turn = {}
        with clock(turn, "ours"):
            extractor.extract(batch.to(args.device))
        with clock(turn, "torch_fidelity"):
            # Without worker processes, whose start would count for each batch anew.
            get_featuresdict_from_dataset(
                Pictures(batch), network, args.batch_size, args.device == "cuda", save_cpu_ram=True, verbose=False
            )
        turns.append(turn)
    turns = turns[1:]
    rates = {side: sum(turn[side] for turn in turns) / (len(turns) * args.batch_size) for side in turns[0]}
    return rates, [turn["ours"] / turn["torch_fidelity"] for turn in turns]


def measure_composed(num, rates, args):
    """Time the metrics on random numbers, and multiply the seconds for a picture."""
    source = torch.Generator().manual_seed(0)
    width, num_classes = WIDTHS[args.extractor]
    reals, fakes = (FeatureSet(torch.rand(num, width, generator=source)) for _ in range(2))
    fakes.logits = torch.randn(num, num_classes, generator=source)
    pictures = make_pictures(SHAPES[args.extractor], num, seed=0)
    ours, cached, alone = our_metrics(pictures, reals, fakes, args.device)
    seconds = {"ours": ours, "ours_cached": cached, "torch_fidelity": their_metrics(reals, fakes)}
    return composed(seconds, rates, num), alone


def composed(seconds, rates, num):
    """Add what extraction takes to each side: that of the reals is spared where they come from the cache."""
    sides = {
        "ours": ("ours", ["extraction_of_reals", "extraction_of_fakes"]),
        "ours_cached": ("ours", ["extraction_of_fakes"]),
        "torch_fidelity": ("torch_fidelity", ["extraction_of_reals", "extraction_of_fakes"]),
    }
    return {side: {**dict.fromkeys(parts, num * rates[rate]), **seconds[side]} for side, (rate, parts) in sides.items()}


def summary(num, runs, is_composed):
    """Return the medians of the runs by part, their totals and the ratios of these."""
    seconds = {side: medians([found[side] for found, _ in runs]) for side in runs[0][0]}
    totals = {side: sum(parts.values()) for side, parts in seconds.items()}
    return {
        "num": num,
        "composed": is_composed,
        "seconds": {side: rounded(parts) for side, parts in seconds.items()},
        "totals": rounded(totals),
        "ratio": round(totals["ours"] / totals["torch_fidelity"], 3),
        "ratio_cached": round(totals["ours_cached"] / totals["torch_fidelity"], 3),
        "alone": rounded(medians([alone for _, alone in runs])),
    }


def medians(runs):
    """Return the median of each part."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def rounded(parts):
    """Return the parts to four digits."""
    return {name: float(f"{value:.4g}") for name, value in parts.items()}


def growth(results):
    """Return how many times as long the largest number of pictures takes as the smallest, by side."""
    first, last = (pick(results, key=lambda result: result["num"]) for pick in (min, max))
    times = {side: last["totals"][side] / first["totals"][side] for side in first["totals"]}
    return {"num": last["num"] / first["num"], **rounded(times)}


def random_weights(path, shape):
    """Write weights that have learnt nothing, in the format of Inception's published file."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.inception_weights import write_inception_weights

    return str(write_inception_weights(path, make_pictures(shape, 8, seed=0)))


def main(argv=None):
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extractor", choices=SHAPES, default="mnist")
    parser.add_argument("--num", type=int, nargs="+", default=[5_000, 10_000, 50_000], help="pictures of each kind")
    parser.add_argument("--composed", action="store_true", help="do not extract the features of all of them")
    parser.add_argument("--rate_images", type=int, default=300, help="pictures for the rate of extraction")
    parser.add_argument("--repeats", type=int, default=1, help="of the whole, or of the metrics where composed")
    parser.add_argument("--batch_size", type=int, help="of both sides; by default that of our extractor")
    parser.add_argument("--weights_path", help="Inception's file; random weights without it")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="write the JSON there, too, after each number")
    args = parser.parse_args(argv)
    weights = args.weights_path or {"mnist": "the package's", "inception": "random"}[args.extractor]
    with tempfile.TemporaryDirectory() as folder:
        if args.extractor == "inception" and not args.weights_path:
            args.weights_path = random_weights(Path(folder) / "random.pth", SHAPES["inception"])
        args.batch_size = args.batch_size or our_batch_size(args)
        if args.composed and args.rate_images < args.batch_size:
            parser.error(f"--rate_images must be a batch at least: {args.batch_size}")
        found = {
            "date": date.today().isoformat(),
            "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "versions": {
                "lightning_gans": lightning_gans.__version__,
                "torch": torch.__version__,
                "torch_fidelity": torch_fidelity.__version__,
                "torchmetrics": torchmetrics.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "extractor": args.extractor,
            "weights": weights,
            "batch_size": args.batch_size,
            "repeats": args.repeats,
        }
        if args.composed:
            rates, ratios = measure_rates(args)
            found["seconds_per_picture"] = rounded(rates)
            found["extraction_ratio"] = {
                "of_all": round(rates["ours"] / rates["torch_fidelity"], 3),
                "median": round(statistics.median(ratios), 3),
                "batches": len(ratios),
            }

        def measure(num):
            return measure_composed(num, rates, args) if args.composed else measure_whole(num, args)

        measure(min(WARM_UP, *args.num))  # a device and its libraries take longer at their first use
        found["results"] = []
        for num in args.num:
            runs = [measure(num) for _ in range(args.repeats)]
            found["results"].append(summary(num, runs, args.composed))
            found["growth"] = growth(found["results"])
            if args.output:
                args.output.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
