"""What scoring costs: the metrics beside generation and extraction, and the memory of 50,000 Inception features.

    python benchmarks/metrics_cost.py CKPT --data_dir data
    python benchmarks/metrics_cost.py --memory

The first scores 10,000 samples of a checkpoint against MNIST's test digits in this process, three times, and
prints the fastest of each part as JSON: seconds, and the ratios
``fid_over_samples`` (generation, extraction and FID, by generation and extraction) and
``all_over_fid`` (everything but the nearest neighbours, by what FID alone takes). The second scores random features
of 50,000 real and 50,000 generated images, 2,048 each, in a process of its own, and prints its peak memory.
"""

import argparse
import json
import resource
import tempfile
import time

import torch

from lightning_gans import MNISTDataModule, load
from lightning_gans.io.pictures import to_bytes
from lightning_gans.metrics import MNISTExtractor
from lightning_gans.metrics.cache import Cache
from lightning_gans.metrics.scores import METRICS, FeatureSet, Reference, Settings, score

_BLOCK = 250


def cost(checkpoint, data_dir, num_samples, repeats):
    """Time the parts of an evaluation; the real images' features are there already, as in any but the first."""
    model, extractor = load(checkpoint), MNISTExtractor()
    images, labels = MNISTDataModule(data_dir).images("test")
    with tempfile.TemporaryDirectory() as folder:
        real = FeatureSet(extractor.extract(images)[0], labels=labels)
        reference = Reference(real, Settings(), Cache(folder), {"images": "test"})
        best = {}
        for _ in range(repeats):
            started = time.perf_counter()
            blocks = []
            for start in range(0, num_samples, _BLOCK):
                samples = model.sample(min(_BLOCK, num_samples - start), seed=0, start=start)
                blocks.append(to_bytes(samples))
            generated = time.perf_counter()
            found = [extractor.extract(block) for block in blocks]
            fake = FeatureSet(
                torch.cat([features for features, _ in found]), torch.cat([logits for _, logits in found])
            )
            if model.num_classes:
                fake.labels = torch.arange(num_samples) % model.num_classes
            extracted = time.perf_counter()
            score(fake, reference, ["fid"])
            alone = time.perf_counter()
            scores, seconds = score(fake, reference, METRICS)
            parts = {
                "generation": generated - started,
                "extraction": extracted - generated,
                "fid": alone - extracted,
                **seconds,
            }
            best = {name: min(value, best.get(name, value)) for name, value in parts.items()}
    samples = best["generation"] + best["extraction"]
    return {
        "num_samples": num_samples,
        "seconds": {name: round(value, 3) for name, value in best.items()},
        "total": round(samples + best["metrics"] + best["neighbours"], 2),
        "fid_over_samples": round((samples + best["fid"]) / samples, 3),
        "all_over_fid": round((samples + best["metrics"]) / (samples + best["fid"]), 3),
        "scores": {name: round(value, 4) for name, value in scores.items()},
    }


def memory(num_images, num_features):
    """Score random features and return the peak memory of the process."""
    source = torch.Generator().manual_seed(0)
    real, fake = (FeatureSet(torch.rand(num_images, num_features, generator=source)) for _ in range(2))
    fake.logits = torch.randn(num_images, 1008, generator=source)
    with tempfile.TemporaryDirectory() as folder:
        reference = Reference(real, Settings(), Cache(folder), {"images": "random"})
        _, seconds = score(fake, reference, METRICS)
    return {
        "num_images": num_images,
        "num_features": num_features,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", metavar="CKPT")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--num_samples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    if args.memory == (args.checkpoint is not None):
        parser.error("give a checkpoint, or --memory")
    found = (
        memory(50_000, 2048) if args.memory else cost(args.checkpoint, args.data_dir, args.num_samples, args.repeats)
    )
    print(json.dumps(found | {"threads": torch.get_num_threads(), "torch": torch.__version__}, indent=2))


if __name__ == "__main__":
    main()
