"""What contributors and their services read: workflows, hooks, templates and the citation."""

import re
from pathlib import Path

import pytest
import yaml

import lightning_gans

ROOT = Path(__file__).resolve().parent.parent
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def called(text):
    """Return the targets of the calls of make in a text."""
    return {word for words in re.findall(r"\bmake ([\w -]+)", text) for word in words.split()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_that_exist(path):
    workflow = yaml.safe_load(path.read_text())
    jobs = workflow["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    targets = set().union(*map(called, commands))
    assert targets and targets <= TARGETS
    assert all("runs-on" in job and "timeout-minutes" in job for job in jobs)
    assert workflow["permissions"] == {"contents": "read"}


def test_the_pythons_that_are_tested_are_those_that_are_promised():
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    tested = tests["jobs"]["tests"]["strategy"]["matrix"]["python"]
    promised = re.findall(r"Python :: (3\.\d+)\"", (ROOT / "pyproject.toml").read_text())
    assert tested == promised


def test_what_contributors_are_asked_to_run_exists():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    spans = re.findall(r"`(make [^`]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    named = called("\n".join([*spans, *(hook["entry"] for hook in hooks)]))
    assert {"check", "test-newest"} <= named <= TARGETS


def test_templates_of_issues_are_forms():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        assert path.stem == "config" or {"name", "description", "body"} <= form.keys()


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == lightning_gans.__version__
    heading = f"## [{citation['version']}] - {citation['date-released']}"
    assert heading in (ROOT / "CHANGELOG.md").read_text()
