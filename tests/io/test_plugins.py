"""Checkpoints that are whole at any moment, and a CSV file that does not show where a run was resumed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only

from lightning_gans import DataError
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.io.csv_logger import RunLogger

OLD, NEW = {"state_dict": {"weight": torch.arange(1000.0)}}, {"state_dict": {"weight": -torch.arange(2000.0)}}
KILLED = """
import os, signal, sys, torch
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO

def half_a_save(checkpoint, file):
    file.write(b"half of it")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = half_a_save
AtomicCheckpointIO().save_checkpoint({}, sys.argv[1])
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(tmp_path):
    """A checkpoint alone in its folder."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    return path


# --- checkpoints ------------------------------------------------------------------------------------------


def test_a_checkpoint_replaces_the_one_before(saved):
    assert AtomicCheckpointIO().load_checkpoint(saved)["state_dict"]["weight"].equal(OLD["state_dict"]["weight"])
    AtomicCheckpointIO().save_checkpoint(NEW, saved)
    assert AtomicCheckpointIO().load_checkpoint(saved)["state_dict"]["weight"].equal(NEW["state_dict"]["weight"])
    assert names(saved.parent) == ["last.ckpt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_save_that_fails_leaves_the_old_checkpoint_and_nothing_else(saved, monkeypatch, error):
    def fail(checkpoint, file):
        file.write(b"half of it")
        file.flush()
        raise error

    before = saved.read_bytes()
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(error):
        AtomicCheckpointIO().save_checkpoint(NEW, saved)
    assert saved.read_bytes() == before
    assert names(saved.parent) == ["last.ckpt"]


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_the_old_checkpoint_and_a_file_that_a_later_save_removes(saved):
    before = saved.read_bytes()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(saved)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert saved.read_bytes() == before
    (left,) = saved.parent.glob(".lightning_gans-*.tmp")
    AtomicCheckpointIO().save_checkpoint(NEW, saved)
    assert names(saved.parent) == [left.name, "last.ckpt"]  # another process may still write it
    os.utime(left, (1, 1))
    AtomicCheckpointIO().save_checkpoint(NEW, saved)
    assert AtomicCheckpointIO().load_checkpoint(saved)["state_dict"]["weight"].equal(NEW["state_dict"]["weight"])
    assert names(saved.parent) == ["last.ckpt"]


def test_the_folder_for_temporary_files_is_not_used(saved, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError):
        TorchCheckpointIO().save_checkpoint(NEW, saved)
    AtomicCheckpointIO().save_checkpoint(NEW, saved)
    assert AtomicCheckpointIO().load_checkpoint(saved)["state_dict"]["weight"].equal(NEW["state_dict"]["weight"])


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_save_returns(saved, monkeypatch):
    events, sync, rename = [], os.fsync, os.replace

    def note_sync(descriptor):
        sync(descriptor)
        about = os.fstat(descriptor)
        events.append(("sync", about.st_ino, about.st_size))

    def note_rename(source, target):
        about = os.stat(source)
        events.append(("rename", about.st_ino, about.st_size))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    AtomicCheckpointIO().save_checkpoint(NEW, saved)
    file, folder = os.stat(saved), os.stat(saved.parent)
    assert events[:2] == [("sync", file.st_ino, file.st_size), ("rename", file.st_ino, file.st_size)]
    assert [event[:2] for event in events[2:]] == [("sync", folder.st_ino)]


class Evil:
    """Pickled code that leaves a mark where it is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("weights_only", [None, False, True])
def test_pickled_code_is_refused_whatever_is_asked_for(saved, tmp_path, weights_only):
    torch.save({"state_dict": {}, "more": Evil(tmp_path / "run")}, saved)
    with pytest.raises(DataError, match="pickled code"):
        AtomicCheckpointIO().load_checkpoint(saved, weights_only=weights_only)
    assert not (tmp_path / "run").exists()
    torch.load(saved, weights_only=False)
    assert (tmp_path / "run").exists()


def test_the_weights_that_forked_processes_leave_are_read(tmp_path):
    plugin, path = AtomicCheckpointIO(), tmp_path / ".temp.ckpt"  # Lightning's name
    plugin.save_checkpoint({"weight": torch.ones(2)}, path)
    assert plugin.load_checkpoint(path)["weight"].tolist() == [1, 1]


def test_a_changed_byte_of_a_weight_is_noticed(saved):
    """torch.load returns another number."""
    content = bytearray(saved.read_bytes())
    place = content.find(OLD["state_dict"]["weight"][500:].numpy().tobytes())
    content[place] ^= 1
    saved.write_bytes(content)
    assert torch.load(saved)["state_dict"]["weight"][500] != 500
    with pytest.raises(DataError, match="checksum") as error:
        AtomicCheckpointIO().load_checkpoint(saved)
    assert error.value.setting == str(saved)


