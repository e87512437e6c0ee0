"""The page of ``lightning-gans report``: a template, a style sheet and a script that become one HTML file."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lightning_gans.cli.report_page.chart import label, shown

_FOLDER = Path(__file__).parent


def render(**content: Any) -> str:
    """Return the page as HTML; the template escapes all content.

    The page's security policy allows only this style and this script, by their hashes, and no network requests.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment.filters |= {"hash": _hash, "label": label, "shown": shown}
    return environment.get_template("page.html").render(content, style=style, script=script)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
