"""A hook of mkdocs: docstrings name things in Sphinx' way, ``:class:`Name```, which Markdown shows as it stands."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):\s*<code>(~?)([^<]*)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Leave the name alone, and with ``~`` only its last part."""
    return ROLE.sub(lambda match: f"<code>{match[2].rpartition('.')[2] if match[1] else match[2]}</code>", html)
