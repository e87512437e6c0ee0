import errno
import os
import struct
from pathlib import Path

import pytest
import torch

from lightning_gans import DataError
from lightning_gans.io.files import (
    check_free_folder,
    check_writable,
    expanded,
    make_folder,
    read_tensors,
    reading,
    replacing,
    replacing_folder,
)
from lightning_gans.io.score_files import read_scores


def test_a_file_is_written_and_its_folders_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    with replacing(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), replacing(path) as file:
        file.write(b"half of the n")
        file.flush()
        raise error
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


def test_the_old_file_is_replaced_at_the_end_alone(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_temporary_names_are_random_and_never_those_of_others(tmp_path, monkeypatch):
    path = tmp_path / ("x" * 250)  # the longest names of the system are 255 bytes
    names = set()
    for _ in range(2):
        with replacing(path) as file:
            file.write(b"new")
            names |= {entry.name for entry in tmp_path.iterdir() if entry != path}
    assert len(names) == 2
    for making in (replacing, replacing_folder):
        (tmp_path / "theirs").mkdir(exist_ok=True)
        monkeypatch.setattr("secrets.token_hex", lambda size: "0")
        planted = tmp_path / ".lightning_gans-0.tmp"
        planted.symlink_to(tmp_path / "theirs")
        with pytest.raises(DataError), making(tmp_path / "made"):
            raise AssertionError("not reached")
        assert planted.is_symlink() and not (tmp_path / "made").exists() and not list((tmp_path / "theirs").iterdir())
        planted.unlink()


def test_what_killed_processes_left_is_removed_by_age_and_owner(tmp_path, monkeypatch):
    old, new, other = (tmp_path / f".lightning_gans-{name}.tmp" for name in ("old", "new", "other"))
    old.mkdir()
    for path in (old / "0.png", new, other, tmp_path / ".foreign.tmp"):
        path.touch()
    for path in (old, other, tmp_path / ".foreign.tmp"):
        os.utime(path, (1, 1))
    lstat = type(old).lstat

    def of_another(path):
        found = lstat(path)
        return found if path != other else os.stat_result((*found[:4], os.getuid() + 1, *found[5:]))

    monkeypatch.setattr(type(old), "lstat", of_another)
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([new.name, other.name, ".foreign.tmp", "file"])


def test_names_that_the_system_cannot_have_are_named(monkeypatch, tmp_path):
    for name in ("x" * 256, "a\0b", "~nobody-of-this-name/x", None):
        for function in (expanded, check_writable, check_free_folder, read_tensors):
            with pytest.raises(DataError) as error:
                function(name)
            assert error.value.setting == str(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/a") == tmp_path / "a" and expanded("a/~") == Path("a/~")
    with replacing("~/a") as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["device", "fifo", "folder"])
def test_what_is_not_a_regular_file_is_neither_read_nor_replaced(tmp_path, kind):
    path = Path("/dev/full")
    if kind != "device":
        path = tmp_path / kind
        (os.mkfifo if kind == "fifo" else os.mkdir)(path)
    for attempt in (lambda: replacing(path).__enter__(), lambda: check_writable(path), lambda: read_tensors(path)):
        with pytest.raises(DataError) as error:
            attempt()
        assert error.value.setting == str(path)
    assert path.exists() and not path.is_file()


def test_whatever_a_parser_raises_is_one_error_that_names_the_file(tmp_path):
    path = tmp_path / "a\x1b[31m.bin"
    path.touch()
    for raised in (MemoryError(), RecursionError("deep"), struct.error("short"), AssertionError(), KeyError("x")):
        with pytest.raises(DataError) as error, reading(path, "a picture"):
            raise raised
        assert error.value.setting == str(path) and "\\x1b[31m" in str(error.value) and "\x1b" not in str(error.value)
    with pytest.raises(KeyboardInterrupt), reading(path, "a picture"):
        raise KeyboardInterrupt


def test_the_working_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", tmp_path):
        with pytest.raises(DataError) as error:
            check_free_folder(name)
        assert error.value.setting == str(tmp_path)


def test_all_that_was_written_is_on_the_disk_before_the_name_is_taken(tmp_path, monkeypatch):
    path, sizes, sync, rename = tmp_path / "file.bin", [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (sizes.append(os.fstat(file).st_size), sync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (sizes.append("rename"), rename(*names)))
    with replacing(path) as file:
        file.write(b"new")
    assert sizes[:2] == [3, "rename"]


def test_nothing_is_left_where_the_name_cannot_be_taken(tmp_path):
    (tmp_path / "folder").mkdir()
    for error in (OSError, DataError):  # for those who can do without the file, and for the user
        with pytest.raises(error) as raised, replacing(tmp_path / "folder") as file:
            file.write(b"new")
        assert raised.value.setting == str(tmp_path / "folder") and raised.value.strerror
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_file_that_is_no_folder_is_in_the_way_of_the_name(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError) as error:
        replacing(tmp_path / "file" / "x").__enter__()
    assert error.value.setting == str(tmp_path / "file" / "x")


def test_a_full_disk_is_named_when_torch_meets_it(tmp_path):
    class Full:
        def write(self, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataError) as error, replacing(tmp_path / "last"):
        torch.save({"weights": torch.zeros(3)}, Full())
    assert error.value.setting == str(tmp_path / "last") and "No space left" in error.value.strerror


@pytest.mark.parametrize("making", [replacing, replacing_folder])
@pytest.mark.parametrize(("code", "ours"), [(errno.ENOSPC, True), (errno.ECONNRESET, False)])
def test_a_full_disk_is_named_with_what_it_has_no_room_for(tmp_path, making, code, ours):
    path = tmp_path / "made"
    with pytest.raises(OSError) as raised, making(path):
        raise OSError(code, os.strerror(code))
    assert isinstance(raised.value, DataError) == ours
    if ours:
        assert str(raised.value) == f"{path} cannot be written: No space left on device."
        assert raised.value.strerror == "No space left on device"
    assert not list(tmp_path.iterdir())


def test_a_writable_name_is_given_back_and_nothing_is_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.png"
    assert check_writable(str(path)) == path
    assert check_free_folder(path) == path
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_name_of_a_file(tmp_path):
    with pytest.raises(DataError) as error:
        check_writable(tmp_path)
    assert error.value.setting == str(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path):
    blocking = tmp_path / "file"
    blocking.touch()
    for path in (blocking, blocking / "a" / "b"):
        with pytest.raises(DataError) as error:
            make_folder(path)
        assert (error.value.setting, error.value.value) == (str(path), str(blocking))
    with pytest.raises(DataError) as error:
        check_writable(blocking / "a" / "x.png")
    assert error.value.value == str(blocking)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError) as error:
        make_folder(tmp_path / "a")
    assert error.value.setting == str(tmp_path / "a")


def test_a_folder_that_is_there_is_fine(tmp_path):
    assert make_folder(make_folder(tmp_path / "a")) == tmp_path / "a"


def test_an_empty_path_is_not_the_working_folder():
    with pytest.raises(DataError, match="it is empty"):
        expanded("")
    with pytest.raises(DataError, match="it is an address"):
        expanded("s3://bucket/a.png")


def test_scores_are_read_from_regular_files_only(tmp_path):
    with pytest.raises(DataError, match="is not a regular file"):
        read_scores("/dev/zero")