def test_files_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(OLD, tmp_path / "a.ckpt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")["state_dict"]["weight"][500] == 500


def test_missing_and_damaged_checkpoints_are_named(saved):
    for damage in (lambda: saved.write_bytes(saved.read_bytes()[:1000]), saved.unlink):
        damage()
        with pytest.raises(DataError) as error:
            AtomicCheckpointIO().load_checkpoint(saved)
        assert error.value.setting == str(saved)


# --- metrics.csv ------------------------------------------------------------------------------------------

LOSSES = [({"loss": 1 / (step + 1), "epoch": step // 3}, step) for step in range(6)]
SCORES = [({"epoch": 1, "val/fid": torch.tensor(2.5)}, 5), ({"loss": float("nan"), "epoch": 2}, 6)]


@pytest.fixture
def log(tmp_path):
    """Log rows in a folder, after those that a state counts; return the state and the file."""

    def log(folder, rows, state=None, save_each=True):
        logger = RunLogger(tmp_path, "runs", folder)
        if state is not None:
            logger.load_state_dict(state)
        for metrics, step in rows:
            logger.log_metrics(metrics, step)
            if save_each:
                logger.save()
        return logger.state_dict(), tmp_path / "runs" / folder / "metrics.csv"

    return log


@pytest.mark.parametrize("save_each", [True, False])
@pytest.mark.parametrize("cut", range(9))
def test_a_resumed_file_has_the_bytes_of_one_that_was_never_interrupted(log, cut, save_each):
    rows = LOSSES + SCORES
    state, path = log("stopped", rows[:cut], save_each=save_each)
    assert state == {"rows": cut}
    kept = path.read_bytes() if cut else b""
    log("stopped", [({"loss": 9.0, "other": 7.0}, 9)] * 3, state)  # lost, as the run is stopped again
    log("stopped", [], state)
    assert not cut or path.read_bytes() == kept
    log("stopped", rows[cut:], state, save_each=save_each)
    _, whole = log("whole", rows)
    assert path.read_bytes() == whole.read_bytes()


def test_a_column_that_only_dropped_rows_had_is_gone(log):
    state, path = log("run", LOSSES[:2])
    log("run", SCORES, state)
    assert path.read_bytes().startswith(b"epoch,loss,step,val/fid\r\n0,1.0,0,\r\n")
    log("run", [], state)
    assert path.read_bytes() == b"epoch,loss,step\r\n0,1.0,0\r\n0,0.5,1\r\n"


def test_a_new_run_replaces_the_rows_of_an_old_one(log):
    log("run", LOSSES)
    _, path = log("run", SCORES)
    _, alone = log("alone", SCORES)
    assert path.read_bytes() == alone.read_bytes()


def test_a_row_that_was_killed_in_half_is_dropped(log):
    state, path = log("run", LOSSES[:4])
    whole = path.read_bytes()
    path.write_bytes(whole + b"1,0.3333")
    log("run", [], state)
    assert path.read_bytes() == whole


def test_a_file_that_is_gone_begins_again_with_the_next_row(log):
    state, path = log("run", LOSSES[:4])
    path.unlink()
    state, path = log("run", LOSSES[4:], state)
    assert state == {"rows": 2}
    assert len(path.read_text().splitlines()) == 3


def test_a_column_that_cannot_be_added_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    logger, path = RunLogger(tmp_path, "runs", "run"), tmp_path / "runs" / "run" / "metrics.csv"
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    logger.log_metrics({"other": 2.0}, 1)

    def fail(descriptor):
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(os, "fsync", fail)
        logger.save()
    assert path.read_bytes() == b"loss,step\r\n1.0,0\r\n"
    assert names(path.parent) == ["metrics.csv"]
    logger.save()
    assert path.read_bytes() == b"loss,other,step\r\n1.0,,0\r\n,2.0,1\r\n"


def test_rows_are_the_same_whatever_the_order_of_their_keys(log):
    _, path = log("run", LOSSES)
    _, reversed_path = log("reversed", [(dict(reversed(metrics.items())), step) for metrics, step in LOSSES])
    assert path.read_bytes() == reversed_path.read_bytes()


def test_other_processes_than_the_first_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = RunLogger(tmp_path, "runs", "run")
    logger.load_state_dict({"rows": 3})
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    assert not logger.state_dict()
    logger.experiment.log_metrics({"loss": 1.0}, 0)
    logger.experiment.save()
    assert names(tmp_path) == []
