"""Figures as a person writes them: with units, and no more digits than mean something."""

from __future__ import annotations

from datetime import datetime, timezone
from math import isfinite

from aiobs.chaos.containment.amounts import number
from aiobs.chaos.containment.model import Cell, Kind, Verdict
from aiobs.chaos.containment.signs import RESULTS, absent


def seconds(value: float) -> str:
    """A length of time."""
    if not isfinite(value):
        return number(value)
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s")):
        if abs(value) < limit:
            return f"{number(value * factor)} {unit}" if value else "0"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.0f} h" if value < 172800 else f"{value / 86400:.0f} d"


def share(value: float) -> str:
    """A share as per cent."""
    return f"{number(100 * value)} %" if isfinite(value) else number(value)


def figure(kind: Kind, value: float) -> str:
    """The SLI itself: the bad share, the mean, or good ones a second."""
    return share(value) if kind in ("ratio", "threshold") else number(value)


def when(moment_ns: int) -> str:
    """A moment, UTC to the second."""
    return datetime.fromtimestamp(moment_ns / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def tone(verdict: Verdict, cell: Cell) -> str:
    """The tone of a cell; harm where it was allowed is no alarm: it is what the experiment was for."""
    if absent(cell) and (verdict.kind != "inconclusive" or cell.stratum not in verdict.strata):
        return "dim"
    if cell.side == "inside" and cell.stratum not in verdict.strata:
        return "plain"
    return RESULTS[cell.result][2]
