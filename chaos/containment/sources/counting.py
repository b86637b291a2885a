"""Scraped counters as single events, and what scraping hides said plainly.

Between two scrapes of a target a counter grew by so many events: they are spread evenly over that time, since nothing
says when in it they were. Where a counter fell, the process had begun anew: what it counted up to then is lost, its new
value counts. A counter that turns up later than its target grew from 0. Where scrapes are missing, nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from aiobs.chaos.containment.sources.prometheus_api import Series

_MISSED = 2.5
"""A scrape that comes so many times later than usual: some before it are missing."""

Target = tuple[str, str]
Piece = tuple[int, int]


def target_of(labels: Mapping[str, str]) -> Target:
    """What was scraped."""
    return (labels.get("job", ""), labels.get("instance", ""))


def scrapes(series: Sequence[Series]) -> dict[Target, list[int]]:
    """When each target was scraped, by all its series."""
    found: dict[Target, set[int]] = {}
    for it in series:
        found.setdefault(target_of(it.labels), set()).update(it.times)
    return {target: sorted(times) for target, times in found.items()}


def step_ns(times: Mapping[Target, Sequence[int]]) -> int:
    """The usual time between two scrapes; 0: there are none."""
    gaps = sorted(after - before for each in times.values() for before, after in pairwise(each))
    return gaps[len(gaps) // 2] if gaps else 0


def growth(series: Series, times: Sequence[int], usual_ns: int) -> dict[Piece, float]:
    """By how much the counter grew between scrapes of its target; a piece of time that is not there is not known."""
    known = dict(zip(series.times, series.values, strict=True))
    born = series.times[0] if series.times else 0
    found: dict[Piece, float] = {}
    for before, after in pairwise(times):
        if after - before > _MISSED * usual_ns or after not in known or (before not in known and after != born):
            continue
        value, last = known[after], known.get(before, 0.0)
        if value != value or last != last:
            continue
        found[before, after] = value - last if value >= last else value
    return found


def missing_ns(times: Sequence[int], usual_ns: int, first: int, end: int) -> int:
    """How much of [first, end) has no scrape near enough."""
    edges = [first, *[at for at in times if first <= at < end], end]
    return sum(after - before for before, after in pairwise(edges) if after - before > _MISSED * usual_ns)
