"""The scripts that make the folders of recipes."""

import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from lightning_gans.cli.commands import recipes
from lightning_gans.io.pictures import list_pictures

from .fake_sets import write_mnist


def run(script, *words):
    subprocess.run([sys.executable, recipes.folder() / "data" / script, *map(str, words)], check=True)


def read(path):
    return np.asarray(Image.open(path))


def test_the_inverted_copies_are_the_digits_in_other_colors(tmp_path):
    write_mnist(tmp_path, num_train=96, num_test=16)
    run("mnist_inverted.py", "--data_dir", tmp_path, "--output", tmp_path / "made", "--num", 40)
    digits, inverted = (
        {split: [read(path) for path in list_pictures(tmp_path / "made" / kind / split)] for split in ("train", "test")}
        for kind in ("digits", "inverted")
    )
    assert [len(side[split]) for side in (digits, inverted) for split in ("train", "test")] == [40, 16, 40, 16]
    for digit, copy in zip(digits["test"], inverted["test"], strict=True):
        np.testing.assert_array_equal(copy, np.stack([255 - digit, 255 - digit, digit], -1))
    assert not any(np.array_equal(digit, copy[..., 2]) for digit in digits["train"] for copy in inverted["train"])


@pytest.mark.slow  # 1,797 files
def test_digits_of_both_kinds_have_folders_by_class(tmp_path):
    write_mnist(tmp_path, num_train=5096, num_test=16)
    run("digits_mnist.py", "--data_dir", tmp_path, "--output", tmp_path / "made", "--num", 40)
    counts = {
        f"{kind}/{split}": len(list_pictures(tmp_path / "made" / kind / split))
        for kind in ("digits", "mnist")
        for split in ("train", "test")
    }
    assert counts == {"digits/train": 1297, "digits/test": 500, "mnist/train": 40, "mnist/test": 16}
    for kind in ("digits", "mnist"):
        assert sorted(path.name for path in (tmp_path / "made" / kind / "train").iterdir()) == list("0123456789")


def write_package(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(f"package/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


def png(color, side):
    written = io.BytesIO()
    Image.new("RGBA", (side, side), color).save(written, "png")
    return written.getvalue()


def svg(content):
    return f'<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg">{content}</svg>'


def test_emoji_of_npm_packages_become_pairs_with_the_same_split(tmp_path):
    pytest.importorskip("resvg_py")
    table = [{"image": f"{n:x}.png", "category": "Smileys & Emotion"} for n in range(40)]
    table += [{"image": "28.png", "category": "Component"}, {"image": "29.png", "category": "Flags"}]
    shared = {f"{n:x}.png": png("red", 64) for n in range(41)}
    google = {f"img/google/64/{name}": content for name, content in shared.items()}
    twitter = {f"img/twitter/64/{name}": content for name, content in shared.items()}
    google |= {"img/google/64/29.png": png("red", 64), "emoji.json": json.dumps(table).encode()}  # not Twitter's
    write_package(tmp_path / "emoji-datasource-google-16.0.0.tgz", google)
    write_package(tmp_path / "emoji-datasource-twitter-16.0.0.tgz", twitter)
    drawn = {
        f"{kind}/svg/{name}.svg": svg(f'<rect width="36" height="72" fill="{color}"/>').encode()
        for kind, color in (("black", "none"), ("color", "blue"))
        for name in [f"{n:X}" for n in range(40)] + ["1F44B-1F3FB"]
    }
    write_package(tmp_path / "openmoji-17.0.0.tgz", drawn)
    made = tmp_path / "made"
    run("emoji.py", *sorted(tmp_path.glob("*.tgz")), "--output", made)

    of = {kind: [path[len(str(made / kind)) :] for path in list_pictures(made / kind)] for kind in ("noto", "outline")}
    assert of["noto"] == [path[len(str(made / "twemoji")) :] for path in list_pictures(made / "twemoji")]
    assert of["outline"] == [path[len(str(made / "color")) :] for path in list_pictures(made / "color")]
    assert len(of["noto"]) == len(of["outline"]) == 40  # no component, no skin tone
    assert {path.split("/")[2] for path in of["noto"]} == {"smileys_emotion"}
    for paths in of.values():
        assert 1 <= sum(path.startswith("/test/") for path in paths) <= 20
    outline, color = (read(made / f"{kind}{of['outline'][0]}") for kind in ("outline", "color"))
    assert outline.shape == color.shape == (64, 64, 3)
    assert (outline == 255).all() and (color[:, 32:] == 255).all() and (color[:, :32] == (0, 0, 255)).all()
