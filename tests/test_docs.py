"""What the documentation shows runs, and it names what exists."""

import importlib
import itertools
import pkgutil
import re
import shlex
import tomllib

import pytest

import lightning_gans
from lightning_gans.cli.commands import recipes
from lightning_gans.cli.main import main

from .pages import DOCS, PAGES, README, ROOT, blocks, commands, name_of, run_python_blocks

FITS = sorted({line for page in PAGES for line in commands(page) if line.startswith("lightning-gans fit ")})
OUR_OWN = [line for line in FITS if "mine." not in line]  # the others run as slow tests


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python") and page != README], ids=name_of)
def test_the_python_blocks_run_in_their_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python_blocks(page)


def test_a_module_of_your_own_needs_at_most_six_lines():
    added = blocks(DOCS / "tutorials" / "any_module.md", "python\n# added: [^\n]*")
    assert len(added) == 3
    assert max(len([line for line in block.splitlines() if line]) for block in added) <= 6


@pytest.mark.parametrize("line", OUR_OWN)
def test_every_fit_command_parses(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CKPT").write_text("")  # a path as good as any to parse
    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(line, comments=True)[1:], "--print_config"])
    assert not stopped.value.code


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_names_exists(page):
    text = page.read_text()
    for module, attribute in re.findall(r"`(losses|penalties|augment)\.(?!py`)(\w+)`", text):
        assert hasattr(importlib.import_module(f"lightning_gans.{module}"), attribute), attribute
    for recipe in re.findall(r"`lightning-gans fit -c (\w+)", text):
        assert recipe in recipes.names()


def cells(line):
    """Return the cells of a row of a table."""
    return [cell.strip(" `") for cell in line.strip("| ").split("|")]


def test_scores_on_the_pages_of_models_are_those_of_the_results():
    measured = [cells(line) for line in (ROOT / "RESULTS.md").read_text().splitlines() if line.startswith("| ")]
    rows = [line for page in DOCS.glob("models/*.md") for line in page.read_text().splitlines() if "±" in line]
    assert len(rows) >= 9
    for row in map(cells, rows):
        assert any(row[0] == known[0] and set(row) <= set(known) for known in measured), row


def test_the_reference_has_every_public_name():
    entries = {entry for page in PAGES for entry in re.findall(r"^::: (\S+)", page.read_text(), flags=re.MULTILINE)}
    public = {f"lightning_gans.{name}" for name in lightning_gans.__all__} - {"lightning_gans.__version__"}
    assert public <= entries
    for entry in entries:
        assert pkgutil.resolve_name(entry).__doc__, entry


def test_every_public_name_exists_and_has_a_docstring():
    for name in lightning_gans.__all__:
        assert name == "__version__" or getattr(lightning_gans, name).__doc__


def test_the_oldest_versions_are_those_that_are_allowed():
    """What ``make test-min`` installs is what the package says it needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    bounds = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)", "\n".join(needed), flags=re.MULTILINE))
    lines = (ROOT / "tests" / "minimum.txt").read_text().splitlines()
    assert dict(line.split("==") for line in lines if not line.startswith("#")) == bounds


def test_all_is_every_extra_of_users():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = re.findall(r"^lightning_gans\[(.*)\]$", *extras.pop("all"))
    assert set(everything.split(",")) == set(extras) - {"docs", "dev"}


def test_the_version_has_its_entry():
    assert f"\n## [{lightning_gans.__version__}] - 20" in (ROOT / "CHANGELOG.md").read_text()
