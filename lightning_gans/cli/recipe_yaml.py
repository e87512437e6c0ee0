"""Check the YAML of recipes and options for mistakes that a YAML loader accepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from lightning_gans.errors import SettingError

_MOST, _DEEPEST = 100_000, 50
_CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


def check_yaml(text: str) -> None:
    """Check YAML before it is loaded.

    Raises:
        SettingError: A key is given twice or does not belong next to ``class_path``, or the content is too large once
            its aliases are expanded, such as a value that contains itself.
        yaml.YAMLError: The text is not valid YAML.
    """
    root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if root is not None:
        _count(root, {}, 0)


def load_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Check YAML and load it.

    Raises:
        SettingError: As in :func:`check_yaml`.
        yaml.YAMLError: The text is not valid YAML, or a value is invalid for its type.
    """
    check_yaml(text)
    try:
        return load(text)
    except yaml.YAMLError:
        raise
    except Exception as error:  # PyYAML raises errors of any type for dates, numbers and binary data
        raise yaml.YAMLError(f"a value is invalid for its type: {error}") from error


def _count(node: Any, counts: dict[Any, int], depth: int) -> int:
    """Check a node, and return how many values it has once its aliases are expanded."""
    if node in counts:
        return counts[node]
    children = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    if depth > _DEEPEST:
        raise SettingError(f"the YAML is nested more than {_DEEPEST} deep, or contains itself.", allowed=_DEEPEST)
    counts[node] = 1 + sum(_count(child, counts, depth + 1) for child in children)
    if counts[node] > _MOST:
        raise SettingError(f"the YAML has more than {_MOST:,} values once its aliases are expanded.", allowed=_MOST)
    return counts[node]


def _check_keys(mapping: yaml.MappingNode) -> None:
    """Raise :class:`SettingError` for a key that is given twice or wrong next to ``class_path``, or for a value."""
    values: dict[str, yaml.Node] = {}
    for key, value in mapping.value:
        name = str(key.value)
        if name in values:
            raise SettingError(f"{name} is given twice.", setting=name)
        values[name] = value
    if not isinstance(values.get("init_args", mapping), yaml.MappingNode):
        raise SettingError("init_args must be a mapping of arguments to values.", setting="init_args")
    for name in values if "class_path" in values else ():
        if name not in _CLASS_KEYS:
            message = f"{name} is next to class_path: put it into the init_args of {values['class_path'].value}."
            raise SettingError(message, setting=name, value=values[name].value, allowed=_CLASS_KEYS)
