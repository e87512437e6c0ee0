"""YAML that a loader accepts, but nobody means."""

from datetime import date

import pytest
import yaml

from lightning_gans.cli.recipe_yaml import check_yaml, load_yaml
from lightning_gans.errors import SettingError

BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize("text", ["", "x", "a: &a {b: 1}\nc: {<<: *a, b: 2}\nd: *a", "[1, 2]", "{class_path: A}"])
def test_what_recipes_use_is_accepted(text):
    check_yaml(text)


@pytest.mark.parametrize("text", [BOMB, "&a [*a]", "a: &a\n  b: *a\n", "[" * 200 + "]" * 200])
def test_what_grows_without_end_is_an_error(text):
    with pytest.raises(SettingError):
        check_yaml(text)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("a: 1\nb: 2\na: 3", "a"),
        ("{a: {b: 1, b: 2}}", "b"),
        ("{class_path: DCGAN, bogus: 1}", "bogus"),
        ("{class_path: DCGAN, init_args: [4]}", "init_args"),
        ("model:\n  class_path: DCGAN\n  init_args:\n", "init_args"),
        ("model:\n  class_path: DCGAN\n  init_args: {width: 4}\n  width: 4", "width"),
    ],
)
def test_a_key_that_would_be_ignored_is_named(text, setting):
    with pytest.raises(SettingError) as error:
        check_yaml(text)
    assert error.value.setting == setting


def test_what_is_not_yaml_raises_as_before():
    with pytest.raises(yaml.YAMLError):
        check_yaml("[1, 2")


@pytest.mark.parametrize("value", ["2020-13-45", "!!timestamp x", "!!int x", "!!binary é"])
def test_a_value_that_is_not_one_of_its_type_is_invalid_yaml(value):
    assert load_yaml("a: 2020-12-24") == {"a": date(2020, 12, 24)}
    with pytest.raises(yaml.YAMLError):
        load_yaml(f"a: {value}")
