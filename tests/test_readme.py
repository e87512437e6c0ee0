"""What the README shows runs."""

import re
import shlex
from pathlib import Path

import pytest

from lightning_gans.cli.commands import recipes
from lightning_gans.cli.main import main

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
LINES = README.replace("\\\n", " ")  # long commands in one line


def test_the_python_blocks_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["images"].shape == (16, 1, 28, 28)
    assert names["again"].sample(16, seed=0).equal(names["images"])


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^lightning-gans fit .*$", LINES, flags=re.MULTILINE))))
def test_every_fit_command_parses(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CKPT").write_text("")  # a path as good as any to parse
    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(line, comments=True)[1:], "--print_config"])
    assert not stopped.value.code


def test_it_names_every_recipe():
    assert all(f"`{name}`" in README or f"-c {name}" in README for name in recipes.names())
