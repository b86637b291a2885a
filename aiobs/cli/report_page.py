"""A page of text: sections with tables, coloured where the terminal wants it."""

from __future__ import annotations

from collections.abc import Callable

from aiobs.cli.text_table import BOLD, DIM, PLAIN, RED, table

RANKS_SHOWN = 16
"""Processes and ranks listed one by one; of more, those that ended badly and the extremes."""


class Page:
    """Lines under construction, at most `width` columns wide."""

    def __init__(self, width: int, color: bool) -> None:
        self.lines: list[str] = []
        self.width = width
        self._color = color

    def paint(self, text: str, code: str) -> str:
        return f"{code}{text}{PLAIN}" if self._color else text

    def section(self, title: str, note: str = "") -> None:
        self.lines.append("")
        self.lines.append(self.paint(title, BOLD) + (self.paint(f"  {note}", DIM) if note else ""))

    def table(
        self, heads: list[str], rows: list[list[str]], *, bad: Callable[[int], bool] = lambda _: False, **how: int
    ) -> None:
        lines = table(heads, rows, width=self.width, **how)
        self.lines.append(self.paint(lines[0], DIM))
        self.lines += [self.paint(line, RED) if bad(number) else line for number, line in enumerate(lines[1:])]
