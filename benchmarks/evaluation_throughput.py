"""Measure the speed of evaluation: all our metrics against torch-fidelity's FID, KID and Inception Score.

    python benchmarks/evaluation_throughput.py --extractor mnist
    python benchmarks/evaluation_throughput.py --extractor inception --composed
    python benchmarks/evaluation_throughput.py --extractor inception --num 10000 --device cuda --weights_path FILE

Both sides get the same images from memory, as many real as generated ones, the same weights, device and batch size, and
no cache. Ours are FID, KID, Inception Score, precision, recall, density and coverage; ``ours_cached`` is ours when the
cache contains what depends on the real images only.

Inception takes hours on a CPU. With ``--composed`` both sides extract ``--rate_images`` images in turn, batch by batch,
and the seconds per image are multiplied; the metrics are timed on random features of the full size.

Prints JSON: seconds by part, and ratios of the totals. ``reals_fid`` and the like are what a metric computes from the
real images alone; ``neighbors`` is precision, recall, density and coverage. Inception's weights are random by default.
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import torch_fidelity
from common import run
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
    "neighbors": ["precision", "recall", "density", "coverage"],
}
SHAPES = {"mnist": (1, 28, 28), "inception": (3, 32, 32)}
THEIRS = {"mnist": "lightning-gans-mnist", "inception": "inception-v3-compat"}
LAYERS = {"mnist": ["96", "logits"], "inception": ["2048", "logits_unbiased"]}
WIDTHS = {"mnist": (96, 10), "inception": (2048, 1008)}


class FidelityMNIST(FeatureExtractorBase):
    """Our digit classifier as a custom network of torch-fidelity."""

    def __init__(self, name, features_list, **options):
        super().__init__(name, features_list)
        self.network = MNISTExtractor()

    @staticmethod
    def get_provided_features_list():
        return tuple(LAYERS["mnist"])

    def forward(self, images):
        found = dict(zip(LAYERS["mnist"], self.network(images[:, :1]), strict=True))  # its loader repeats gray
        return tuple(found[name] for name in self.features_list)


torch_fidelity.register_feature_extractor(THEIRS["mnist"], FidelityMNIST)


class Images(Dataset):
    """Images in memory, one by one, as torch-fidelity takes them."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def make_images(shape, num, seed):
    """Return scikit-learn's digits, enlarged and repeated under noise that makes each different, uint8."""
    digits = lightning_gans.DigitsDataModule(shape[-1]).load_images("train")[0]
    noise = torch.randint(-30, 31, (num, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.int16)
    return noise.add_(digits[torch.arange(num) % len(digits)]).clamp_(0, 255).byte()


@contextmanager
def clock(seconds, name):
    """Note how long a block takes."""
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began


def our_features(extractor, images, device):
    """Extract features in the blocks of an evaluation."""
    found = [extractor.extract(block.to(device)) for block in torch.split(images, BLOCK)]
    return FeatureSet(torch.cat([features for features, _ in found]), torch.cat([logits for _, logits in found]))


def our_metrics(images, real, fake, device):
    """Time each metric, and what it computes from the real images alone; also with the cache that this leaves."""
    first, seconds, cached = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        cache, key = Cache(folder), {"data": fingerprint(images)}
        reference = Reference(real, Settings(), cache, key)
        for name, metrics in METRICS.items():
            for times in (first, seconds):  # the first time with what it computes from the real images
                with clock(times, name):
                    score(fake, reference, metrics, device)
            if name != "inception_score":
                seconds[f"reals_{name}"] = max(0.0, first[name] - seconds[name])
        cache.save("features", key, {"features": real.features.numpy()})
        with clock(cached, "cache"):
            key = {"data": fingerprint(images)}
            stored = FeatureSet(torch.from_numpy(cache.load("features", key)["features"]))
        names = [name for group in METRICS.values() for name in group]
        with clock(first, "all"):
            score(fake, Reference(stored, Settings(), cache, key), names, device)
        cached["cache"] += max(0.0, first["all"] - sum(seconds[name] for name in METRICS))
    return seconds, cached | {name: seconds[name] for name in METRICS}


def their_metrics(real, fake):
    """Time each metric of torch-fidelity, by the functions that its single pass calls."""
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


def their_features(images, network, args):
    # No worker processes for single batches, as they would be started for each.
    options = {"save_cpu_ram": args.composed, "verbose": False}
    return get_featuresdict_from_dataset(Images(images), network, args.batch_size, args.device == "cuda", **options)


def measure_rates(extractor, network, args):
    """Show images to both sides, a batch in turn; return the seconds per image of each."""
    images = make_images(SHAPES[args.extractor], args.rate_images, seed=0)
    batches = [batch for batch in torch.split(images, args.batch_size) if len(batch) == args.batch_size]
    turns = []
    for batch in batches[:1] + batches:  # the first one warms up
        turns.append({})
        with clock(turns[-1], "ours"):
            extractor.extract(batch.to(args.device))
        with clock(turns[-1], "torch_fidelity"):
            their_features(batch, network, args)
    return {side: statistics.fmean(turn[side] for turn in turns[1:]) / args.batch_size for side in turns[0]}


def measure(num, extractor, network, rates, args):
    """Return the seconds by part of each side, from images to scores."""
    real, fake = (make_images(SHAPES[args.extractor], num, seed) for seed in (0, 1))
    ours, theirs, parts = {}, {}, ("extraction_of_reals", "extraction_of_fakes")
    if rates:
        source, (width, classes) = torch.Generator().manual_seed(0), WIDTHS[args.extractor]
        reals, fakes = (FeatureSet(torch.rand(num, width, generator=source)) for _ in range(2))
        fakes.logits = torch.randn(num, classes, generator=source)
        ours, theirs = (dict.fromkeys(parts, num * rates[side]) for side in ("ours", "torch_fidelity"))
    else:
        features = []
        for part, images in zip(parts, (real, fake), strict=True):
            with clock(ours, part):
                features.append(our_features(extractor, images, args.device))
            with clock(theirs, part):
                their_features(images, network, args)
        reals, fakes = features
    found, cached = our_metrics(real, reals, fakes, args.device)
    cached[parts[1]] = ours[parts[1]]
    return {"ours": ours | found, "ours_cached": cached, "torch_fidelity": theirs | their_metrics(reals, fakes)}


def significant(value):
    return float(f"{value:.4g}")


def summary(num, runs):
    """Return the medians of the runs by part, their totals and the ratios of these."""
    seconds = {
        side: {name: statistics.median(run[side][name] for run in runs) for name in parts}
        for side, parts in runs[0].items()
    }
    totals = {side: sum(parts.values()) for side, parts in seconds.items()}
    ratios = {side: round(totals[side] / totals["torch_fidelity"], 3) for side in ("ours", "ours_cached")}
    seconds = {side: {name: significant(value) for name, value in parts.items()} for side, parts in seconds.items()}
    totals = {side: significant(total) for side, total in totals.items()}
    return {"num": num, "seconds": seconds, "totals": totals, "ratios": ratios}


def make_report(args):
    with tempfile.TemporaryDirectory() as folder:
        if args.extractor == "inception" and not args.weights_path:
            sys.path.insert(0, str(Path(__file__).parents[1]))
            from tests.inception_weights import write_inception_weights

            images = make_images(SHAPES["inception"], 8, seed=0)
            args.weights_path = str(write_inception_weights(Path(folder, "random.pth"), images))
        extractor = make_extractor(args.extractor, SHAPES[args.extractor], args.weights_path).to(args.device)
        on_accelerator = None if args.device == "cpu" else extractor.accelerator_block_size
        args.batch_size = args.batch_size or on_accelerator or extractor.block_size
        extractor.block_size = extractor.accelerator_block_size = args.batch_size
        options = {"feature_extractor_weights_path": args.weights_path, "verbose": False, "cuda": args.device == "cuda"}
        network = create_feature_extractor(THEIRS[args.extractor], LAYERS[args.extractor], **options)
        rates = measure_rates(extractor, network, args) if args.composed else None
        measure(min(20, *args.num), extractor, network, rates, args)  # the first use takes longer
        results = [
            summary(num, [measure(num, extractor, network, rates, args) for _ in range(args.repeats)])
            for num in args.num
        ]
    return {
        "fidelity": torch_fidelity.__version__,
        "extractor": args.extractor,
        "batch_size": args.batch_size,
        "composed": args.composed,
        "seconds_per_image": rates,
        "results": results,
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extractor", choices=SHAPES, default="mnist")
    parser.add_argument("--num", type=int, nargs="+", default=[5_000, 10_000, 50_000], help="images of each kind")
    parser.add_argument("--composed", action="store_true", help="do not extract the features of all of them")
    parser.add_argument("--rate_images", type=int, default=300, help="images for the rate: at least one batch")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batch_size", type=int, help="of both sides (default: that of our extractor)")
    parser.add_argument("--weights_path", help="Inception's file; random weights without it")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    run(make_report, parser.parse_args(argv))


if __name__ == "__main__":
    main()
