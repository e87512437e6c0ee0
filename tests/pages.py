"""The pages of the documentation, and the blocks of code in them."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]


def name_of(page):
    """Return the path of a page within the repository."""
    return str(page.relative_to(ROOT))


def blocks(page, language):
    """Return the blocks of code whose fence has this text."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def commands(page):
    """Return the commands of the page's shell blocks, each in one line."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [command for line in lines for command in line.split(" && ") if command]


def run_python_blocks(page, shorter=()):
    """Run the page's Python blocks in their order, and return the names that they define.

    A block that begins with ``# mine.py`` is the module ``mine`` for the others.

    Args:
        page: The page.
        shorter: Pairs of a text in the blocks and another one that takes less time.
    """
    names = {"__name__": "docs"}
    try:
        for block in blocks(page, "python"):
            for text, less in shorter:
                block = block.replace(text, less)
            exec(compile(block, name_of(page), "exec"), names)
            if block.startswith("# mine.py"):
                sys.modules["mine"] = SimpleNamespace(**names)
    finally:
        sys.modules.pop("mine", None)
    return names
