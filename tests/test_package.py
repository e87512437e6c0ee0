"""What is in the wheel."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lightning_gans
from lightning_gans.commands import recipes

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_its_types_and_every_recipe(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"lightning_gans/py.typed", "lightning_gans/cli.py"} <= names
    assert {f"lightning_gans/recipes/{name}.yaml" for name in recipes.names()} <= names
    assert all(name.startswith(("lightning_gans/", "lightning_gans-")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_finds_its_own_recipes(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    package = tmp_path / "lightning_gans"
    spec = importlib.util.spec_from_file_location("recipes_of_the_wheel", package / "commands" / "recipes.py")
    packaged = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packaged)
    assert packaged.folder() == package / "recipes"
    assert packaged.names() == recipes.names() and packaged.find("dcgan_mnist").is_relative_to(package)


@pytest.mark.slow
def test_the_wheel_works_alone_in_an_empty_folder(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "from lightning_gans.cli import main; import lightning_gans; print(lightning_gans.__file__); main(['recipes'])"
    )
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); {code}"],
        cwd=tmp_path / "empty",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path / "site")) and "dcgan_mnist" in done.stdout


def test_every_public_name_exists_and_has_a_docstring():
    for name in lightning_gans.__all__:
        assert name == "__version__" or getattr(lightning_gans, name).__doc__
