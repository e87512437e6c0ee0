import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_gans.metrics.cache import Cache, default_folder, fingerprint

KEY = {"data": "abc", "k": 5, "resize": "none"}
ARRAYS = {"sums": np.arange(300, dtype=np.float64).reshape(20, 15) / 7, "count": np.array(20)}


@pytest.fixture
def cache(tmp_path):
    cache = Cache(tmp_path / "kept" / "here")
    cache.save("sums", KEY, ARRAYS)
    return cache


def same(found):
    return found.keys() == ARRAYS.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array) for name, array in ARRAYS.items()
    )


def test_arrays_come_back_as_they_were(cache):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(cache.load("sums", KEY))
        assert same(Cache(str(cache.folder)).load("sums", dict(reversed(KEY.items()))))
    assert [path.suffix for path in cache.folder.iterdir()] == [".npz"]


@pytest.mark.parametrize(
    ("kind", "key"), [("sums", KEY | {"k": 6}), ("sums", {}), ("sums", KEY | {"more": 1}), ("neighbors", KEY)]
)
def test_another_key_is_another_file(cache, kind, key):
    assert cache.load(kind, key) is None
    assert cache.path(kind, key) != cache.path("sums", KEY)
    cache.save(kind, key, {"other": np.ones(2)})
    assert list(cache.load(kind, key)) == ["other"]
    assert same(cache.load("sums", KEY))


def test_a_key_is_saved_over(cache):
    cache.save("sums", KEY, {"sums": np.zeros(3)})
    assert cache.load("sums", KEY)["sums"].tolist() == [0, 0, 0]
    assert len(list(cache.folder.iterdir())) == 1


def flipped(content):
    place = content.index(ARRAYS["sums"].tobytes()) + 1000
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "cut in half": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-1],
    "empty": lambda content: b"",
    "a bit of the data": flipped,
    "garbage": lambda content: b"nothing that numpy knows" * 40,
    "a pickle": lambda content: b"\x80\x04]\x94.",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_left_out_with_a_warning(cache, damage):
    path = cache.path("sums", KEY)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged") as caught:
        assert cache.load("sums", KEY) is None
    assert str(path) in str(caught[0].message)
    cache.save("sums", KEY, ARRAYS)
    assert same(cache.load("sums", KEY))


def test_a_file_that_holds_another_key(cache):
    other = KEY | {"k": 6}
    cache.path("sums", KEY).rename(cache.path("sums", other))
    with pytest.warns(UserWarning, match="is damaged"):
        assert cache.load("sums", other) is None


def test_a_file_without_its_key(cache):
    np.savez(cache.path("sums", KEY), **ARRAYS)
    with pytest.warns(UserWarning, match="is damaged"):
        assert cache.load("sums", KEY) is None


def test_a_folder_that_cannot_be_written_to_costs_a_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "folder")
    with pytest.warns(UserWarning, match="cannot be written"):
        cache.save("sums", KEY, ARRAYS)
    assert cache.load("sums", KEY) is None


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_GANS_CACHE", str(tmp_path / "named"))
    assert Cache().folder == default_folder() == tmp_path / "named"
    monkeypatch.setenv("LIGHTNING_GANS_CACHE", "~/mine")
    assert default_folder() == Path.home() / "mine"


def test_without_it_the_folder_is_where_caches_are(monkeypatch, tmp_path):
    monkeypatch.delenv("LIGHTNING_GANS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "lightning_gans"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "lightning_gans"


TENSOR = torch.arange(6, dtype=torch.int32).view(2, 3)


@pytest.mark.parametrize(
    "other",
    [
        TENSOR.view(3, 2),
        TENSOR.view(6),
        TENSOR.long(),
        TENSOR.view(torch.float32),  # the same bytes
        TENSOR + (TENSOR == 5),
        TENSOR.flip(0),
    ],
    ids=["shape", "dimensions", "wider type", "type", "value", "order"],
)
def test_fingerprints_of_tensors_that_differ(other):
    assert fingerprint(other) != fingerprint(TENSOR)


def test_a_fingerprint_is_of_the_values_and_not_of_where_they_lie():
    spread = torch.zeros(2, 6, dtype=torch.int32)[:, ::2].copy_(TENSOR)
    assert fingerprint(spread) == fingerprint(TENSOR.T.contiguous().T) == fingerprint(TENSOR.clone())


def test_fingerprints_of_plain_values():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    prints = {fingerprint(part) for part in (1, "1", 1.5, None, [1], {"a": 1}, {"a": 2}, {"b": 1})}
    assert len(prints) == 8
    assert fingerprint(TENSOR, "a") != fingerprint(TENSOR, "b") != fingerprint(TENSOR)


@pytest.mark.parametrize("place", ["flag", "version", "comment"])
def test_a_damaged_directory_of_the_archive(cache, place):
    path = cache.path("sums", KEY)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")  # the first entry of the directory at the end of the file
    content[entry + {"version": 6, "flag": 8, "comment": 32}[place]] ^= {"version": 64, "flag": 1, "comment": 255}[
        place
    ]
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert cache.load("sums", KEY) is None


def test_every_flipped_bit_is_noticed_or_harmless(cache):
    path = cache.path("sums", KEY)
    whole = path.read_bytes()
    start = whole.index(b"PK\x01\x02")
    for place in range(start, len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = cache.load("sums", KEY)
            assert found is None or same(found)


def test_a_file_of_one_array(cache):
    with open(cache.path("sums", KEY), "wb") as file:
        np.save(file, np.ones(3))
    with pytest.warns(UserWarning, match="is damaged"):
        assert cache.load("sums", KEY) is None
