"""Several processes and machines: what they end with, what they send, how they resume and stop."""

import os
import signal
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.distributed import cases, train
from tests.test_resume import batches_of_a_step, differences
from tests.toys import Toys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parent.parent
TORCHRUN = ("-m", "torch.distributed.run")


def start(*words):
    """Start Python with these words."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([sys.executable, *words], env=environment, cwd=ROOT, **pipes)


def finish(process, seconds=150):
    """Wait for a process, and end it if it hangs."""
    try:
        return process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def results(folder, job):
    """Return what each process has left."""
    return [torch.load(folder / f"{job}-{rank}.pt") for rank in range(2)]


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Run several jobs under plain ``ddp``, one after the other in the same two processes."""
    folder = tmp_path_factory.mktemp("together")
    jobs = ("equal", "alike", "find_unused", "epoch", "messages", "unblocked", "resume")
    process = start("-m", "tests.distributed.train", str(folder), *jobs)
    _, errors = finish(process, 300)

    def ends(job):
        assert (folder / f"{job}-0.pt").exists(), errors[-3000:]
        return results(folder, job)

    return ends


def distant(first, second, path=""):
    """Return the tensors in two nests that are further apart than 1e-10 of their norm."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        return [d for key in first for d in distant(first[key], second[key], f"{path}/{key}")]
    if isinstance(first, list):
        return [d for k, (a, b) in enumerate(zip(first, second, strict=True)) for d in distant(a, b, f"{path}/{k}")]
    if isinstance(first, torch.Tensor):
        return [] if (first - second).norm() <= 1e-10 * first.norm() else [path]
    return [] if first == second else [path]


# --- the same updates as one process ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [*cases.EQUAL, *cases.ACCUMULATED])
def test_two_processes_make_the_updates_of_one_with_twice_the_batch(together, name):
    alone = train.equal(name, 1)
    assert alone["counts"]["step"] == train.STEPS
    for end in together("equal"):
        assert distant(alone, end[name]) == []


def test_the_comparison_sees_another_batch(together):
    other = train.equal("nonsaturating", 1, shrink=2)
    assert distant(other["weights"], together("equal")[0]["nonsaturating"]["weights"])


def test_two_machines_make_the_updates_of_one_process(tmp_path):
    group = [*TORCHRUN, "--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    job = ("-m", "tests.distributed.train", str(tmp_path), "nodes")
    machines = [start(*group, f"--node_rank={node}", *job) for node in range(2)]
    for machine in machines:
        _, errors = finish(machine)
        assert machine.returncode == 0, errors[-3000:]
    alone = train.equal("d_steps", 1)
    for end in results(tmp_path, "nodes"):
        assert distant(alone, end) == []


def test_each_row_of_an_epoch_is_seen_once_with_its_own_noise(together):
    ends = together("epoch")
    seen = torch.cat([end["images"] for end in ends]).add(1).mul(127.5).round()
    data, _ = Toys(num_images=58, val_size=10).images("train")
    assert len(data) == 48
    assert sorted(seen.flatten(1).tolist()) == sorted(data.flatten(1).tolist())
    noise = torch.cat([rows for end in ends for rows in end["noise"]])
    assert len(noise) == 48 == len(noise.unique(dim=0))


# --- alike at every moment --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases.ALIKE)
def test_layers_that_differ_by_process_leave_the_processes_alike(together, name):
    first, second = (end[name] for end in together("alike"))
    assert differences(first, second) == []
    images = 6 * 8 * batches_of_a_step(cases.ALIKE[name]())
    assert first["counts"] == {"step": 6, "images": images, "seed": train.SEED}


@pytest.mark.parametrize("name", ["dcgan", "conditional_conv", "vae_conv", "gan"])
def test_the_statistics_of_batchnorm_move_and_agree_after_each_step(together, name):
    first, second = (end[name]["buffers"] for end in together("alike"))
    statistics = [key for key in first[0] if "running_mean" in key]
    assert statistics
    assert all(differences(a, b) == [] for a, b in zip(first, second, strict=True))
    assert all(not a[key].equal(b[key]) for a, b in pairwise(first) for key in statistics)


def test_finding_unused_parameters_is_allowed(together):
    first, second = together("find_unused")
    assert differences(first, second) == []
    assert first["counts"]["step"] == 3


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook"])
def test_processes_may_be_started_in_other_ways(tmp_path, strategy):
    process = start("-m", "tests.distributed.train", str(tmp_path), strategy)
    _, errors = finish(process)
    assert process.returncode == 0, errors[-3000:]
    first, second = results(tmp_path, strategy)
    assert differences(first, second) == []
    assert first["counts"] == {"step": 3, "images": 48, "seed": train.SEED}


# --- what is sent -----------------------------------------------------------------------------------------


def sent(end):
    """Return the sizes of the updates' sums over the processes, and of all else from the first one on.

    The last sum is that of the scalars that callbacks see at the end of an epoch.
    """
    first = [kind for kind, _ in end["sent"]].index("all_reduce")
    *sums, scalars = (size for kind, size in end["sent"] if kind == "all_reduce")
    assert scalars <= 4
    return sums, [size for kind, size in end["sent"][first:] if kind != "all_reduce"]


@pytest.mark.parametrize(
    ("name", "d_updates"), [("gan", 1), ("dcgan", 1), ("dcgan_d_steps", 2), ("dcgan_accumulated", 1)]
)
def test_an_update_sends_the_gradients_of_one_network_once(together, name, d_updates):
    for end in (ends[name] for ends in together("messages")):
        sums, others = sent(end)
        step = [end["discriminator"]] * d_updates + [end["generator"] + end["statistics"] + 1]
        assert sums == step * 3
        assert max(others) <= 1 < end["statistics"]


def test_the_encoders_own_updates_send_the_encoder_alone(together):
    for end in (ends["vae"] for ends in together("messages")):
        sums, others = sent(end)
        assert sums == [end["encoder"], end["encoder"] + end["decoder"] + end["statistics"] + 1] * 3
        assert max(others) <= 1 < end["statistics"]


def test_what_is_counted_would_show_ddps_own_messages(together):
    for end in together("unblocked"):
        everything = end["encoder"] + end["decoder"] + 1  # the likelihood's width
        assert sent(end)[0] == [everything, everything + 1] * 3


# --- resuming and stopping --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", train.RESUMED_FROM)
def test_two_processes_resume_to_the_bit(together, place):
    first, second = together("resume")
    assert len(first[""]["csv"].splitlines()) == 1 + 15 + 3
    assert differences(first[""], first[place]) == []
    assert differences(first[""], second[place]) == []


def test_a_signal_to_one_process_stops_both_after_the_same_update(tmp_path):
    port = f"--master_port={free_port()}"
    process = start(*TORCHRUN, "--nproc_per_node=2", port, "-m", "tests.distributed.train", str(tmp_path), "stopped")
    output, _ = finish(process)
    first, second = results(tmp_path, "stopped")
    assert differences(first, second) == []
    assert first["code"] == 128 + signal.SIGTERM
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 4 < saved["global_step"] == first["step"] < 10
    assert output.count(f"Stopped by SIGTERM after update {first['step']}") == 1
