"""What the documentation shows runs, and the page of names is that of the code."""

import importlib
import re
import runpy
import tomllib
from pathlib import Path

import pytest

import lightning_gans

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.md") if path.name != "api.md"))
def test_the_python_blocks_run_in_their_order(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), flags=re.DOTALL)
    assert len(blocks) >= 4
    names = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, name, "exec"), names)


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.md")))
def test_the_functions_that_are_named_exist(name):
    for module, attribute in re.findall(r"`(losses|penalties|augment)\.(\w+)`", (DOCS / name).read_text()):
        assert hasattr(importlib.import_module(f"lightning_gans.{module}"), attribute), attribute


def test_every_public_name_exists_and_has_a_docstring():
    for name in lightning_gans.__all__:
        assert name == "__version__" or getattr(lightning_gans, name).__doc__


def test_the_oldest_versions_are_those_that_are_allowed():
    """What ``make test-min`` installs is what the package says it needs."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    bounds = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)", "\n".join(needed), flags=re.MULTILINE))
    lines = (DOCS.parent / "tests" / "minimum.txt").read_text().splitlines()
    assert dict(line.split("==") for line in lines if not line.startswith("#")) == bounds


def test_the_version_has_its_entry():
    assert f"\n## [{lightning_gans.__version__}] - 20" in (DOCS.parent / "CHANGELOG.md").read_text()


def test_the_page_of_names_is_that_of_the_code():
    page = runpy.run_path(str(DOCS / "api.py"))["page"]()
    assert page == (DOCS / "api.md").read_text(), "run: python docs/api.py > docs/api.md"
    assert all(f"| `{name}` |" in page for name in lightning_gans.__all__ if not name.startswith("__"))
