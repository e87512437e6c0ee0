"""README.md, which is one screen, and what it shows."""

import re
from pathlib import Path

import yaml

from lightning_gans.cli.commands import recipes

from .pages import PAGES, README, run_python_blocks


def test_the_python_blocks_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shorter = {"max_epochs=40": "max_steps=2", "num_samples=1000": "num_samples=100"}
    assert all(README.read_text().count(text) == 1 for text in shorter)
    names = run_python_blocks(README, shorter.items())
    assert names["images"].shape == (50, 1, 28, 28)
    assert names["again"].sample(50, labels=[*range(10)] * 5, seed=0).equal(names["images"])
    settings = yaml.safe_load(recipes.find("quickstart").read_text())["model"]["init_args"]
    arguments = {name: names["model"].hparams[name] for name in settings}
    assert arguments == {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def test_it_is_one_screen_and_begins_with_the_two_commands_that_set_the_project_up():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    assert blocks[0] == "pip install -e . && lightning-gans fit -c quickstart\n"
    assert blocks[1] == 'pip install -e ".[dev]" && pytest\n'


def test_its_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text()):
        assert (README.parent / target).exists(), target
    assert all(picture.stat().st_size < 200_000 for picture in Path(README.parent, "docs", "images").iterdir())


def test_every_recipe_has_its_row():
    page = next(page for page in PAGES if page.name == "recipes.md").read_text()
    assert all(f"`{name}`" in page for name in recipes.names())
