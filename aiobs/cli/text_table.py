"""Aligned text for a terminal or a log file."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

BOLD, DIM, RED, PLAIN = "\033[1m", "\033[2m", "\033[31m", "\033[0m"


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: int = 1,
    indent: int = 2,
    gap: int = 3,
    width: int = 200,
) -> list[str]:
    """Lines of a table: the first `left` columns and the last one flush left when it holds text, others right.

    A head that ends in ``<`` makes its column flush left. Columns that are empty in every row are left out; the
    last column is cut to `width`.
    """
    body = [list(row) for row in rows]
    shown = [i for i in range(len(heads)) if any(row[i] for row in body)]
    flush = [i < left or heads[i].endswith("<") for i in range(len(heads))]
    lines = [[heads[i].rstrip("<") for i in shown], *([row[i] for i in shown] for row in body)]
    widths = [max(breadth(line[column]) for line in lines) for column in range(len(shown))]
    found = []
    for line in lines:
        cells = [pad(cell, widths[c], left=flush[shown[c]]) for c, cell in enumerate(line)]
        text = " " * indent + (" " * gap).join(cells)
        found.append(clip(text.rstrip(), width))
    return found


def breadth(text: str) -> int:
    """Columns that `text` takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, width: int, *, left: bool) -> str:
    """`text` filled up with blanks to `width` columns."""
    blanks = " " * (width - breadth(text))
    return text + blanks if left else blanks + text


def clip(text: str, width: int) -> str:
    """`text` cut to `width` columns, with an ellipsis where something is missing."""
    if breadth(text) <= width:
        return text
    while text and breadth(text) > width - 1:
        text = text[:-1]
    return text + "…"


def printable(text: str) -> str:
    """Foreign text on one line, without control characters that could move a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
