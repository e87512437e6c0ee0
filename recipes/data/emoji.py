"""Lay out emoji as pairs of pictures, 64 x 64: Noto and Twemoji, OpenMoji's outlines and colors, each in two splits.

    npm pack emoji-datasource-google emoji-datasource-twitter openmoji
    pip install resvg_py  # draws OpenMoji's SVG files
    python recipes/data/emoji.py *.tgz --output emoji

The pictures of Noto are licensed under Apache-2.0, of Twemoji under CC BY 4.0, of OpenMoji under CC BY-SA 4.0. The test
split, a fifth, is a function of the name.
"""

import argparse
import hashlib
import io
import json
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

SIZE = 64


def split_of(name: str) -> str:
    """Return the split of an emoji; all its pictures are in the same one."""
    return "test" if hashlib.sha256(name.encode()).digest()[0] % 5 == 0 else "train"


def members(path: Path, pattern: str) -> dict[str, bytes]:
    """Return the files of a package whose whole path matches a pattern, by the name without folders."""
    with tarfile.open(path) as archive:
        found = (item for item in archive if item.isfile() and re.fullmatch(pattern, item.name))
        return {Path(item.name).name: archive.extractfile(item).read() for item in found}  # type: ignore[union-attr]


def style(packages: dict[str, Path]) -> Iterator[tuple[str, bytes]]:
    """Yield the paths and the contents of the emoji without skin tones that Noto and Twemoji share."""
    noto = members(packages["emoji-datasource-google"], r"package/(emoji\.json|img/google/64/.*\.png)")
    twemoji = members(packages["emoji-datasource-twitter"], r"package/img/twitter/64/.*\.png")
    for emoji in json.loads(noto["emoji.json"]):
        name, category = emoji["image"], "_".join(re.findall("[a-z]+", emoji["category"].lower()))
        if name in noto and name in twemoji and category != "component":
            for folder, pictures in (("noto", noto), ("twemoji", twemoji)):
                yield f"{folder}/{split_of(name)}/{category}/{name}", pictures[name]


def outline(packages: dict[str, Path]) -> Iterator[tuple[str, bytes]]:
    """Yield the paths and the contents of OpenMoji's outlines and colored pictures, on white."""
    black, color = (members(packages["openmoji"], rf"package/{kind}/svg/.*\.svg") for kind in ("black", "color"))
    for drawing in sorted(set(black) & set(color)):
        name = f"{Path(drawing).stem}.png"
        if not re.search("1F3F[B-F]", name):  # skin tones
            for folder, drawings in (("outline", black), ("color", color)):
                yield f"{folder}/{split_of(name)}/{name}", drawn(drawings[drawing].decode())


def drawn(svg: str) -> bytes:
    """Return a drawing as a picture on white."""
    from resvg_py import svg_to_bytes  # an optional package

    picture = Image.open(io.BytesIO(bytes(svg_to_bytes(svg, width=SIZE, height=SIZE, background="white"))))
    written = io.BytesIO()
    picture.convert("RGB").save(written, "png")
    return written.getvalue()


def main() -> None:
    """Read the packages that are given, and write what they allow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, nargs="+", help="files of npm pack, NAME-VERSION.tgz")
    parser.add_argument("--output", type=Path, default=Path("emoji"))
    options = parser.parse_args()
    packages = {re.sub(r"-\d.*", "", path.name): path for path in options.packages}
    sets = {style: {"emoji-datasource-google", "emoji-datasource-twitter"}, outline: {"openmoji"}}
    complete = [make for make, needed in sets.items() if needed <= set(packages)]
    if not complete:
        needed = "emoji-datasource-google and emoji-datasource-twitter, or openmoji"
        sys.exit(f"emoji.py: the packages are {', '.join(packages)}: give those of {needed}")
    for make in complete:
        num = 0
        for name, content in make(packages):
            path = options.output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            num += 1
        print(f"{options.output}: {num // 2:,} pairs of {' and '.join(sorted(sets[make]))}")


if __name__ == "__main__":
    main()
