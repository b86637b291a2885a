"""Which requests show it: the worst inside, the worst outside, and an ordinary one from before the fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from aiobs.chaos.containment.model import REST, Boundary, Cell, Interval, Samples, Slo, Spec, Verdict, Windows
from aiobs.chaos.containment.report.trace_search import TraceSpan, of_traces, starting_at

CANDIDATES = 8
"""Requests looked up where nothing but their start is known, to show the longest."""


@dataclass(frozen=True)
class Wanted:
    """A request to be looked up by its start.

    Attributes:
        title: what it is shown as.
        moments: starts of candidates, Unix ns.
        worst: the longest of them is shown; else the first found.
    """

    title: str
    stratum: str
    slo: str
    moments: tuple[int, ...]
    worst: bool = True


@dataclass(frozen=True)
class Witness:
    """A request with all that is known of its trace; `spans` by start."""

    title: str
    stratum: str
    slo: str
    span: TraceSpan
    spans: tuple[TraceSpan, ...]


def wanted(verdict: Verdict, samples: Sequence[Samples]) -> list[Wanted]:
    """What is to be looked up for `verdict`; nothing for a side without requests."""
    windows = verdict.windows
    if windows is None:
        return []
    found: list[Wanted | None] = []
    sides = (
        ("inside", "The worst request inside, during the fault"),
        ("outside", "The worst request outside, during the fault"),
    )
    of = {(it.stratum, it.slo): it for it in samples}
    end = max(windows.undone_ns, windows.fault[1])
    for side, title in sides:
        cells = sorted((it for it in verdict.cells if it.side == side), key=_gravity)
        # A replica that died takes no requests any more: what was under way when it did shows it.
        looks = [(windows.injected_ns, end, title)]
        if side == "inside":
            looks.append(
                (windows.baseline[1], windows.injected_ns, "The worst request inside, begun just before the fault")
            )
        tried = ((Wanted(said, it.stratum, it.slo, _worst(of.get((it.stratum, it.slo)), (first, last)))) for first, last, said in looks for it in cells)  # fmt: skip
        found += [next((it for it in tried if it.moments), None)]
    worst = [it for it in found if it is not None]
    usual = _usual(verdict, of, windows, worst)
    return worst + ([usual] if usual else [])


def _gravity(cell: Cell) -> tuple[bool, bool, float]:
    return (cell.result != "harmed", not cell.required, -cell.estimate / cell.margin)


def _cut(samples: Samples, window: Interval) -> slice:
    import numpy as np

    first, end = np.searchsorted(samples.start_ns, window)
    return slice(int(first), int(end))


def _worst(samples: Samples | None, window: Interval) -> tuple[int, ...]:
    import numpy as np

    if samples is None:
        return ()
    part = _cut(samples, window)
    start, bad = samples.start_ns[part], samples.bad[part]
    if not len(start):
        return ()
    if len(samples.value):
        # A request that failed before it had the value is worse than any that had it.
        value = np.where(np.isnan(samples.value[part]), np.inf, samples.value[part])
        order = np.argsort(-value, kind="stable")[:CANDIDATES]
    else:
        places = np.flatnonzero(bad) if bad.any() else np.arange(len(start))
        order = places[np.linspace(0, len(places) - 1, min(CANDIDATES, len(places))).astype(int)]
    return tuple(int(start[place]) for place in order)


def _usual(
    verdict: Verdict, of: Mapping[tuple[str, str], Samples], windows: Windows, beside: Sequence[Wanted]
) -> Wanted | None:
    """An ordinary request before the fault, of the kind that the first of `beside` is."""
    import numpy as np

    firsts = [(it.stratum, it.slo) for it in beside] + [(it.stratum, it.slo) for it in verdict.cells]
    for stratum, slo in firsts:
        samples = of.get((stratum, slo))
        if samples is None:
            continue
        part = _cut(samples, windows.baseline)
        good = ~samples.bad[part].astype(bool)
        start = samples.start_ns[part][good]
        if not len(start):
            continue
        place = len(start) // 2
        if len(samples.value):
            value = samples.value[part][good]
            place = int(np.argsort(value, kind="stable")[np.count_nonzero(~np.isnan(value)) // 2])
        title = "For comparison: an ordinary one before the fault"
        return Wanted(title, stratum, slo, (int(start[place]),), worst=False)
    return None


def look_up(files: Sequence[Path], verdicts: Sequence[Verdict], each: Sequence[Sequence[Wanted]], spec: Spec) -> list[list[Witness]]:  # fmt: skip
    """The witnesses of each verdict, all found in two passes over `files`; what is not found is left out.

    Raises:
        OSError: a file cannot be read.
    """
    moments = {moment for wants in each for it in wants for moment in it.moments}
    begun = starting_at(files, moments) if moments else []
    chosen = [[(it, _chosen(it, begun, verdict, spec)) for it in wants] for verdict, wants in zip(verdicts, each, strict=True)]  # fmt: skip
    traces = of_traces(files, {span.trace_id for wants in chosen for _, span in wants if span})
    return [
        [Witness(it.title, it.stratum, it.slo, span, tuple(traces[span.trace_id])) for it, span in wants if span]
        for wants in chosen
    ]


def _chosen(want: Wanted, begun: Sequence[TraceSpan], verdict: Verdict, spec: Spec) -> TraceSpan | None:
    slo = next((it for it in spec.slos if it.name == want.slo), None)
    fits = [
        it for it in begun
        if it.start_ns in want.moments and slo is not None and counts(slo, it) and within(want.stratum, it, verdict, spec)
    ]  # fmt: skip
    if not fits:
        return None
    # Candidates by a value stand by how bad they are; those without one are told apart by how long they took.
    if slo is not None and slo.indicator.value and slo.indicator.value != "duration":
        return min(fits, key=lambda it: (want.moments.index(it.start_ns), -it.seconds))
    return max(fits, key=lambda it: (bool(it.error), it.seconds)) if want.worst else fits[0]


def counts(slo: Slo, span: TraceSpan) -> bool:
    """Whether the SLO is about spans like this one."""
    return _matches(slo.indicator.spans, span.told)


def within(stratum: str, span: TraceSpan, verdict: Verdict, spec: Spec) -> bool:
    """Whether the verdict counted the span to that stratum."""
    permitted = verdict.raw.get("permitted", ())
    own = [it.name for it in spec.boundaries if member(it, span)]
    if stratum == "+".join(permitted):
        return any(name in permitted for name in own)
    if stratum == REST:
        return not own
    return stratum in own and not any(name in permitted for name in own)


def member(boundary: Boundary, span: TraceSpan) -> bool:
    """Whether the span is in that boundary."""
    return _matches(boundary.where, span.told)


def _matches(where: Mapping[str, tuple[str, ...]], told: Mapping[str, str]) -> bool:
    return all(any(fnmatchcase(told.get(key, ""), value) for value in values) and key in told for key, values in where.items())  # fmt: skip
