"""Verdicts and results as a word, a sign and a tone, the same in every report, so that none is told by colour alone."""

from __future__ import annotations

from aiobs.chaos.containment.model import Cell, Recovery

VERDICTS = {
    "contained": ("✓", "good"),
    "leaked": ("✗", "bad"),
    "not_recovered": ("↻", "bad"),
    "residue": ("⚠", "bad"),
    "inconclusive": ("?", "open"),
    "invalid": ("∅", "open"),
    "aborted": ("■", "open"),
}
"""A sign for each verdict, so that none is told by colour alone, and its tone."""

RESULTS = {
    "held": ("✓", "held", "good"),
    "harmed": ("✗", "harmed", "bad"),
    "unsure": ("?", "not shown", "open"),
    "no_data": ("–", "no data", "open"),
    "baseline": ("∅", "ill before", "open"),
}
"""The same for a cell."""


def spoken(kind: str) -> str:
    """A verdict or result as words."""
    return kind.replace("_", " ")


def absent(cell: Cell) -> bool:
    """Whether the stratum never carried what the SLO is about: a router has no first tokens, a rank no requests."""
    return cell.result == "no_data" and not cell.n_baseline and not cell.n_fault


def state(it: Recovery) -> tuple[str, str]:
    """What became of an SLI after the undo, and the tone of it."""
    if it.relapse:
        return "relapsed", "bad"
    if it.unseen:
        return "not seen", "open"
    if it.censored:
        return "not recovered", "bad"
    return ("recovered", "good") if it.last_bad_s or it.first_good_s else ("never ill", "good")
