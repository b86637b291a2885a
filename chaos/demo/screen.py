"""What the terminal shows: lines that stay, and below them, on a terminal, what is happening now."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aiobs.chaos.demo.glance import Rate

EVERY_S = 5.0
"""Where there is no terminal: seconds between two lines of figures."""
WIDTH = 120
_ENDS = {-9: "was killed", -11: "crashed", -15: "ended", 0: "ended"}


class Screen:
    """A context manager; `all_s`: seconds that the whole will take, as far as is known.

    Attributes:
        live: whether it is a terminal that can be redrawn.
    """

    def __init__(self, all_s: float) -> None:
        self.console = Console(highlight=False)
        self.live = self.console.is_terminal
        if not self.live:
            self.console.width = WIDTH
        self._all_s, self._done_s = all_s, 0.0
        self._begun = time.monotonic()
        self._title, self._until, self._length = "", 0.0, 0.0
        self._rates: Mapping[str, Rate] = {}
        self._next = 0.0
        self._view = Live(console=self.console, auto_refresh=False, transient=True) if self.live else None

    def __enter__(self) -> Screen:
        if self._view is not None:
            self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view is not None:
            self._view.stop()

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        passed = time.monotonic() - self._begun
        self.console.print(
            Text(f"{int(passed) // 60}:{passed % 60:04.1f}  ", style="dim") + Text(text, style=style),
            soft_wrap=not self.live,
        )

    def head(self, text: str) -> None:
        """A line that begins something new."""
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def stage(self, title: str, length_s: float) -> None:
        """What happens from now on, and for how long; what takes as long as it takes has length 0."""
        self._done_s += self._length
        self._title, self._length = title, length_s
        self._until = time.monotonic() + length_s
        self._next = 0.0
        if not self.live:
            self.say(title + (f" ({length_s:.0f} s)" if length_s else ""))

    def figures(self, rates: Mapping[str, Rate]) -> None:
        """The newest figures; redraws what is happening."""
        self._rates = rates
        now = time.monotonic()
        if self._view is not None:
            self._view.update(self._shown(now), refresh=True)
        elif now >= self._next:
            self._next = now + EVERY_S
            told = ", ".join(f"{name} {_rate(rate)}" for name, rate in rates.items())
            self.say(f"  {told}", "dim")

    def event(self, told: Mapping[str, Any]) -> None:
        """A program was started, or ended."""
        name = told["part"]
        if told["is"] == "ended":
            code = told["code"]
            self.say(f"  {name} {_ENDS.get(code, f'ended with code {code}')}", "red")
        elif told.get("start", 1) > 1:
            self.say(f"  {name} was started again", "green")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[Text | str]]) -> None:
        """A table that stays."""
        made = Table(box=None, pad_edge=False, header_style="dim")
        for head in heads:
            made.add_column(head, no_wrap=True)
        for row in rows:
            made.add_row(*row)
        self.console.print(made)

    def _shown(self, now: float) -> Group:
        left = max(0.0, self._until - now)
        part = self._length - left if self._length else 0.0
        overall = max(0.0, self._all_s - self._done_s - part)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=self._all_s, completed=min(self._all_s, self._done_s + part), width=30),
            Text(f"about {overall:.0f} s in all, setting up apart", style="dim"),
        )
        title = Text(f"{self._title}", style="bold cyan")
        so_far = now - self._until + self._length
        title += Text(f"  {left:.0f} s left" if self._length else f"  for {so_far:.0f} s now", style="dim")
        return Group(Text(), title, self._units(), bar)

    def _units(self) -> Table:
        """A column for each kind of unit: its requests or steps a second, drawn and written."""
        grid = Table.grid(padding=(0, 3))
        kinds: dict[str, list[Text]] = {}
        most = {kind: max([it.good + it.bad for name, it in self._rates.items() if _kind(name) == kind], default=0.0)
                for kind in map(_kind, self._rates)}  # fmt: skip
        for name, rate in self._rates.items():
            filled = round(12 * rate.good / most[_kind(name)]) if most[_kind(name)] else 0
            line = Text(f"{name:<10}") + Text("█" * filled, style="green") + Text("·" * (12 - filled), style="dim")
            line += Text(f" {_rate(rate)}", style="" if rate.good else "red")
            kinds.setdefault(_kind(name), []).append(line)
        columns = [kinds.get(kind, []) for kind in ("router", "replica", "rank")]
        for row in range(max(map(len, columns), default=0)):
            grid.add_row(*[column[row] if row < len(column) else Text() for column in columns])
        return grid


def _kind(name: str) -> str:
    return name.partition("-")[0]


def _rate(rate: Rate) -> str:
    bad = f" ({rate.bad:.1f} failed)" if rate.bad else ""
    return f"{rate.good:.0f}/s{bad}"
