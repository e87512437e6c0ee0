import errno
import os

import pytest
import torch

from lightning_gans import DataError
from lightning_gans.io.files import check_writable, make_folder, replacing, replacing_folder


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


def test_a_temporary_file_can_have_a_name_of_its_own_that_the_next_one_takes_over(tmp_path):
    path, temporary = tmp_path / "file.bin", tmp_path / ".file.bin.tmp"
    temporary.write_bytes(b"half of what was killed before")
    with replacing(path, temporary=temporary) as file:
        file.write(b"new")
        file.flush()
        assert temporary.read_bytes() == b"new"
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


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
        assert raised.value.setting == str(tmp_path / "folder") and raised.value.strerror == "Is a directory"
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


def test_a_writable_name_is_given_back_with_its_folder_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.png"
    assert check_writable(str(path)) == path
    assert path.parent.is_dir()
    assert not path.exists()


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
