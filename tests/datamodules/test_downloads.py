import hashlib
import http.client
import socket
import urllib.request

import pytest

from lightning_gans.datamodules.downloads import RemoteFile, check_md5, download
from lightning_gans.errors import DataError

from .fakes import everything_in, lines_of

CONTENT = bytes(range(256)) * 1000
MIRRORS = ("https://one.example/set/", "http://two.example/")
FILE = RemoteFile("pictures.gz", hashlib.md5(CONTENT).hexdigest(), MIRRORS)


def fetch(folder, allowed=True):
    download([FILE], folder, expects="SET/raw", allowed=allowed)


def test_a_file_is_fetched_whole(tmp_path, online):
    online[MIRRORS[0] + FILE.name] = CONTENT
    fetch(tmp_path / "new" / "raw")
    assert everything_in(tmp_path / "new" / "raw") == {FILE.name: CONTENT}


def test_mirrors_are_tried_in_turn(tmp_path, online):
    online[MIRRORS[0] + FILE.name] = CONTENT[:-1]  # of the wrong checksum
    online[MIRRORS[1] + FILE.name] = CONTENT
    fetch(tmp_path)
    assert everything_in(tmp_path) == {FILE.name: CONTENT}


def test_offline(tmp_path, offline):
    with pytest.raises(DataError) as error:
        fetch(tmp_path)
    message = lines_of(error)
    assert message == (
        f"{tmp_path} lacks pictures.gz; the download failed: http://two.example/pictures.gz: "
        "<urlopen error Name or service not known>.\n"
        "Get them from https://one.example/set/ or http://two.example/ and put them there, "
        "or name the folder that holds SET/raw with --data.data_dir."
    )
    assert everything_in(tmp_path) == {}


def test_download_false_does_not_touch_the_network_or_the_disk(tmp_path, online):
    with pytest.raises(DataError, match=r"lacks pictures.gz, and download is False") as error:
        fetch(tmp_path / "raw", allowed=False)
    lines_of(error)
    assert online.asked == ()
    assert everything_in(tmp_path) == {}


@pytest.mark.parametrize("content", [CONTENT, CONTENT[:-1]], ids=["cut", "wrong checksum"])
def test_an_interrupted_download_leaves_nothing(tmp_path, online, content):
    for mirror in MIRRORS:
        online[mirror + FILE.name] = content
    if content is CONTENT:
        online.cut = 100_000
    with pytest.raises(DataError, match=r"Connection reset by peer|corrupted") as error:
        fetch(tmp_path)
    lines_of(error)
    assert everything_in(tmp_path) == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt, http.client.RemoteDisconnected("gone")])
def test_other_ends_of_a_download_leave_nothing_either(tmp_path, monkeypatch, error):
    def urlopen(*args, **kwargs):
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else DataError):
        fetch(tmp_path)
    assert everything_in(tmp_path) == {}


def test_a_silent_network_is_given_up(tmp_path, monkeypatch):
    timeouts = []

    def urlopen(*args, **kwargs):
        timeouts.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(DataError, match="timed out"):
        fetch(tmp_path)
    assert set(timeouts) == {30.0}
    assert socket.getdefaulttimeout() is None


def test_a_folder_that_cannot_be_made(tmp_path, online):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataError, match="is a file, not a folder") as error:
        fetch(tmp_path / "data" / "raw")
    lines_of(error)


def test_a_wrong_checksum_names_the_file_and_both_sums_and_leaves_it(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(b"half")
    check_md5(path, hashlib.md5(b"half").hexdigest())
    with pytest.raises(DataError) as error:
        check_md5(path, "0" * 32)
    message = lines_of(error)
    assert str(path) in message and "0" * 32 in message and hashlib.md5(b"half").hexdigest() in message
    assert path.read_bytes() == b"half"
