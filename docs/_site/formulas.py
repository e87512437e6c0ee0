"""Formulas become MathML when the site is built, which browsers show without a script (a hook of MkDocs)."""

import html
import re
import unicodedata
from typing import Any

from latex2mathml import converter

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL)
STYLED = re.compile(r'<mi mathvariant="(double-struck|script)">([A-Z])</mi>')


def on_page_content(content: str, **_: Any) -> str:
    """Replace the formulas in the HTML of a page."""
    return FORMULA.sub(in_mathml, content)


def in_mathml(found: re.Match[str]) -> str:
    """Return a formula in MathML."""
    tag, display = ("span", "inline") if found[1] == "span" else ("p", "block")
    return f"<{tag}>{STYLED.sub(letter, converter.convert(html.unescape(found[2]), display=display))}</{tag}>"


def letter(found: re.Match[str]) -> str:
    """Return a letter in Unicode's own style, as Chromium ignores the attribute."""
    name = f"{found[1].upper()} CAPITAL {found[2]}"
    try:
        return f"<mi>{unicodedata.lookup(f'MATHEMATICAL {name}')}</mi>"
    except KeyError:  # those that Unicode had before the others
        return f"<mi>{unicodedata.lookup(name)}</mi>"
