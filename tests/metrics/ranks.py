"""Every metric on several processes, each with rows of its own: ``python -m tests.metrics.ranks FOLDER``."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from lightning_gans.metrics import (
    DensityCoverage,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    PrecisionRecall,
    Translations,
)

WIDTH = 8
NUM_ROWS = 65

# For each number of processes: the sizes of each one's batches, of real and of fake rows.
WORLDS = {
    2: {"real": [[11, 11, 11], [8, 8, 8, 8]], "fake": [[32], [1, 30, 2]]},
    3: {"real": [[20, 13], [], [7, 18, 7]], "fake": [[], [33], [22, 10]]},
}


def make_metrics():
    return {
        "fid": FrechetDistance(WIDTH),
        "kid": KernelDistance(WIDTH, num_subsets=5, subset_size=20),
        "inception_score": InceptionScore(WIDTH, splits=3),
        "precision_recall": PrecisionRecall(WIDTH),
        "density_coverage": DensityCoverage(WIDTH),
        "translations": Translations(["psnr"]),
    }


def make_rows():
    source = torch.Generator().manual_seed(0)
    return {kind: torch.randn(NUM_ROWS, WIDTH, generator=source) for kind in ("real", "fake")}


def update(metrics, batches):
    for kind, rows in batches:
        for name, metric in metrics.items():
            if name not in ("inception_score", "translations"):
                metric.update(rows, real=kind == "real")
            elif kind == "fake":
                images = rows.tanh().view(-1, 1, 2, WIDTH // 2)
                metric.update(*((rows,) if name == "inception_score" else (images, -images)))


def compute(metrics):
    found = {name: metric.compute() for name, metric in metrics.items()}
    found["translations"] = found["translations"]["psnr"]
    return {name: torch.as_tensor(value).tolist() for name, value in found.items()}


def rows_of(metrics):
    return [(name, metric) for name, metric in metrics.items() if name != "fid"]


def work(rank, world, folder):
    """Be one process: compute from its rows and the others', count the rows it then holds, and compute again."""
    torch.set_num_threads(1)
    patience = timedelta(seconds=30)
    dist.init_process_group("gloo", f"file://{folder}/meet-{world}", timeout=patience, rank=rank, world_size=world)
    batches = []
    for kind, rows in make_rows().items():
        sizes = WORLDS[world][kind]
        start = sum(map(sum, sizes[:rank]))
        batches += [(kind, batch) for batch in rows[start : start + sum(sizes[rank])].split(sizes[rank]) if sizes[rank]]
    metrics = make_metrics()
    update(metrics, batches)
    first = compute(metrics)
    kept = {name: {state: len(metric.rows(state)) for state in metric.states} for name, metric in rows_of(metrics)}
    for metric in metrics.values():
        metric.reset()
    update(metrics, batches)
    torch.save({"first": first, "kept": kept, "second": compute(metrics)}, f"{folder}/{world}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for world in WORLDS:
        start_processes(work, (world, Path(sys.argv[1])), world, start_method="fork")  # imports torch once
