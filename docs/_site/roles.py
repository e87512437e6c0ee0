"""Roles of docstrings, such as the one of a class, become links of the site (an extension of griffe)."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(\w+):`~?([^`]*)`")
EXAMPLE = re.compile(r"^Example:$", flags=re.MULTILINE)  # griffe knows the section in the plural only


class Roles(griffe.Extension):
    """Rewrite the roles in every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            text = EXAMPLE.sub("Examples:", obj.docstring.value)
            obj.docstring.value = ROLE.sub(lambda found: in_markdown(obj, found[1], found[2]), text)


def in_markdown(obj: griffe.Object, role: str, text: str) -> str:
    """Return a formula, or a name, which is a link if the site has an entry for it."""
    if role == "math":
        return f"${text}$"
    first, _, rest = text.partition(".")
    try:
        resolved = f"{obj.resolve(first)}.{rest}".rstrip(".")
    except griffe.NameResolutionError:
        resolved = text
    return f'<autoref optional identifier="{resolved}"><code>{text.rpartition(".")[2]}</code></autoref>'
