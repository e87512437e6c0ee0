import os
import signal

import pytest
import torch

from lightning_gans.metrics.extractors import inception
from lightning_gans.networks import efficientnet
from lightning_gans.training import allowed_classes
from tests.toys import quiet_trainer

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are taken by the other workers
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Give slow tests more time, as several processes on a busy machine take minutes to start."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(autouse=True)
def same_numbers_each_time(monkeypatch):
    """Networks start from the same weights in every test, and no test leaves a seed to the next."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """Processes in the background start with SIGINT ignored, and Lightning ignores it after a Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_is_trusted(monkeypatch):
    """No test leaves a module that checkpoints may name to the next."""
    monkeypatch.setattr(allowed_classes, "_trusted", set())


@pytest.fixture(autouse=True)
def no_files_of_this_machine(monkeypatch, tmp_path_factory):
    """Features of real images are kept for one test only, and no weights are there but those of the package."""
    places = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LIGHTNING_GANS_CACHE", str(places / "lightning_gans"))
    monkeypatch.setenv("TORCH_HOME", str(places / "torch"))
    monkeypatch.setattr(inception, "unreachable", lambda url: "no network in tests")
    monkeypatch.setattr(efficientnet, "find_spec", lambda package: None)


@pytest.fixture
def make_trainer(tmp_path):
    def make(**options):
        return quiet_trainer(tmp_path, **{"max_epochs": 1, "num_sanity_val_steps": 0, **options})

    return make
